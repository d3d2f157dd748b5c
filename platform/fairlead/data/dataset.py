"""A data set as a spec sees it: features, labels, groups and record ids, split, in memory.

The digest covers all rows as they were read: label noise, which a spec may ask for, comes after it.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data import inputs, series, texts
from fairlead.data.columns import Column, Source, as_texts, first_missing
from fairlead.data.digests import digest_of
from fairlead.data.groups import Codes, encode_bands, encode_levels
from fairlead.data.interactions import are_interactions
from fairlead.data.labels import labels_of
from fairlead.data.mapped import Mapped
from fairlead.data.records import Book, book_of, hash_ids
from fairlead.data.sounds import with_one_length
from fairlead.data.sources import read
from fairlead.data.splits import SPLITS, nearest, shard_range, split_rows
from fairlead.data.storage import bad
from fairlead.data.streaming import Table, stored
from fairlead.errors import BadData, Problem
from fairlead.spec import DataKind, DataSpec, LabelNoiseSpec
from fairlead.spec.manifest import Task
from fairlead.workload import Attribute, DatasetInfo, FeatureColumn, Rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """All rows of a data set and who may see which. Arrays are shared, not copied: do not write to them."""

    info: DatasetInfo
    features: NDArray[Any] | Mapped = field(repr=False)
    all_labels: NDArray[Any] = field(repr=False)
    """Class indices, shape (rows,), label noise applied; float64 where the target is a number; 0 where none is."""
    codes: Codes = field(repr=False)
    """Shape (rows, attributes)."""
    hashes: NDArray[np.uint64] = field(repr=False)
    by_split: Mapping[str, NDArray[np.int64]] = field(repr=False)
    targets: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    """What is to be learnt where it is more than a label, by name, first dimension rows."""

    @property
    def has_numbers(self) -> bool:
        """Whether the target is a number to come near to."""
        return self.all_labels.dtype.kind == "f"

    def rows(self, split: str) -> Rows:
        """Every row of ``split``, by ascending position. Raises ``ValueError`` for an unknown split."""
        return self._at(self._positions(split))

    def shard(self, split: str, *, rank: int, world_size: int) -> Rows:
        """One rank's rows of ``split``: contiguous, disjoint, together exactly the split, maybe none."""
        positions = self._positions(split)
        first, last = shard_range(len(positions), rank=rank, world_size=world_size)
        return self._at(positions[first:last])

    def labels(self, records: NDArray[np.int64]) -> NDArray[Any]:
        """Class indices of ``records``, or numbers, shape (n,)."""
        return self.all_labels[self._known(records)]

    def groups(self, records: NDArray[np.int64]) -> Codes:
        """Level codes of ``records``, shape (n, attributes); ``len(levels)`` is unknown."""
        return self.codes[self._known(records)]

    def record_hashes(self, records: NDArray[np.int64]) -> NDArray[np.uint64]:
        """BLAKE2b-64 of each record id, shape (n,)."""
        return self.hashes[self._known(records)]

    def expected(self, split: str) -> Book:
        """What counting every row of ``split`` exactly once adds up to."""
        return book_of(self.hashes[self._positions(split)])

    def _at(self, positions: NDArray[np.int64]) -> Rows:
        features = self.features
        chosen: Any = features.at(positions) if isinstance(features, Mapped) else features[positions]
        return Rows(
            records=positions,
            features=chosen,
            labels=self.all_labels[positions],
            targets={name: values[positions] for name, values in self.targets.items()},
        )

    def _positions(self, split: str) -> NDArray[np.int64]:
        if split not in self.by_split:
            raise ValueError(f"there is no split {split!r}, only {', '.join(self.by_split)}")
        return self.by_split[split]

    def _known(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """Refuse positions outside the data: a negative one would silently count from the end."""
        positions = np.asarray(records)
        if positions.size and (positions.min() < 0 or positions.max() >= self.info.num_rows):
            raise ValueError(f"records must be positions from 0 to {self.info.num_rows - 1}")
        return positions.astype(np.int64)


def open_dataset(spec: DataSpec) -> Dataset:
    """Read what ``spec`` names, choose its columns and split it. Raises ``BadData``, one problem per finding."""
    if spec.streaming:
        return _open_streamed(spec)
    source = texts.cut(with_one_length(read(spec.uri), spec.seconds), spec)
    target = _target_name(spec, source)
    _refuse_unknown_columns(spec, source, target)
    if spec.windows is not None:
        source, by_split = series.cut(source, spec, target or "")
        target = None  # what is to be foretold is no label of a row
    else:
        by_split = split_rows(source.num_rows, spec.split, blocks=source.blocks)
    labels, classes = labels_of(spec, source, target) if target else (np.zeros(source.num_rows, np.int64), ())
    attributes, codes = _groups(spec, source)
    features, columns = _features(spec, source, target)
    hashes = hash_ids(_ids(spec, source))
    books = {split: book_of(hashes[rows]) for split, rows in by_split.items()}
    info = DatasetInfo(
        uri=spec.uri,
        digest=digest_of(columns, classes, attributes, [features, labels, codes, hashes, *_in_order(source.targets)]),
        num_rows=source.num_rows,
        num_by_split={split: book.num_records for split, book in books.items()},
        record_sum_by_split={split: book.hash_sum for split, book in books.items()},
        record_xor_by_split={split: book.hash_xor for split, book in books.items()},
        features=columns,
        feature_shape=features.shape[1:],
        classes=classes,
        attributes=attributes,
        target=target or source.learns or "",
        kind=source.kind if spec.steps is None else "sequences",
        details=source.details,
    )
    return _split(spec, info, features, labels, codes, hashes, by_split, source.targets, has_target=target is not None)


def _open_streamed(spec: DataSpec) -> Dataset:
    """As ``open_dataset``, with features that stay on disk: of tables alone."""
    table = Table(spec.uri)
    if are_interactions(table.names):
        raise bad("/data/streaming", f"{spec.uri}: users with items are not streamed", "leave data.streaming out")
    header = Source(uri=spec.uri, num_rows=0, columns=dict.fromkeys(table.names, np.empty(0)))
    target = _target_name(spec, header)
    assert target is not None, "files have no target of their own"
    _refuse_unknown_columns(spec, header, target)
    found = stored(spec, table, target, _feature_names(spec, header, target))
    by_split = split_rows(len(found.labels), spec.split)
    books = {split: book_of(found.hashes[rows]) for split, rows in by_split.items()}
    info = DatasetInfo(
        uri=spec.uri,
        digest=found.digest,
        num_rows=len(found.labels),
        num_by_split={split: book.num_records for split, book in books.items()},
        record_sum_by_split={split: book.hash_sum for split, book in books.items()},
        record_xor_by_split={split: book.hash_xor for split, book in books.items()},
        features=found.columns,
        feature_shape=found.features.shape[1:],
        classes=found.classes,
        attributes=found.attributes,
        target=target,
    )
    return _split(spec, info, found.features, found.labels, found.codes, found.hashes, by_split, {}, has_target=True)


def _split(
    spec: DataSpec,
    info: DatasetInfo,
    features: NDArray[Any] | Mapped,
    labels: NDArray[Any],
    codes: Codes,
    hashes: NDArray[np.uint64],
    by_split: Mapping[str, NDArray[np.int64]],
    targets: Mapping[str, NDArray[Any]],
    *,
    has_target: bool,
) -> Dataset:
    """The data set, with the label noise that ``spec`` asks for. Raises ``BadData`` for splits that cannot be used."""
    if spec.label_noise is not None:
        labels = _with_noise(labels, spec.label_noise, info.classes, info.attributes, codes, by_split)
    _refuse_unusable_splits(spec, labels, by_split, has_target=has_target)
    return Dataset(
        info=info,
        features=features,
        all_labels=labels,
        codes=codes,
        hashes=hashes,
        by_split=by_split,
        targets=targets,
    )


def check(spec: DataSpec, *, task: Task | None = None, kind: DataKind | None = None) -> tuple[Problem, ...]:
    """What would keep a workload of this ``task`` and ``kind`` from using the data; empty if nothing would."""
    try:
        dataset = open_dataset(spec)
    except BadData as error:
        return error.problems or (Problem(pointer="/data", message=str(error)),)
    return (*task_problems(dataset, task), *kind_problems(dataset, kind))


def task_problems(dataset: Dataset, task: Task | None) -> Iterable[Problem]:
    """Why a workload of ``task`` cannot use the target."""
    info = dataset.info
    if dataset.has_numbers and task not in (None, "regression"):
        message = f"the target {info.target!r} is a number; this workload needs {_TARGETS[task]}"
        yield Problem(pointer="/data/predict", message=message)
    elif task == "regression" and not dataset.has_numbers:
        hint = "set data.predict to number" if info.classes else None
        message = f"the target {info.target!r} is no number; this workload needs one"
        yield Problem(pointer="/data/predict", message=message, suggestion=hint)
    elif task == "binary" and len(info.classes) != 2:
        message = f"the target {info.target!r} has {len(info.classes)} classes; this workload needs two"
        yield Problem(pointer="/data/target", message=message)


def kind_problems(dataset: Dataset, kind: DataKind | None) -> Iterable[Problem]:
    """Why a workload for rows of ``kind`` cannot use the data."""
    if kind is not None and kind != dataset.info.kind:
        message = f"{dataset.info.uri} holds {KINDS[dataset.info.kind]}; this workload needs {KINDS[kind]}"
        yield Problem(pointer="/data/uri", message=message)


def require_kind(info: DatasetInfo, kind: DataKind) -> None:
    """Raise ``BadData`` where rows are of another kind: for a page's first line."""
    if info.kind != kind:
        raise BadData(f"{info.uri} holds {KINDS[info.kind]}; this workload needs {KINDS[kind]}")


_TARGETS: Mapping[Task, str] = {
    "binary": "two classes",
    "multiclass": "classes",
    "ranking": "relevances",
    "quality": "data without one",
}
KINDS: Mapping[DataKind, str] = {
    "table": "columns of a table",
    "images": "images",
    "scenes": "pictures with masks and boxes",
    "views": "pictures from known places",
    "sequences": "series",
    "audio": "sounds",
    "text": "texts",
    "pairs": "pairs of texts",
    "interactions": "users with items",
    "episodes": "plays of an environment",
}
"""What rows of each kind are called."""


def _refuse_unusable_splits(
    spec: DataSpec, labels: NDArray[Any], by_split: Mapping[str, NDArray[np.int64]], *, has_target: bool
) -> None:
    for split in SPLITS:
        if getattr(spec.split, split) > 0 and len(by_split[split]) == 0:
            message = f"{spec.uri}: of {len(labels)} rows none falls into the {split} split"
            raise bad(f"/data/split/{split}", message, "give it a larger share")
    if has_target and len(np.unique(labels[by_split["train"]])) < 2:
        same = "number" if spec.predict == "number" else "class"
        raise bad("/data/split/train", f"{spec.uri}: all rows of the train split have one {same}")


def _target_name(spec: DataSpec, source: Source) -> str | None:
    """The column to predict; None where no column says what is to be learnt."""
    target = spec.target or source.target
    if target is None and source.learns is None:
        hint = f"one of {', '.join(list(source.columns)[:20])}"
        raise bad("/data/target", f"{spec.uri}: the spec must name the column to predict", hint)
    return target


def _refuse_unknown_columns(spec: DataSpec, source: Source, target: str | None) -> None:
    asked = [("/data/target", target), ("/data/record_id", spec.record_id)]
    if spec.windows is not None:
        asked += [("/data/windows/time", spec.windows.time), ("/data/windows/series", spec.windows.series)]
    asked += [(f"/data/features/{place}", name) for place, name in enumerate(spec.features or ())]
    asked += [(f"/data/sensitive/{place}", name) for place, name in enumerate(spec.sensitive) if name not in spec.bins]
    asked += [(f"/data/bins/{name}/column", bins.column) for name, bins in spec.bins.items()]
    problems = [_no_column(where, name, source) for where, name in asked if name and name not in source.columns]
    problems += [
        Problem(pointer=f"/data/bins/{name}", message=f"bins for {name!r}, which data.sensitive does not list")
        for name in spec.bins
        if name not in spec.sensitive
    ]
    if problems:
        raise BadData("; ".join(problem.message for problem in problems), problems=tuple(problems))


def _no_column(pointer: str, name: str, source: Source) -> Problem:
    known = list(source.columns)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known[:20])}"
    return Problem(pointer=pointer, message=f"{source.uri}: there is no column {name!r}", suggestion=hint)


