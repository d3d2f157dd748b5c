"""Tables larger than memory: taken in once a node, part by part, and then read from its disk batch by batch.

Rows, types, labels, groups, record ids and the digest are exactly those of the same table read into memory. What stays
in memory: about 50 bytes a row, for labels, groups, hashes and splits, however many columns there are; while the table
is taken in, one part of it, and single columns whose type only the whole of them tells.

A CSV column has the type that all of its values allow: where one part looks like whole numbers and another does not,
the column is read again as what both are, so that ``01`` beside ``x`` stays ``01``.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data import cache, inputs
from fairlead.data.columns import Column, as_texts, column_of, is_text
from fairlead.data.digests import digest_of
from fairlead.data.groups import Codes, encode_bands, encode_levels
from fairlead.data.inputs import feature_from
from fairlead.data.labels import classes_of, indices_of, numbers_of, refuse_unfit
from fairlead.data.mapped import Mapped
from fairlead.data.records import hash_ids
from fairlead.data.sources import (
    MISSING,
    PARQUET_ENDINGS,
    parquet_files,
    refuse_other_columns,
    refuse_repeated,
)
from fairlead.data.spools import IdSpool, Spool
from fairlead.data.storage import bad, locate, stamp_of, unreadable
from fairlead.errors import FairleadError
from fairlead.spec import DataSpec
from fairlead.workload import Attribute, FeatureColumn

FORMAT = 1
"""Of what lies in the cache; another number makes a node take its tables in again."""
MOST_CELLS, MOST_ROWS = 1_000_000, 100_000
"""Of one part of a table."""
_CHOOSING = ("uri", "target", "predict", "positive", "features", "sensitive", "bins", "record_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A table that was taken in: what is large on disk, the rest in memory."""

    features: Mapped
    labels: NDArray[Any]
    codes: Codes
    hashes: NDArray[np.uint64]
    columns: tuple[FeatureColumn, ...]
    classes: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    digest: str


