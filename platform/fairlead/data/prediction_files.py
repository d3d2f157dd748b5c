"""Files of predictions as batches of columns: Parquet, Arrow (Feather) and CSV, never a whole file in memory.

CSV columns come as texts: what a type is guessed from would depend on where a file was cut. pyarrow is loaded when
a file is opened.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairlead.data.sources import MISSING
from fairlead.errors import BadData, BadInput

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
_CSV_BLOCK = 4 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionFile:
    """One file that can be opened."""

    path: Path
    format: Format
    names: tuple[str, ...]
    """Its columns."""
    num_rows: int | None
    """None where only reading tells."""

    def batches(self, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Columns called ``names`` as pyarrow arrays, in rows of at most 65,536. Raises ``BadData``."""
        with told(self.path, self.format):
            for batch in _READERS[self.format](self.path, names):
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    part = batch.slice(start, BATCH_ROWS)
                    yield {name: part.column(part.schema.get_field_index(name)) for name in names}


def find_files(paths: Iterable[Path]) -> tuple[PredictionFile, ...]:
    """The files at ``paths``, in the order given; a directory stands for those inside, by name.

    Raises ``BadData`` for what is not there, occurs twice or cannot be read, and ``BadInput`` without pyarrow.
    """
    _refuse_without_pyarrow()
    found = [inner for path in paths for inner in (_inside(path) if path.is_dir() else [path])]
    times = Counter(path.resolve() for path in found)
    if repeated := next((path for path in found if times[path.resolve()] > 1), None):
        raise BadData(f"{repeated} is given twice: its rows would count twice; name it once")
    files = tuple(_opened(path) for path in found)
    if not files:
        raise BadData("there is no file to read: name files of predictions, or a directory that holds some")
    return files


def _refuse_without_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401 - whether it is there
    except ImportError as error:
        raise BadInput("reading predictions needs pyarrow: pip install 'fairlead[evaluate]'") from error


def _inside(directory: Path) -> list[Path]:
    """Readable files below a directory; names that begin with ``.`` or ``_`` are other programs' notes."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and _format_of(path))
    hidden = [any(part.startswith((".", "_")) for part in path.relative_to(directory).parts) for path in files]
    kept = [path for path, is_hidden in zip(files, hidden, strict=True) if not is_hidden]
    if not kept:
        raise BadData(f"{directory}: this directory holds no file that ends in {_endings()}")
    formats = sorted({str(_format_of(path)) for path in kept})
    if len(formats) > 1:
        raise BadData(f"{directory} holds {' and '.join(formats)} files: name those that count, one by one")
    return kept


def _format_of(path: Path) -> Format | None:
    name = path.name.lower()
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def _endings() -> str:
    return ", ".join(ENDINGS)


def _opened(path: Path) -> PredictionFile:
    kind = _format_of(path)
    if not path.exists():
        raise BadData(f"{path}: nothing is there")
    if kind is None:
        raise BadData(f"{path}: a file with this ending is not read; files end in {_endings()}")
    if os.path.getsize(path) == 0:
        raise BadData(f"{path}: the file is empty")
    with told(path, kind):
        names, num_rows = _HEADERS[kind](path)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadData(f"{path}: the column {repeated[0]!r} occurs more than once; rename one of them")
    return PredictionFile(path=path, format=kind, names=tuple(names), num_rows=num_rows)


@contextmanager
def told(path: Path, kind: Format) -> Iterator[None]:
    """What pyarrow says of a file that it cannot read becomes ``BadData``, in one sentence."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        first = str(error).strip().splitlines()[:1]
        raise BadData(f"{path}: this cannot be read as a {kind} file: {''.join(first)}") from error


def _parquet_header(path: Path) -> tuple[list[str], int | None]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.schema_arrow.names, file.metadata.num_rows


def _parquet_batches(path: Path, names: Sequence[str]) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=list(names))


def _arrow_header(path: Path) -> tuple[list[str], int | None]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as content, pyarrow.ipc.open_file(content) as file:
        return file.schema.names, None


def _arrow_batches(path: Path, names: Sequence[str]) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as content, pyarrow.ipc.open_file(content) as file:
        for number in range(file.num_record_batches):
            yield file.get_batch(number)


def _csv(path: Path, names: Sequence[str] | None) -> Any:
    from pyarrow import csv, string

    return csv.open_csv(
        str(path),
        read_options=csv.ReadOptions(block_size=_CSV_BLOCK),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            include_columns=list(names or ()),
            column_types=dict.fromkeys(names or (), string()),
            null_values=list(MISSING),
            strings_can_be_null=True,
        ),
    )


def _csv_header(path: Path) -> tuple[list[str], int | None]:
    with _csv(path, None) as reader:
        return reader.schema.names, None


def _csv_batches(path: Path, names: Sequence[str]) -> Iterator[Any]:
    with _csv(path, names) as reader:
        yield from reader


_HEADERS = {"Parquet": _parquet_header, "Arrow": _arrow_header, "CSV": _csv_header}
_READERS = {"Parquet": _parquet_batches, "Arrow": _arrow_batches, "CSV": _csv_batches}
