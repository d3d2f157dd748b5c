"""Layouts that follow the wording of rules: the four-fifths rule, New York City's Local Law 144, the EU's AI Act."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from fairlead.errors import BadInput
from fairlead.evaluation.profiles.documents import (
    UNKNOWN,
    Cell,
    Profile,
    Table,
    certainty,
    hidden_in,
    is_gap_hidden,
    key_of,
    name_of,
    shown_gap,
    text_of,
    value_at,
    with_interval,
)
from fairlead.spec.document import pointer_to

Report = Mapping[str, Any]
FOUR_FIFTHS = Fraction(4, 5)
SMALL_SHARE = Fraction(2, 100)
"""Of all rows of known category: below it Local Law 144 lets a category be left out of the ratios."""


def four_fifths(report: Report) -> Profile:
    """Selection rates of groups over the highest of their grouping. Raises ``BadInput`` without two classes or groups.

    29 CFR 1607.4(D): a rate below four fifths of the highest is generally regarded as evidence of adverse impact.
    """
    return Profile(
        title="Selection rates against the highest one (four-fifths rule)",
        about=(
            "Laid out after 29 CFR 1607.4(D), which looks at selection rates below four fifths of the highest one. "
            "Ratios are compared as exact fractions."
        ),
        facts=_facts(report),
        tables=tuple(_ratios(report, by) for by in _compared(report)),
        notes=(
            "The rule is about the selection of employees in the United States; elsewhere it is often misused.",
            "A ratio says nothing of how sure it is: the intervals of the rates, and the bounds of gates, do.",
            "The rule also asks whether differences are significant, and whether numbers are too small to tell.",
        ),
    )


def nyc_ll144(report: Report) -> Profile:
    """The tables of a bias audit by New York City's rule (6 RCNY 5-301). Raises ``BadInput`` as ``four_fifths``.

    Where the report has scores, scoring rates (6 RCNY 5-300: the share above the sample's median score) follow the
    selection rates, each with its impact ratio.
    """
    names = {attribute["name"].lower() for attribute in report["attributes"]}
    looked_for = (("sex", _SEX), ("race or ethnicity", _RACE))
    missing = [what for what, words in looked_for if not any(word in name for name in names for word in words)]
    notes = [
        "The audit is of a tool's use in a year before; whether these rows are such is for the auditor to say.",
        *_notes_on_scoring(report),
    ]
    if missing:
        notes.append(f"No attribute of the report looks like {' or '.join(missing)}, which the rule asks for.")
    compared = _compared(report)
    return Profile(
        title="Impact ratios by category (layout of New York City Local Law 144)",
        about="Number of rows, rate and impact ratio of each category and of their intersections.",
        facts=(
            *_facts(report),
            *((f"Rows of unknown {name}", _unknown(report, name)) for name in report["data"]["n_unknown"]),
            *_median(report),
        ),
        tables=(
            *(_ratios(report, by, least_share=SMALL_SHARE) for by in compared),
            *(_scoring_ratios(report, by) for by in compared if "scoring" in report),
        ),
        notes=tuple(notes),
    )


def _notes_on_scoring(report: Report) -> list[str]:
    if "scoring" not in report:
        return [
            "Where a tool gives scores, the rule wants scoring rates (the share above the median score): this report "
            "has none, since no scores were kept or an earlier release wrote it."
        ]
    median = report["scoring"]["median"]
    found = ["Scoring rates count rows, without weights, and say nothing of how far chance moves them."]
    if median["undecided"]:
        found.append(
            f"Scores are kept in bins: {median['within']} of {median['n']} rows lie in that of the median, and at most "
            f"{median['undecided']} of them are above it. Rates and ratios that depend on which are given as bounds."
        )
    return found


def _median(report: Report) -> tuple[tuple[str, Cell], ...]:
    if "scoring" not in report:
        return ()
    return tuple(
        (f"Median score of all rows, at {end}", value_at(report, f"/scoring/median/{key}"))
        for end, key in (("least", "from"), ("most", "to"))
    )


_SEX, _RACE = ("sex", "gender"), ("race", "ethnic")


def eu_ai_act_annex_iv(report: Report) -> Profile:
    """What a report can contribute to the technical documentation of Annex IV of Regulation (EU) 2024/1689."""
    groupings = list(dict.fromkeys(tuple(group["by"]) for group in report["groups"]))
    signature = report.get("signature")
    signed = Cell(text=UNKNOWN)
    if signature:
        signed = Cell(text=f"ed25519, key {signature['key_id']}", path="/signature/value")
    return Profile(
        title="Contribution to technical documentation (EU AI Act, Annex IV)",
        about=(
            "Points 2(d), 2(g) and 3 of Annex IV of Regulation (EU) 2024/1689, as far as an evaluation can fill them. "
            "The other points are the provider's to write."
        ),
        facts=(
            *_facts(report),
            ("2(d) Origin of the data", value_at(report, "/data/uri")),
            ("2(d) Digest of the data", value_at(report, "/data/digest")),
            ("2(d) Label", value_at(report, "/data/target")),
            ("2(g) Date of the test report", value_at(report, "/created")),
            ("2(g) Signature of the test report", signed),
            ("2(g) Responsible persons", Cell(text="to be named by the provider")),
            ("1(a) Intended purpose", Cell(text="to be written by the provider")),
        ),
        tables=(
            _gates(report),
            *(_accuracy(report, by) for by in groupings),
            *((_gaps(report),) if report["disparities"] else ()),
            *((_robustness(report),) if report.get("robustness") else ()),
            Table(
                title="3 Limitations",
                columns=("Limitation",),
                rows=tuple((value_at(report, f"/limitations/{at}"),) for at in range(len(report["limitations"]))),
            ),
        ),
        notes=(f"Not measured: {text_of(report['not_measured'])}.",),
    )


# ---- parts ----------------------------------------------------------------------------------------------------------


def _facts(report: Report) -> tuple[tuple[str, Cell], ...]:
    return (
        ("Experiment", value_at(report, "/experiment")),
        ("Measured", value_at(report, "/created")),
        ("Data", value_at(report, "/data/uri")),
        ("Rows", value_at(report, "/data/n")),
        ("Digest of the counts", value_at(report, "/state/digest")),
        ("Digest of the model", value_at(report, "/model/digest")),
    )


def _unknown(report: Report, name: str) -> Cell:
    least = report["settings"]["min_display"]
    if 0 < report["data"]["n_unknown"][name] < least:
        return Cell(text=f"under {least}")
    return value_at(report, pointer_to(("data", "n_unknown", name)))


def _compared(report: Report) -> list[tuple[str, ...]]:
    if report["task"] != "binary":
        raise BadInput("selection rates by group need two classes: one that is selected, and one that is not")
    found = list(dict.fromkeys(tuple(group["by"]) for group in report["groups"] if group["by"]))
    if not found:
        raise BadInput("the report compares no groups; give the evaluation some groupings")
    return found


def _ratios(report: Report, by: Sequence[str], *, least_share: Fraction = Fraction(0)) -> Table:
    """Rates of the groups of one grouping over the highest rate among those that take part, shown or not."""
    hidden = hidden_in(report, by)
    groups = {at: group for at, group in _groups(report, by).items() if not group["unknown"]}
    rates = {at: rate for at, group in groups.items() if (rate := _rate(group)) is not None}
    total = max(1, sum(group["n"] for group in groups.values()))
    taking = {at: rate for at, rate in rates.items() if Fraction(groups[at]["n"], total) >= least_share}
    highest = max(taking, key=lambda at: taking[at], default=None)
    is_told = highest is not None and key_of(groups[highest]) not in hidden
    rows = []
    for at, group in groups.items():
        if key_of(group) in hidden:
            rows.append((Cell(text=name_of(group)), *(Cell(text=_HIDDEN) for _ in range(4))))
            continue
        ratio = taking[at] / taking[highest] if highest is not None and at in taking and taking[highest] > 0 else None
        left_out = _LEFT_OUT if at in rates and at not in taking else "none"
        over = left_out if ratio is None else f"{float(ratio):.3f}" if is_told else _HIGHEST_HIDDEN
        rows.append(
            (
                Cell(text=name_of(group)),
                value_at(report, f"/groups/{at}/n"),
                with_interval(report, f"/groups/{at}/metrics/selection_rate"),
                Cell(text=over),
                Cell(text="" if ratio is None or not is_told else "yes" if ratio < FOUR_FIFTHS else "no"),
            )
        )
    least = report["settings"]["min_support"]
    few = [name_of(group) for group in groups.values() if key_of(group) not in hidden and group["n"] < least]
    notes = (f"Few rows, so that chance moves the rate far: {', '.join(few)}.",) if few else ()
    columns = ("Group", "Rows", "Selection rate (interval)", "Over the highest", "Below four fifths")
    return Table(title=f"By {' x '.join(by)}", columns=columns, rows=tuple(rows), notes=notes)


def _scoring_ratios(report: Report, by: Sequence[str]) -> Table:
    """Scoring rates of one grouping over the highest of those that take part; bounds where the median's bin leaves it
    open."""
    hidden, groups = hidden_in(report, by), _scored(report, by)
    total = max(1, sum(group["n"] for group in groups.values()))
    taking = {at: _bounds(one) for at, one in groups.items() if Fraction(one["n"], total) >= SMALL_SHARE}
    surest = max((low for low, _ in taking.values()), default=Fraction(0))
    is_told = not any(high >= surest for at, (_, high) in taking.items() if key_of(groups[at]) in hidden)
    rows = []
    for at, group in groups.items():
        if key_of(group) in hidden:
            rows.append((Cell(text=name_of(group)), *(Cell(text=_HIDDEN) for _ in range(4))))
            continue
        ratio = _ratio(taking, at) if at in taking else None
        left_out = "none" if at in taking else _LEFT_OUT
        over = left_out if ratio is None else _between(*ratio) if is_told else _HIGHEST_HIDDEN
        rows.append(
            (
                Cell(text=name_of(group)),
                value_at(report, f"/scoring/groups/{at}/n"),
                _scoring_rate(report, at),
                Cell(text=over),
                Cell(text="" if ratio is None or not is_told else _is_below(*ratio)),
            )
        )
    columns = ("Group", "Rows", "Scoring rate", "Over the highest", "Below four fifths")
    return Table(title=f"Scoring rates by {' x '.join(by)}", columns=columns, rows=tuple(rows))


def _scored(report: Report, by: Sequence[str]) -> dict[int, Mapping[str, Any]]:
    """The groups of one grouping that have scores, by their place in the section."""
    return {at: group for at, group in enumerate(report["scoring"]["groups"]) if tuple(group["by"]) == tuple(by)}


def _bounds(group: Mapping[str, Any]) -> tuple[Fraction, Fraction]:
    return Fraction(group["num"], group["n"]), Fraction(group["num_at_most"], group["n"])


def _scoring_rate(report: Report, at: int) -> Cell:
    path = f"/scoring/groups/{at}"
    if report["scoring"]["groups"][at]["value"] is not None:
        return value_at(report, f"{path}/value")
    low, high = (value_at(report, f"{path}/{key}") for key in ("at_least", "at_most"))
    return Cell(text=f"{low.text} to {high.text}", path=low.path)


def _ratio(taking: Mapping[int, tuple[Fraction, Fraction]], at: int) -> tuple[Fraction, Fraction] | None:
    """Bounds of one rate over the highest of all; None where all may be zero.

    A rate is over the highest of the others, and at most 1: it is least where its own is least and theirs greatest.
    """
    low, high = taking[at]
    others = [rates for place, rates in taking.items() if place != at]
    highest_most = max((most for _, most in others), default=Fraction(0))
    highest_least = max((least for least, _ in others), default=Fraction(0))
    if low == 0 and highest_least == 0:
        return None
    least = low / max(low, highest_most)
    return least, (high / max(high, highest_least))


def _between(low: Fraction, high: Fraction) -> str:
    return f"{float(low):.3f}" if low == high else f"{float(low):.3f} to {float(high):.3f}"


def _is_below(low: Fraction, high: Fraction) -> str:
    if (low < FOUR_FIFTHS) != (high < FOUR_FIFTHS):
        return "cannot be told"
    return "yes" if high < FOUR_FIFTHS else "no"


_HIGHEST_HIDDEN = "not shown: the highest rate is that of a small group"
_HIDDEN = "not shown, to protect a small group"
_LEFT_OUT = "left out: under 2 % of the rows"


def _groups(report: Report, by: Sequence[str]) -> dict[int, Mapping[str, Any]]:
    """The groups of one grouping that have rows, by their place in the report."""
    found = enumerate(report["groups"])
    return {at: group for at, group in found if tuple(group["by"]) == tuple(by) and group["n"]}


def _rate(group: Mapping[str, Any]) -> Fraction | None:
    entry = group["metrics"]["selection_rate"]
    if entry["value"] is None:
        return None
    if entry["num"] is None or not entry["den"]:
        return Fraction(entry["value"])
    return Fraction(entry["num"], entry["den"])


def _gates(report: Report) -> Table:
    columns = ("Requirement", "By", "On which inputs", "Asked", "Evidence", "Value", "Outcome", "Why")
    rows = tuple(
        (
            value_at(report, f"/gates/{at}/metric"),
            _compared_by(report, at, gate),
            value_at(report, f"/gates/{at}/condition") if gate.get("condition") else Cell(text="as they are"),
            *(value_at(report, f"/gates/{at}/{key}") for key in ("require", "evidence", "value", "outcome", "why")),
        )
        for at, gate in enumerate(report["gates"])
    )
    return Table(title="2(g) Requirements fixed before the test, and their outcomes", columns=columns, rows=rows)


def _compared_by(report: Report, at: int, gate: Mapping[str, Any]) -> Cell:
    found = value_at(report, f"/gates/{at}/by")
    within = f" within {' x '.join(gate['within'])}" if "within" in gate else ""
    return Cell(text=f"{found.text}{within}", path=found.path)


def _robustness(report: Report) -> Table:
    """Accuracy on changed inputs, over all rows."""
    rows = []
    for at, one in enumerate(report.get("robustness", ())):
        overall = next(place for place, group in enumerate(one["groups"]) if not group["by"])
        path = f"/robustness/{at}/groups/{overall}/accuracy_score"
        rows.append((value_at(report, f"/robustness/{at}/condition"), with_interval(report, path)))
    return Table(title="2(g) Robustness: accuracy on changed inputs", columns=("Inputs", "Accuracy"), rows=tuple(rows))


_MEASURES: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy_score", "true_positive_rate", "false_positive_rate", "precision_score"),
    "multiclass": ("accuracy_score", "f1_score", "balanced_accuracy_score"),
    "regression": ("mean_absolute_error", "root_mean_squared_error", "mean_error", "r2_score"),
    "ranking": ("ndcg_score", "exposure", "exposure_per_relevance"),
    "quality": ("mean_quality",),
}


def _accuracy(report: Report, by: Sequence[str]) -> Table:
    groups, hidden = _groups(report, by), hidden_in(report, by)
    shown = {at: group for at, group in groups.items() if key_of(group) not in hidden}
    offered = _MEASURES.get(report["task"]) or tuple(report["groups"][0]["metrics"])
    measures = [name for name in offered if all(name in group["metrics"] for group in shown.values())][:6]
    rows = tuple(
        (
            Cell(text=name_of(group)),
            value_at(report, f"/groups/{at}/n"),
            *(with_interval(report, f"/groups/{at}/metrics/{name}") for name in measures),
        )
        for at, group in shown.items()
    )
    title = f"3 Accuracy for groups by {' x '.join(by)}" if by else "3 Accuracy overall"
    notes = (f"{len(groups) - len(shown)} groups are not shown, to protect those of few rows.",) if hidden else ()
    return Table(title=title, columns=("Group", "Rows", *measures), rows=rows, notes=notes)


def _gaps(report: Report) -> Table:
    rows = []
    for at, entry in enumerate(report["disparities"]):
        if entry["metric"] in _SHOWN:
            path = f"/disparities/{at}{shown_gap(entry)[1]}"
            named = Cell(text=f"{entry['metric']} by {' x '.join(entry['by'])}")
            values = [value_at(report, f"{path}/{key}") for key in ("value", "lower95", "upper95")]
            if is_gap_hidden(report, entry):
                values = [Cell(text=_HIDDEN)] * 3
            rows.append((named, *values))
    sure = certainty(report)
    return Table(
        title="2(g) Potentially discriminatory impacts: distances between groups",
        columns=("Distance", "Value", f"At least ({sure})", f"At most ({sure})"),
        rows=tuple(rows),
        notes=("Among the groups with enough rows, where there are two.",),
    )


_SHOWN = (
    "demographic_parity_difference",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "predictive_parity_difference",
    "accuracy_score_difference",
    "mean_error_difference",
    "mean_absolute_error_difference",
    "ndcg_score_difference",
    "exposure_ratio",
)
