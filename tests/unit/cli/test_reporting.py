"""A report as tables: here, what mitigation changed."""

import io

from rich.console import Console

from fairlead.cli.reporting import print_report
from fairlead.evaluation import Baseline, build_report
from fairlead.spec import EvaluationSpec, MitigationSpec
from fairlead.testing.evaluation import a_provenance, state_of_tables

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
