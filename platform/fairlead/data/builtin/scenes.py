"""Pictures put together from the handwritten digits, with the mask and the box of each digit known."""

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Source
from fairlead.data.scenes import box_of, boxes_of
from fairlead.errors import BadData, Problem

SIDE = 32
SIZES = (10, 13)
FULL_INK = 16
MASKED_FROM = 4.0
MOST_SCENES = 100_000


def digit_scenes(*, seed: int = 0, rows: int = 898, noise: int = 3) -> Source:
    """Scenes of 32 x 32 pixels with one, two or three digits each, ink from 0 (none) to 16, noise added.

    - As many scenes (to one) have one digit as have two or three. The digits come in an order that the seed shuffles,
      and none comes again before all 1,797 have been used: 898 scenes use every digit once, so that no digit is in two
      splits. In more scenes digits occur again.
    - Each is enlarged from 8 x 8 to k x k pixels by bilinear interpolation, k uniform from 10 to 13. Places are uniform
      among those where no two of these squares overlap.
    - The *mask* of a digit are its pixels with an ink of at least 4; its *box* is the smallest around them.
    - Normal noise is added to every pixel after the masks are known; its standard deviation is ``noise`` per cent of
      full ink.

    Attributes are of the picture: ``digits``, how many there are; ``ink``, ``light`` up to the median over all scenes
    of the mean ink in masks, else ``heavy``.
    Source of the digits: Alpaydin, Kaynak 1998, as in ``builtin://digits``.
    """
    from sklearn.datasets import load_digits

    if rows > MOST_SCENES:
        message = f"digit_scenes makes at most {MOST_SCENES} rows, not {rows}"
        raise BadData(message, problems=(Problem(pointer="/data/uri", message=message),))
    bunch = load_digits()
    random = np.random.RandomState(seed)  # legacy on purpose: its streams are frozen, so a seed names rows for ever
    counts = random.permutation(np.arange(rows) % 3 + 1)
    turns = int(counts.sum()) // len(bunch.images) + 1
    order = np.concatenate([random.permutation(len(bunch.images)) for _ in range(turns)])[: counts.sum()]
    sizes = random.randint(SIZES[0], SIZES[1] + 1, size=(rows, 3))
    corners = _places(random, sizes, is_there=np.arange(3) < counts[:, None])
    pictures, masks = np.zeros((rows, SIDE, SIDE), np.float32), np.zeros((rows, SIDE, SIDE), np.int64)
    boxes: list[NDArray[np.float32]] = []
    for row, digits in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        found = []
        for digit, (left, top), size in zip(digits, corners[row], sizes[row], strict=False):
            ink = _enlarged(bunch.images[digit], int(size))
            square = slice(top, top + size), slice(left, left + size)
            is_masked = ink >= MASKED_FROM
            pictures[row][square] = ink
            masks[row][square][is_masked] = bunch.target[digit] + 1
            found.append([*(box_of(is_masked) + np.array([left, top, left, top])), bunch.target[digit]])
        boxes.append(np.array(found, np.float32))
    ink = (pictures * (masks > 0)).sum(axis=(1, 2)) / (masks > 0).sum(axis=(1, 2))
    if noise:
        pictures += random.normal(scale=noise / 100 * FULL_INK, size=pictures.shape).astype(np.float32)
    return Source(
        uri="builtin://digit_scenes",
        num_rows=rows,
        columns={
            "digits": counts.astype(np.int64),
            "ink": np.where(ink > np.median(ink), "heavy", "light").astype(object),
        },
        kind="scenes",
        array=pictures[:, None],
        targets={"mask": masks, "boxes": boxes_of(boxes)},
        learns="objects",
        details={"classes": [str(digit) for digit in range(10)]},
        level_order={"ink": ("light", "heavy")},
    )


def _places(
    random: np.random.RandomState, sizes: NDArray[np.int64], *, is_there: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Left and top of squares of ``sizes``, shape (rows, 3, 2): rows are drawn until no two in one overlap."""
    corners = np.zeros((*sizes.shape, 2), np.int64)
    left_over = np.arange(len(sizes))
    while len(left_over):
        side = sizes[left_over, :, None]
        drawn = corners[left_over] = random.randint(0, SIDE - side + 1, size=(*side.shape[:2], 2))
        # Whether the first begins beyond the end of the second, across or down.
        apart = np.asarray((drawn[:, :, None] >= (drawn + side)[:, None]).any(axis=3))
        both = is_there[left_over, :, None] & is_there[left_over, None] & ~np.eye(3, dtype=bool)
        left_over = left_over[(both & ~apart & ~apart.swapaxes(1, 2)).any(axis=(1, 2))]
    return corners


def _enlarged(image: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    from PIL import Image

    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR))
