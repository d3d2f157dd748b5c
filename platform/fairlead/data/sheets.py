"""Sheets of small pictures with captions, as PNG: for the samples that a workload shows."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CAPTION_PIXELS = 14
GAP_PIXELS = 6
LEAST_PIXELS = 72
"""Pictures are enlarged by a whole number until their shorter side has at least so many pixels."""


def sheet(pictures: NDArray[np.float32], captions: Sequence[str], *, columns: int = 6) -> bytes:
    """A PNG with ``columns`` pictures a row, each with its caption below.

    ``pictures``: shape (n, channels, height, width) with one channel or three, in any unit: the lowest value of all
    becomes black and the highest white. ``captions``: n texts. Without pictures the sheet says so.
    """
    if len(pictures) == 0:
        return _png(_with_words("nothing to show"))
    low, high = float(pictures.min()), float(pictures.max())
    pixels = ((pictures - low) * (255 / (high - low if high > low else 1))).astype(np.uint8)
    scale = max(1, -(-LEAST_PIXELS // min(pixels.shape[2:])))
    height, width = pixels.shape[2] * scale, max(pixels.shape[3] * scale, *(_width(text) for text in captions))
    rows = -(-len(pixels) // columns)
    page = Image.new("RGB", (_span(min(columns, len(pixels)), width), _span(rows, height + CAPTION_PIXELS)), "white")
    draw = ImageDraw.Draw(page)
    for place, (one, caption) in enumerate(zip(pixels, captions, strict=True)):
        left = GAP_PIXELS + place % columns * (width + GAP_PIXELS)
        top = GAP_PIXELS + place // columns * (height + CAPTION_PIXELS + GAP_PIXELS)
        page.paste(enlarged(one, scale), (left, top))
        draw.text((left, top + height + 1), caption, fill="black")
    return _png(page)


def enlarged(picture: NDArray[np.uint8], scale: int) -> Image.Image:
    """A picture, shape (channels, height, width), with each pixel a square of ``scale``."""
    channels = picture.repeat(3, axis=0) if len(picture) == 1 else picture[:3]
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(channels, 0, 2)))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def mistakes_sheet(
    pictures: NDArray[np.float32],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    most: int = 12,
) -> bytes:
    """The pictures that were taken for another class, the surest mistakes first, as ``sheet`` draws them.

    ``scores``: probabilities, shape (n, classes). A caption reads ``5 for 9, 0.98``: said, true, how sure.
    """
    said = scores.argmax(axis=1)
    wrong = np.flatnonzero(said != labels)
    wrong = wrong[np.argsort(-scores[wrong, said[wrong]], kind="stable")][:most]
    captions = [f"{classes[said[at]]} for {classes[labels[at]]}, {scores[at, said[at]]:.2f}" for at in wrong]
    return sheet(pictures[wrong], captions)


def points(places: NDArray[np.float64], labels: NDArray[np.int64], classes: Sequence[str], *, title: str) -> bytes:
    """Points on a plane, coloured by class and with a legend, as PNG. ``places``: shape (n, 2)."""
    side, margin = 480, 40
    page = Image.new("RGB", (side + 2 * margin + 80, side + 2 * margin), "white")
    draw = ImageDraw.Draw(page)
    draw.text((margin, margin // 3), title, fill="black")
    draw.rectangle((margin - 8, margin - 8, margin + side + 8, margin + side + 8), outline=(190, 190, 190))
    low, high = places.min(axis=0, initial=0.0), places.max(axis=0, initial=0.0)
    placed = margin + (places - low) / np.where(high > low, high - low, 1.0) * side
    for (across, up), label in zip(placed.tolist(), labels.tolist(), strict=True):
        down = side + 2 * margin - up
        draw.ellipse((across - 3, down - 3, across + 3, down + 3), fill=COLOURS[label % len(COLOURS)])
    for place, name in enumerate(classes[:24]):
        top = margin + place * 18
        draw.ellipse((side + margin + 24, top + 1, side + margin + 34, top + 11), fill=COLOURS[place % len(COLOURS)])
        draw.text((side + margin + 40, top), name[:8], fill="black")
    return _png(page)


COLOURS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (127, 127, 127),
    (188, 189, 34),
    (23, 190, 207),
)
"""Ten that people tell apart."""


def _width(text: str) -> int:
    return int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)) + 2


def _span(num: int, pixels: int) -> int:
    return GAP_PIXELS + num * (pixels + GAP_PIXELS)


def _with_words(words: str) -> Image.Image:
    page = Image.new("RGB", (_width(words) + 2 * GAP_PIXELS, CAPTION_PIXELS + 2 * GAP_PIXELS), "white")
    ImageDraw.Draw(page).text((GAP_PIXELS, GAP_PIXELS), words, fill="black")
    return page


def _png(page: Image.Image) -> bytes:
    content = io.BytesIO()
    page.save(content, format="PNG", optimize=True)
    return content.getvalue()
