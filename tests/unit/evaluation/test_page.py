"""The page: one file without script or network, that hides small groups and passes no verdicts."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from fairlead.evaluation import CountState, aggregate_names, build_report, metric_names
from fairlead.evaluation.champion import Champion
from fairlead.evaluation.drawing import hidden_groups
from fairlead.evaluation.page import metric_title, render_page
from fairlead.evaluation.scores import CALIBRATION_METRICS
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance, example_state, state_of_rows, state_of_tables
from fairlead.workload import Attribute

GATES = (
    GateSpec(metric="demographic_parity_difference", by=("sex",), require="<= 0.30"),
    GateSpec(metric="equalized_odds_difference", by=("sex",), require="<= 0.05"),
    GateSpec(metric="count", require=">= 10"),
    GateSpec(metric="accuracy_score", require=">= 0.99"),
)
NASTY = ("<script>alert(1)</script>", "../x", "a*b", "", "é" * 300, "\u202eback\x07")
VERDICTS = re.compile(r"\b(compliant|certified|fair|unbiased)\b", re.IGNORECASE)
VOID = {"meta", "br", "line", "rect", "circle", "polyline"}


class Balance(HTMLParser):
    """Notes tags that are opened and closed in the wrong order, and everything that could reach outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.reaches_out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.reaches_out += [name for name, _ in attrs if name in ("src", "href", "action") or name.startswith("on")]
        if tag in ("script", "iframe", "object", "link", "form"):
            self.reaches_out.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(state: CountState, gates: tuple[GateSpec, ...] = (), **settings: object) -> str:
    evaluation = EvaluationSpec.model_validate({"groupings": "all", **settings})
    provenance = a_provenance(n_expected=state.n)
    return render_page(build_report(state, provenance=provenance, evaluation=evaluation, gates=gates))


def nasty_state() -> CountState:
    state = CountState(attributes=[Attribute(name="x<b>y", levels=NASTY)], classes=["<no>", 'y"es&'])
    rows = np.arange(400)
    state.update(rows[:, None] % 7, rows % 2, rows % 3 % 2, record_hashes=rows)
    return state


@pytest.mark.parametrize(
    ("state", "gates"),
    [
        (example_state(), GATES),
        (example_state(rows=133), GATES),
        (example_state(rows=133, has_scores=False), ()),
        (example_state(rows=300, num_classes=4), GATES),
        (example_state(rows=0), GATES),
        (state_of_rows([1, 0], [1, 1]), ()),
        (state_of_tables({"a": (5, 5, 0, 0), "b": (9, 1, 0, 0)}), ()),
        (nasty_state(), ()),
    ],
    ids=["binary", "small", "no scores", "multiclass", "no rows", "no attributes", "no positives", "nasty names"],
)
def test_every_page_is_well_formed_and_closed(state: CountState, gates: tuple[GateSpec, ...]) -> None:
    page = page_of(state, gates)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.reaches_out == []
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan[a-z]*", "", page.lower())
    assert VERDICTS.findall(page) == []
    assert "url(" not in page


def test_strings_from_data_are_escaped_and_shortened() -> None:
    page = page_of(nasty_state())
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "(empty)" in page
    assert "é" * 61 not in page
    assert "\u202e" not in page
    assert "&lt;no&gt;" in page or "y&#34;es&amp;" in page


@pytest.mark.parametrize(
    ("require", "words"),
    [
        ("<= 0.30", "The requirement is met"),
        ("<= 0.01", "1 of 1 requirement is not met"),
        ("<= 0.11", "1 of 1 requirement could not be decided"),
    ],
)
def test_the_outcome_comes_first_and_in_words(require: str, words: str) -> None:
    gates = (GateSpec(metric="demographic_parity_difference", by=("sex",), require=require),)
    page = page_of(example_state(), gates)
    assert page.index(words) < page.index("What was required") < page.index("Who was measured")


def test_without_gates_the_page_claims_nothing() -> None:
    page = page_of(example_state())
    assert "No requirements were set" in page
    assert "What was required" not in page


