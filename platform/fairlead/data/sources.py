"""Reads a URI into columns and pictures.

pandas, pyarrow, fsspec, Pillow and scikit-learn are imported where they are used: the control plane lists workload
manifests through this package and has no need of them.
"""

import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.builtin import BUILTIN_PREFIX, builtin_problem, read_builtin
from fairlead.data.columns import Column, Source
from fairlead.data.interactions import are_interactions, interactions_of
from fairlead.errors import BadData, FairleadError, Problem, StorageAway

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
METADATA = "metadata.csv"
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
MAX_PROBLEMS = 20
_LASTING = (ImportError, ValueError, EOFError, zlib.error, gzip.BadGzipFile)
_LASTING_FILES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_ERRNOS = frozenset({None, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
"""pyarrow's words about what a file holds are errors of the system without a number."""


def bad(pointer: str, message: str, suggestion: str | None = None) -> BadData:
    """A refusal with one problem."""
    text = f"{message}; {suggestion}" if suggestion else message
    return BadData(text, problems=(Problem(pointer=pointer, message=message, suggestion=suggestion),))


def is_lasting(error: Exception) -> bool:
    """Whether reading again would fail alike: what is there is wrong, missing or forbidden. Else its storage failed."""
    if isinstance(error, _LASTING + _LASTING_FILES):
        return True
    return type(error) is OSError and error.errno in _LASTING_ERRNOS


def unreadable(error: Exception, message: str) -> FairleadError:
    """What to raise where reading raised ``error``: ``BadData``, or ``StorageAway`` where trying again may help."""
    return bad("/data/uri", message) if is_lasting(error) else StorageAway(message)


def read(uri: str) -> Source:
    """Read everything at ``uri``. Raises ``BadData`` naming the file, and the row or column where it is known, and
    ``StorageAway`` where the storage fails.
    """
    if uri.startswith(BUILTIN_PREFIX):
        return _builtin(uri)
    files, root = locate(uri)
    if files.isdir(root):
        return _image_folder(uri, files, root)
    ending = os.path.splitext(root.removesuffix(".gz"))[1].lower()
    if ending not in (".csv", ".parquet", ".pq"):
        hint = "end the name in .csv, .csv.gz, .parquet or .pq, or name a folder with one directory of images a class"
        raise bad("/data/uri", f"{uri}: a file ending in {ending or 'nothing'} is not read", hint)
    content = _content(uri, files, root)
    if not content:
        raise bad("/data/uri", f"{uri}: the file is empty")
    frame = _csv(uri, content, root) if ending == ".csv" else _parquet(uri, content)
    if len(frame) == 0:
        raise bad("/data/uri", f"{uri}: the file has columns but no rows")
    columns = _columns(frame)
    return interactions_of(uri, columns) if are_interactions(list(columns)) else _table(uri, columns)


def _table(uri: str, columns: dict[str, Column]) -> Source:
    return Source(uri=uri, num_rows=len(next(iter(columns.values()))), columns=columns)


def _builtin(uri: str) -> Source:
    problem = builtin_problem(uri)
    if problem is not None:
        raise bad(problem.pointer, problem.message, problem.suggestion)
    return read_builtin(uri)


def locate(uri: str) -> tuple[Any, str]:
    """The fsspec storage of an address, and the path in there.

    Raises ``BadData`` where nothing is there, and ``StorageAway`` where the storage fails.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(uri)
        if not files.exists(root):
            files.info(root)  # many a storage says no where it means that it does not answer
        return files, root
    except FileNotFoundError as error:
        hint = "the path must exist where the workers run"
        raise bad("/data/uri", f"{uri}: nothing is there", hint) from error
    except (ImportError, ValueError) as error:
        raise bad("/data/uri", f"{uri}: this address cannot be opened: {error}") from error
    except Exception as error:  # each storage has exceptions of its own
        raise unreadable(error, f"{uri}: the storage does not answer: {error}") from error


def _content(uri: str, files: Any, path: str) -> bytes:
    try:
        with files.open(path, "rb") as file:
            content: bytes = file.read()
            return content
    except Exception as error:  # each storage has exceptions of its own
        raise unreadable(error, f"{uri}: the file cannot be read: {error}") from error


def _csv(uri: str, content: bytes, root: str) -> Any:
    import pandas

    options: dict[str, Any] = {"compression": "gzip" if root.endswith(".gz") else None}
    try:
        header = pandas.read_csv(io.BytesIO(content), header=None, nrows=1, dtype=str, **options)
        _refuse_repeated(uri, [str(name) for name in header.iloc[0]])
        frame = pandas.read_csv(
            io.BytesIO(content), na_values=MISSING, keep_default_na=False, low_memory=False, **options
        )
    except (ValueError, OSError, EOFError) as error:
        raise bad("/data/uri", f"{uri}: this is not a CSV table: {str(error).strip()}") from error
    if not isinstance(frame.index, pandas.RangeIndex):  # pandas takes a surplus first field for a row name
        raise bad(
            "/data/uri", f"{uri}: the rows have more fields than the {len(frame.columns)} names of the first line"
        )
    return frame


def _parquet(uri: str, content: bytes) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        _refuse_repeated(uri, table.column_names)
        return table.to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise bad("/data/uri", f"{uri}: this is not a Parquet file: {error}") from error


def _refuse_repeated(uri: str, names: list[str]) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise bad("/data/uri", f"{uri}: the column {repeated[0]!r} occurs more than once", "rename one of them")


def _columns(frame: Any) -> dict[str, Column]:
    return {str(name): column_of(frame[name]) for name in frame.columns}


def column_of(series: Any) -> Column:
    """A pandas Series as a column: numbers stay numbers, everything else becomes texts or None."""
    kind = getattr(series.dtype, "kind", "O")
    if kind == "u" and series.max() > np.iinfo(np.int64).max:
        kind = "O"  # such numbers are names
    if kind in "biuf" and isinstance(series.dtype, np.dtype):
        wide = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}[kind]
        return np.asarray(series.to_numpy(), dtype=wide)
    if kind in "biuf" and not series.isna().any():
        return np.asarray(series.to_numpy(dtype={"b": bool, "f": float}.get(kind, np.int64)))
    if kind in "biuf":
        return np.asarray(series.to_numpy(dtype=float, na_value=np.nan))
    texts = np.empty(len(series), dtype=object)
    missing = series.isna().to_numpy()
    texts[:] = [None if gone else str(value) for value, gone in zip(series, missing, strict=True)]
    return texts


def _image_folder(uri: str, files: Any, root: str) -> Source:
    """One directory a class; a ``metadata.csv`` with a column ``file_name`` may say more about each picture."""
    names = sorted(
        os.path.relpath(path, root).replace(os.sep, "/")
        for path in files.find(root)
        if path.lower().endswith(PICTURE_ENDINGS)
    )
    stray = [name for name in names if name.count("/") != 1]
    if not names or stray:
        found = f"{stray[0]} is not in a class directory" if stray else "it holds no images"
        raise bad("/data/uri", f"{uri}: {found}", "expected one directory a class, with images inside")
    pictures = _pictures(uri, files, root, names)
    classes = np.array([name.split("/")[0] for name in names], dtype=object)
    extra = _metadata(uri, files, root, names)
    return Source(
        uri=uri,
        num_rows=len(names),
        columns={**extra, "class": classes},
        kind="images",
        array=pictures,
        ids=np.array(names, dtype=object),
        target="class",
    )


def _metadata(uri: str, files: Any, root: str, names: list[str]) -> dict[str, Column]:
    path = f"{root.rstrip('/')}/{METADATA}"
    if not files.exists(path):
        return {}
    frame = _csv(f"{uri}/{METADATA}", _content(f"{uri}/{METADATA}", files, path), path)
    if "file_name" not in frame.columns:
        raise bad("/data/uri", f"{uri}/{METADATA}: there is no column 'file_name'")
    if frame["file_name"].duplicated().any():
        twice = frame["file_name"][frame["file_name"].duplicated()].iloc[0]
        raise bad("/data/uri", f"{uri}/{METADATA}: {twice!r} is listed twice")
    if strangers := sorted(set(frame["file_name"].astype(str)) - set(names)):
        raise bad("/data/uri", f"{uri}/{METADATA}: {strangers[0]!r} names no image, e.g. {names[0]!r} would")
    return _columns(frame.set_index("file_name").reindex(names))


def _pictures(uri: str, files: Any, root: str, names: list[str]) -> NDArray[np.float32]:
    """All pictures, shape (n, channels, height, width), 0 to 255; grey if the first one is, else RGB."""
    problems: list[Problem] = []
    stack: NDArray[np.float32] | None = None
    mode = "L"
    for position, (name, opened) in enumerate(_opened(files, root, names)):
        if isinstance(opened, str):
            problems.append(Problem(pointer="/data/uri", message=f"{uri}/{name}: {opened}"))
        else:
            mode = ("L" if opened.mode in ("1", "L") else "RGB") if stack is None else mode
            pixels = _pixels(opened.convert(mode))
            stack = np.empty((len(names), *pixels.shape), np.float32) if stack is None else stack
            if pixels.shape != stack.shape[1:]:
                problems.append(_wrong_size(f"{uri}/{name}", pixels.shape, stack.shape[1:]))
            else:
                stack[position] = pixels
        if len(problems) == MAX_PROBLEMS:
            break
    if problems or stack is None:
        raise BadData("; ".join(problem.message for problem in problems[:3]), problems=tuple(problems))
    return stack


def _opened(files: Any, root: str, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Each name with its decoded picture, or with a text that says why there is none."""
    from PIL import Image

    for name in names:
        path = f"{root.rstrip('/')}/{name}"
        try:
            picture = Image.open(io.BytesIO(_content(path, files, path)))
            picture.load()
        except (BadData, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            yield name, f"the image cannot be read: {str(error).partition(' <')[0]}"
        else:
            yield name, picture


def _pixels(picture: Any) -> NDArray[np.float32]:
    pixels = np.asarray(picture, dtype=np.float32)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _wrong_size(name: str, found: tuple[int, ...], first: tuple[int, ...]) -> Problem:
    message = f"{name}: {found[1]} × {found[2]} pixels (height × width), the first image has {first[1]} × {first[2]}"
    return Problem(pointer="/data/uri", message=message, suggestion="bring all images to one size first")
