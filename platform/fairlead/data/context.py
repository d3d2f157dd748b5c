"""The part of a workload's context that needs neither Ray nor torch: rows, counting, export.

``LocalContext`` is complete for one process. On a cluster each rank has one too: its reports go to another
``Outlet``, and ``agree`` asks the other ranks. Counting happens here, so that it cannot differ between the two.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fairlead.data.dataset import Dataset
from fairlead.data.export import Origin, write_model
from fairlead.data.mitigation import group_numbers, refuse_unusable
from fairlead.data.probes import refuse_unfit
from fairlead.data.samples import Samples
from fairlead.errors import BadInput
from fairlead.evaluation.answers import AnswerKeeper
from fairlead.evaluation.cells import Incomplete
from fairlead.evaluation.measured import section_bytes
from fairlead.evaluation.quantities import AnyState
from fairlead.evaluation.ranking import RankState, places
from fairlead.evaluation.regression import MomentState
from fairlead.evaluation.state import CountState
from fairlead.protocol import EVALUATED_SPLIT
from fairlead.spec import MeasureSpec, MitigationSpec, PrivacySpec, ProbesSpec
from fairlead.workload import Context, DatasetInfo, Rows

MAX_NAME = 250
"""Characters of a metric's name."""
MAX_STEP = 2**62
"""MLflow keeps steps as 64-bit numbers."""
_SLACK = 100
"""Predicted numbers are counted where they lie within so many widths of the targets' range around it."""
_NO_DATA = (
    "the spec names no data, so the platform has no rows to hand out, to count or to describe a model by: name them "
    "under data.uri, or let the workload read its own, report its metrics and keep its weights in checkpoints"
)


class Outlet(Protocol):
    """Where one rank's reports go and where the wish to stop comes from. Called from one thread, at most once a step.

    ``report`` has kept the checkpoint's files when it returns: the directory may be overwritten afterwards.
    """

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None) -> None:
        """Take ``metrics`` as they are, NaN included."""
        ...

    def shared_directory(self, step: int) -> Path:
        """Where all ranks may write parts of one checkpoint; ``report`` may take it as it is."""
        ...

    def should_stop(self) -> bool:
        """What this rank has heard; the ranks then agree."""
        ...


@dataclass(slots=True)
class KeepingOutlet:
    """Keeps reports in memory, and the latest checkpoint in ``directory`` if there is one. The null outlet."""

    directory: Path | None = None
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    stop_after: int | None = None
    """Ask to stop once so many reports have come in."""
    shared: Path | None = None
    """A directory that all ranks see."""

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None) -> None:
        """Append; copy the checkpoint. Without metrics it is a checkpoint alone."""
        if metrics:
            self.reports.append((step, dict(metrics)))
        if checkpoint is not None and self.directory is not None:
            replace_directory(checkpoint, self.directory)

    def shared_directory(self, step: int) -> Path:
        """Below ``shared``. Raises ``BadInput`` where there is none."""
        if self.shared is None:
            raise BadInput("these ranks have no directory in common for a checkpoint that all of them write")
        place = self.shared / str(step)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def should_stop(self) -> bool:
        """Whether ``stop_after`` is reached."""
        return self.stop_after is not None and len(self.reports) >= self.stop_after


