"""Reads a URI into columns and pictures.

pandas, pyarrow, fsspec, Pillow and scikit-learn are imported where they are used: the control plane lists workload
manifests through this package and has no need of them.
"""

import io
import os
from typing import Any

import numpy as np

from fairlead.data import texts
from fairlead.data.builtin import BUILTIN_PREFIX, builtin_problem, read_builtin
from fairlead.data.columns import Column, Source, column_of
from fairlead.data.interactions import are_interactions, interactions_of
from fairlead.data.pictures import PICTURE_ENDINGS, read_pictures
from fairlead.data.scenes import find_annotations, read_coco
from fairlead.data.sounds import find_sounds, read_sounds
from fairlead.data.storage import bad, content_of, locate
from fairlead.data.views import find_transforms, read_views

METADATA = "metadata.csv"
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")


def read(uri: str) -> Source:
    """Read everything at ``uri``. Raises ``BadData`` naming the file, and the row or column where it is known, and
    ``StorageAway`` where the storage fails.
    """
    if uri.startswith(BUILTIN_PREFIX):
        return _builtin(uri)
    files, root = locate(uri)
    if (transforms := find_transforms(files, root)) is not None:
        return read_views(uri, files, transforms)
    if files.isdir(root):
        if name := find_annotations(uri, files, root):
            return read_coco(uri, files, root, name)
        if names := find_sounds(files, root):
            return _sound_folder(uri, files, root, names)
        if texts.is_folder(files, root):
            return texts.read_folder(uri, files, root)
        return _image_folder(uri, files, root)
    ending = os.path.splitext(root.removesuffix(".gz"))[1].lower()
    if ending in texts.TEXT_ENDINGS:
        return texts.read_file(uri, files, root)
    if ending == texts.PAIRS_ENDING:
        return texts.read_pairs(uri, files, root)
    if ending not in (".csv", ".parquet", ".pq"):
        hint = "end the name in .csv, .csv.gz, .parquet, .pq, .txt or .tsv, or name a folder of images or of texts"
        raise bad("/data/uri", f"{uri}: a file ending in {ending or 'nothing'} is not read", hint)
    content = content_of(uri, files, root)
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


def _image_folder(uri: str, files: Any, root: str) -> Source:
    """One directory a class; a ``metadata.csv`` with a column ``file_name`` may say more about each picture."""
    names = sorted(
        os.path.relpath(path, root).replace(os.sep, "/")
        for path in files.find(root)
        if path.lower().endswith(PICTURE_ENDINGS)
    )
    _refuse_stray(uri, names, "images")
    pictures = read_pictures(uri, files, root, names)
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


def _sound_folder(uri: str, files: Any, root: str, names: list[str]) -> Source:
    """As ``_image_folder``, with sounds; they become equally long when it is known how long."""
    _refuse_stray(uri, names, "sounds")
    extra = _metadata(uri, files, root, names)
    sounds, rate = read_sounds(uri, files, root, names)
    return Source(
        uri=uri,
        num_rows=len(names),
        columns={**extra, "class": np.array([name.split("/")[0] for name in names], dtype=object)},
        kind="audio",
        array=sounds,
        ids=np.array(names, dtype=object),
        target="class",
        details={"sample_rate": rate},
    )


def _refuse_stray(uri: str, names: list[str], what: str) -> None:
    stray = [name for name in names if name.count("/") != 1]
    if not names or stray:
        found = f"{stray[0]} is not in a class directory" if stray else f"it holds no {what}"
        raise bad("/data/uri", f"{uri}: {found}", f"expected one directory a class, with {what} inside")


def _metadata(uri: str, files: Any, root: str, names: list[str]) -> dict[str, Column]:
    path = f"{root.rstrip('/')}/{METADATA}"
    if not files.exists(path):
        return {}
    frame = _csv(f"{uri}/{METADATA}", content_of(f"{uri}/{METADATA}", files, path), path)
    if "file_name" not in frame.columns:
        raise bad("/data/uri", f"{uri}/{METADATA}: there is no column 'file_name'")
    if frame["file_name"].duplicated().any():
        twice = frame["file_name"][frame["file_name"].duplicated()].iloc[0]
        raise bad("/data/uri", f"{uri}/{METADATA}: {twice!r} is listed twice")
    if strangers := sorted(set(frame["file_name"].astype(str)) - set(names)):
        raise bad("/data/uri", f"{uri}/{METADATA}: {strangers[0]!r} names no file here, e.g. {names[0]!r} would")
    return _columns(frame.set_index("file_name").reindex(names))
