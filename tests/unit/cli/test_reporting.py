"""A report as tables: here, what mitigation changed."""

import io

from rich.console import Console

from fairlead.cli.reporting import print_report
from fairlead.evaluation import Baseline, Measurements, build_report
from fairlead.spec import EnergySpec, EvaluationSpec, ExplanationsSpec, MitigationSpec, PrivacySpec
from fairlead.testing.evaluation import a_provenance, state_of_tables
from fairlead.testing.sweeps import GAP, TWO_OBJECTIVES, a_sweep, a_sweep_report, sweep_trials

AFTER = state_of_tables({"f": (450, 150, 100, 300), "m": (440, 160, 110, 290)})
BEFORE = state_of_tables({"f": (560, 40, 140, 260), "m": (340, 260, 60, 340)})


def printed(baseline: Baseline | None) -> str:
    report = build_report(
        AFTER,
        provenance=a_provenance(n_expected=AFTER.n),
        evaluation=EvaluationSpec(),
        mitigation=MitigationSpec(method="lagrangian", by=("group",)),
        baseline=baseline,
    )
    console = Console(width=160, record=True, file=io.StringIO())
    print_report(console, report)
    return console.export_text()


def test_a_report_with_mitigation_prints_both_sides() -> None:
    shown = printed(Baseline(experiment="e1", state=BEFORE))
    assert "Mitigation: lagrangian by group" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("demographic_parity_difference by group")]
    assert line.split()[3] == "0.3000"
    assert "before (e1)" in shown


def test_without_a_before_it_prints_why() -> None:
    assert "not compared: the spec names no experiment to compare with" in printed(None)


def test_what_was_measured_beside_the_counts_is_printed_with_what_is_missing() -> None:
    node = {"node": "n1", "attempt": 1, "group": 1, "ranks": 1, "duration_s": 60}
    part = {"kwh": 1.5, "is_measured": True, "how": "counters"}
    counted = {"n": 1, "groups": [{"by": [], "key": {}}], "columns": [{"name": "a", "counts": [[1, 0, 0, 0]]}]}
    measurements = Measurements(
        asked={"energy": EnergySpec(), "explanations": ExplanationsSpec(), "privacy": PrivacySpec(target_epsilon=8)},
        found={"energy": [{**node, "parts": {"cpu": part}}], "explanations": counted},
    )
    provenance = a_provenance(n_expected=AFTER.n)
    report = build_report(AFTER, provenance=provenance, evaluation=EvaluationSpec(), measurements=measurements)
    console = Console(width=160, record=True, file=io.StringIO())
    print_report(console, report)
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in console.export_text().splitlines() if line.strip()}
    assert lines["energy_kwh"].strip() == "1.5"
    assert lines["co2e_kg"].startswith("the spec states no intensity")
    assert lines["privacy"].strip() == "the workers gave nothing"
    assert "explanations" not in lines  # they have no number of their own, and were measured


def test_a_sweep_is_printed_with_its_best_trials_and_what_failed() -> None:
    spec = a_sweep(objectives=TWO_OBJECTIVES, constraints=(f"{GAP}.upper95 <= 0.12",))
    assert spec.search is not None
    report = a_sweep_report(spec, sweep_trials(spec.search, 40))
    out = io.StringIO()
    print_report(Console(file=out, width=160), report)
    told = out.getvalue()
    assert "are on the Pareto front" in told
    for one in report["front"]:
        assert f"{one['no']} \u25c6" in told
    assert "ValueError: loss is not finite" in told
    assert "asha: worse than the best third" in told
    assert "Importance" in told
