"""Data sets of Hugging Face's ``datasets`` that were saved into a directory (``save_to_disk``): tables and pictures.

A column with ClassLabel features is read as the names of its classes. Of a table with one such column that column is
the target; the spec may name another. A column of images makes the rows pictures, whose class is the ClassLabel column.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, Source, column_of
from fairlead.data.pictures import stack_of
from fairlead.data.storage import bad, content_of, unreadable
from fairlead.errors import BadInput

STATE, PARTS = "state.json", "dataset_dict.json"
NUMBERS = ("int", "uint", "float", "bool")


def is_saved(files: Any, root: str) -> bool:
    """Whether a folder is what ``save_to_disk`` leaves, of one data set or of several."""
    base = root.rstrip("/")
    return any(files.exists(f"{base}/{name}") for name in (STATE, PARTS))


def read_saved(uri: str, files: Any, root: str) -> Source:
    """Everything in there. Raises ``BadData`` naming the column, and the row where it is known."""
    base = root.rstrip("/")
    if files.exists(f"{base}/{PARTS}"):
        parts = json.loads(content_of(uri, files, f"{base}/{PARTS}")).get("splits", [])
        hint = "name one of its parts: " + ", ".join(f"{uri.rstrip('/')}/{part}" for part in parts)
        raise bad("/data/uri", f"{uri}: this is a directory of {len(parts)} data sets", hint)
    found = _loaded(uri)
    if len(found) == 0:
        raise bad("/data/uri", f"{uri}: the data set has columns but no rows")
    kinds = {name: _kind(feature) for name, feature in found.features.items()}
    if strange := [name for name, kind in kinds.items() if kind is None]:
        message = f"{uri}: column {strange[0]!r} is {found.features[strange[0]]}, which is not read"
        raise bad("/data/uri", message, "numbers, texts, classes and images are; remove the column before saving")
    classes = [name for name, kind in kinds.items() if kind == "class"]
    images = [name for name, kind in kinds.items() if kind == "image"]
    columns = {name: _column(uri, found, name, kind) for name, kind in kinds.items() if kind not in ("image", None)}
    target = classes[0] if len(classes) == 1 else None
    if not images:
        return Source(uri=uri, num_rows=len(found), columns=columns, target=target)
    if len(images) > 1:
        raise bad("/data/uri", f"{uri}: {', '.join(images)} are images, and a row has one", "remove the others")
    if not classes:
        raise bad("/data/uri", f"{uri}: column {images[0]!r} holds images, and no ClassLabel column says their class")
    array = _images(uri, found, images[0])
    return Source(uri=uri, num_rows=len(found), columns=columns, kind="images", array=array, target=target)


def _loaded(uri: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise BadInput(f"{uri} was saved by datasets, which this node lacks: install fairlead[huggingface]") from error
    try:
        return datasets.load_from_disk(uri)
    except (LookupError, TypeError) as error:  # what datasets says of a set without rows, among others
        raise bad("/data/uri", f"{uri}: the saved data set has no rows, or is damaged: {error}") from error
    except Exception as error:  # datasets, pyarrow and each storage have their own
        raise unreadable(error, f"{uri}: the saved data set cannot be read: {error}") from error


def _kind(feature: Any) -> str | None:
    """``number``, ``text``, ``class``, ``image``, or None for what no row can hold."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return "class"
    if isinstance(feature, datasets.Image):
        return "image"
    if not isinstance(feature, datasets.Value):
        return None
    return "number" if feature.dtype.startswith(NUMBERS) else "text"


def _column(uri: str, found: Any, name: str, kind: str | None) -> Column:
    series = found.with_format("pandas")[name][:]
    if kind != "class":
        return column_of(series)
    names = found.features[name].names
    places = series.to_numpy(dtype=float, na_value=np.nan)
    texts = np.empty(len(places), dtype=object)
    if (stray := ~np.isnan(places) & ((places < 0) | (places >= len(names)))).any():
        row = int(np.argmax(stray))
        hint = "datasets marks with -1 what has no class: leave such rows out"
        raise bad("/data/target", f"{uri}: row {row + 1} of {name!r} is {places[row]:g}, which is no class", hint)
    texts[:] = [None if np.isnan(place) else names[int(place)] for place in places.tolist()]
    return texts


def _images(uri: str, found: Any, name: str) -> NDArray[np.float32]:
    import datasets

    raw = found.select_columns([name]).cast_column(name, datasets.Image(decode=False))

    def contents() -> Iterator[tuple[str, Callable[[], bytes]]]:
        for row in range(len(raw)):
            yield f"{uri}: row {row + 1} of {name!r}", partial(_content, raw[row][name])

    return stack_of(len(raw), contents())


def _content(cell: Mapping[str, Any] | None) -> bytes:
    """Of a cell of images: its bytes, or those of the file it names."""
    if cell is None:
        raise ValueError("it is missing")
    if cell["bytes"] is not None:
        content: bytes = cell["bytes"]
        return content
    with open(cell["path"], "rb") as file:
        return file.read()
