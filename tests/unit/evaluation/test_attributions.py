"""Attributions from sums: means and shares against SciPy and by simulation, gates, and who stays hidden."""

from collections.abc import Sequence
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fairlead.evaluation import Measurements, build_report, report_schema
from fairlead.evaluation.attributions import attributions_section, share_limits
from fairlead.evaluation.page import render_page
from fairlead.spec import AttributionsSpec, EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance, example_state

ASKED = AttributionsSpec()
Values = NDArray[np.float64]


def sums_of(
    values: Values, groups: Sequence[str] | None = None, *, share_of: int = 1, **changes: Any
) -> dict[str, Any]:
    """Sums of rows' attributions, shape (n, features), as ranks give them; ``groups``: towns of the rows."""
    towns = np.array(groups if groups is not None else ["one"] * len(values))
    levels = sorted(set(towns.tolist()))
    members = [np.ones(len(values), dtype=bool), *(towns == level for level in levels)]
    part, whole = np.abs(values[:, :share_of]).sum(axis=1), np.abs(values).sum(axis=1)
    found = {
        "n": len(values),
        "n_split": 5000,
        "n_not_finite": 0,
        "kind": "column",
        "rows": [int(is_in.sum()) for is_in in members],
        "groups": [{"by": [], "key": {}}, *({"by": ["town"], "key": {"town": level}} for level in levels)],
        "features": [
            {
                "name": f"c{at}",
                "sums": [
                    [float(np.abs(one[is_in]).sum()), float(one[is_in].sum()), float((one[is_in] ** 2).sum())]
                    for is_in in members
                ],
            }
            for at, one in enumerate(values.T)
        ],
        "error_sum": 0.02,
        "error_largest": 0.005,
        "change_sum": float(np.abs(values.sum(axis=1)).sum()),
        "share": {
            "columns": [f"c{at}" for at in range(share_of)],
            "part": float(part.sum()),
            "whole": float(whole.sum()),
            "part_squares": float((part**2).sum()),
            "products": float((part * whole).sum()),
            "whole_squares": float((whole**2).sum()),
        },
        "library": "captum 0.9.0",
    }
    return found | changes


def some_values(n: int = 400) -> Values:
    generator = np.random.default_rng(3)
    return generator.normal([0.5, -2.0, 0.0], [1.0, 0.5, 0.0], size=(n, 3))


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_means_have_students_intervals_as_scipy_computes_them(confidence: float) -> None:
    values = some_values()
    section = attributions_section(ASKED, sums_of(values), alpha=1 - confidence)
    assert [one["name"] for one in section["features"]] == ["c1", "c0", "c2"]  # the largest first
    for feature in section["features"][:2]:
        rows = values[:, int(feature["name"][1])]
        overall = feature["groups"][0]
        for of, numbers in (("interval", np.abs(rows)), ("mean_interval", rows)):
            expected = stats.ttest_1samp(numbers, 0).confidence_interval(confidence)
            assert overall[of] == pytest.approx([expected.low, expected.high])
        one_sided = stats.ttest_1samp(np.abs(rows), 0).confidence_interval(2 * confidence - 1)
        assert (overall["lower95"], overall["upper95"]) == pytest.approx((one_sided.low, one_sided.high))
        assert overall["mean"] == pytest.approx(rows.mean())
    unused = section["features"][2]["groups"][0]
    assert (unused["mean_absolute"], unused["interval"]) == (0, [0, 0])


def test_of_one_row_there_is_a_mean_and_nothing_to_bound_it() -> None:
    entry = attributions_section(ASKED, sums_of(some_values(3), ["a", "a", "b"]))["features"][0]["groups"][2]
    assert (entry["key"], entry["n"]) == ({"town": "b"}, 1)
    assert entry["mean_absolute"] > 0
    assert (entry["interval"], entry["lower95"], entry["upper95"], entry["mean_interval"]) == (None,) * 4
    single = attributions_section(ASKED, sums_of(some_values(1)))["metrics"]["attribution_share"]
    assert (single["lower95"], single["upper95"]) == (0, 1)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_intervals_hold_the_truth_as_often_as_they_say(confidence: float) -> None:
    """Of a mean: attributions normal, so that absolute ones are folded normal. Of a share: parts exponential."""
    generator = np.random.default_rng(11)
    mean, spread, n, replicates = 0.5, 1.0, 60, 1500
    of_mean = stats.foldnorm(c=mean / spread, scale=spread).mean()
    held = {"mean": 0, "signed": 0, "share": 0}
    for _ in range(replicates):
        rows = np.column_stack([generator.normal(mean, spread, n), np.zeros(n)])
        overall = attributions_section(ASKED, sums_of(rows), 1 - confidence)["features"][0]["groups"][0]
        held["mean"] += overall["interval"][0] <= of_mean <= overall["interval"][1]
        held["signed"] += overall["mean_interval"][0] <= mean <= overall["mean_interval"][1]
        rows = generator.exponential([1.0, 3.0], size=(n, 2))
        lower, upper = share_limits(ASKED, sums_of(rows))((1 - confidence) / 2)
        held["share"] += lower <= 0.25 <= upper
    for name, times in held.items():
        assert times / replicates == pytest.approx(confidence, abs=0.02), name


