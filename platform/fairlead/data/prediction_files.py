"""Files of predictions as batches of columns: Parquet, Arrow (Feather) and CSV, never a whole file in memory.

CSV columns come as texts: what a type is guessed from would depend on where a file was cut. pyarrow is loaded when
a file is opened. Several readers may share the rows (``deal``): each reads the row groups of Parquet that hold its own
rows; of other formats only reading tells how many rows there are, so each gets files of its own or, where there are too
few, reads on over the rows of others.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fairlead.data.builtin import BUILTIN_PREFIX
from fairlead.data.sources import MISSING
from fairlead.data.splits import shard_range
from fairlead.data.storage import is_lasting, locate, stamp_of, unreadable
from fairlead.errors import BadData, BadInput, FairleadError, StorageAway

Format = Literal["Parquet", "Arrow", "CSV"]
ENDINGS: Mapping[str, Format] = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".csv": "CSV",
    ".csv.gz": "CSV",
}
BATCH_ROWS = 65_536
Seen = Callable[[int], None]
"""Hears of so many more rows; of 0 when something else was done, such as opening a file."""
_CSV_BLOCK = 4 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The rows of one file that are one reader's: from ``first`` to before ``last``, of these every ``of``-th stripe.

    A *stripe* is 65,536 rows that follow each other.
    """

    first: int = 0
    last: int = sys.maxsize
    number: int = 0
    of: int = 1

    def cuts(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Its rows among those from ``start`` to before ``stop``, at most a stripe at once."""
        start, stop = max(start, self.first), min(stop, self.last)
        while start < stop:
            stripe = start // BATCH_ROWS
            edge = min(stop, (stripe + 1) * BATCH_ROWS)
            if stripe % self.of == self.number:
                yield start, edge
            start = edge


WHOLE, NOTHING = Share(), Share(last=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some rows that follow each other in a file, at most 65,536."""

    first: int
    """Place of the first one in its file."""
    columns: Mapping[str, Any]
    """pyarrow arrays by name."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionFile:
    """One file that can be opened."""

    path: Path | str
    """Where it lies: a path, or an address of another storage."""
    format: Format
    names: tuple[str, ...]
    """Its columns."""
    num_rows: int | None
    """None where only reading tells."""
    storage: Any = None
    """The fsspec storage of an address; None for a path."""

    def read(self, names: Sequence[str], share: Share = WHOLE) -> "Reading":
        """One pass over columns called ``names``."""
        return Reading(self, names, share)

    def stamp(self) -> str:
        """What changes when the file does: its size and time, or what else the storage says. Raises ``BadData``."""
        with told(self.path, self.format):
            if self.storage is None:
                found = os.stat(self.path)
                return f"{found.st_size} bytes of {found.st_mtime_ns}"
            info = self.storage.info(self.path)
        return stamp_of(info)


class Reading:
    """One pass over a file. Iterating gives its share in batches, and raises ``BadData``."""

    def __init__(self, file: PredictionFile, names: Sequence[str], share: Share) -> None:
        self._file, self._names, self._share = file, names, share
        self.num_rows: int | None = file.num_rows
        """All rows of the file, whoever's they are; where only reading tells, known when the pass is over."""

    def __iter__(self) -> Iterator[Batch]:
        file, end = self._file, 0
        if self._share == NOTHING:
            return
        with told(file.path, file.format), _content(file) as content:
            for first, batch in _READERS[file.format](content, self._names, self._share):
                end = first + batch.num_rows
                for start, stop in self._share.cuts(first, end):
                    part = batch.slice(start - first, stop - start)
                    columns = {name: part.column(part.schema.get_field_index(name)) for name in self._names}
                    yield Batch(first=start, columns=columns)
        if file.format != "Parquet":
            self.num_rows = end


def deal(files: Sequence[PredictionFile], *, number: int, of: int) -> tuple[Share, ...]:
    """What reader ``number`` of ``of`` reads of each file; all of them together read each row once.

    Where all numbers of rows are known, each gets as many, one after the other. Else files go round, and stripes of
    each where there are fewer files than readers. Raises ``ValueError`` for a bad number.
    """
    sizes = [file.num_rows for file in files]
    total = sum(size or 0 for size in sizes)
    first, last = shard_range(total, rank=number, world_size=of)
    if of == 1:
        return (WHOLE,) * len(files)
    if None in sizes and len(files) >= of:
        return tuple(WHOLE if place % of == number else NOTHING for place in range(len(files)))
    if None in sizes:
        return tuple(Share(number=(number + place) % of, of=of) for place in range(len(files)))
    shares, start = [], 0
    for size in sizes:
        begin, end = max(first - start, 0), min(last - start, size or 0)
        shares.append(Share(first=begin, last=end) if begin < end else NOTHING)
        start += size or 0
    return tuple(shares)


def find_files(places: Iterable[Path | str], seen: Seen = lambda rows: None) -> tuple[PredictionFile, ...]:
    """The files at ``places``, paths or addresses, in the order given; a directory stands for those inside, by name.

    Raises ``BadData`` for what is not there, occurs twice or cannot be read, ``StorageAway`` where the storage fails,
    and ``BadInput`` without pyarrow.
    """
    _refuse_without_pyarrow()
    found = [inner for place in places for inner in _inside(*_located(place))]
    times = Counter(_resolved(path) for path, _ in found)
    if repeated := next((path for path, _ in found if times[_resolved(path)] > 1), None):
        raise BadData(f"{repeated} is given twice: its rows would count twice; name it once")
    if not found:
        raise BadData("there is no file to read: name files of predictions, or a directory that holds some")
    return tuple(_each(found, lambda one: _opened(*one), seen))


def stamps_of(files: Sequence[PredictionFile], seen: Seen = lambda rows: None) -> tuple[str, ...]:
    """The stamp of each file. Raises ``BadData``."""
    return tuple(_each(files, PredictionFile.stamp, seen))


def _each(things: Iterable[Any], act: Callable[[Any], Any], seen: Seen) -> Iterator[Any]:
    """What ``act`` answers, one after the other: of ten thousand on a slow storage, each is a sign of life."""
    for thing in things:
        yield act(thing)
        seen(0)


def _located(place: Path | str) -> tuple[Path | str, Any]:
    """A path of this machine; or an address and its storage."""
    if isinstance(place, Path) or "://" not in place:
        return Path(place), None
    if place.startswith(BUILTIN_PREFIX):
        raise BadData(f"{place}: these are data to train on, not predictions")
    try:
        storage, root = locate(place)
    except ImportError as error:
        raise BadInput(f"reading {place} needs fsspec: pip install fsspec") from error
    is_here = "file" in ((storage.protocol,) if isinstance(storage.protocol, str) else storage.protocol)
    return (Path(root), None) if is_here else (place, storage)


def _resolved(path: Path | str) -> Path | str:
    return path.resolve() if isinstance(path, Path) else path


def _refuse_without_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401 - whether it is there
    except ImportError as error:
        raise BadInput("reading predictions needs pyarrow: pip install 'fairlead[evaluate]'") from error


def _inside(place: Path | str, storage: Any) -> list[tuple[Path | str, Any]]:
    """The place itself, or the readable files below it; names with ``.`` or ``_`` first are other programs' notes."""
    if not _is_directory(place, storage):
        return [(place, storage)]
    below = _below(place, storage)
    kept = [path for inner, path in sorted(below.items()) if _format_of(path) and not _is_hidden(inner)]
    if not kept:
        raise BadData(f"{place}: this directory holds no file that ends in {_endings()}")
    formats = sorted({str(_format_of(path)) for path in kept})
    if len(formats) > 1:
        raise BadData(f"{place} holds {' and '.join(formats)} files: name those that count, one by one")
    return [(path, storage) for path in kept]


def _is_directory(place: Path | str, storage: Any) -> bool:
    """Some storages know directories only by what is below them, and a page of links is no table."""
    with _answering(place):
        if isinstance(place, Path):
            return place.is_dir()
        return _format_of(place) is None and bool(storage.isdir(place))


def _below(place: Path | str, storage: Any) -> Mapping[PurePosixPath, Path | str]:
    """Everything below a directory, by its path in there."""
    if isinstance(place, Path):
        with _answering(place):
            return {PurePosixPath(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    from fsspec.core import strip_protocol

    with _answering(place):
        root = PurePosixPath(strip_protocol(place))
        found = [PurePosixPath(path) for path in storage.find(place)]
    return {path.relative_to(root): f"{place.rstrip('/')}/{path.relative_to(root)}" for path in found}


def _is_hidden(inner: PurePosixPath) -> bool:
    return any(part.startswith((".", "_")) for part in inner.parts)


@contextmanager
def _answering(place: Path | str) -> Iterator[None]:
    """What a storage says when it cannot answer becomes ``StorageAway``, or ``BadData`` where it never will."""
    try:
        yield
    except FairleadError:
        raise
    except Exception as error:  # each storage has exceptions of its own
        raise unreadable(error, f"{place}: the storage does not answer: {error}") from error


def _format_of(path: Path | str) -> Format | None:
    name = str(path).lower()
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def _endings() -> str:
    return ", ".join(ENDINGS)


def _opened(path: Path | str, storage: Any) -> PredictionFile:
    kind = _format_of(path)
    with _answering(path):
        is_there = not isinstance(path, Path) or path.exists()
    if not is_there:
        raise BadData(f"{path}: nothing is there")
    if kind is None:
        raise BadData(f"{path}: a file with this ending is not read; files end in {_endings()}")
    file = PredictionFile(path=path, format=kind, names=(), num_rows=None, storage=storage)
    with told(path, kind):
        size = os.path.getsize(path) if storage is None else storage.size(path)
    if size == 0:
        raise BadData(f"{path}: the file is empty")
    with told(path, kind), _content(file) as content:
        names, num_rows = _HEADERS[kind](content)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadData(f"{path}: the column {repeated[0]!r} occurs more than once; rename one of them")
    return replace(file, names=tuple(names), num_rows=num_rows)


@contextmanager
def _content(file: PredictionFile) -> Iterator[Any]:
    """What pyarrow can read: a path of this machine, or an open file of another storage."""
    if file.storage is None:
        yield str(file.path)
        return
    compression = "gzip" if str(file.path).lower().endswith(".gz") else None
    with file.storage.open(str(file.path), "rb", compression=compression) as content:
        yield content


@contextmanager
def told(path: Path | str, kind: Format) -> Iterator[None]:
    """What pyarrow says of a file that it cannot read becomes ``BadData``, in one sentence.

    So does a storage's word that it is missing or forbidden; any other of a storage becomes ``StorageAway``.
    """
    import pyarrow

    try:
        yield
    except FairleadError:
        raise
    except Exception as error:  # each storage has exceptions of its own; of a path's, others are our own mistakes
        if isinstance(path, Path) and not isinstance(error, pyarrow.ArrowException | OSError | EOFError):
            raise
        first = str(error).strip().splitlines()[:1]
        is_content = isinstance(error, pyarrow.ArrowException) or is_lasting(error)
        what = BadData if is_content else StorageAway
        raise what(f"{path}: this cannot be read as a {kind} file: {''.join(first)}") from error


def _parquet_header(content: Any) -> tuple[list[str], int | None]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(content) as file:
        return file.schema_arrow.names, file.metadata.num_rows


def _parquet_batches(content: Any, names: Sequence[str], share: Share) -> Iterator[tuple[int, Any]]:
    """The row groups that hold rows of the share."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(content) as file:
        first = 0
        for number in range(file.num_row_groups):
            rows = file.metadata.row_group(number).num_rows
            if any(share.cuts(first, first + rows)):
                start = first
                for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[number], columns=list(names)):
                    yield start, batch
                    start += batch.num_rows
            first += rows


@contextmanager
def _arrow(content: Any) -> Iterator[Any]:
    import pyarrow

    if not isinstance(content, str):
        yield pyarrow.ipc.open_file(content)
        return
    with pyarrow.memory_map(content) as mapped, pyarrow.ipc.open_file(mapped) as file:
        yield file


def _arrow_header(content: Any) -> tuple[list[str], int | None]:
    with _arrow(content) as file:
        return file.schema.names, None


def _arrow_batches(content: Any, names: Sequence[str], share: Share) -> Iterator[tuple[int, Any]]:
    with _arrow(content) as file:
        first = 0
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            yield first, batch
            first += batch.num_rows


def _csv(content: Any, names: Sequence[str] | None) -> Any:
    from pyarrow import csv, string

    return csv.open_csv(
        content,
        read_options=csv.ReadOptions(block_size=_CSV_BLOCK),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            include_columns=list(names or ()),
            column_types=dict.fromkeys(names or (), string()),
            null_values=list(MISSING),
            strings_can_be_null=True,
        ),
    )


def _csv_header(content: Any) -> tuple[list[str], int | None]:
    with _csv(content, None) as reader:
        return reader.schema.names, None


def _csv_batches(content: Any, names: Sequence[str], share: Share) -> Iterator[tuple[int, Any]]:
    with _csv(content, names) as reader:
        first = 0
        for batch in reader:
            yield first, batch
            first += batch.num_rows


_HEADERS = {"Parquet": _parquet_header, "Arrow": _arrow_header, "CSV": _csv_header}
_READERS = {"Parquet": _parquet_batches, "Arrow": _arrow_batches, "CSV": _csv_batches}
