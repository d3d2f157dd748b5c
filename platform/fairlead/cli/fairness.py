"""``fairlead demo fairness``: a model that fails its gate; the same with mitigation, which passes and is registered.

Both are decided by bounds: the first fails because even the lower bound of its gap is above the limit, the second
passes because even the upper bound is below it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from fairlead.cli.experiments import exit_code
from fairlead.cli.local import on_own_stack, ready_spec, tell_places
from fairlead.cli.output import OUTCOME_STYLES, err, number, out, print_json_line, styled, table
from fairlead.cli.watching import follow
from fairlead.client import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import State
from fairlead.representation import ExperimentDetail
from fairlead.spec import ExperimentSpec, from_yaml

BEFORE, AFTER = "lending.yaml", "lending_mitigated.yaml"
FAILED = 1
NOT_AS_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two experiments, after its end."""

    detail: ExperimentDetail
    report: Mapping[str, Any]
    page: Path


def demonstrate_fairness(output: Path, *, keep: Path | None, cpus: int | None, as_json: bool) -> int:
    """Run both experiments on a stack of its own, show them side by side; returns the exit code.

    The two report pages stay in ``output``; of the stack nothing does, unless ``keep`` names a directory for it.
    """

    def run(stack: EmbeddedStack) -> int:
        with stack.client() as client:
            return run_fairness(stack, client, output, is_kept=keep is not None, as_json=as_json)

    return on_own_stack(run, keep=keep, cpus=cpus, is_quiet=as_json)


def run_fairness(stack: EmbeddedStack, client: Client, output: Path, *, is_kept: bool, as_json: bool) -> int:
    """The demonstration on a stack that runs; returns the exit code: 0 only if it ended as it is meant to."""
    began = time.monotonic()
    first = _train(client, _spec(BEFORE), "1 of 2: as the data are", as_json=as_json)
    if first.state is not State.SUCCEEDED:
        return _tell_broken(first, as_json=as_json)
    second = _train(client, _compared(_spec(AFTER), first.id), "2 of 2: with mitigation", as_json=as_json)
    if second.state is not State.SUCCEEDED:
        return _tell_broken(second, as_json=as_json)
    before, after = side_of(first, output / "before.html"), side_of(second, output / "after.html")
    if as_json:
        pages = {"before": str(before.page.resolve()), "after": str(after.page.resolve())}
        details = {"before": _plain(before.detail), "after": _plain(after.detail)}
        print_json_line({**details, "mitigation": after.report.get("mitigation"), "pages": pages})
    else:
        show(out(), before, after, took_s=time.monotonic() - began)
        tell_places(out(), stack, is_kept=is_kept)
    return 0 if _is_as_shown(before, after) else NOT_AS_SHOWN


def _spec(name: str) -> ExperimentSpec:
    return from_yaml(ExperimentSpec, ready_spec(name).read_text(encoding="utf-8"))


def _compared(spec: ExperimentSpec, before: str) -> ExperimentSpec:
    assert spec.mitigation is not None, "the ready spec has it"
    return spec.amended(mitigation=spec.mitigation.amended(compare_with=before).model_dump())


def _train(client: Client, spec: ExperimentSpec, title: str, *, as_json: bool) -> Experiment:
    experiment = client.submit(spec)
    if not as_json:
        err().print(f"\n[bold]{title}[/] [dim]submitted {escape(spec.name)} as {experiment.id}[/]")
    follow(experiment, as_json=as_json)
    return experiment.refresh()


def _tell_broken(experiment: Experiment, *, as_json: bool) -> int:
    view = experiment.view
    if as_json:
        print_json_line(experiment.detail())
    else:
        out().print(f"{escape(view.name)} {view.state}: {escape(view.reason)}")
        out().print(escape("\n".join(experiment.logs(tail=20))), style="dim")
    return FAILED


def side_of(experiment: Experiment, page: Path) -> Side:
    """What an experiment left; its report's page is written to ``page``."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(experiment.report_html(), encoding="utf-8")
    return Side(detail=experiment.detail(), report=experiment.report(), page=page)


def _plain(detail: ExperimentDetail) -> dict[str, Any]:
    return detail.model_dump(mode="json", by_alias=True)


def _is_as_shown(before: Side, after: Side) -> bool:
    """The first withheld by a failed gate, the second passed and registered."""
    registered = after.detail.registration
    is_registered = registered is not None and registered.is_registered
    return before.detail.report_outcome == "fail" and exit_code(after.detail) == 0 and is_registered


def show(console: Console, before: Side, after: Side, *, took_s: float) -> None:
    """Both side by side, why each gate ended as it did, and where the pages lie."""
    console.print(f"\n[bold]Who gets a loan?[/] {before.report['data']['n']} test rows, after {took_s:.0f} s\n")
    rows = table("", "#before", "#after")
    for name, cells in _lines(before, after):
        rows.add_row(name, *cells)
    console.print(rows)
    console.print(f"\n[dim]why[/]  before: {escape(_why(before))}\n     after:  {escape(_why(after))}")
    console.print("\nThe report pages; the second has both side by side:")
    for side in (before, after):
        console.print(f"  {escape(str(side.page.resolve()))}", soft_wrap=True)


def _lines(before: Side, after: Side) -> list[tuple[str, list[str]]]:
    sides = (before, after)
    gap, accuracy = ([_gate(side, place) for side in sides] for place in (0, 1))
    return [
        ("women approved", [number(_rate(side, "female")) for side in sides]),
        ("men approved", [number(_rate(side, "male")) for side in sides]),
        ("gap between them", [number(one["value"]) for one in gap]),
        ("  at least, at most (each 95 %)", [_bounds(one) for one in gap]),
        (f"  gate: {gap[0]['require']}", _outcomes(gap)),
        ("accuracy", [number(one["value"]) for one in accuracy]),
        ("  at least, at most (each 95 %)", [_bounds(one) for one in accuracy]),
        (f"  gate: {accuracy[0]['require']}", _outcomes(accuracy)),
        ("registered in MLflow", [_registered(side) for side in sides]),
    ]


def _gate(side: Side, place: int) -> Mapping[str, Any]:
    gate: Mapping[str, Any] = side.report["gates"][place]
    return gate


def _bounds(gate: Mapping[str, Any]) -> str:
    return f"{number(gate['lower95'])}, {number(gate['upper95'])}"


def _outcomes(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    return [styled(gate["outcome"], OUTCOME_STYLES) for gate in gates]


def _rate(side: Side, sex: str) -> float | None:
    group = next(one for one in side.report["groups"] if one["key"] == {"sex": sex})
    value: float | None = group["metrics"]["selection_rate"]["value"]
    return value


def _registered(side: Side) -> str:
    found = side.detail.registration
    if found is None or not found.is_registered:
        return "[yellow]no[/]"
    return f"[green]{escape(f'{found.name} version {found.version}')}[/]"


def _why(side: Side) -> str:
    return str(_gate(side, 0)["why"])
