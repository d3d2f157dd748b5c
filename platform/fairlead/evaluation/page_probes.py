"""What the page says of the probes: changed inputs, and more. Positions on paper are all it computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.evaluation.drawing import (
    Chart,
    Key,
    Mark,
    Report,
    Series,
    count,
    group_name,
    hidden_by,
    hidden_groups,
    listed_by,
    mark_of_bounds,
    mark_of_interval,
    number,
    percent,
    place,
    round_end,
    short,
    signed,
)
from fairlead.evaluation.drift import largest
from fairlead.evaluation.gates import CORRECTIONS

MOST_COLUMNS = 4
MOST_GROUPS = 60
MOST_BARS = 12
_METHODS = {"fgsm": "FGSM", "pgd": "PGD", "noise": "random noise"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedInputs:
    """Accuracy on changed inputs, over all rows and by group."""

    rows: tuple[tuple[str, str, Mark, str], ...]
    """Each way: its name, how it was done, the accuracy, and what is lost against the rows as they are."""
    clean: float | None
    """Accuracy on the rows as they are, in percent."""
    chart: Chart | None
    groups: tuple["ChangedByGroup", ...]
    warning: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedByGroup:
    """The same for one grouping."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[Mark, str], ...]], ...]
    """Each group: name, rows, and accuracy with its change a column; no columns where it is hidden."""
    lowest: tuple[Mark, ...]
    """The lowest accuracy of any group a column, with bounds."""


