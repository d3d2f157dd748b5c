"""Runs a workload's page on this machine, without Ray or a platform: ``python -m fairlead_workloads.tabular_mlp``.

Ours are found by their manifests, one of your own by the spec that lies beside its file: ``python digits.py``. The same
``train`` function runs on a cluster; only its context differs. Started by ``torchrun`` it runs on several ranks.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from fairlead.data.context import KeepingOutlet, LocalContext, check_complete, state_name
from fairlead.data.dataset import check, open_dataset
from fairlead.data.export import Origin, hash_of_file
from fairlead.data.manifests import find_manifest, find_specs, manifest_beside
from fairlead.data.torch import any_rank, choose_device, gather_objects, launched_ranks, seed_all
from fairlead.errors import BadInput, BadSpec, FairleadError, Problem
from fairlead.evaluation.champion import Champion
from fairlead.evaluation.gates import GateOutcome, evaluate_gates, evaluate_number_gates
from fairlead.evaluation.groups import grouping
from fairlead.evaluation.measured import Measurements
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.quantities import (
    AnyState,
    merged,
    number_estimates,
    number_grouping,
    number_metrics,
    read_state,
)
from fairlead.evaluation.state import CountState
from fairlead.spec import DataKind, ExperimentSpec, Manifest, from_yaml
from fairlead.workload import Workload

_ALONE = "a page that is run alone does not measure it"


@dataclass(slots=True)
class PrintingOutlet(KeepingOutlet):
    """Prints a line a report, besides keeping it."""

    console: Console = field(default_factory=Console)

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None) -> None:
        """Print ``metrics`` in one line; a report may be of a checkpoint alone."""
        KeepingOutlet.report(self, metrics, step=step, checkpoint=checkpoint)
        if not metrics:
            return
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.console.print(f"step {step:>4}  {shown}", highlight=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Page:
    """What is known of a workload before its spec is read."""

    workload: str
    """The name that specs have for it."""
    manifest: Manifest | None
    """None: one of the user's own without a manifest, whose parameters nobody checks."""
    spec: Path
    """The one that is used unless ``--spec`` names another."""

    @property
    def kind(self) -> DataKind | None:
        """What its data must be; None: whatever it makes of them."""
        return None if self.manifest is None or self.manifest.data == "own" else self.manifest.data