def _groups(spec: DataSpec, source: Source) -> tuple[tuple[Attribute, ...], Codes]:
    found: list[tuple[Attribute, Codes]] = []
    for place, name in enumerate(spec.sensitive):
        try:
            if name in spec.bins:
                found.append(encode_bands(name, source.columns[spec.bins[name].column], spec.bins[name]))
            else:
                found.append(encode_levels(name, source.columns[name], order=source.level_order.get(name)))
        except ValueError as error:
            raise bad(f"/data/sensitive/{place}", f"{source.uri}: {error}") from error
    codes = [column for _, column in found]
    stacked = np.stack(codes, axis=1) if codes else np.empty((source.num_rows, 0), dtype=np.int16)
    return tuple(attribute for attribute, _ in found), stacked


def _features(spec: DataSpec, source: Source, target: str | None) -> tuple[NDArray[Any], tuple[FeatureColumn, ...]]:
    if source.array is not None:
        if spec.steps is not None:
            raise bad("/data/steps", f"{source.uri} holds {KINDS[source.kind]}, no table whose columns are steps")
        if spec.features is not None and spec.windows is None:
            message = f"{source.uri} holds {KINDS[source.kind]}; features cannot be chosen among its columns"
            raise bad("/data/features", message)
        dtype = "str" if source.array.dtype == object else source.array.dtype.name
        return source.array, (FeatureColumn(name=_FEATURES.get(source.kind, "features"), dtype=dtype),)
    names = _feature_names(spec, source, target)
    try:
        columns = tuple(inputs.describe(name, source.columns[name]) for name in names)
        matrix = inputs.to_matrix(source.columns.__getitem__, columns, num_rows=source.num_rows)
    except ValueError as error:
        raise bad("/data/features", f"{source.uri}: {error}") from error
    if spec.steps is None:
        return matrix, columns
    return series.fold(matrix, columns, spec=spec, uri=source.uri), (FeatureColumn(name="series", dtype="float32"),)