def changed_inputs(report: Report) -> ChangedInputs | None:
    """What to draw of the report's ``robustness``; None without it."""
    found = report.get("robustness")
    if not found:
        return None
    clean = _entry(report["groups"], ())["metrics"]["accuracy_score"]
    groupings = list(dict.fromkeys(tuple(group["by"]) for group in found[0]["groups"] if group["by"]))
    return ChangedInputs(
        rows=tuple(_way(one) for one in found),
        clean=None if clean["value"] is None else 100 * clean["value"],
        chart=_chart(found, clean["value"]),
        groups=tuple(_by_group(report, found[:MOST_COLUMNS], by) for by in groupings),
        warning=_warning(found),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Shares of train and test rows a bin, on a picture 100 wide and 34 high."""

    pairs: tuple[tuple[float, float, float, float], ...]
    """Each bin: left edge, width of one bar, height of train, height of test."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftPart:
    """How train and test rows differ, column by column."""

    text: str
    why_not: str
    rows: tuple[tuple[str, str, Mark, str, str, Bars], ...]
    """Each column: its name, its kind, the index, its distance, the verdict, and its bins."""
    end: str
    num_more: int


_KINDS = {
    "number": "numbers",
    "text": "texts",
    "sensitive": "sensitive attribute",
    "target": "what is predicted",
    "picture": "of each picture",
}
_BARS_HIGH = 34.0


def drift_part(report: Report) -> DriftPart | None:
    """What to draw of the report's ``drift``; None without it."""
    section = report.get("drift")
    if section is None:
        return None
    if section["why_not_measured"]:
        return DriftPart(text="", why_not=section["why_not_measured"], rows=(), end="1", num_more=0)
    columns = largest(section)
    end = round_end([max(one["psi"], one["psi_upper95"] or 0.0) for one in columns])
    moved, tested = section["n_beyond_chance"], section["n_tested"]
    how = f"{CORRECTIONS[section['correction']]}, level {section['level']:g}"
    return DriftPart(
        text=f"Of {tested} columns, {moved} differ by more than chance explains ({how}).",
        why_not="",
        rows=tuple(_drift_row(report, one, end) for one in columns),
        end=f"{end:g}",
        num_more=len(section["columns"]) - len(columns),
    )


def _drift_row(report: Report, one: Mapping[str, Any], end: float) -> tuple[str, str, Mark, str, str, Bars]:
    low, high = one["psi_lower95"], one["psi_upper95"]
    note = f"{number(low)} to {number(high)}; by chance {number(one['psi_by_chance'])}"
    if one["psi_reason"]:
        low, high, note = one["psi"], one["psi"], f"proves nothing: {one['psi_reason']}"
    mark = Mark(
        text=number(one["psi"]),
        note=note,
        at=percent(one["psi"] / end),
        low=percent(low / end),
        high=percent(high / end),
    )
    verdict = {True: "more than chance explains", False: "chance explains it", None: "not tested"}[one["beyond_chance"]]
    if one["p_adjusted"] is not None:
        verdict += f" (p {one['p_adjusted']:.3g})"
    bins = [] if _is_hidden(report, one) else one["bins"]
    return short(one["name"]), _KINDS[one["kind"]], mark, number(one["distance"]), verdict, _bars(bins)


def _is_hidden(report: Report, one: Mapping[str, Any]) -> bool:
    """Whether bins would show a few people: of levels, whatever they are of, and of numbers that are sensitive."""
    if one["kind"] in ("number", "picture") and one["name"] not in {each["name"] for each in report["attributes"]}:
        return False
    fewest = report["settings"]["min_display"]
    return any(0 < level[side] < fewest for level in one["bins"] for side in ("train", "test"))


def _bars(bins: Sequence[Mapping[str, Any]]) -> Bars:
    shown = sorted(bins, key=lambda one: -one["train"])[:MOST_BARS] if len(bins) > MOST_BARS else bins
    totals = [max(1, sum(one[side] for one in bins)) for side in ("train", "test")]
    shares = [(one["train"] / totals[0], one["test"] / totals[1]) for one in shown]
    top, room = max((max(pair) for pair in shares), default=1.0) or 1.0, 100 / max(1, len(shares))
    text = "; ".join(
        f"{short(one['label'])}: {old:.1%} and {new:.1%}" for one, (old, new) in zip(shown, shares, strict=True)
    )
    high = [(_BARS_HIGH * old / top, _BARS_HIGH * new / top) for old, new in shares]
    return Bars(
        pairs=tuple((at * room, 0.4 * room, old, new) for at, (old, new) in enumerate(high)),
        text=f"shares of training and test rows: {text}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TemperaturePart:
    """Calibration before and after a temperature."""

    text: str
    why_not: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Each group: its name, rows, and "before → after" a column; no columns where it is hidden."""
    chart: Chart | None


_CALIBRATION = {
    "expected_calibration_error": "calibration error",
    "squared_calibration_error_debiased": "squared calibration error, sampling noise taken off",
    "log_loss": "log loss",
    "brier_score_loss": "Brier score",
}


def temperature_part(report: Report) -> TemperaturePart | None:
    """What to draw of the report's ``temperature``; None without it."""
    section = report.get("temperature")
    if section is None:
        return None
    if section["why_not_measured"]:
        return TemperaturePart(text="", why_not=section["why_not_measured"], columns=(), rows=(), chart=None)
    found = section["temperature"]
    before = "too sure of itself" if found > 1 else "not sure enough" if found < 1 else "as sure as it was right"
    use = "The model that was counted and exported uses it." if section["applied"] else "The model does not use it."
    names = list(section["comparison"][0]["metrics"]) if section["comparison"] else []
    text = (
        f"Temperature {found:.3f}, fitted on {count(section['n_validation'])} validation rows, on which the model "
        f"was {before}: log loss {number(section['log_loss_before'])} before, {number(section['log_loss_after'])} "
        f"after. {use}"
    )
    if section["reason"]:
        text = f"No temperature could be fitted, and it stays 1: {section['reason']}."
    return TemperaturePart(
        text=text,
        why_not="",
        columns=tuple(_CALIBRATION[name] for name in names),
        rows=tuple(
            _tempered(one, names, hidden_by(report, one["by"]) if one["by"] else frozenset())
            for one in section["comparison"][:MOST_GROUPS]
            if one["n"]
        ),
        chart=_reliability(section["reliability"]),
    )


def _tempered(one: Mapping[str, Any], names: Sequence[str], hidden: frozenset[Key]) -> tuple[str, str, tuple[str, ...]]:
    key = tuple(one["key"].values())
    if key in hidden:
        return group_name(key), "not shown", ()
    pairs = (one["metrics"][name] for name in names)
    values = tuple(f"{number(p['before']['value'])} → {number(p['after']['value'])}" for p in pairs)
    return group_name(key) or "all rows", count(one["n"]), values


def _reliability(sides: Mapping[str, Any] | None) -> Chart | None:
    if not sides:
        return None
    return Chart(
        title="Reliability on the test rows",
        x_axis="mean score",
        y_axis="share that was so",
        series=tuple(
            Series(
                name=side,
                style=style,
                points=tuple(place(one["mean_score"], one["rate"]) for one in sides[side]),
                has_markers=True,
            )
            for style, side in enumerate(("before", "after"))
        ),
        has_diagonal=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportancePart:
    """What accuracy each column is worth."""

    why_not: str
    end: str
    attributes: tuple[str, ...]
    rows: tuple[tuple[str, Mark, tuple[str, ...]], ...]
    """Each column: its name, what is lost over all rows, and what of the rows of each level of each attribute."""
    num_more: int


def importance_part(report: Report) -> ImportancePart | None:
    """What to draw of the report's ``explanations``; None without it."""
    section = report.get("explanations")
    if section is None:
        return None
    if section["why_not_measured"]:
        return ImportancePart(why_not=section["why_not_measured"], end="1", attributes=(), rows=(), num_more=0)
    shown = section["columns"][:MOST_BARS]
    end = round_end([one["groups"][0]["interval"][1] for one in shown])
    attributes = tuple(dict.fromkeys(g["by"][0] for one in shown[:1] for g in one["groups"] if g["by"]))
    return ImportancePart(
        why_not="",
        end=f"{end:g}",
        attributes=tuple(short(name) for name in attributes),
        rows=tuple(
            (short(one["name"]), _lost(one["groups"][0], end), _by_levels(report, one, attributes)) for one in shown
        ),
        num_more=len(section["columns"]) - len(shown),
    )


def _lost(entry: Mapping[str, Any], end: float) -> Mark:
    low, high = entry["interval"]
    return Mark(
        text=signed(entry["lost"]),
        note=f"{signed(low)} to {signed(high)}",
        at=percent(max(0.0, entry["lost"]) / end),
        low=percent(max(0.0, low) / end),
        high=percent(max(0.0, high) / end),
    )


def _by_levels(report: Report, one: Mapping[str, Any], attributes: Sequence[str]) -> tuple[str, ...]:
    return tuple(_by_level(report, one, name) for name in attributes)


def _by_level(report: Report, one: Mapping[str, Any], attribute: str) -> str:
    found = [group for group in one["groups"] if group["by"] == [attribute] and group["n"]]
    hidden = hidden_groups(found, min_display=report["settings"]["min_display"])  # also of what no grouping compares
    shown = [group for group in found if tuple(group["key"].values()) not in hidden]
    return "; ".join(f"{group_name(tuple(g['key'].values()))} {signed(g['lost'])}" for g in shown[:6])


def way_name(one: Mapping[str, Any]) -> str:
    """A way to change the inputs, as people say it."""
    distance = f"{one['eps']:g}" + (" (root of the sum of squares)" if one["norm"] == "l2" else "")
    return f"{_METHODS[one['method']]}, {distance}"


def _way(one: Mapping[str, Any]) -> tuple[str, str, Mark, str]:
    how = {
        "fgsm": "one step against the model",
        "pgd": f"{one['steps']} steps, the worst of {one['restarts']} starts" if one["steps"] else "",
        "noise": "by chance, against nobody",
    }[one["method"]]
    overall = _entry(one["groups"], ())
    return way_name(one), how, mark_of_interval(overall["accuracy_score"]), _change(overall["change"])


def _change(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return ""
    low, high = entry["interval"]
    return f"{signed(entry['value'])} ({signed(low)} to {signed(high)})"


def _chart(found: Sequence[Mapping[str, Any]], clean: float | None) -> Chart | None:
    """Accuracy over distance, one line a kind of change, each beginning with the rows as they are."""
    end = max(one["eps"] for one in found)
    if not end or clean is None:
        return None
    kinds: dict[tuple[str, str | None], list[tuple[float, float]]] = {}
    for one in found:
        value = _entry(one["groups"], ())["accuracy_score"]["value"]
        kinds.setdefault((one["method"], one["norm"]), [(0.0, clean)]).append((one["eps"] / end, value))
    return Chart(
        title="Accuracy as the inputs change",
        x_axis="distance",
        y_axis="accuracy",
        x_end=end,
        series=tuple(
            Series(
                name=_METHODS[method] + (", root of the sum of squares" if norm == "l2" else ""),
                style=style % 6,
                points=tuple(place(x, y) for x, y in sorted(points)),
                has_markers=True,
            )
            for style, ((method, norm), points) in enumerate(kinds.items())
        ),
        has_diagonal=False,
    )


def _by_group(report: Report, found: Sequence[Mapping[str, Any]], by: tuple[str, ...]) -> ChangedByGroup:
    hidden = hidden_by(report, by)
    tables = [{tuple(g["key"].values()): g for g in one["groups"] if tuple(g["by"]) == by} for one in found]
    return ChangedByGroup(
        title=f"By {listed_by(by)}",
        columns=tuple(way_name(one) for one in found),
        rows=tuple(
            _group(key, group, [table[key] for table in tables], is_hidden=key in hidden)
            for key, group in list(tables[0].items())[:MOST_GROUPS]
            if group["n"]
        ),
        lowest=tuple(_lowest(one, by, hidden) for one in found),
    )


def _group(
    key: Key, group: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], *, is_hidden: bool
) -> tuple[str, str, tuple[tuple[Mark, str], ...]]:
    if is_hidden:
        return group_name(key), "not shown", ()
    cells = tuple((mark_of_interval(entry["accuracy_score"]), _change(entry["change"])) for entry in entries)
    return group_name(key), count(group["n"]), cells


def _lowest(one: Mapping[str, Any], by: tuple[str, ...], hidden: frozenset[Key]) -> Mark:
    wanted = "accuracy_score_group_min"
    entry = next((e for e in one["disparities"] if tuple(e["by"]) == by and e["metric"] == wanted), None)
    if entry is None or entry["value"] is None or tuple(entry["min"].values()) in hidden:
        return Mark(text="not shown")
    return mark_of_bounds(entry)


def _warning(found: Sequence[Mapping[str, Any]]) -> str:
    rows = max((one["rows_judged_otherwise"] or 0 for one in found), default=0)
    if not rows:
        return ""
    return (
        f"On {count(rows)} rows at least, the model that was given to the probes does not answer as the one whose "
        "answers were counted: what is lost may belong to another model."
    )


def _entry(groups: Sequence[Mapping[str, Any]], by: tuple[str, ...]) -> Mapping[str, Any]:
    return next(group for group in groups if tuple(group["by"]) == by)