def test_the_share_is_that_of_the_sums_and_its_bounds_are_those_of_the_gates() -> None:
    values = some_values()
    found = sums_of(values)
    measurements = Measurements(asked={"attributions": ASKED}, found={"attributions": found})
    share = measurements.sections["attributions"]["metrics"]["attribution_share"]
    assert share["value"] == pytest.approx(np.abs(values[:, 0]).sum() / np.abs(values).sum())
    assert 0 < share["lower95"] < share["value"] < share["upper95"] < 1
    gates = [
        GateSpec(metric="attribution_share", require="<= 0.5"),
        GateSpec(id="tight", metric="attribution_share", require=f"<= {share['value']:.6f}"),
        GateSpec(id="error", metric="completeness_error", require="<= 0.006"),
        GateSpec(id="small", metric="completeness_error", require="<= 0.004"),
    ]
    report = build_report(
        example_state(),
        provenance=a_provenance(),
        evaluation=EvaluationSpec(),
        gates=gates,
        measurements=measurements,
    )
    jsonschema.validate(report, report_schema())
    assert [gate["outcome"] for gate in report["gates"]] == ["pass", "inconclusive", "pass", "fail"]
    assert report["gates"][0]["bound"] == share["upper95"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"share_of": 0}, "no sensitive attribute is an input: name columns under probes.attributions.share_of"),
        ({"values": np.zeros((5, 2))}, "no input moves the answer of any row"),
    ],
)
def test_a_share_that_does_not_exist_decides_nothing_and_says_why(changes: dict[str, Any], why: str) -> None:
    found = sums_of(changes.pop("values", some_values()), **changes)
    report = build_report(
        example_state(),
        provenance=a_provenance(),
        evaluation=EvaluationSpec(),
        gates=[GateSpec(metric="attribution_share", require="<= 0.5")],
        measurements=Measurements(asked={"attributions": ASKED}, found={"attributions": found}),
    )
    assert report["gates"][0]["outcome"] == "inconclusive"
    assert why in report["gates"][0]["why"]
    assert why in render_page(report)


@pytest.mark.parametrize(("rows", "outcome"), [(29, "inconclusive"), (30, "pass")])
@pytest.mark.parametrize("evidence", ["upper_bound", "point"])
def test_a_share_of_too_few_rows_proves_nothing(rows: int, outcome: str, evidence: Any) -> None:
    """Without support a column that no drawn row uses would have a bound of 0 from two rows on."""
    values = some_values(rows) * [0.0, 1.0, 1.0]
    report = build_report(
        example_state(),
        provenance=a_provenance(),
        evaluation=EvaluationSpec(min_support=30),
        gates=[GateSpec(metric="attribution_share", require="<= 0.01", evidence=evidence)],
        measurements=Measurements(asked={"attributions": ASKED}, found={"attributions": sums_of(values)}),
    )
    (gate,) = report["gates"]
    assert gate["outcome"] == outcome
    assert ("29 rows count for this, fewer than the 30" in gate["why"]) == (outcome == "inconclusive")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n_not_finite": 3, "rows": [397, 397]}, "3 of 400 rows have attributions or answers that are no finite"),
        ({"n": 0, "rows": [0, 0]}, "there is nothing to explain"),
        ({"n": 401}, "the rows of the groups are not those that were explained"),
        ({"rows": [400]}, "the rows of the groups are not those that were explained"),
        ({"features": [{"name": "c0", "sums": [[1, 1, 1]]}]}, "c0 has not one sum a group"),
        ({"error_largest": -1}, "cannot be read"),
    ],
)
def test_what_cannot_be_shown_is_said(changes: dict[str, Any], why: str) -> None:
    found = sums_of(some_values()) | changes
    gates = [GateSpec(metric="completeness_error", require="<= 1")]
    report = build_report(
        example_state(),
        provenance=a_provenance(),
        evaluation=EvaluationSpec(),
        gates=gates,
        measurements=Measurements(asked={"attributions": ASKED}, found={"attributions": found}),
    )
    jsonschema.validate(report, report_schema())
    assert why in report["attributions"]["why_not_measured"]
    assert "attributions" in report["not_measured"]
    assert report["gates"][0]["outcome"] == "inconclusive"
    assert "Not measured: " in render_page(report)


def test_the_page_hides_small_groups_and_says_when_attributions_do_not_add_up() -> None:
    towns = ["small"] * 5 + ["middle"] * 95 + ["large"] * 300
    found = sums_of(some_values(), towns) | {"error_sum": 40.0}
    report = build_report(
        example_state(),
        provenance=a_provenance(),
        evaluation=EvaluationSpec(confidence=0.8),
        measurements=Measurements(asked={"attributions": ASKED}, found={"attributions": found}),
    )
    page = render_page(report)
    part = page[page.index("What each answer is made of") : page.index("What was not measured")]
    assert "By town" in part
    assert part.count("not shown, to protect a small group") == 2  # else the small one could be had by subtraction
    assert ">large<" in part
    assert "That is much: more steps make it less." in part
    assert "two-sided 80 % interval" in part
