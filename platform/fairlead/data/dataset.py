"""A data set as a spec sees it: features, labels, groups and record ids, split, in memory.

The digest covers all rows as they were read: label noise, which a spec may ask for, comes after it.
"""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data import inputs, series, texts
from fairlead.data.columns import Column, Source, as_texts, first_missing
from fairlead.data.groups import Codes, encode_bands, encode_levels
from fairlead.data.records import Book, book_of, hash_ids
from fairlead.data.sounds import with_one_length
from fairlead.data.sources import read
from fairlead.data.splits import SPLITS, nearest, shard_range, split_rows
from fairlead.data.storage import bad
from fairlead.errors import BadData, Problem
from fairlead.spec import DataKind, DataSpec, LabelNoiseSpec
from fairlead.spec.manifest import Task
from fairlead.workload import Attribute, DatasetInfo, FeatureColumn, Rows

MAX_CLASSES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """All rows of a data set and who may see which. Arrays are shared, not copied: do not write to them."""

    info: DatasetInfo
    features: NDArray[Any] = field(repr=False)
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
        return Rows(
            records=positions,
            features=self.features[positions],
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
    source = texts.cut(with_one_length(read(spec.uri), spec.seconds), spec)
    target = _target_name(spec, source)
    _refuse_unknown_columns(spec, source, target)
    if spec.windows is not None:
        source, by_split = series.cut(source, spec, target or "")
        target = None  # what is to be foretold is no label of a row
    else:
        by_split = split_rows(source.num_rows, spec.split, blocks=source.blocks)
    labels, classes = _labels(spec, source, target) if target else (np.zeros(source.num_rows, np.int64), ())
    attributes, codes = _groups(spec, source)
    features, columns = _features(spec, source, target)
    hashes = hash_ids(_ids(spec, source))
    books = {split: book_of(hashes[rows]) for split, rows in by_split.items()}
    info = DatasetInfo(
        uri=spec.uri,
        digest=_digest(columns, classes, attributes, [features, labels, codes, hashes, *_in_order(source.targets)]),
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
    noisy = labels
    if spec.label_noise is not None:
        noisy = _with_noise(labels, spec.label_noise, classes, attributes, codes, by_split)
    _refuse_unusable_splits(spec, noisy, by_split, has_target=target is not None)
    return Dataset(
        info=info,
        features=features,
        all_labels=noisy,
        codes=codes,
        hashes=hashes,
        by_split=by_split,
        targets=source.targets,
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


def _labels(spec: DataSpec, source: Source, target: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    column = source.columns[target]
    if (row := first_missing(column)) is not None:
        message = f"{source.uri}: row {row + 1} of the target {target!r} is missing"
        raise bad("/data/target", message, "remove such rows or fill them in")
    if spec.predict == "number":
        return _numbers(spec, source, target), ()
    if column.dtype.kind == "f" and np.any(column != np.rint(column)):
        row = int(np.argmax(column != np.rint(column)))
        message = f"{source.uri}: row {row + 1} of the target {target!r} is {column[row]:g}, which is no class"
        raise bad("/data/target", message, "classes are texts or whole numbers; add a column that has them")
    texts = as_texts(column).tolist()
    ordered = sorted(set(texts)) if column.dtype.kind in "Ob" else sorted(set(texts), key=float)
    if not 2 <= len(ordered) <= MAX_CLASSES:
        found = f"one class only, {ordered[0]!r}" if len(ordered) == 1 else f"{len(ordered)} classes"
        message = f"{source.uri}: the target {target!r} has {found}"
        raise bad("/data/target", message, f"from 2 to {MAX_CLASSES} classes are needed")
    classes = _positive_last(spec, source, target, ordered)
    place = {name: index for index, name in enumerate(classes)}
    return np.array([place[text] for text in texts], dtype=np.int64), classes


def _numbers(spec: DataSpec, source: Source, target: str) -> NDArray[np.float64]:
    """The target as numbers, shape (rows,)."""
    column = source.columns[target]
    if spec.positive is not None:
        raise bad("/data/positive", f"the target {target!r} is a number, and no number is the positive class")
    if column.dtype.kind not in "biuf":
        row = next((row for row, text in enumerate(column.tolist()) if not _is_number(text)), 0)
        message = f"{source.uri}: row {row + 1} of the target {target!r} is {column[row]!r}, which is no number"
        raise bad("/data/target", message, "set data.predict to classes, or correct it")
    values = column.astype(np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise bad("/data/target", f"{source.uri}: row {row + 1} of the target {target!r} is not finite")
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _positive_last(spec: DataSpec, source: Source, target: str, ordered: Sequence[str]) -> tuple[str, ...]:
    positive = spec.positive or (source.positive if target == source.target else None)
    if positive is None:
        return tuple(ordered)
    if positive not in ordered or len(ordered) != 2:
        found = ", ".join(ordered[:10])
        message = f"{source.uri}: the target {target!r} is not binary with a label {positive!r}; it has {found}"
        raise bad("/data/positive", message)
    return (*(name for name in ordered if name != positive), positive)


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


def _digest(
    columns: Sequence[FeatureColumn],
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    arrays: Sequence[NDArray[Any]],
) -> str:
    """``sha256:`` over a header of names, then type, shape and little-endian bytes of each array."""
    names = [asdict(column) for column in columns], list(classes), [asdict(a) for a in attributes]
    digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
    for array in arrays:
        _enter(digest, array)
    return f"sha256:{digest.hexdigest()}"


def _enter(digest: Any, array: NDArray[Any]) -> None:
    if array.dtype == object:  # texts, bytes or arrays, each of a length of its own
        digest.update(json.dumps(["objects", list(array.shape)]).encode())
        for item in array.ravel():
            content = item.encode() if isinstance(item, str) else item
            _enter(digest, np.frombuffer(content, np.uint8) if isinstance(content, bytes) else np.asarray(content))
        return
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest.update(json.dumps([little.dtype.str, list(little.shape)]).encode())
    digest.update(little.data)


def _in_order(targets: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    return [targets[name] for name in sorted(targets)]
