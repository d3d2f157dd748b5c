"""``fairlead evaluate``: predictions made elsewhere, measured here without stack, Ray or MLflow, or on a cluster."""

import hashlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fairlead.cli.app import Where
from fairlead.cli.output import err, out
from fairlead.cli.reporting import print_report
from fairlead.data.predictions import Predictions, Survey, count, refuse_hopeless_gates, survey
from fairlead.errors import BadInput
from fairlead.evaluation import CountState, Provenance, build_report, report_bytes
from fairlead.evaluation.champion import Champion
from fairlead.evaluation.page import render_page
from fairlead.spec import PredictionsSpec, read_predictions_spec, request_for
from fairlead.spec.predictions import COLUMN_ROLES

PASSED, FAILED, INCONCLUSIVE = 0, 3, 5
PATIENCE_S = 2.0
"""After so long a person wants to see that something happens."""


def refuse_others(given: Mapping[str, Any], *, is_on_cluster: bool) -> None:
    """Raise ``BadInput`` for options that are for the other place only."""
    if strangers := [name for name, value in given.items() if value]:
        why = "is for an evaluation here: the report of an experiment is kept with it" if is_on_cluster else "needs"
        hint = " (fairlead report ID --html FILE)" if is_on_cluster else " --on-cluster"
        raise BadInput(f"{strangers[0]} {why}{hint}")


def evaluate_on_cluster(
    where: Where,
    places: Sequence[str],
    *,
    spec: str,
    columns: Sequence[str],
    project: str | None,
    workers: int | None,
    is_watched: bool,
    is_quiet: bool,
    key: str | None,
) -> int:
    """Make it an experiment; returns the exit code, which is that of ``fairlead submit``."""
    from fairlead.cli.experiments import connect, hand_over  # needs httpx, which an evaluation here can do without

    if len(places) != 1:
        raise BadInput("a cluster evaluates one file, directory or address; name the directory that holds the files")
    (place,) = places
    uri = place if "://" in place else str(Path(place).absolute())
    request = request_for(_text(spec), uri, columns=_changes(columns), project=project, workers=workers)
    with connect(where) as client:
        return hand_over(where, client.evaluate(request, key=key), is_watched=is_watched, is_quiet=is_quiet)


def evaluate(
    where: Where,
    places: Sequence[str],
    *,
    spec: str,
    output: Path,
    state: Path | None,
    columns: Sequence[str],
    created: datetime | None,
) -> int:
    """Count, measure, write the report and show it; returns the exit code."""
    document = _spec(spec, columns)
    with _progress() as progress:
        found = survey(places, document, seen=progress.stage("reading classes and groups"))
        refuse_hopeless_gates(found)
        counted = count(found, seen=progress.stage("counting rows", total=found.num_rows))
        progress.stage("measuring")
        report = _report(document, found, counted, created)
        content = report_bytes(report)
        page = render_page(report, sha256=hashlib.sha256(content).hexdigest())
    if state is not None:
        _write(state, counted.state.to_bytes())
    _write(output / "report.json", content)
    _write(output / "report.html", page.encode())
    _show(where, report, content, output)
    return _exit_code(report, document)


def _text(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: the spec cannot be read: {error}") from error


def _spec(path: str, columns: Sequence[str]) -> PredictionsSpec:
    document = read_predictions_spec(_text(path))
    return document.amended_columns(_changes(columns)) if columns else document


def _changes(columns: Sequence[str]) -> Mapping[str, str]:
    changes = {}
    for text in columns:
        role, _, name = text.partition("=")
        if role not in COLUMN_ROLES or not name:
            raise BadInput(f"--column: write ROLE=NAME with one of {', '.join(COLUMN_ROLES)}, not {text!r}")
        changes[role] = name
    return changes


def _report(spec: PredictionsSpec, found: Survey, counted: Predictions, created: datetime | None) -> dict[str, Any]:
    provenance = Provenance(
        experiment=spec.name,
        attempt=0,  # nothing was trained
        created=created.replace(tzinfo=UTC) if created else datetime.now(UTC),
        data_uri=f"predictions of {spec.name}",  # no paths: equal rows give an equal report wherever they lie
        data_digest=counted.digest,
        n_expected=found.num_rows,
        split="predictions",
        target=spec.columns.target,
        remarks=counted.remarks,
    )
    return build_report(
        counted.state,
        provenance=provenance,
        evaluation=spec.evaluation,
        gates=spec.gates,
        champion=Champion(
            column=spec.columns.champion, state=counted.state if isinstance(counted.state, CountState) else None
        ),
    )


def _exit_code(report: Mapping[str, Any], spec: PredictionsSpec) -> int:
    if report["outcome"] == "fail":
        return FAILED
    is_blocked = report["outcome"] == "inconclusive" and spec.evaluation.on_inconclusive == "block"
    return INCONCLUSIVE if is_blocked else PASSED


def _show(where: Where, report: Mapping[str, Any], content: bytes, output: Path) -> None:
    if where.as_json:
        sys.stdout.write(content.decode())
        sys.stdout.flush()
        return
    print_report(out(), report)
    err().print(f"[dim]written: {escape(str(output / 'report.json'))}, {escape(str(output / 'report.html'))}[/]")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    if path.is_dir():
        raise BadInput(f"{path} cannot be written: it is a directory; choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise BadInput(f"{path} cannot be written: {error.strerror or error}; choose another place") from error


class _Told:
    """What is being done, for people: a live line on a terminal, a plain one now and then elsewhere."""

    def __init__(self) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.live = Progress(*columns, TimeElapsedColumn(), console=err(), transient=True)
        self._said_at = monotonic()

    def stage(self, what: str, *, total: int | None = None) -> "_Stage":
        """Begin something; call the answer with numbers of rows."""
        for task in self.live.task_ids:
            self.live.remove_task(task)
        return _Stage(self, self.live.add_task(what, total=total))

    def say(self, text: str) -> None:
        """A line for a log, where no terminal shows a live one."""
        if not self.live.console.is_terminal and monotonic() - self._said_at > PATIENCE_S:
            self._said_at = monotonic()
            self.live.console.print(f"[dim]{text}[/]")


class _Stage:
    def __init__(self, told: _Told, task: Any) -> None:
        self._told, self._task, self._rows = told, task, 0

    def __call__(self, rows: int) -> None:
        self._rows += rows
        self._told.live.update(self._task, advance=rows)
        self._told.say(f"{self._told.live.tasks[-1].description}: {self._rows:,} rows")


@contextmanager
def _progress() -> Iterator[_Told]:
    told = _Told()
    timer = threading.Timer(PATIENCE_S, told.live.start)
    if told.live.console.is_terminal:
        timer.start()
    try:
        yield told
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
        told.live.stop()