_FEATURES: Mapping[DataKind, str] = {
    "images": "image",
    "scenes": "image",
    "views": "image",
    "sequences": "series",
    "audio": "sound",
    "text": "text",
    "pairs": "source",
}
"""What the one input of a row that has no columns is called."""


def _feature_names(spec: DataSpec, source: Source, target: str | None) -> tuple[str, ...]:
    if spec.features is not None:
        names = tuple(dict.fromkeys(spec.features))
    else:
        kept_aside = {target, spec.record_id, *spec.sensitive}
        names = tuple(name for name in source.features or source.columns if name not in kept_aside)
    if not names:
        raise bad("/data/features", f"{source.uri}: no column is left for the model to see")
    if target in names:
        raise bad("/data/features", f"{source.uri}: the target {target!r} is also a feature")
    return names


def _ids(spec: DataSpec, source: Source) -> list[str]:
    if spec.record_id is None:
        return [str(name) for name in source.ids] if source.ids is not None else list(map(str, range(source.num_rows)))
    column = source.columns[spec.record_id]
    if (row := first_missing(column)) is not None:
        raise bad("/data/record_id", f"{source.uri}: row {row + 1} of {spec.record_id!r} is missing")
    texts: list[str] = as_texts(column).tolist()
    if len(set(texts)) < len(texts):
        twice = Counter(texts).most_common(1)[0][0]
        message = f"{source.uri}: {twice!r} occurs more than once in {spec.record_id!r}"
        raise bad("/data/record_id", message, "an id must name one row")
    return texts


