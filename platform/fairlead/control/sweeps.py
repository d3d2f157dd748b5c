"""The report of a sweep: built from the trials' rows, and written as files beside which nothing half is left."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.clock import Clock
from fairlead.control.results import EvaluationBroken
from fairlead.evaluation import report_bytes
from fairlead.evaluation.signing import signed
from fairlead.evaluation.sweep_report import SweepProvenance, SweepTrial, build_sweep_report, trials_csv
from fairlead.failpoints import failpoint
from fairlead.protocol import ResultDocument
from fairlead.spec import ExperimentSpec
from fairlead.spec.search import SearchSpec
from fairlead.store import Store, reported_trials
from fairlead.store.tables import AttemptRow

SWEEP_JSON, SWEEP_PAGE, TRIALS_TABLE, PLOTS_DIRECTORY = "sweep.json", "sweep.html", "trials.csv", "plots"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweeps:
    """Reports on sweeps from what is stored of them."""

    store: Store
    clock: Clock

    def publish(
        self, spec: ExperimentSpec, attempt: AttemptRow, result: ResultDocument, *, directory: Path, seed: bytes
    ) -> dict[str, Any]:
        """Build, sign and write the report; returns it.

        Repeating it gives the same files. Raises ``EvaluationBroken`` where the result is none of a sweep, ``OSError``.
        """
        if spec.search is None or result.sweep is None:
            raise EvaluationBroken("the result of the sweep says nothing of its trials")
        with self.store.read() as session:
            trials = list(reported_trials.reported_trials(session, attempt.experiment_id, spec.search))
        provenance = SweepProvenance(
            experiment=attempt.experiment_id,
            attempt=attempt.attempt_no,
            created=attempt.ended_at or self.clock.now(),
            data_digest=str((result.dataset or {}).get("digest", "")),
        )
        report = signed(build_sweep_report(spec, result.sweep, trials, provenance=provenance), seed)
        write_sweep(directory, spec.search, report, trials)
        return report


def write_sweep(directory: Path, search: SearchSpec, report: dict[str, Any], trials: Sequence[SweepTrial]) -> None:
    """The report's files, each whole or not at all."""
    from fairlead.evaluation.sweep_page import plot_files, render_sweep_page  # loads jinja2, which nothing else needs
    from fairlead.evaluation.sweep_plots import plots_of

    plots = plots_of(report)
    files = {f"{PLOTS_DIRECTORY}/{name}": content for name, content in plot_files(plots).items()}
    (directory / PLOTS_DIRECTORY).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(directory / name, content)
    for left in (directory / PLOTS_DIRECTORY).iterdir():  # of a release that drew others, or of a process that died
        if f"{PLOTS_DIRECTORY}/{left.name}" not in files:
            left.unlink()
    write_whole(directory / TRIALS_TABLE, trials_csv(search, trials))
    write_whole(directory / SWEEP_JSON, report_bytes(report))
    failpoint("sweep.half_report")
    write_whole(directory / SWEEP_PAGE, render_sweep_page(report, plots=plots).encode())


def files_of(directory: Path) -> dict[str, Path]:
    """The files of a sweep's report by name, for whoever keeps copies of them."""
    names = [SWEEP_JSON, SWEEP_PAGE, TRIALS_TABLE]
    names += [f"{PLOTS_DIRECTORY}/{path.name}" for path in sorted((directory / PLOTS_DIRECTORY).glob("*.svg"))]
    return {name: directory / name for name in names}


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