@pytest.mark.parametrize(
    ("sizes", "hidden"),
    [
        ({("a",): 50, ("b",): 60}, set()),
        ({("a",): 5, ("b",): 60, ("c",): 50}, {("a",), ("c",)}),
        ({("a",): 5, ("b",): 6, ("c",): 50}, {("a",), ("b",)}),
        ({("a",): 5}, {("a",)}),
        ({("a",): 0, ("b",): 60}, set()),
        (
            {("F", "x"): 5, ("F", "y"): 50, ("M", "x"): 40, ("M", "y"): 60},
            {("F", "x"), ("F", "y"), ("M", "x"), ("M", "y")},
        ),
    ],
)
def test_no_hidden_number_follows_from_those_shown(sizes: dict[tuple[str, ...], int], hidden: set[object]) -> None:
    groups = [{"key": dict(enumerate(key)), "n": rows} for key, rows in sizes.items()]
    assert hidden_groups(groups, min_display=10) == hidden


def test_values_of_small_groups_are_not_on_the_page() -> None:
    state = state_of_tables({"F": (540, 90, 90, 280), "M": (480, 150, 80, 290), "X": (3, 2, 1, 1), "Y": (1, 2, 3, 2)})
    page = page_of(state)
    assert "under 10" in page
    assert ">8<" not in page
    assert ">7<" not in page
    shown = page_of(state, min_display=0)
    assert ">7<" in shown


def test_every_metric_has_words() -> None:
    for task in ("binary", "multiclass"):
        for name in (*metric_names(task), *CALIBRATION_METRICS, *aggregate_names(task)):  # type: ignore[arg-type]
            assert "_" not in metric_title(name)


@pytest.mark.parametrize(
    ("correction", "words"),
    [("none", "each is judged for itself"), ("holm", "the chance that any of them is met wrongly is 0.05 at most")],
)
def test_the_page_says_how_requirements_were_judged_together(correction: str, words: str) -> None:
    assert words in page_of(example_state(), GATES, correction=correction)


def test_the_page_counts_the_gaps_of_a_grouping_that_chance_does_not_explain() -> None:
    page = page_of(state_of_tables({"F": (540, 90, 110, 260), "M": (380, 250, 80, 290)}))
    assert "Counted among all 6 gaps tested in this report (Benjamini and Hochberg, level 0.05)" in page
    assert "gap in selection rate" in page.split("more than chance explains: ")[1][:200]


def test_reports_of_before_there_were_corrections_still_have_a_page() -> None:
    state = example_state()
    evaluation = EvaluationSpec.model_validate({"groupings": "all"})
    report = build_report(state, provenance=a_provenance(), evaluation=evaluation, gates=GATES)
    del report["multiplicity"]
    assert "gaps tested in this report" not in render_page(report)


def test_a_gate_against_the_champion_is_drawn_around_zero_and_names_it() -> None:
    rows = np.arange(4000)
    labels, theirs = rows % 2, np.where(rows % 5 == 0, 1 - rows % 2, rows % 2)
    state = CountState(attributes=(), classes=("no", "yes"), has_champion=True)
    ours = np.where(rows % 97 == 0, 1 - theirs, theirs)
    state.update(np.empty((4000, 0)), labels, ours, record_hashes=rows, champion=theirs)
    gates = (
        GateSpec(metric="accuracy_score", require=">= champion - 0.02"),
        GateSpec(id="equal", metric="zero_one_loss", require="<= champion", evidence="point"),
        GateSpec(id="number", metric="accuracy_score", require=">= 0.5"),
    )
    settings = {"provenance": a_provenance(n_expected=4000), "evaluation": EvaluationSpec(), "gates": gates}
    champion = Champion(experiment="e0", name="risk", version="3", alias="live", state=state)
    page = render_page(build_report(state, champion=champion, **settings))  # type: ignore[arg-type]  # as written
    Balance().feed(page)
    assert "Accuracy: at least that of the champion less 0.02" in page
    assert "Error rate: at most that of the champion<" in page
    assert "Accuracy: at least 0.5" in page
    assert "Champion: risk version 3, experiment e0. This model 0.79" in page
    assert "champion 0.8000." in page
    assert "<span>−0.02</span>" in page
    named = replace(champion, experiment=None, column="<b>before</b>")
    assert "Champion: column &lt;b&gt;before&lt;/b&gt;." in render_page(
        build_report(state, champion=named, **settings)  # type: ignore[arg-type]  # as written
    )
    nobody = Champion(name="risk", alias="live", is_absent=True, why_not="nobody yet (no_champion)")
    page = render_page(build_report(state, champion=nobody, **settings))  # type: ignore[arg-type]  # as written
    assert "Nobody yet (no_champion)." in page
    assert "Champion:" not in page
