"""The report: valid, deterministic, complete, and flat enough for tracking."""

import json
import re
from time import process_time

import jsonschema
import numpy as np
import pytest

from fairlead.evaluation import (
    HEADLINES,
    CountState,
    build_report,
    flat_metrics,
    report_bytes,
    report_schema,
    report_sha256,
)
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance, example_state, state_of_rows, state_of_tables
from fairlead.workload import Attribute

GATES = (
    GateSpec(metric="demographic_parity_difference", by=("sex",), require="<= 0.30"),
    GateSpec(id="accuracy", metric="accuracy_score", require=">= 0.7"),
    GateSpec(metric="accuracy_score_group_min", by=("sex", "age_band"), require=">= 0.5"),
)
NASTY = ("<script>alert(1)</script>", "../x", "a*b", "", "é" * 300)


def report_of(state: CountState, *, gates: tuple[GateSpec, ...] = (), **settings: object) -> dict:  # type: ignore[type-arg]
    evaluation = EvaluationSpec.model_validate({"groupings": "all", **settings})
    return build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation, gates=gates)


def nasty_state() -> CountState:
    state = CountState(attributes=[Attribute(name="x/../y*<b>", levels=NASTY)], classes=["<no>", "yes&"])
    rows = np.arange(200)
    state.update(rows[:, None] % 6, rows % 2, rows % 3 % 2, record_hashes=rows)
    return state


STATES = {
    "binary": lambda: example_state(),
    "small": lambda: example_state(rows=40),
    "without scores": lambda: example_state(has_scores=False),
    "multiclass": lambda: example_state(rows=400, num_classes=4),
    "no rows": lambda: example_state(rows=0),
    "one row": lambda: state_of_rows([1], [1], groups={"sex": ["F"]}, scores=[0.5]),
    "no attributes": lambda: state_of_rows([1, 0], [1, 1]),
    "no positives": lambda: state_of_tables({"a": (5, 5, 0, 0), "b": (9, 1, 0, 0)}),
    "nasty names": nasty_state,
}


@pytest.mark.parametrize("name", STATES)
def test_every_report_validates_and_has_no_nan(name: str) -> None:
    report = report_of(STATES[name](), gates=GATES if name in ("binary", "small", "multiclass") else ())
    jsonschema.validate(report, report_schema())
    assert json.loads(report_bytes(report)) == report
    for entry in (value for group in report["groups"] for value in group["metrics"].values()):
        assert (entry["value"] is None) == ("reason" in entry)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report_of(example_state()) | {"verdict": "fine"}, report_schema())


def test_any_sharding_gives_the_same_report() -> None:
    one, two = example_state(rows=700, seed=1), example_state(rows=300, seed=2)
    reports = [report_of(state, gates=GATES) for state in (one.merge(two), two.merge(one))]
    assert report_bytes(reports[0]) == report_bytes(reports[1])
    assert report_sha256(reports[0]) == report_sha256(reports[1])


def test_a_value_carries_what_it_is_made_of() -> None:
    report = report_of(state_of_tables({"F": (540, 90, 90, 280), "M": (480, 150, 80, 290)}))
    entry = next(group for group in report["groups"] if group["key"] == {"group": "F"})
    assert entry["counts"] == {"tn": 540, "fp": 90, "fn": 90, "tp": 280}
    rate = entry["metrics"]["selection_rate"]
    assert (rate["value"], rate["num"], rate["den"], rate["method"], rate["support"]) == (
        0.37,
        370,
        1000,
        "wilson",
        "ok",
    )
    assert rate["interval"] == pytest.approx([0.3406, 0.4004], abs=5e-5)
    gap = next(d for d in report["disparities"] if d["metric"] == "demographic_parity_difference")
    assert (gap["value"], gap["num"], gap["den"]) == (0.07, 7, 100)
    assert (gap["max"], gap["min"]) == ({"group": "M"}, {"group": "F"})
    assert (gap["lower95"], gap["upper95"]) == pytest.approx((0.0270, 0.1058), abs=5e-5)
    assert gap["interval"] == pytest.approx([0.0208, 0.1127], abs=5e-5)
    assert gap["supported"] is None


def test_nobody_disappears() -> None:
    state = state_of_rows([0, 1, 1], [0, 1, 1], groups={"sex": ["F", None, "M"], "age": ["old", "old", "young"]})
    report = report_of(state)
    listed = {(tuple(group["by"]), tuple(group["key"].values())): group for group in report["groups"]}
    assert listed[("sex",), ("__unknown__",)]["unknown"]
    assert listed[("sex", "age"), ("F", "young")]["metrics"]["accuracy_score"]["reason"] == "empty"
    assert report["data"]["n_unknown"] == {"sex": 1, "age": 0}


