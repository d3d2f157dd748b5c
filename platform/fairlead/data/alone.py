"""Runs a workload's page on this machine, without Ray or a platform: ``python -m fairlead_workloads.tabular_mlp``.

The same ``train`` function runs on a cluster; only its context differs.
"""

import argparse
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
from fairlead.data.manifests import find_manifest, find_specs
from fairlead.data.torch import choose_device
from fairlead.errors import BadInput, BadSpec, FairleadError
from fairlead.evaluation.champion import Champion
from fairlead.evaluation.gates import GateOutcome, evaluate_gates, evaluate_number_gates
from fairlead.evaluation.groups import grouping
from fairlead.evaluation.measured import Measurements
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.quantities import AnyState, number_estimates, number_grouping, number_metrics
from fairlead.evaluation.state import CountState
from fairlead.spec import ExperimentSpec, Manifest, from_yaml
from fairlead.workload import Workload

_ALONE = "a page that is run alone does not measure it"


@dataclass(slots=True)
class PrintingOutlet(KeepingOutlet):
    """Prints a line a report, besides keeping it."""

    console: Console = field(default_factory=Console)

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None) -> None:
        """Print ``metrics`` in one line."""
        KeepingOutlet.report(self, metrics, step=step, checkpoint=checkpoint)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.console.print(f"step {step:>4}  {shown}", highlight=False)


def run_alone(train: Workload, *, workload: str, example: str, arguments: Sequence[str] | None = None) -> None:
    """Train with what the command line says, print what the test split shows, and save the model if asked.

    ``example``: the ready spec that gives data and seed unless ``--spec`` names another. Exits with status 2 and one
    line of explanation for input that cannot be used.
    """
    console = Console()
    try:
        options = _options(find_manifest(workload), arguments)
        _run(train, workload, _spec(options, workload, example), options, console)
    except FairleadError as error:
        console.print(f"error: {error}", highlight=False, markup=False)
        raise SystemExit(2) from error


def _options(manifest: Manifest, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {manifest.module.partition(':')[0]}", description=manifest.title)
    parser.add_argument("--spec", type=Path, help="a spec whose data, params, seed and gates are used")
    parser.add_argument("--data", help="address of other data, such as table.csv or builtin://breast_cancer")
    parser.add_argument("--target", help="the column to predict in other data")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--save", type=Path, metavar="DIR", help="write model, last checkpoint and samples there")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on from this checkpoint")
    group = parser.add_argument_group("parameters")
    for name, parameter in manifest.parameters.items():
        text = f"{parameter.help} default: {parameter.default}".replace("%", "%%")
        group.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=f"param_{name}", metavar="VALUE", help=text)
    return parser.parse_args(arguments)


def _spec(options: argparse.Namespace, workload: str, example: str) -> ExperimentSpec:
    path = options.spec or find_specs().get(example)
    if path is None or not path.is_file():
        raise BadInput(f"there is no spec {path or example}")
    spec = from_yaml(ExperimentSpec, path.read_text(encoding="utf-8"))
    if spec.workload != workload:
        raise BadInput(f"{path} is a spec for {spec.workload}, not for {workload}")
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


def _run(train: Workload, workload: str, spec: ExperimentSpec, options: argparse.Namespace, console: Console) -> None:
    manifest = find_manifest(workload)
    problems = manifest.problems_with(spec.params) or check(spec.data, task=manifest.task, kind=manifest.data)
    if problems:
        lines = "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems)
        raise BadSpec(lines, problems=problems)
    if options.resume is not None and not options.resume.is_dir():
        raise BadInput(f"there is no checkpoint directory {options.resume}")
    page = Path(train.__code__.co_filename)  # type: ignore[attr-defined]  # a workload here is a plain function
    params = manifest.with_defaults(spec.params)
    outlet = PrintingOutlet(directory=options.save / "checkpoint" if options.save else None, console=console)
    context = LocalContext(
        dataset=open_dataset(spec.data),
        origin=Origin(
            workload=workload, module=manifest.module.partition(":")[0], params=params, code_hash=hash_of_file(page)
        ),
        outlet=outlet,
        seed=spec.seed,
        threshold=spec.evaluation.threshold,
        exact_auc=spec.evaluation.exact_auc,
        device=choose_device(),
        resume_from=options.resume,
        export_to=options.save / "model" if options.save else None,
        samples_to=options.save / "samples" if options.save else None,
        mitigation=spec.mitigation,
        privacy=spec.privacy,
        probes=spec.probes,
    )
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
    train(params, context)
    _conclude(context, spec, console)


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
