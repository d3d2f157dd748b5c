"""Sheets of pictures: every picture and caption has its place."""

import io

import numpy as np
import pytest
from PIL import Image

from fairlead.data.sheets import mistakes_sheet, points, sheet


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(("num", "channels"), [(1, 1), (7, 1), (7, 3), (0, 1)])
def test_a_sheet_grows_with_its_pictures(num: int, channels: int) -> None:
    pictures = np.random.RandomState(0).rand(num, channels, 8, 8).astype(np.float32)
    width, height = opened(sheet(pictures, ["word"] * num)).size
    assert (width > 6 * 72) == (num == 7)
    assert (height > 2 * 72) == (num == 7)


def test_the_brightest_pixel_is_white_and_the_darkest_black() -> None:
    picture = np.array([[[[3.0, 7.0]]]], dtype=np.float32)
    page = opened(sheet(picture, [""]))
    assert (page.getpixel((7, 7)), page.getpixel((7 + 72, 7))) == ((0, 0, 0), (255, 255, 255))


def test_the_surest_mistakes_are_shown_and_no_hit() -> None:
    pictures = np.zeros((4, 1, 8, 8), dtype=np.float32)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    one, two = (
        mistakes_sheet(pictures, scores, np.array(labels), ("a", "b")) for labels in ([0, 0, 1, 0], [1, 0, 1, 0])
    )
    assert opened(two).width > opened(one).width


def test_points_have_a_colour_a_class() -> None:
    page = opened(points(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0, 1]), ("a", "b"), title="t"))
    colours = {colour for _, colour in page.convert("RGB").getcolors(maxcolors=10_000) or ()}
    assert {(31, 119, 180), (255, 127, 14)} <= colours
