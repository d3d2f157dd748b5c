"""The page of a sweep and its plots: well formed, closed, small, and honest about what is left out."""

import math
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from fairlead.evaluation.sweep_axes import axis_of_dimension, axis_of_values
from fairlead.evaluation.sweep_page import plot_files, render_sweep_page
from fairlead.evaluation.sweep_plots import plots_of
from fairlead.evaluation.sweep_report import SweepTrial
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.spec.search import DimensionSpec
from fairlead.testing.sweeps import ACCURACY, GAP, LOSS, TWO_OBJECTIVES, a_sweep, a_sweep_report, sweep_trials

VOID = {"meta", "br"}
SVG = "{http://www.w3.org/2000/svg}"


class Balance(HTMLParser):
    """Notes tags that are closed in the wrong order, and everything that could reach outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.reaches_out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.reaches_out += [name for name, _ in attrs if name in ("src", "href", "action") or name.startswith("on")]
        if tag in ("script", "iframe", "object", "link", "form", "image"):
            self.reaches_out.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report_of(spec: ExperimentSpec, count: int, **options: Any) -> dict[str, Any]:
    assert spec.search is not None
    return a_sweep_report(spec, sweep_trials(spec.search, count, **options))


def nasty_report() -> dict[str, Any]:
    metric = "a\x07<b>&'\"\u202e"
    spec = a_sweep(
        objectives=[{"minimize": metric}],
        space={"optimizer": {"choice": ["<script>alert(1)</script>", "\u202eback\x07", "é" * 300, ""]}},
    )
    assert spec.search is not None
    trials = [
        SweepTrial(no=no, state=TrialState.SUCCEEDED, params={"optimizer": value}, values={metric: float(no)})
        for no, value in enumerate(spec.search.space["optimizer"].choice or ())
    ]
    failed = SweepTrial(no=9, state=TrialState.FAILED, params={}, reason="<img src=x onerror=alert(1)>\x00\x1b[31m")
    return a_sweep_report(spec, [*trials, failed], importance={"optimizer": math.nan})


def extreme_report() -> dict[str, Any]:
    spec = a_sweep(objectives=TWO_OBJECTIVES)
    values = [math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 1e299, 5e-324, 0.0]
    trials = [
        SweepTrial(no=no, state=TrialState.SUCCEEDED, params={"lr": 0.001}, values={ACCURACY: value, GAP: value})
        for no, value in enumerate(values)
    ]
    return a_sweep_report(spec, trials)


@pytest.mark.parametrize(
    "report",
    [
        report_of(a_sweep(), 40),
        report_of(a_sweep(objectives=TWO_OBJECTIVES), 40),
        report_of(a_sweep(objectives=[*TWO_OBJECTIVES, {"minimize": LOSS}]), 40),
        report_of(a_sweep(constraints=(f"{GAP}.upper95 <= 0.12",)), 40),
        report_of(a_sweep(constraints=(f"{GAP}.upper95 <= 0.0001",)), 40),
        report_of(a_sweep(), 400),
        report_of(a_sweep(), 1, seed=3),
        report_of(a_sweep(), 0),
        report_of(a_sweep(), 9, run=lambda point, random_: (TrialState.FAILED, {}, "died")),
        nasty_report(),
        extreme_report(),
    ],
    ids=["one", "two", "three", "bound", "none keeps", "400", "1", "0", "failed", "nasty", "extreme"],
)
def test_every_page_and_plot_is_well_formed_and_closed(report: dict[str, Any]) -> None:
    page = render_sweep_page(report)
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert balance.reaches_out == []
    assert "<script" not in page
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower().split()
    for name, content in plot_files(plots_of(report)).items():
        root = ElementTree.fromstring(content)
        assert root.tag == f"{SVG}svg"
        assert root.findtext(f"{SVG}title")
        assert re.fullmatch(r"[a-z0-9_A-Z]+\.svg", name)
        numbers = " ".join(value for one in root.iter() for key, value in one.attrib.items() if key in ("d", "x", "y"))
        assert not re.search(r"nan|inf", numbers)


def test_the_plots_of_two_objectives_have_boxes_of_bounds_and_the_front() -> None:
    report = report_of(a_sweep(objectives=TWO_OBJECTIVES), 40)
    plots = {plot.name: plot for plot in plots_of(report)}
    assert [name for name in plots if not name.startswith("slice")] == [
        "history",
        "history_2",
        "pareto",
        "parallel",
        "importance",
    ]
    assert [name for name in plots if name.startswith("slice")] == [
        "slice_lr",
        "slice_width",
        "slice_optimizer",
        "slice_momentum",
    ]
    root = ElementTree.fromstring(plots["pareto"].standalone())
    boxes = [one for one in root.iter(f"{SVG}rect") if one.get("class") == "box"]
    assert len(boxes) == report["num_on_front"] + 1  # and one in the legend
    named = [one.text for one in root.iter(f"{SVG}title")]
    assert sum(f"trial {report['front'][0]['no']} (" in str(text) for text in named) == 1


def test_a_single_objective_is_drawn_against_the_value_whose_bound_is_constrained() -> None:
    report = report_of(a_sweep(constraints=(f"{GAP}.upper95 <= 0.12",)), 40)
    plot = next(plot for plot in plots_of(report) if plot.name == "tradeoff")
    assert plot.title == f"{LOSS} against {GAP}"
    assert 'class="limit"' in plot.body
    assert "limit of the upper bound" in plot.body


def test_very_bad_values_do_not_squeeze_the_others_and_are_told_of() -> None:
    spec = a_sweep()
    assert spec.search is not None
    trials = sweep_trials(spec.search, 40)
    worst = next(one.no for one in trials if one.state is TrialState.SUCCEEDED)
    trials[worst] = replace(trials[worst], values={LOSS: 1e9})
    history = plots_of(a_sweep_report(spec, trials))[0]
    assert f"1 lies beyond the scale of {LOSS}, drawn at its edge" in history.notes


def test_a_page_of_ten_thousand_trials_is_small_and_says_what_it_leaves_out() -> None:
    report = report_of(a_sweep(objectives=TWO_OBJECTIVES), 10_000)
    begun = time.process_time()
    plots = plots_of(report)
    page = render_sweep_page(report, plots=plots)
    plot_files(plots)
    assert time.process_time() - begun < 3
    assert len(page.encode()) < 1_500_000
    assert "1 000 of 10 000 trials are drawn" in page
    assert "150 of 10 000 trials are drawn" in page


def test_values_are_placed_in_order_on_every_kind_of_axis() -> None:
    log = axis_of_dimension("lr", from_mapping(DimensionSpec, {"log_uniform": [1e-4, 1e-2]}))
    assert [log.at(value) for value in (1e-4, 1e-3, 1e-2, 1.0)] == pytest.approx([0, 0.5, 1, 1])
    levels = axis_of_dimension("x", from_mapping(DimensionSpec, {"choice": [True, 1.5, "1", None]}))
    assert [levels.at(value) for value in (True, 1, "1", None)] == [0.125, None, 0.625, 0.875]
    plain = axis_of_values("loss", [1.0, 2.0, None, math.nan])
    low, high = plain.at(1.0), plain.at(2.0)
    assert low is not None
    assert high is not None
    assert 0 < low < high < 1
    assert plain.at(math.inf) is None
