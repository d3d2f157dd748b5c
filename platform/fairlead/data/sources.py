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
from fairlead.data.saved_datasets import is_saved, read_saved
from fairlead.data.scenes import find_annotations, read_coco
from fairlead.data.sounds import find_sounds, read_sounds
from fairlead.data.storage import bad, content_of, locate
from fairlead.data.views import find_transforms, read_views

METADATA = "metadata.csv"
PARQUET_ENDINGS = (".parquet", ".pq")
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
        if is_saved(files, root):
            return read_saved(uri, files, root)
        if name := find_annotations(uri, files, root):
            return read_coco(uri, files, root, name)
        if names := parquet_files(files, root):
            return _parquet_folder(uri, files, root, names)
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
        refuse_repeated(uri, [str(name) for name in header.iloc[0]])
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
    return _parquet_table(uri, content).to_pandas(ignore_metadata=True)


def _parquet_table(uri: str, content: bytes) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise bad("/data/uri", f"{uri}: this is not a Parquet file: {error}") from error
    refuse_repeated(uri, table.column_names)
    return table


def parquet_files(files: Any, root: str) -> list[str]:
    """Names of the Parquet files directly in a folder, sorted: they are parts of one table. Empty: it holds none."""
    names = sorted(os.path.basename(path) for path in files.find(root, maxdepth=1))
    return [name for name in names if name.lower().endswith(PARQUET_ENDINGS) and not name.startswith(("_", "."))]


def _parquet_folder(uri: str, files: Any, root: str, names: list[str]) -> Source:
    """One table in several files of the same columns, its rows in the order of their names."""
    import pyarrow

    tables = []
    for name in names:
        place = f"{uri.rstrip('/')}/{name}"
        tables.append(_parquet_table(place, content_of(place, files, f"{root.rstrip('/')}/{name}")))
        refuse_other_columns(place, names[0], tables[-1].schema, tables[0].schema)
    frame = pyarrow.concat_tables(tables).to_pandas(ignore_metadata=True)
    if len(frame) == 0:
        raise bad("/data/uri", f"{uri}: the files have columns but no rows")
    columns = _columns(frame)
    return interactions_of(uri, columns) if are_interactions(list(columns)) else _table(uri, columns)


def refuse_other_columns(place: str, first: str, found: Any, wanted: Any) -> None:
    """Raise ``BadData`` where a part of a table has not the columns of the first one, or other types."""
    if found.remove_metadata().equals(wanted.remove_metadata()):
        return
    here, there = ({field.name: str(field.type) for field in schema} for schema in (found, wanted))
    differing = [name for name in {**there, **here} if here.get(name) != there.get(name)]
    what = "its columns come in another order"
    if differing:
        name = differing[0]
        what = f"the column {name!r} is {here.get(name, 'not there')}, and {there.get(name, 'not there')}"
    raise bad("/data/uri", f"{place}: {what} in {first}", "all parts of a table need the same columns and types")


def refuse_repeated(uri: str, names: list[str]) -> None:
    """Raise ``BadData`` where two columns have one name."""
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
