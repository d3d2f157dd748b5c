"""Pictures with objects in them: a mask and boxes for each, made up or read from a folder in COCO's format.

A *mask* has the class of every pixel, int64, shape (height, width): 0 is background, i + 1 the i-th of
``details["classes"]``. *Boxes*, float32, shape (objects, 5), are left, top, right, bottom and the class, in pixels from
the upper left corner of the picture; right and bottom are where the next pixel would begin.

Source of the format: Lin et al. 2014, Microsoft COCO. pycocotools is imported where it is used, as in ``storage``.
"""

import json
import math
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.data.columns import Column, Source
from fairlead.data.pictures import PICTURE_ENDINGS, read_pictures
from fairlead.data.storage import MAX_PROBLEMS, bad, content_of
from fairlead.errors import BadData, Problem

BEYOND = 1.0
"""So many pixels a box or an outline may reach beyond its picture, as rounded numbers do; it is cut off there."""
_OF_COCO = frozenset({"license", "coco_url", "flickr_url", "date_captured"})


class _Image(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int
    file_name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class _Runs(BaseModel):
    """Run-length encoding: lengths of runs of outside and inside in turn, down the columns; as text: COCO's packing."""

    size: tuple[int, int]
    counts: list[int] | str


class _Annotation(BaseModel):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    """Left, top, width and height."""
    segmentation: list[list[float]] | _Runs | None = None
    iscrowd: bool = False


class _Category(BaseModel):
    id: int
    name: str


class _Document(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def find_annotations(uri: str, files: Any, root: str) -> str | None:
    """The name of the folder's COCO document, ``annotations.json`` or ``instances*.json``; None if it has none.

    It lies in the folder or in its ``annotations/``. Raises ``BadData`` where there are several.
    """
    start = root.rstrip("/")
    places = [place for place in (start, f"{start}/annotations") if files.isdir(place)]
    listed = [str(path) for place in places for path in files.ls(place, detail=False)]
    names = sorted({posixpath.relpath(path, start) for path in listed if _is_annotations(path)})
    if len(names) > 1:
        message = f"{uri}: it holds several documents of annotations: {', '.join(names)}"
        raise bad("/data/uri", message, "give each a folder of its own, with its pictures")
    return names[0] if names else None


def _is_annotations(path: str) -> bool:
    name = posixpath.basename(path)
    return name == "annotations.json" or (name.startswith("instances") and name.endswith(".json"))


def read_coco(uri: str, files: Any, root: str, name: str) -> Source:
    """The folder's pictures with the boxes of document ``name``, and masks where every annotation has an outline.

    Columns: ``objects``, how many a picture has, and whatever else the document says of each image in plain values.
    Raises ``BadData`` naming file, image and annotation, ``StorageAway`` where the storage fails.
    """
    where = f"{uri}/{name}"
    document = _parsed(where, content_of(where, files, f"{root.rstrip('/')}/{name}"))
    _refuse(_flaws_of_document(document), where)
    _refuse(_flaws_of_annotations(document), where)
    images = sorted(document.images, key=lambda image: image.file_name)
    pictures = read_pictures(uri, files, root, _paths(uri, where, files, root, images))
    _refuse(_flaws_of_sizes(images, pictures), where)
    classes = [category.name for category in sorted(document.categories, key=lambda category: category.id)]
    index = {category.id: classes.index(category.name) for category in document.categories}
    by_image: dict[int, list[_Annotation]] = {image.id: [] for image in images}
    for annotation in document.annotations:
        by_image[annotation.image_id].append(annotation)
    boxes = [_boxes(image, by_image[image.id], index) for image in images]
    targets: dict[str, NDArray[Any]] = {"boxes": boxes_of(boxes)}
    if all(annotation.segmentation for annotation in document.annotations):
        targets["mask"] = _masks(where, images, by_image, index)
    return Source(
        uri=uri,
        num_rows=len(images),
        columns={**_columns(images), "objects": np.array([len(one) for one in boxes], np.int64)},
        kind="scenes",
        array=pictures,
        targets=targets,
        learns="objects",
        details={"classes": classes},
        ids=_as_objects([image.file_name for image in images]),
    )


def box_of(is_inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Left, top, right and bottom of the smallest box around the true pixels, of which there must be some."""
    rows, columns = np.flatnonzero(is_inside.any(axis=1)), np.flatnonzero(is_inside.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def boxes_of(boxes: Sequence[NDArray[np.float32]]) -> NDArray[Any]:
    """The boxes of each picture as one array of objects, shape (rows,)."""
    return _as_objects(boxes)


def _as_objects(items: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(items), dtype=object)
    for position, item in enumerate(items):  # numpy would make one array of what happens to have one shape
        array[position] = item
    return array


def _parsed(where: str, content: bytes) -> _Document:
    try:
        return _Document.model_validate(json.loads(content))
    except UnicodeDecodeError as error:
        raise bad("/data/uri", f"{where}: this is not UTF-8 text: {error}") from error
    except ValidationError as error:
        flaws = [f"{'.'.join(map(str, flaw['loc'])) or 'document'}: {flaw['msg']}" for flaw in error.errors()]
        _refuse(iter(flaws), where)
        raise
    except ValueError as error:
        raise bad("/data/uri", f"{where}: this is not JSON: {error}") from error


def _refuse(flaws: Iterator[str], where: str) -> None:
    """Raise ``BadData`` with the first flaws, if there are any."""
    found = [flaw for flaw, _ in zip(flaws, range(MAX_PROBLEMS), strict=False)]
    if found:
        problems = tuple(Problem(pointer="/data/uri", message=f"{where}: {flaw}") for flaw in found)
        raise BadData("; ".join(problem.message for problem in problems[:3]), problems=problems)


def _flaws_of_document(document: _Document) -> Iterator[str]:
    if not document.images:
        yield "images is empty"
    if not document.categories:
        yield "categories is empty"
    yield from _repeated("image", [image.id for image in document.images])
    yield from _repeated("annotation", [annotation.id for annotation in document.annotations])
    yield from _repeated("category", [category.id for category in document.categories])
    yield from _repeated("file_name", [image.file_name for image in document.images])
    yield from _repeated("category name", [category.name for category in document.categories])
    sizes = Counter((image.width, image.height) for image in document.images)
    width, height = sizes.most_common(1)[0][0] if sizes else (0, 0)
    for image in document.images:
        if (image.width, image.height) != (width, height):
            yield (
                f"image {image.id} ({image.file_name}) is {image.width} x {image.height}, most are {width} x {height}: "
                "bring all images to one size first"
            )


def _repeated(what: str, values: Iterable[int | str]) -> Iterator[str]:
    return (f"{what} {value!r} occurs {count} times" for value, count in Counter(values).items() if count > 1)


def _flaws_of_annotations(document: _Document) -> Iterator[str]:
    images = {image.id: image for image in document.images}
    categories = {category.id for category in document.categories}
    for annotation in document.annotations:
        if annotation.image_id not in images:
            yield f"annotation {annotation.id} is of image {annotation.image_id}, which images does not list"
        elif flaw := _flaw_of(annotation, images[annotation.image_id], categories):
            yield f"annotation {annotation.id} of {images[annotation.image_id].file_name}: {flaw}"


def _flaw_of(annotation: _Annotation, image: _Image, categories: set[int]) -> str | None:
    """Why the annotation cannot be used, or None."""
    left, top, width, height = annotation.bbox
    if annotation.category_id not in categories:
        return f"its category {annotation.category_id} is not listed in categories"
    if annotation.iscrowd:
        return "iscrowd is set, and a crowd has no box of its own; annotate its members or leave it out"
    if not all(map(math.isfinite, annotation.bbox)) or width <= 0 or height <= 0:
        return f"its box is {width:g} wide and {height:g} high"
    if _is_beyond((left, left + width), image.width) or _is_beyond((top, top + height), image.height):
        return (
            f"its box ({left:g}, {top:g}, {left + width:g}, {top + height:g}) reaches beyond "
            f"the picture of {image.width} x {image.height}"
        )
    match annotation.segmentation:
        case _Runs(size=size) if size != (image.height, image.width):
            return f"its segmentation is for {size[1]} x {size[0]}, the picture is {image.width} x {image.height}"
        case _Runs(counts=list(counts)) if min(counts, default=-1) < 0 or sum(counts) != image.width * image.height:
            return f"the runs of its segmentation add up to {sum(counts)}, not to {image.width * image.height} pixels"
        case list(polygons):
            return next(filter(None, (_flaw_of_polygon(points, image) for points in polygons)), None)
    return None


def _flaw_of_polygon(points: list[float], image: _Image) -> str | None:
    if len(points) < 6 or len(points) % 2:
        return f"a polygon of its segmentation has {len(points)} numbers, and needs x and y of 3 points or more"
    if _is_beyond(points[::2], image.width) or _is_beyond(points[1::2], image.height):
        return f"a polygon of its segmentation reaches beyond the picture of {image.width} x {image.height}"
    return None


def _is_beyond(values: Iterable[float], size: int) -> bool:
    """Whether any value is outside the picture, or no number."""
    return not all(-BEYOND <= value <= size + BEYOND for value in values)


def _paths(uri: str, where: str, files: Any, root: str, images: Sequence[_Image]) -> list[str]:
    """Below ``root``, the file of each image: the one whose path is or ends in its ``file_name``."""
    start = root.rstrip("/")
    by_end: dict[str, list[str]] = {}
    for path in map(str, files.find(root)):
        name = posixpath.relpath(path, start)
        if name.lower().endswith(PICTURE_ENDINGS):
            parts = name.split("/")
            for place in range(len(parts)):
                by_end.setdefault("/".join(parts[place:]), []).append(name)
    found = {image.file_name: by_end.get(image.file_name, []) for image in images}
    flaws = (
        f"image {image.id} is {image.file_name!r}, and {len(found[image.file_name]) or 'no'} such pictures are in {uri}"
        for image in images
        if len(found[image.file_name]) != 1
    )
    _refuse(flaws, where)
    return [found[image.file_name][0] for image in images]


def _flaws_of_sizes(images: Sequence[_Image], pictures: NDArray[np.float32]) -> Iterator[str]:
    height, width = pictures.shape[2:]
    for image in images:
        if (image.height, image.width) != (height, width):
            yield f"image {image.id} is {image.width} x {image.height}, its file {image.file_name} {width} x {height}"


def _boxes(image: _Image, annotations: Sequence[_Annotation], index: Mapping[int, int]) -> NDArray[np.float32]:
    """Shape (objects, 5); see the module."""
    sides = np.array([annotation.bbox for annotation in annotations], np.float32).reshape(-1, 4)
    corners = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)
    corners = corners.clip(0, np.array([image.width, image.height] * 2, np.float32))
    classes = np.array([index[annotation.category_id] for annotation in annotations], np.float32)
    return np.concatenate([corners, classes[:, None]], axis=1)


def _masks(
    where: str, images: Sequence[_Image], by_image: Mapping[int, Sequence[_Annotation]], index: Mapping[int, int]
) -> NDArray[np.int64]:
    """Shape (rows, height, width); where objects overlap, the one that comes later in the document is in front."""
    masks = np.zeros((len(images), images[0].height, images[0].width), np.int64)
    flaws = []
    for mask, image in zip(masks, images, strict=True):
        for annotation in by_image[image.id]:
            try:
                mask[_inside(annotation, image)] = index[annotation.category_id] + 1
            except ValueError as error:
                flaws.append(f"annotation {annotation.id} of {image.file_name}: {error}")
    _refuse(iter(flaws), where)
    return masks


def _inside(annotation: _Annotation, image: _Image) -> NDArray[np.bool_]:
    """Which pixels the outline has within, by COCO's own rule."""
    from pycocotools import mask as runs

    outline = annotation.segmentation
    if not isinstance(outline, _Runs):
        return np.asarray(runs.decode(runs.merge(runs.frPyObjects(outline, image.height, image.width))), dtype=bool)
    encoded: Any = {"size": list(outline.size), "counts": outline.counts}
    if isinstance(outline.counts, list):
        return np.asarray(runs.decode(runs.frPyObjects(encoded, image.height, image.width)), dtype=bool)
    inside = runs.decode(encoded)
    # Packed runs are not checked by who unpacks them: what does not cover the picture gives other runs when packed.
    if runs.encode(inside)["counts"] != outline.counts.encode():
        raise ValueError("its packed runs do not cover the picture")
    return np.asarray(inside, dtype=bool)


def _columns(images: Sequence[_Image]) -> dict[str, Column]:
    """What else is said of each image, by name, where it is numbers or texts; missing values are missing there too."""
    names = sorted({name for image in images for name in image.model_extra or {}} - _OF_COCO - {"objects"})
    found = {name: [(image.model_extra or {}).get(name) for image in images] for name in names}
    return {name: _column(values) for name, values in found.items() if not _has_parts(values)}


def _has_parts(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list | dict) for value in values)


def _column(values: Sequence[Any]) -> Column:
    types = {type(value) for value in values}
    if types == {int}:
        return np.array(values, np.int64)
    if types <= {int, float, type(None)} and types != {type(None)}:
        return np.array([math.nan if value is None else value for value in values], np.float64)
    return _as_objects([None if value is None else str(value) for value in values])