def replace_directory(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target`` so that a reader of ``target`` never sees half of it."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def alone(flag: bool) -> bool:
    """The agreement of a single rank."""
    return flag


class LocalContext:
    """Satisfies ``fairlead.workload.Context`` for one rank.

    ``agree`` turns this rank's wish to stop into that of all (``fairlead.data.torch.any_rank`` on several ranks).
    ``export_to``: where rank 0 writes the model; None: nowhere. ``samples_to``: where it writes what is shown; None:
    nowhere. ``resume_from``: a checkpoint directory. ``dataset``: None where the workload reads data of its own;
    whatever is about rows then raises ``BadInput``. Raises ``BadData`` for a ``mitigation`` that cannot work on these
    data, and ``probes`` that cannot look at them.
    """

    def __init__(
        self,
        *,
        dataset: Dataset | None,
        origin: Origin,
        outlet: Outlet,
        seed: int = 0,
        threshold: float = 0.5,
        exact_auc: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        resume_from: Path | None = None,
        export_to: Path | None = None,
        samples_to: Path | None = None,
        mitigation: MitigationSpec | None = None,
        privacy: PrivacySpec | None = None,
        probes: ProbesSpec | None = None,
        keep_answers: bool = False,
        agree: Callable[[bool], bool] = alone,
    ) -> None:
        if dataset is not None:
            refuse_unusable(mitigation, dataset)
            refuse_unfit(probes, dataset)
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.seed = seed
        self.threshold = threshold
        self._exact_auc = exact_auc
        self.states: dict[str, AnyState] = {}
        """Counts of this rank by split, or ``split@condition``; what was never evaluated here is absent."""
        self.measurements: dict[str, Any] = {}
        """What platform code measured beside the counts, by section of the report; see ``keep_measurement``."""
        self.answers = AnswerKeeper() if keep_answers and dataset is not None and dataset.info.classes else None
        """This rank's answers to the rows of the test split, as they are; None where nobody wants them."""
        self.has_exported = False
        self.num_reports = 0
        self.was_told_to_stop = False
        """Whether ``should_stop`` has ever said so: who returns then has not finished."""
        self._own_dataset = dataset
        self._origin = origin
        self._outlet = outlet
        self._resume_from = resume_from
        self._export_to = export_to
        self._samples = Samples(samples_to if rank == 0 else None)
        self._mitigation = mitigation
        self._has_read_mitigation = False
        self._privacy = privacy
        self._has_read_privacy = False
        self._probes = probes
        self._agree = agree

    @property
    def dataset(self) -> DatasetInfo:
        """The data set the spec names. Raises ``BadInput`` where it names none."""
        return self._dataset.info

    @property
    def _dataset(self) -> Dataset:
        if self._own_dataset is None:
            raise BadInput(_NO_DATA)
        return self._own_dataset

    @property
    def resume_from(self) -> Path | None:
        """A checkpoint to go on from, or None."""
        return self._resume_from

    @property
    def mitigation(self) -> MitigationSpec | None:
        """What the spec asks for."""
        self._has_read_mitigation = True
        return self._mitigation

    @property
    def privacy(self) -> PrivacySpec | None:
        """What the spec asks for."""
        self._has_read_privacy = True
        return self._privacy

    @property
    def probes(self) -> ProbesSpec | None:
        """What the spec asks to be looked at."""
        return self._probes

    def groups(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each record by ``mitigation.by``."""
        by = self._mitigation.by if self._mitigation else ()
        return group_numbers(self.dataset.attributes, self._dataset.groups(records), by)

    def codes_of(self, records: NDArray[np.int64]) -> NDArray[Any]:
        """Level codes of every sensitive attribute; see ``level_codes``."""
        return self._dataset.groups(records)

    def refuse_ignored(self) -> None:
        """Raise ``BadInput`` where the spec asks for what the workload has not even asked about."""
        if self._mitigation is not None and not self._has_read_mitigation:
            raise BadInput(
                f"the spec asks for mitigation by {self._mitigation.method}, and the workload does not carry it out; "
                "see fairlead.mitigation, or take mitigation out of the spec"
            )
        if self._privacy is not None and not self._has_read_privacy:
            raise BadInput(
                "the spec asks for privacy, and the workload does not carry it out; see fairlead.privacy, or take "
                "privacy out of the spec"
            )

    def all_rows(self, split: str) -> Rows:
        """Every row of a split."""
        return self._dataset.rows(split)

    def shard(self, split: str) -> Rows:
        """This rank's rows of a split."""
        return self._dataset.shard(split, rank=self.rank, world_size=self.world_size)

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None = None) -> None:
        """Hand ``metrics`` and ``checkpoint`` to the outlet. Raises ``BadInput`` for what no run can show."""
        self.refuse_ignored()
        plain = {_as_name(name): _as_number(name, value) for name, value in metrics.items()}
        if abs(int(step)) > MAX_STEP:
            raise BadInput(f"step {step} is larger than {MAX_STEP}")
        if checkpoint is not None and not checkpoint.is_dir():
            raise BadInput(f"checkpoint must be a directory, and {checkpoint} is none")
        self.num_reports += 1
        self._outlet.report(plain, step=int(step), checkpoint=checkpoint)

    def shared_directory(self, step: int) -> Path:
        """Where all ranks may write parts of one checkpoint."""
        return self._outlet.shared_directory(int(step))

    def should_stop(self) -> bool:
        """Whether any rank was asked to stop. Collective."""
        self.was_told_to_stop |= (is_asked := self._agree(self._outlet.should_stop()))
        return is_asked

    def evaluate(
        self,
        split: str,
        *,
        records: NDArray[np.int64],
        predictions: NDArray[np.int64],
        scores: NDArray[np.float64] | None = None,
        condition: str | None = None,
        clean: NDArray[np.int64] | None = None,
    ) -> None:
        """Count predictions of this rank's rows. Raises ``BadInput`` for shapes or values that cannot be counted."""
        self._refuse_split("evaluate", split)
        if self._dataset.has_numbers:
            self._evaluate_numbers(split, records, predictions)
            return
        if not self.dataset.classes:
            raise BadInput("evaluate: rows of these data have no label to hold predictions against; call grade")
        known = self._probes.conditions if self._probes else ()
        if condition is not None and condition not in known:
            raise BadInput(f"evaluate: the spec asks for no condition {condition!r}, only {', '.join(known) or 'none'}")
        name = split if condition is None else state_name(split, condition)
        if name not in self.states:
            self.states[name] = self._empty_state(has_scores=scores is not None, has_champion=clean is not None)
        state = self.states[name]
        if not isinstance(state, CountState):
            raise BadInput(f"evaluate: rows of {name!r} have been counted in another way already")
        try:
            codes, labels = self._dataset.groups(records), self._dataset.labels(records)
            hashes = self._dataset.record_hashes(records)
            state.update(codes, labels, predictions, record_hashes=hashes, scores=scores, champion=clean)
        except ValueError as error:
            raise BadInput(f"evaluate({name!r}) cannot count this: {error}") from error
        if self.answers is not None and name == EVALUATED_SPLIT:
            self.answers.add(state, codes, labels, predictions, record_hashes=hashes, scores=scores)

    def _refuse_split(self, verb: str, split: str) -> None:
        self.refuse_ignored()
        if split not in self.dataset.num_by_split:
            raise BadInput(f"{verb}: there is no split {split!r}, only {', '.join(self.dataset.num_by_split)}")

    def _evaluate_numbers(self, split: str, records: NDArray[np.int64], predictions: NDArray[Any]) -> None:
        every = self._dataset.all_labels
        low, high = float(every.min()), float(every.max())
        slack = _SLACK * (high - low)
        state = self.states.setdefault(
            split, MomentState(attributes=self.dataset.attributes, low=low - slack, high=high + slack)
        )
        if not isinstance(state, MomentState):
            raise BadInput(f"evaluate: rows of {split!r} have been counted in another way already")
        try:
            codes, targets = self._dataset.groups(records), self._dataset.labels(records)
            state.update(codes, targets, predictions, record_hashes=self._dataset.record_hashes(records))
        except ValueError as error:
            raise BadInput(f"evaluate({split!r}) cannot count this: {error}") from error

    def grade(
        self, split: str, *, records: NDArray[np.int64], values: NDArray[np.float64], measure: MeasureSpec
    ) -> None:
        """Count how good the answers to this rank's rows are. Raises ``BadInput`` for what cannot be counted."""
        self._refuse_split("grade", split)
        empty = MomentState(
            attributes=self.dataset.attributes,
            low=measure.low,
            high=measure.high,
            measure=measure.name,
            better=measure.better,
        )
        state = self.states.setdefault(split, empty)
        if not isinstance(state, MomentState) or state.measure != measure.name:
            raise BadInput(f"grade: rows of {split!r} have been counted in another way already")
        try:
            codes, hashes = self._dataset.groups(records), self._dataset.record_hashes(records)
            state.update_quality(codes, values, record_hashes=hashes)
        except ValueError as error:
            raise BadInput(f"grade({split!r}) cannot count this: {error}") from error

    def rank_rows(
        self, split: str, *, records: NDArray[np.int64], queries: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> None:
        """Count this rank's lists. Raises ``BadInput`` for what cannot be counted."""
        self._refuse_split("rank_rows", split)
        state = self.states.setdefault(split, RankState(attributes=self.dataset.attributes))
        if not isinstance(state, RankState):
            raise BadInput(f"rank_rows: rows of {split!r} have been counted in another way already")
        values = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(values).all():
            raise BadInput("rank_rows: every row needs a finite score to have a place")
        try:
            ranks, ties = places(values, np.asarray(queries))
            state.update(
                self._dataset.groups(records),
                ranks,
                self._dataset.labels(records),
                queries,
                record_hashes=self._dataset.record_hashes(records),
                ties=ties,
            )
        except ValueError as error:
            raise BadInput(f"rank_rows({split!r}) cannot count this: {error}") from error

    def show(self, name: str, content: bytes | str) -> None:
        """Keep a sample; ranks other than 0 do nothing. Raises ``BadInput`` for a name or a size that is not taken."""
        self._samples.keep(name, content)

    def _empty_state(self, *, has_scores: bool, has_champion: bool) -> CountState:
        info = self._dataset.info
        return CountState(
            attributes=info.attributes,
            classes=info.classes,
            has_scores=has_scores,
            has_losses=has_scores,
            has_exact_scores=self._exact_auc and has_scores and not has_champion and len(info.classes) == 2,
            has_champion=has_champion,
        )

    def export(self, tensors: Mapping[str, Any], *, config: Mapping[str, Any]) -> None:
        """Write the model where the platform wants it; ranks other than 0 do nothing.

        Raises ``BadInput`` where the spec names no data, from which a model has its inputs and classes; where
        thresholds of groups or a temperature were asked for and ``config`` lacks them; or privacy and no private step
        was made.
        """
        info = self.dataset
        has_thresholds = self._mitigation is not None and not self._mitigation.is_in_training
        if has_thresholds and "group_thresholds" not in config:
            raise BadInput("export: the thresholds of groups are missing; give config | mitigation.config()")
        if self._privacy is not None and not self.measurements.get("privacy", {}).get("steps"):
            raise BadInput("export: the spec asks for privacy, and no private step was made; see fairlead.privacy")
        asked = self._probes.temperature if self._probes else None
        if asked is not None and asked.apply and "temperature" not in config:
            raise BadInput("export: the temperature is missing; give config | temperature.config()")
        self.has_exported = True
        if self.rank == 0 and self._export_to is not None:
            write_model(
                self._export_to,
                tensors,
                config=config,
                origin=self._origin,
                dataset=info,
                seed=self.seed,
                threshold=self.threshold,
            )


def keep_measurement(context: Context, section: str, value: Any) -> None:
    """Put ``value``, as JSON, into a section of the report; once more replaces it. Rank 0's counts.

    For platform code that works in a workload's stead: workloads have no word for it, so the contract does not either.
    Raises ``ValueError`` for what ``fairlead.evaluation.measured`` cannot keep.
    """
    assert isinstance(context, LocalContext), "the platform makes contexts"
    context.measurements[section] = json.loads(section_bytes(section, value))


def level_codes(context: Context, records: NDArray[np.int64]) -> NDArray[Any]:
    """Level codes of every sensitive attribute, shape (n, attributes), for platform code in a workload's stead."""
    assert isinstance(context, LocalContext), "the platform makes contexts"
    return context.codes_of(records)


def state_name(split: str, condition: str) -> str:
    """What counts of ``split`` under a condition are called among a rank's states."""
    return f"{split}@{condition}"


def _as_name(name: Any) -> str:
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= MAX_NAME:
        raise BadInput(f"a metric's name must be a text of 1 to {MAX_NAME} printable characters, not {name!r:.60}")
    return name


def _as_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"metric {name!r} must be a number, not {type(value).__name__}") from error


def check_complete(dataset: DatasetInfo, name: str, state: AnyState | None) -> Incomplete | None:
    """Whether the merged ``state`` of all ranks holds every row of its split exactly once.

    ``name``: the split, or ``split@condition``.
    """
    split, _, condition = name.partition("@")
    if state is None:
        advice = "call fairlead.probes.run_probes, or take the probe out of the spec"
        detail = f"the workload never called evaluate({split!r})"
        if condition:
            detail = f"the spec asks for the probe {condition}, and the workload never counted it: {advice}"
        return Incomplete(reason="rows counted twice or not at all", detail=detail)
    return state.check_complete(
        expected_n=dataset.num_by_split[split],
        expected_sum=dataset.record_sum_by_split[split],
        expected_xor=dataset.record_xor_by_split[split],
    )