def _with_noise(
    labels: NDArray[np.int64],
    noise: LabelNoiseSpec,
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    codes: Codes,
    by_split: Mapping[str, Column],
) -> NDArray[np.int64]:
    """Labels with a share of the eligible rows of each split flipped: exactly the nearest number of rows to it."""
    if len(classes) != 2:
        raise bad("/data/label_noise", f"labels of {len(classes)} classes cannot be flipped, only binary ones")
    if noise.flip_to is not None and noise.flip_to not in classes:
        raise bad("/data/label_noise/flip_to", f"{noise.flip_to!r} is not one of {', '.join(classes)}")
    is_meant = _meant_by(noise, attributes, codes)
    if noise.flip_to is not None:
        is_meant &= labels != list(classes).index(noise.flip_to)
    noisy = labels.copy()
    random = np.random.RandomState(noise.seed)
    for split in noise.splits:
        eligible = by_split[split][is_meant[by_split[split]]]
        chosen = random.permutation(eligible)[: nearest(len(eligible), noise.share)]
        noisy[chosen] = 1 - noisy[chosen]
    return noisy


def _meant_by(noise: LabelNoiseSpec, attributes: Sequence[Attribute], codes: Codes) -> NDArray[np.bool_]:
    is_meant = np.ones(len(codes), dtype=bool)
    by_name = {attribute.name: place for place, attribute in enumerate(attributes)}
    for name, level in noise.where.items():
        pointer = f"/data/label_noise/where/{name}"
        if name not in by_name:
            raise bad(pointer, f"{name!r} is not one of the sensitive attributes {', '.join(by_name) or '(none)'}")
        levels = attributes[by_name[name]].levels
        if level not in levels:
            raise bad(pointer, f"{name!r} has no level {level!r}, only {', '.join(levels[:20])}")
        is_meant &= codes[:, by_name[name]] == levels.index(level)
    return is_meant


def _in_order(targets: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    return [targets[name] for name in sorted(targets)]
