"""The commands that run a stack on this machine: ``up`` serves until Ctrl-C, ``demo`` trains one spec and ends."""

import importlib.util
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fairlead.cli.experiments import exit_code, print_gates, print_registration
from fairlead.cli.output import STATE_STYLES, err, out, print_json, print_json_line, styled
from fairlead.cli.reporting import print_groups
from fairlead.cli.watching import follow
from fairlead.client import Experiment, ExperimentFailed
from fairlead.embedded import EmbeddedStack
from fairlead.errors import FairleadError, NotFound

DEMONSTRATION = "diabetes_risk.yaml"
INTERRUPTED = 130
_LOOK_S = 0.5


class _Interrupted(BaseException):
    """A signal asked for the end."""


def serve(
    home: Path | None,
    *,
    cpus: int | None,
    gpus: int | None,
    port: int | None,
    mlflow_port: int | None,
    as_json: bool,
) -> None:
    """Start a stack, say where it answers, and serve until a signal comes. Raises ``FairleadError``."""
    stack = EmbeddedStack(home, cpus=cpus, gpus=gpus, port=port, mlflow_port=mlflow_port)
    try:
        with _signals_interrupt(), _started(stack, is_quiet=as_json):
            _tell_addresses(stack, as_json=as_json)
            while stack.failure is None:
                time.sleep(_LOOK_S)
            raise FairleadError(f"{stack.failure}; see the logs in {stack.home / 'logs'}")
    except (_Interrupted, KeyboardInterrupt):
        if not as_json:
            err().print("ended; the data stay in", escape(str(stack.home)))


def demonstrate(spec: Path | None, *, keep: Path | None, cpus: int | None, as_json: bool) -> int:
    """Train one spec on a stack of its own; returns the exit code. Leaves no process, and no files unless kept."""
    found = spec or ready_spec(DEMONSTRATION)

    def run(stack: EmbeddedStack) -> int:
        return _run_demonstration(stack, found, is_kept=keep is not None, as_json=as_json)

    return on_own_stack(run, keep=keep, cpus=cpus, is_quiet=as_json)


def on_own_stack(run: Callable[[EmbeddedStack], int], *, keep: Path | None, cpus: int | None, is_quiet: bool) -> int:
    """What ``run`` returns for a stack that is up, or ``INTERRUPTED``. Leaves no process, and no files unless kept."""
    home = keep or Path(tempfile.mkdtemp(prefix="fairlead-demo-"))
    stack = EmbeddedStack(home, cpus=cpus)
    try:
        with _signals_interrupt(), _started(stack, is_quiet=is_quiet):
            return run(stack)
    except (_Interrupted, KeyboardInterrupt):
        err().print("interrupted; everything has been ended")
        return INTERRUPTED
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)


def ready_spec(name: str) -> Path:
    """A spec that ships with the workloads. Raises ``NotFound`` where they are not installed."""
    package = importlib.util.find_spec("fairlead_workloads")
    roots = [Path(place) for place in (package.submodule_search_locations or ())] if package else []
    for root in roots:
        for directory in (root / "specs", root.parent / "specs"):
            if (directory / name).is_file():
                return directory / name
    raise NotFound(f"{name} is not here; install 'fairlead[api,agent,workloads]', or give --spec")


def _run_demonstration(stack: EmbeddedStack, spec: Path, *, is_kept: bool, as_json: bool) -> int:
    began = time.monotonic()
    with stack.client() as client:
        experiment = client.submit(spec)
        if not as_json:
            err().print(f"[dim]submitted {escape(spec.name)} as {experiment.id}[/]")
        follow(experiment, as_json=as_json)
        detail = experiment.detail()
        if as_json:
            print_json_line(detail)
        else:
            _print_outcome(out(), stack, experiment, is_kept=is_kept, took_s=time.monotonic() - began)
        return exit_code(detail)


def _print_outcome(
    console: Console, stack: EmbeddedStack, experiment: Experiment, *, is_kept: bool, took_s: float
) -> None:
    view = experiment.refresh().view
    console.print(f"\n[bold]{escape(view.name)}[/] {styled(view.state, STATE_STYLES)} after {took_s:.0f} s")
    try:
        experiment.result(timeout=0)
        print_groups(console, experiment.report())
    except ExperimentFailed as error:
        console.print(escape(str(error)))
        console.print(escape("\n".join(experiment.logs(tail=20))), style="dim")
    print_gates(console, view.gates)
    print_registration(console, view)
    tell_places(console, stack, is_kept=is_kept)


def tell_places(console: Console, stack: EmbeddedStack, *, is_kept: bool) -> None:
    """Where the stack answered, and how to have it back."""
    console.print(f"\nAPI docs  {stack.description.docs_url}\nMLflow    {stack.mlflow_url}")
    home = str(stack.home) if is_kept else "DIR"
    first = "" if is_kept else "'--keep DIR' keeps the data; "
    console.print(f"[dim]These end now. {first}'fairlead up --home {escape(home)}' serves them again.[/]")


@contextmanager
def _started(stack: EmbeddedStack, *, is_quiet: bool) -> Iterator[None]:
    """The stack, with its start shown; ended whatever happens, and not interrupted in that."""
    picture = _Start(stack.home)
    stack.on_progress = picture.change
    console = Console(stderr=True, quiet=is_quiet)
    try:
        if console.is_terminal:
            with Live(picture, console=console, refresh_per_second=8, transient=True):
                stack.start()
        else:
            picture.echo = console
            stack.start()
        console.print(f"[dim]everything is up after {picture.age_s:.0f} s[/]")
        yield
    finally:
        with _signals_ignored():
            stack.stop()


class _Start:
    """The picture of a stack that starts: one line a part. ``echo``: a console that gets each change as a line."""

    def __init__(self, home: Path) -> None:
        self._home, self._parts = home, dict[str, str]()
        self._began = time.monotonic()
        self._spinner = Spinner("dots")
        self.echo: Console | None = None

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began

    def change(self, parts: Mapping[str, str]) -> None:
        if self.echo is not None:
            for name, condition in parts.items():
                if self._parts.get(name) != condition and condition != "waiting":
                    self.echo.print(f"[dim]{self.age_s:5.1f} s[/] {name}: {condition}")
        self._parts = dict(parts)

    def __rich__(self) -> Table:
        rows = Table.grid(padding=(0, 1))
        rows.add_row(self._spinner, f"starting in {escape(str(self._home))} ({self.age_s:.0f} s)")
        for name, condition in self._parts.items():
            style = {"ready": "green", "restarting": "yellow"}.get(condition, "dim")
            rows.add_row("", Text.from_markup(f"[{style}]{name:<16} {condition}[/]"))
        return rows


def _tell_addresses(stack: EmbeddedStack, *, as_json: bool) -> None:
    found = stack.description
    if as_json:
        places = {"api_url": found.api_url, "docs_url": found.docs_url, "mlflow_url": found.mlflow_url}
        print_json({**places, "home": str(stack.home), "token_file": str(stack.home / "token")})
        return
    console = out()
    console.print(f"API       {found.api_url}   [dim]({found.docs_url} for people)[/]")
    console.print(f"MLflow    {found.mlflow_url}")
    console.print(f"data      {escape(str(stack.home))}   [dim](the token is in the file 'token')[/]", soft_wrap=True)
    console.print("[dim]In another terminal: fairlead submit SPEC --watch. Ctrl-C ends everything.[/]")


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise _Interrupted

    with _handling(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second Ctrl-C must not leave half of the processes behind."""
    with _handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handling(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