def run_alone(
    train: Workload,
    *,
    workload: str | None = None,
    example: str | None = None,
    spec: str | Path | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Train with what the command line says, print what the test split shows, and save the model if asked.

    ``workload`` and ``example``: one that is installed, and the ready spec that gives data and seed. ``spec``: of one
    of your own, relative to the file of ``train``. ``--spec`` names another. Exits with status 2 and one line of
    explanation for input that cannot be used.
    """
    console = Console(quiet=os.environ.get("RANK", "0") != "0")
    try:
        page = _own_page(train, spec) if spec is not None else _installed_page(workload, example)
        with launched_ranks() as (rank, world_size):
            _run(train, page, *_asked(page, arguments), console, rank=rank, world_size=world_size)
    except FairleadError as error:
        console.print(f"error: {error}", highlight=False, markup=False)
        raise SystemExit(2) from error


def _installed_page(workload: str | None, example: str | None) -> _Page:
    assert workload is not None, "give workload and example, or spec"
    specs, name = find_specs(), example or workload
    return _Page(workload=workload, manifest=find_manifest(workload), spec=specs.get(name, Path(name)))


def _own_page(train: Workload, spec: str | Path) -> _Page:
    file = _file_of(train)
    name = f"{file.stem}:{train.__name__}"  # type: ignore[attr-defined]  # a workload here is a plain function
    return _Page(workload=name, manifest=manifest_beside(file, name), spec=file.parent / spec)


def _file_of(train: Workload) -> Path:
    return Path(train.__code__.co_filename)  # type: ignore[attr-defined]


def _asked(page: _Page, arguments: Sequence[str] | None) -> tuple[ExperimentSpec, argparse.Namespace]:
    """The spec, changed by the command line, and the rest of what that says."""
    chooser = argparse.ArgumentParser(add_help=False)
    chooser.add_argument("--spec", type=Path)
    path = chooser.parse_known_args(arguments)[0].spec or page.spec
    if not path.is_file():
        raise BadInput(f"there is no spec {path}")
    spec = from_yaml(ExperimentSpec, path.read_text(encoding="utf-8"))
    options = _options(page, spec, arguments)
    if spec.workload.rpartition(".")[2] != page.workload:
        raise BadInput(f"{path} is a spec for {spec.workload}, not for {page.workload}")
    return _changed(spec, options), options


def _options(page: _Page, spec: ExperimentSpec, arguments: Sequence[str] | None) -> argparse.Namespace:
    manifest = page.manifest
    program = f"python -m {(manifest.module if manifest else page.workload).partition(':')[0]}"
    parser = argparse.ArgumentParser(prog=program, description=manifest.title if manifest else None)
    parser.add_argument("--spec", type=Path, help="a spec whose data, params, seed and gates are used")
    parser.add_argument("--data", help="address of other data, such as table.csv or builtin://breast_cancer")
    parser.add_argument("--target", help="the column to predict in other data")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--save", type=Path, metavar="DIR", help="write model, last checkpoint and samples there")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on from this checkpoint")
    group = parser.add_argument_group("parameters")
    for name, text in _parameters(manifest, spec).items():
        text = text.replace("%", "%%")
        group.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=f"param_{name}", metavar="VALUE", help=text)
    return parser.parse_args(arguments)


def _parameters(manifest: Manifest | None, spec: ExperimentSpec) -> Mapping[str, str]:
    """What each one is. Without a manifest those of the spec are all that is known."""
    if manifest is None:
        return {name: f"in the spec: {value}" for name, value in spec.params.items()}
    return {name: f"{one.help} default: {one.default}" for name, one in manifest.parameters.items()}


def _changed(spec: ExperimentSpec, options: argparse.Namespace) -> ExperimentSpec:
    changes: dict[str, Any] = {"params": {**spec.params, **_given(options)}}
    if options.seed is not None:
        changes["seed"] = options.seed
    if options.data is not None:
        changes["data"] = {"uri": options.data, "target": options.target}
        changes |= {"gates": (), "evaluation": {}, "mitigation": None, "energy": None, "privacy": None, "probes": None}
    return spec.amended(**changes)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Parameters on the command line, read as YAML: ``--hidden=[64,64]``, ``--lr=1.0e-3``."""
    given = {name.removeprefix("param_"): text for name, text in vars(options).items() if name.startswith("param_")}
    return {name: _value(text) for name, text in given.items() if text is not None}


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value  # YAML takes 1e-3 for a text
    except (ValueError, yaml.YAMLError):
        return text


def _run(
    train: Workload,
    page: _Page,
    spec: ExperimentSpec,
    options: argparse.Namespace,
    console: Console,
    *,
    rank: int,
    world_size: int,
) -> None:
    if problems := _problems(page, spec):
        lines = "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems)
        raise BadSpec(lines, problems=problems)
    if options.resume is not None and not options.resume.is_dir():
        raise BadInput(f"there is no checkpoint directory {options.resume}")
    manifest = page.manifest
    params = manifest.with_defaults(spec.params) if manifest else dict(spec.params)
    seed_all(spec.seed)  # as the platform does before it calls a workload
    saves = options.save is not None and rank == 0
    outlet = PrintingOutlet(directory=options.save / "checkpoint" if saves else None, console=console)
    context = LocalContext(
        dataset=open_dataset(spec.data) if spec.data.is_there else None,
        origin=Origin(
            workload=page.workload,
            module=(manifest.module if manifest else page.workload).partition(":")[0],
            params=params,
            code_hash=hash_of_file(_file_of(train)),
        ),
        outlet=outlet,
        rank=rank,
        world_size=world_size,
        agree=any_rank,
        seed=spec.seed,
        threshold=spec.evaluation.threshold,
        exact_auc=spec.evaluation.exact_auc,
        device=choose_device(int(os.environ.get("LOCAL_RANK", "0"))),
        resume_from=options.resume,
        export_to=options.save / "model" if options.save else None,
        samples_to=options.save / "samples" if options.save else None,
        mitigation=spec.mitigation,
        privacy=spec.privacy,
        probes=spec.probes,
    )
    if saves:
        options.save.mkdir(parents=True, exist_ok=True)
    train(params, context)
    if spec.data.is_there:
        context.states = _of_all_ranks(context.states)
        _conclude(context, spec, console)
    elif context.num_reports == 0:
        raise BadInput("the workload returned without a call of report, so it has shown nothing")


def _of_all_ranks(states: Mapping[str, AnyState]) -> dict[str, AnyState]:
    """Merged counts by split. Collective."""
    told = gather_objects({name: state.to_bytes() for name, state in states.items()})
    found: dict[str, list[AnyState]] = {}
    for name, content in (item for each in told for item in each.items()):
        found.setdefault(name, []).append(read_state(content))
    return {name: merged(parts) for name, parts in found.items()}


def _problems(page: _Page, spec: ExperimentSpec) -> tuple[Problem, ...]:
    found: tuple[Problem, ...] = ()
    if page.manifest:
        found = (*page.manifest.problems_with(spec.params), *page.manifest.problems_with_streaming(spec.data))
    if found or not spec.data.is_there:
        return found
    return check(spec.data, task=page.manifest.task if page.manifest else None, kind=page.kind)


def _conclude(context: LocalContext, spec: ExperimentSpec, console: Console) -> None:
    state = context.states.get("test")
    if incomplete := check_complete(context.dataset, "test", state):
        raise BadInput(f"{incomplete.reason}: {incomplete.detail}")
    assert state is not None, "complete, so it is there"
    for name in spec.conditions:
        counted = context.states.get(state_name("test", name))
        if incomplete := check_complete(context.dataset, state_name("test", name), counted):
            raise BadInput(f"{incomplete.reason}: {incomplete.detail}")
    for by in ((), *spec.groupings):
        console.print(_table(state, by))
    for gate in _gates(state, context, spec):
        console.print(f"gate {gate.id}, {gate.require}: {gate.outcome}: {gate.why}", highlight=False)


def _gates(state: AnyState, context: LocalContext, spec: ExperimentSpec) -> Sequence[GateOutcome]:
    if not isinstance(state, CountState):
        return evaluate_number_gates(state, spec.gates, spec.evaluation)
    measurements = Measurements(asked=spec.measured, found=context.measurements, why_not=_ALONE)
    counted = {name: context.states[state_name("test", name)] for name in spec.conditions}
    conditions = {name: found for name, found in counted.items() if isinstance(found, CountState)}
    champion = Champion(why_not="a page that is run alone knows none")
    return evaluate_gates(state, spec.gates, spec.evaluation, measurements, conditions=conditions, champion=champion)


def _table(state: AnyState, by: Sequence[str]) -> Table:
    """Rows and the metrics of each group that has rows."""
    keys, sizes, columns = _columns_of(state, by)
    table = Table(title=f"test split by {', '.join(by)}" if by else "test split", title_justify="left")
    for heading in (*by, "rows", *columns):
        table.add_column(heading, justify="left" if heading in by else "right")
    for index, key in enumerate(keys):
        if sizes[index]:
            table.add_row(*key, str(sizes[index]), *(_cell(values[index]) for values in columns.values()))
    return table


def _columns_of(state: AnyState, by: Sequence[str]) -> tuple[Sequence[Sequence[str]], Any, Mapping[str, Any]]:
    """Keys, rows and metrics of groups: of classes accuracy and, of two of them, selection rate and AUC."""
    if not isinstance(state, CountState):
        numbers = number_grouping(state, by)
        found = {metric: number_estimates(metric, numbers).values for metric in number_metrics(state)}
        return numbers.keys, numbers.sizes, found
    groups = grouping(state, by)
    metrics = ["accuracy_score", *(["selection_rate"] if len(state.classes) == 2 else [])]
    if state.histogram is not None:
        metrics.append("roc_auc_score")
    return groups.keys, groups.sizes, {metric: group_estimates(metric, groups.counts).values for metric in metrics}


def _cell(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
