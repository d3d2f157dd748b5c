"""Trains a workload in a test: in this process, or on several ranks of this machine, always without Ray.

``train_here`` gives what one rank saw. ``train_on_ranks`` starts real processes that talk over gloo, trains one spec
after another in them, and merges what they counted as the platform does.
"""

import importlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fairlead.data.context import KeepingOutlet, LocalContext, Outlet, alone
from fairlead.data.dataset import open_dataset
from fairlead.data.export import Origin
from fairlead.evaluation.quantities import AnyState, merged, read_state
from fairlead.spec import ExperimentSpec
from fairlead.workload import Workload

TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came of one spec on all its ranks."""

    states: Mapping[str, AnyState]
    """Merged counts by split."""
    reports: Sequence[tuple[int, Mapping[str, float]]]
    """Step and metrics, as rank 0 reported them."""
    measurements: Mapping[str, Any] = field(default_factory=dict)
    """What rank 0 measured beside the counts."""


def a_context(
    spec: ExperimentSpec,
    *,
    outlet: Outlet | None = None,
    rank: int = 0,
    world_size: int = 1,
    resume_from: Path | None = None,
    export_to: Path | None = None,
    samples_to: Path | None = None,
    keep_answers: bool = False,
    agree: Callable[[bool], bool] = alone,
) -> LocalContext:
    """A context for ``spec`` on this machine's processor; reports are kept in memory."""
    return LocalContext(
        dataset=open_dataset(spec.data) if spec.data.is_there else None,
        origin=Origin(workload=spec.workload, module=f"fairlead_workloads.{spec.workload}", params=spec.params),
        outlet=outlet or KeepingOutlet(),
        seed=spec.seed,
        threshold=spec.evaluation.threshold,
        exact_auc=spec.evaluation.exact_auc,
        rank=rank,
        world_size=world_size,
        resume_from=resume_from,
        export_to=export_to,
        samples_to=samples_to,
        mitigation=spec.mitigation,
        privacy=spec.privacy,
        probes=spec.probes,
        keep_answers=keep_answers,
        agree=agree,
    )


def train_here(train: Workload, spec: ExperimentSpec, **options: Any) -> Trained:
    """Train on one rank in this process; ``options`` as for ``a_context``."""
    outlet = options.pop("outlet", None) or KeepingOutlet()
    context = a_context(spec, outlet=outlet, **options)
    train(spec.params, context)
    return Trained(states=context.states, reports=tuple(outlet.reports), measurements=context.measurements)


def train_on_ranks(
    workload: str | Sequence[str],
    specs: Sequence[ExperimentSpec],
    *,
    ranks: int,
    keep_in: Path | None = None,
    stop_after: int | None = None,
    resume_from: Path | None = None,
    export_to: Path | None = None,
) -> list[Trained]:
    """Train ``specs`` one after another on ``ranks`` new processes, one thread each.

    ``workload``: ``package.module:function``, for all specs or one for each. ``keep_in``: where rank 0 leaves the last
    checkpoint; ``stop_after`` so many reports the ranks are asked to stop. Raises ``RuntimeError`` with the exit status
    if a rank dies.
    """
    spawn = multiprocessing.get_context("spawn")
    workloads = [workload] * len(specs) if isinstance(workload, str) else list(workload)
    with tempfile.TemporaryDirectory() as directory:
        pipes = [spawn.Pipe(duplex=False) for _ in range(ranks)]
        places = _Places(Path(directory), keep_in, stop_after, resume_from, export_to)
        arguments = [(list(zip(workloads, specs, strict=True)), rank, ranks, places) for rank in range(ranks)]
        processes = [
            spawn.Process(target=_rank, args=(pipe[1], *given), daemon=True)
            for pipe, given in zip(pipes, arguments, strict=True)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        try:
            answers = [_answer(receiver, process) for (receiver, _), process in zip(pipes, processes, strict=True)]
        finally:
            for process in processes:
                process.join(timeout=5)
                process.kill()
                process.join()
    return [_merged(parts) for parts in zip(*answers, strict=True)]


@dataclass(frozen=True, slots=True)
class _Places:
    scratch: Path
    keep_in: Path | None
    stop_after: int | None
    resume_from: Path | None
    export_to: Path | None


_Answer = tuple[dict[str, bytes], list[tuple[int, dict[str, float]]], dict[str, Any]]


def _answer(receiver: Connection, process: Any) -> list[_Answer]:
    try:
        if receiver.poll(TIMEOUT_S):
            answer: list[_Answer] = receiver.recv()
            return answer
    except EOFError:
        process.join(timeout=5)
    raise RuntimeError(f"a rank ended with status {process.exitcode} and no answer")


def _merged(parts: Sequence[_Answer]) -> Trained:
    found: dict[str, list[AnyState]] = {}
    for states, _, _ in parts:
        for split, content in states.items():
            found.setdefault(split, []).append(read_state(content))
    whole = {split: merged(states) for split, states in found.items()}
    return Trained(states=whole, reports=tuple(parts[0][1]), measurements=parts[0][2])


def _rank(
    sender: Connection, jobs: Sequence[tuple[str, ExperimentSpec]], rank: int, ranks: int, places: _Places
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded, which is why that happens in here
    door = importlib.import_module("fairlead.data.torch")
    answers: list[_Answer] = []
    with door.joined_ranks(places.scratch / "meeting", rank=rank, world_size=ranks):
        for number, (workload, spec) in enumerate(jobs):
            module, _, function = workload.partition(":")
            train: Workload = getattr(importlib.import_module(module), function)
            outlet = KeepingOutlet(
                directory=places.keep_in, stop_after=places.stop_after, shared=places.scratch / f"shared-{number}"
            )
            context = a_context(
                spec,
                outlet=outlet,
                rank=rank,
                world_size=ranks,
                resume_from=places.resume_from,
                export_to=places.export_to,
                agree=door.any_rank,
            )
            train(spec.params, context)
            states = {split: state.to_bytes() for split, state in context.states.items()}
            answers.append((states, outlet.reports, context.measurements))
    sender.send(answers)
    sender.close()
