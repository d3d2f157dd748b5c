"""Decodes pictures that are all of one size. Pillow is imported where it is used, as in ``storage``."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.storage import MAX_PROBLEMS, content_of
from fairlead.errors import BadData, Problem

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def read_pictures(uri: str, files: Any, root: str, names: list[str]) -> NDArray[np.float32]:
    """All pictures of a folder; see ``stack_of``."""
    paths = ((name, f"{root.rstrip('/')}/{name}") for name in names)
    return stack_of(len(names), ((f"{uri}/{name}", partial(content_of, path, files, path)) for name, path in paths))


def stack_of(num: int, contents: Iterator[tuple[str, Callable[[], bytes]]]) -> NDArray[np.float32]:
    """All pictures, shape (n, channels, height, width), 0 to 255; grey if the first one is, else RGB.

    ``contents``: of each of the ``num`` pictures what errors call it, and what reads its file. Raises ``BadData``
    naming pictures that cannot be read or are of another size.
    """
    problems: list[Problem] = []
    stack: NDArray[np.float32] | None = None
    mode = "L"
    for position, (place, opened) in enumerate(_opened(contents)):
        if isinstance(opened, str):
            problems.append(Problem(pointer="/data/uri", message=f"{place}: {opened}"))
        else:
            mode = ("L" if opened.mode in ("1", "L") else "RGB") if stack is None else mode
            pixels = _pixels(opened.convert(mode))
            stack = np.empty((num, *pixels.shape), np.float32) if stack is None else stack
            if pixels.shape != stack.shape[1:]:
                problems.append(_wrong_size(place, pixels.shape, stack.shape[1:]))
            else:
                stack[position] = pixels
        if len(problems) == MAX_PROBLEMS:
            break
    if problems or stack is None:
        raise BadData("; ".join(problem.message for problem in problems[:3]), problems=tuple(problems))
    return stack


def _opened(contents: Iterator[tuple[str, Callable[[], bytes]]]) -> Iterator[tuple[str, Any]]:
    """Each place with its decoded picture, or with a text that says why there is none."""
    from PIL import Image

    for place, read in contents:
        try:
            picture = Image.open(io.BytesIO(read()))
            picture.load()
        except (BadData, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            yield place, f"the image cannot be read: {str(error).partition(' <')[0]}"
        else:
            yield place, picture


def _pixels(picture: Any) -> NDArray[np.float32]:
    pixels = np.asarray(picture, dtype=np.float32)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _wrong_size(name: str, found: tuple[int, ...], first: tuple[int, ...]) -> Problem:
    message = f"{name}: {found[1]} × {found[2]} pixels (height × width), the first image has {first[1]} × {first[2]}"
    return Problem(pointer="/data/uri", message=message, suggestion="bring all images to one size first")
