"""``fairlead demo sweep``: 40 trials that trade accuracy against the gap between the sexes, and their Pareto front."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fairlead.cli.experiments import exit_code, print_sweep
from fairlead.cli.local import on_own_stack, ready_spec, tell_places
from fairlead.cli.output import STATE_STYLES, err, out, print_json_line, styled
from fairlead.cli.picture import promotion
from fairlead.cli.sweep_watching import Looker
from fairlead.cli.watching import follow
from fairlead.client import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.errors import NotFound
from fairlead.lifecycle import State

SWEEP = "diabetes_sweep.yaml"


def demonstrate_sweep(spec: Path | None, output: Path, *, keep: Path | None, cpus: int | None, as_json: bool) -> int:
    """Run a sweep on a stack of its own, show what is best; returns the exit code.

    The page with the plots stays in ``output``; of the stack nothing does, unless ``keep`` names a directory for it.
    """
    found = spec or ready_spec(SWEEP)

    def run(stack: EmbeddedStack) -> int:
        with stack.client() as client:
            code = run_sweep(client, found, output, as_json=as_json)
        if not as_json:
            tell_places(out(), stack, is_kept=keep is not None)
        return code

    return on_own_stack(run, keep=keep, cpus=cpus, is_quiet=as_json)


def run_sweep(client: Client, spec: Path, output: Path, *, as_json: bool) -> int:
    """The demonstration on a stack that runs; returns the exit code: 0 only if a trial keeps all constraints."""
    began = time.monotonic()
    experiment = client.submit(spec)
    if not as_json:
        err().print(f"[dim]submitted {escape(spec.name)} as {experiment.id}[/]")
    follow(experiment, as_json=as_json)
    detail = experiment.detail()
    page = write_page(experiment, output / "sweep.html") if detail.state is State.SUCCEEDED else None
    if as_json:
        print_json_line({**detail.model_dump(mode="json", by_alias=True), "page": str(page) if page else None})
    else:
        _tell(out(), experiment, page, took_s=time.monotonic() - began)
    return exit_code(detail)


def write_page(experiment: Experiment, path: Path) -> Path | None:
    """The page with the plots; None where there is none."""
    try:
        page = experiment.report_html()
    except NotFound:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path.resolve()


def _tell(console: Console, experiment: Experiment, page: Path | None, *, took_s: float) -> None:
    view = experiment.refresh().view
    console.print(f"\n[bold]{escape(view.name)}[/] {styled(view.state, STATE_STYLES)} after {took_s:.0f} s")
    if view.state is not State.SUCCEEDED:
        console.print(escape(view.reason))
        console.print(escape("\n".join(experiment.logs(tail=20))), style="dim")
        return
    look = Looker(experiment).look(has_running=False)
    print_sweep(console, look)
    if page is not None:
        console.print("\nThe page, with the Pareto plot and what each parameter did:")
        console.print(f"  {escape(str(page))}", soft_wrap=True)
    console.print(f"\nOn a stack that stays, this judges one on the test split: {promotion(view.id, look.sweep)}")