def test_small_groups_are_flagged_and_gaps_given_without_them() -> None:
    state = state_of_tables({"F": (540, 90, 90, 280), "M": (480, 150, 80, 290), "X": (0, 5, 0, 0)})
    report = report_of(state)
    gap = next(d for d in report["disparities"] if d["metric"] == "demographic_parity_difference")
    assert (gap["n_low_support"], gap["low_support"]) == (1, [{"group": "X"}])
    assert gap["value"] == pytest.approx(0.63)
    assert gap["supported"]["value"] == 0.07
    assert any("fewer than 30" in text for text in report["limitations"])


def test_what_was_not_measured_is_said() -> None:
    assert "calibration" in report_of(example_state(has_scores=False))["not_measured"]
    measured = report_of(example_state())
    assert measured["not_measured"] == ["attributions", "drift", "energy", "explanations", "privacy", "robustness"]
    assert measured["calibration"]
    assert measured["curves"]
    assert [point["threshold"] for point in measured["thresholds"][0]["points"]][:2] == [0, 1 / 32]


def test_a_sweep_agrees_with_counts_at_the_models_own_threshold() -> None:
    report = report_of(example_state())
    for entry in report["thresholds"]:
        point = next(point for point in entry["points"] if point["threshold"] == 0.5)
        gaps = {d["metric"]: d["value"] for d in report["disparities"] if d["by"] == entry["by"]}
        assert point["selection_rate_difference"] == pytest.approx(gaps["demographic_parity_difference"], abs=1e-12)


def test_flat_metrics_are_named_for_tracking() -> None:
    report = report_of(example_state(), gates=GATES)
    flat = flat_metrics(report)
    for key in (
        "rai/accuracy_score/overall.lower95",
        "rai/demographic_parity_difference/sex",
        "rai/demographic_parity_difference/sex.upper95",
        "rai/accuracy_score_group_min/sex__age_band",
    ):
        assert isinstance(flat.values[key], float)
    everything = flat_metrics(report, metrics=None)
    assert set(flat.values) < set(everything.values)
    assert set(flat.values) >= {f"rai/{name}/sex" for name in ("equalized_odds_difference",) if name in HEADLINES}


def test_metrics_without_a_value_are_listed_and_not_logged() -> None:
    flat = flat_metrics(report_of(state_of_tables({"a": (5, 5, 0, 0), "b": (9, 1, 0, 0)})))
    assert "rai/equalized_odds_difference/group" in flat.undefined
    assert "rai/true_positive_rate/overall" in flat.undefined
    assert not {key for key in flat.values if "equalized" in key}


def test_keys_are_short_and_plain_whatever_the_attributes_are_called() -> None:
    long = "é" * 300
    attributes = [Attribute(name=name, levels=("a", "b")) for name in ("x*y", "x×y", long, "overall")]
    state = CountState(attributes=attributes, classes=["0", "1"])
    state.update(np.zeros((4, 4)), [0, 1, 0, 1], [0, 1, 1, 0], record_hashes=range(4))
    report = report_of(state, groupings=[["x*y"], ["x×y"], [long], ["overall"]])
    assert len(report["names"]) == 4
    for key in (*flat_metrics(report, metrics=None).values, *flat_metrics(report, metrics=None).undefined):
        assert re.fullmatch(r"[A-Za-z0-9_.:/-]{1,250}", key)


def test_another_confidence_is_said_aloud() -> None:
    texts = report_of(example_state(), confidence=0.9)["limitations"]
    assert any("confidence 0.9" in text for text in texts)


@pytest.mark.parametrize("name", STATES)
def test_a_report_is_written_as_the_json_library_writes_it(name: str) -> None:
    report = report_of(STATES[name]())
    expected = json.dumps(report, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    assert report_bytes(report) == expected.encode()


def test_a_report_is_never_written_with_what_json_lacks() -> None:
    odd = {"a": [], "b": {}, "c": True, "d": None, "e": -0.0, "f": 1e300, "g": 'é"\n\u2028', "h": [[1, [2.5]], {"": 0}]}
    assert report_bytes(odd).decode() == json.dumps(odd, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            report_bytes({"a": [value]})
    with pytest.raises(TypeError):
        report_bytes({"a": {1}})


def test_ten_thousand_groups_are_reported_in_reasonable_time() -> None:
    random, rows = np.random.default_rng(0), 200_000
    levels = tuple(str(number) for number in range(100))
    state = CountState(attributes=[Attribute(name=name, levels=levels) for name in "ab"], classes=["0", "1"])
    labels = random.integers(0, 2, rows)
    predictions = np.where(random.random(rows) < 0.8, labels, 1 - labels)
    state.update(random.integers(0, 100, (rows, 2)), labels, predictions, record_hashes=np.arange(rows))
    started = process_time()
    report = report_of(state, groupings=[["a", "b"]])
    assert len(report["groups"]) == 10_001
    assert process_time() - started < 20  # two to three seconds; it was five times as many