class Table:
    """A CSV or Parquet file, or a folder of Parquet files, that is read part by part.

    Raises ``BadData`` for what is no such table, and ``StorageAway`` where the storage fails.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._files, root = locate(uri)
        self.paths = [root]
        if self._files.isdir(root):
            self.paths = [f"{root.rstrip('/')}/{name}" for name in parquet_files(self._files, root)]
        plain = self.paths[0].removesuffix(".gz").lower() if self.paths else ""
        self._is_csv = plain.endswith(".csv")
        if not self._is_csv and not plain.endswith(PARQUET_ENDINGS):
            message = f"{uri}: only tables can be streamed: a CSV or Parquet file, or a folder of Parquet files"
            raise bad("/data/streaming", message, "leave data.streaming out")
        self.names = self._names_of_csv() if self._is_csv else self._names_of_parquet()

    def stamps(self) -> list[tuple[str, str]]:
        """Each file, and what changes when it does."""
        with _told(self.uri):
            return [(path, stamp_of(self._files.info(path))) for path in self.paths]

    def parts(self, names: Sequence[str] | None = None, dtypes: dict[str, Any] | None = None) -> Iterator[Any]:
        """DataFrames of rows that follow each other. ``names``: only those columns; ``dtypes``: types known already."""
        rows = max(1, min(MOST_ROWS, MOST_CELLS // max(1, len(names or self.names))))
        with _told(self.uri):
            yield from self._csv_parts(rows, names, dtypes) if self._is_csv else self._parquet_parts(rows, names)

    def whole(self, name: str) -> Column:
        """One column alone, as it is when the table is read at once."""
        import pandas
        import pyarrow
        import pyarrow.parquet

        with _told(self.uri):
            if self._is_csv:
                with self._files.open(self.paths[0], "rb") as file:
                    frame = pandas.read_csv(file, usecols=[name], **self._options())
                return column_of(frame[name])
            tables = []
            for path in self.paths:
                with self._files.open(path, "rb") as file:
                    tables.append(pyarrow.parquet.read_table(file, columns=[name]))
            return column_of(pyarrow.concat_tables(tables).to_pandas(ignore_metadata=True)[name])

    @property
    def is_csv(self) -> bool:
        """Whether types are guessed from texts."""
        return self._is_csv

    def _options(self) -> dict[str, Any]:
        packed = "gzip" if self.paths[0].endswith(".gz") else None
        return {"na_values": MISSING, "keep_default_na": False, "low_memory": False, "compression": packed}

    def _names_of_csv(self) -> list[str]:
        import pandas

        path = self.paths[0]
        with _told(self.uri):
            if self._files.size(path) == 0:
                raise bad("/data/uri", f"{self.uri}: the file is empty")
            with self._files.open(path, "rb") as file:
                packed = self._options()["compression"]
                line = pandas.read_csv(file, header=None, nrows=1, dtype=str, compression=packed)
                refuse_repeated(self.uri, [str(name) for name in line.iloc[0]])
            with self._files.open(path, "rb") as file:
                return [str(name) for name in pandas.read_csv(file, nrows=0, **self._options()).columns]

    def _names_of_parquet(self) -> list[str]:
        import pyarrow.parquet

        first = None
        for path in self.paths:
            with _told(self.uri), self._files.open(path, "rb") as file:
                schema = pyarrow.parquet.ParquetFile(file).schema_arrow
            first = schema if first is None else first
            refuse_other_columns(f"{self.uri}: {path}", self.paths[0], schema, first)
        assert first is not None, "there is a file"
        refuse_repeated(self.uri, first.names)
        return list(first.names)

    def _csv_parts(self, rows: int, names: Sequence[str] | None, dtypes: dict[str, Any] | None) -> Iterator[Any]:
        import pandas

        with self._files.open(self.paths[0], "rb") as file:
            reading = pandas.read_csv(file, chunksize=rows, usecols=names, dtype=dtypes, **self._options())
            for frame in reading:
                if not isinstance(frame.index, pandas.RangeIndex):  # pandas takes a surplus first field for a row name
                    message = (
                        f"{self.uri}: the rows have more fields than the {len(self.names)} names of the first line"
                    )
                    raise bad("/data/uri", message)
                yield frame

    def _parquet_parts(self, rows: int, names: Sequence[str] | None) -> Iterator[Any]:
        import pyarrow.parquet

        for path in self.paths:
            with self._files.open(path, "rb") as file:
                opened = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
                for batch in opened.iter_batches(batch_size=rows, columns=names, use_threads=False):
                    yield batch.to_pandas(ignore_metadata=True)


class _told:
    """Says of whatever goes wrong inside which table it was about, and whether reading it again may help."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, FairleadError):  # each storage has its own
            raise unreadable(error, f"{self._uri}: the table cannot be read: {str(error).strip()}") from error


def stored(spec: DataSpec, table: Table, target: str, features: Sequence[str]) -> Stored:
    """The table as ``spec`` chooses from it, from the cache of this node or taken in now.

    Raises ``BadData`` naming row and column, ``StorageAway`` where the storage or this node's disk fails.
    """
    chosen = spec.model_dump(mode="json", include=set(_CHOOSING))
    key = json.dumps([FORMAT, chosen, table.stamps()], sort_keys=True)
    found: list[Stored] = []
    cache.entry(
        hashlib.sha256(key.encode()).hexdigest()[:32],
        build=lambda directory: _take_in(spec, table, target, features, directory),
        use=lambda directory: found.append(_opened(directory)),
    )
    return found[0]


def _opened(directory: Path) -> Stored:
    document = json.loads((directory / "table.json").read_text(encoding="utf-8"))
    return Stored(
        features=Mapped(directory / "features.bin", shape=tuple(document["shape"]), dtype="<f4"),
        labels=np.load(directory / "labels.npy"),
        codes=np.load(directory / "codes.npy"),
        hashes=np.load(directory / "hashes.npy"),
        columns=tuple(map(feature_from, document["columns"])),
        classes=tuple(document["classes"]),
        attributes=tuple(Attribute(name=one["name"], levels=tuple(one["levels"])) for one in document["attributes"]),
        digest=document["digest"],
    )


