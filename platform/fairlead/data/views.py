"""Pictures of one scene from known places: a ``transforms.json``, as Blender's exporters for radiance fields write it.

A *pose* is a matrix of shape (3, 4), camera to world: columns are the camera's right, up and backward directions and
its place. A camera looks along its negative z axis; ``focal`` is in pixels, the middle of the picture in the axis.
"""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, Source, column_of
from fairlead.errors import BadData, Problem

TRANSFORMS = "transforms.json"
MAX_PROBLEMS = 20
NEAR_SHARE, FAR_SHARE = 0.5, 1.5
"""Where a file names no ``near`` and ``far``: shares of the least and greatest distance of a camera to the origin."""
_OWN_FIELDS = ("file_path", "transform_matrix")


class Flaw(ValueError):
    """What is wrong with one file or frame."""


def views_source(
    uri: str, pictures: NDArray[np.float32], poses: NDArray[np.float32], *, focal: float, **fields: Any
) -> Source:
    """Views as a source. ``pictures``: (n, 3, height, width), 0 to 255; ``poses``: (n, 3, 4); ``focal``: in pixels.

    ``fields``: those of ``Source``; ``near`` and ``far``, in units of the poses, are put into its details.
    """
    distances = np.linalg.norm(poses[:, :, 3], axis=1)
    near = fields.pop("near", None)
    far = fields.pop("far", None)
    details = {
        "focal": float(focal),
        "near": float(NEAR_SHARE * distances.min() if near is None else near),
        "far": float(FAR_SHARE * distances.max() if far is None else far),
    }
    return Source(
        uri=uri,
        num_rows=len(pictures),
        kind="views",
        array=pictures,
        targets={"pose": poses},
        learns="colours along rays",
        details=details,
        **fields,
    )


def find_transforms(files: Any, root: str) -> str | None:
    """The transforms file that ``root`` is, such as ``transforms_train.json``, or holds as a folder; else None."""
    name = root.rpartition("/")[2]
    if name.startswith("transforms") and name.endswith(".json"):
        return root
    inside = f"{root.rstrip('/')}/{TRANSFORMS}"
    return inside if files.isdir(root) and files.exists(inside) else None


def read_views(uri: str, files: Any, path: str) -> Source:
    """All frames of the transforms file at ``path``; their other fields become columns.

    Raises ``BadData`` naming the frame and its file, up to ``MAX_PROBLEMS`` of them.
    """
    where = uri if uri.endswith(".json") else f"{uri.rstrip('/')}/{TRANSFORMS}"
    try:
        document = json.loads(files.cat_file(path))
        frames, angle, bounds = _frames(document), _angle(document), _bounds(document)
    except (ValueError, UnicodeDecodeError) as error:
        raise _bad([f"{where}: {error}"]) from error
    folder = path.rpartition("/")[0]
    problems: list[str] = []
    pictures: list[NDArray[np.float32]] = []
    poses: list[NDArray[np.float32]] = []
    for number, frame in enumerate(frames, start=1):
        try:
            poses.append(_pose(frame))
            pictures.append(_picture(files, folder, str(frame["file_path"])))
            if pictures[-1].shape != pictures[0].shape:
                raise Flaw("{} × {} pixels, the first has {} × {}".format(*_sides(pictures[-1]), *_sides(pictures[0])))
        except Flaw as flaw:
            problems.append(f"{where}: frame {number}, {frame.get('file_path')}: {flaw}")
            if len(problems) == MAX_PROBLEMS:
                break
    if problems:
        raise _bad(problems)
    names = [str(frame["file_path"]) for frame in frames]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _bad([f"{where}: {twice[0]} is listed twice"])
    stacked = np.stack(pictures)
    focal = stacked.shape[3] / 2 / math.tan(angle / 2)
    columns, ids = _columns(frames), np.array(names, dtype=object)
    return views_source(uri, stacked, np.stack(poses), focal=focal, columns=columns, ids=ids, **bounds)


def _bad(messages: Sequence[str]) -> BadData:
    return BadData("; ".join(messages[:3]), problems=tuple(Problem(pointer="/data/uri", message=m) for m in messages))


def _sides(picture: NDArray[Any]) -> tuple[int, int]:
    return picture.shape[2], picture.shape[1]


def _frames(document: Any) -> list[dict[str, Any]]:
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise Flaw("there must be a list 'frames' with one object a picture")
    return frames


def _angle(document: Mapping[str, Any]) -> float:
    """The angle of view from the left to the right edge, in radians."""
    angle = document.get("camera_angle_x")
    if not isinstance(angle, int | float) or not 0 < angle < math.pi:
        raise Flaw(f"camera_angle_x must be a number of radians between 0 and pi, not {angle!r}")
    return float(angle)


def _bounds(document: Mapping[str, Any]) -> dict[str, float]:
    given = {name: document[name] for name in ("near", "far") if name in document}
    if not given:
        return {}
    if len(given) < 2 or not all(isinstance(one, int | float) for one in given.values()):
        raise Flaw("near and far must both be numbers, or both be left out")
    if not 0 <= given["near"] < given["far"] < math.inf:
        raise Flaw(f"near must not be below 0 and be below far, not {given['near']:g} and {given['far']:g}")
    return given


def _pose(frame: Mapping[str, Any]) -> NDArray[np.float32]:
    if not isinstance(frame.get("file_path"), str):
        raise Flaw("file_path is missing")
    try:
        matrix = np.array(frame.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Flaw("transform_matrix must hold 4 rows of 4 numbers") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise Flaw("transform_matrix must hold 4 rows of 4 numbers")
    turn = matrix[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-2) or np.linalg.det(turn) < 0:
        raise Flaw("the first three columns of transform_matrix must be a rotation, neither stretched nor mirrored")
    return matrix[:3].astype(np.float32)


def _picture(files: Any, folder: str, name: str) -> NDArray[np.float32]:
    """Shape (3, height, width), 0 to 255; what is transparent is white."""
    from PIL import Image

    path = f"{folder}/{name}" if os.path.splitext(name)[1] else f"{folder}/{name}.png"
    try:
        picture = Image.open(io.BytesIO(files.cat_file(path))).convert("RGBA")
    except FileNotFoundError as error:
        raise Flaw("there is no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Flaw(f"the image cannot be read: {str(error).partition(' <')[0]}") from error
    white = Image.new("RGBA", picture.size, "white")
    pixels = np.asarray(Image.alpha_composite(white, picture).convert("RGB"), dtype=np.float32)
    return np.moveaxis(pixels, 2, 0)


def _columns(frames: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Fields with one value a frame, such as a name of the light or an angle."""
    import pandas

    names = dict.fromkeys(name for frame in frames for name in frame if name not in _OWN_FIELDS)
    values = {name: [frame.get(name) for frame in frames] for name in names}
    plain = {name: found for name, found in values.items() if not any(isinstance(one, list | dict) for one in found)}
    return {name: column_of(pandas.Series(found)) for name, found in plain.items()}