def _take_in(spec: DataSpec, table: Table, target: str, features: Sequence[str], directory: Path) -> None:
    """Fill ``directory`` with what ``_opened`` reads."""
    spools, ids, num_rows = _spooled(spec, table, target, features, directory)
    step = max(1, min(MOST_ROWS, MOST_CELLS // len(features)))
    attributes, codes = _groups(spec, spools, num_rows)
    labels, classes = _labels(spec, spools[target], target, num_rows)
    try:
        for name in features:
            _refuse_missing(spools[name], name)
        described = [_described(name, spools[name]) for name in features]
        with (directory / "features.bin").open("wb") as file:
            for first in range(0, num_rows, step):
                last = min(num_rows, first + step)
                look_up = {name: spools[name].part(first, last) for name in features}
                matrix = inputs.to_matrix(look_up.__getitem__, described, num_rows=last - first, first_row=first)
                file.write(matrix.astype("<f4", copy=False).data)
    except ValueError as error:
        raise bad("/data/features", f"{spec.uri}: {error}") from error
    hashes = ids.hashes() if ids else _hashes_of_places(num_rows)
    shutil.rmtree(directory / "columns")
    shape = (num_rows, sum(map(inputs.width, described)))
    arrays: list[NDArray[Any] | Mapped] = [
        Mapped(directory / "features.bin", shape=shape, dtype="<f4"),
        labels,
        codes,
        hashes,
    ]
    for name, array in (("labels", labels), ("codes", codes), ("hashes", hashes)):
        np.save(directory / f"{name}.npy", array)
    document = {
        "shape": shape,
        "columns": [asdict(column) for column in described],
        "classes": classes,
        "attributes": [asdict(attribute) for attribute in attributes],
        "digest": digest_of(described, classes, attributes, arrays),
    }
    (directory / "table.json").write_text(json.dumps(document), encoding="utf-8")


def _spooled(
    spec: DataSpec, table: Table, target: str, features: Sequence[str], directory: Path
) -> tuple[dict[str, Spool], IdSpool | None, int]:
    """Every column that is needed, in a file of its own below ``directory``; and the number of rows."""
    (directory / "columns").mkdir()
    grouped = [spec.bins[name].column if name in spec.bins else name for name in spec.sensitive]
    pointers = {target: "/data/target"} | {name: f"/data/sensitive/{place}" for place, name in enumerate(grouped)}
    spools = {
        name: Spool(
            directory / "columns" / str(place), uri=spec.uri, name=name, pointer=pointers.get(name, "/data/features")
        )
        for place, name in enumerate(dict.fromkeys([*features, target, *grouped]))
    }
    ids = IdSpool(directory / "columns" / "ids", uri=spec.uri, name=spec.record_id) if spec.record_id else None
    sinks: dict[str, list[Spool | IdSpool]] = {name: [spool] for name, spool in spools.items()}
    if ids is not None and spec.record_id is not None:
        sinks.setdefault(spec.record_id, []).append(ids)
    types: dict[str, set[tuple[str, str]]] = {name: set() for name in sinks}
    num_rows = 0
    for frame in table.parts():
        num_rows += len(frame)
        for name, each in sinks.items():
            column = column_of(frame[name])
            types[name].add((str(frame[name].dtype), column.dtype.kind))
            if len(types[name]) == 1:
                _add(each, column)
            elif is_text(column):
                _note_strays(each, column, num_rows - len(frame))
    if num_rows == 0:
        raise bad("/data/uri", f"{spec.uri}: the file has columns but no rows")
    _read_again(table, {name: sinks[name] for name, found in types.items() if len(found) > 1}, types)
    return spools, ids, num_rows


def _add(sinks: Sequence[Spool | IdSpool], column: Column) -> None:
    for sink in sinks:
        sink.add(column)


def _note_strays(sinks: Sequence[Spool | IdSpool], column: Column, first_row: int) -> None:
    for sink in sinks:
        if isinstance(sink, Spool):
            sink.note_stray(column, first_row)


def _read_again(table: Table, sinks: dict[str, list[Spool | IdSpool]], types: dict[str, set[tuple[str, str]]]) -> None:
    """Columns whose parts have different types, as what they are as a whole."""
    for each in sinks.values():
        for sink in each:
            sink.clear()
    joint = {name: _joint_type({dtype for dtype, _ in types[name]}) if table.is_csv else None for name in sinks}
    known = {name: dtype for name, dtype in joint.items() if dtype is not None}
    if known:
        for frame in table.parts([*known], known):
            for name in known:
                _add(sinks[name], column_of(frame[name]))
    for name in sinks.keys() - known.keys():
        _add(sinks[name], table.whole(name))


def _joint_type(found: set[str]) -> Any:
    """What pandas takes a CSV column for whose parts it takes for ``found``; None: only all of it together tells."""
    if found == {"int64", "float64"}:
        return "float64"
    return str if "str" in found else None  # one text makes texts of all, written as they are


def _groups(spec: DataSpec, spools: dict[str, Spool], num_rows: int) -> tuple[tuple[Attribute, ...], Codes]:
    attributes, codes = [], np.empty((num_rows, len(spec.sensitive)), dtype=np.int16)
    for place, name in enumerate(spec.sensitive):
        bins = spec.bins.get(name)
        spool = spools[bins.column if bins else name]
        try:
            if bins:
                attribute, _ = encode_bands(name, spool.part(0, 1), bins)
            else:
                attribute, _ = encode_levels(name, spool.distinct(step=MOST_ROWS))
            for first in range(0, num_rows, MOST_ROWS):
                part = spool.part(first, min(num_rows, first + MOST_ROWS))
                found = encode_bands(name, part, bins) if bins else encode_levels(name, part, order=attribute.levels)
                codes[first : first + len(part), place] = found[1]
        except ValueError as error:
            raise bad(f"/data/sensitive/{place}", f"{spec.uri}: {error}") from error
        attributes.append(attribute)
    return tuple(attributes), codes


def _labels(spec: DataSpec, spool: Spool, target: str, num_rows: int) -> tuple[NDArray[Any], tuple[str, ...]]:
    parts = [(first, min(num_rows, first + MOST_ROWS)) for first in range(0, num_rows, MOST_ROWS)]
    if spec.predict == "number":
        if spool.has_texts and spool.stray and spool.first_missing is None:
            parts = [(spool.stray[0], spool.stray[0] + 1)]  # its row is what the error names
        found = [numbers_of(spec, spec.uri, target, spool.part(a, b), first_row=a) for a, b in parts]
        return np.concatenate(found), ()
    for a, b in parts:
        refuse_unfit(spec.uri, target, spool.part(a, b), first_row=a)
    values = spool.distinct(step=MOST_ROWS)
    has_texts = values.dtype.kind in "Ob"
    classes = classes_of(spec, spec.uri, target, set(as_texts(values).tolist()), has_texts=has_texts)
    return np.concatenate([indices_of(as_texts(spool.part(a, b)), classes) for a, b in parts]), classes


def _refuse_missing(spool: Spool, name: str) -> None:
    if spool.first_missing is not None:
        hint = "fill the gaps or leave the column out by listing data.features"
        raise ValueError(f"row {spool.first_missing + 1} of column {name!r} is missing; {hint}")


def _described(name: str, spool: Spool) -> FeatureColumn:
    return inputs.describe_levels(name, spool.levels) if spool.has_texts else FeatureColumn(name=name, dtype="float32")


def _hashes_of_places(num_rows: int) -> NDArray[np.uint64]:
    """As if each row were called by its place."""
    ends = range(0, num_rows, MOST_ROWS)
    return np.concatenate([hash_ids(map(str, range(first, min(num_rows, first + MOST_ROWS)))) for first in ends])
