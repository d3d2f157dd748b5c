"""Numbers as words of 26 bits, whose sums are whole numbers: exact, and the same in whatever order they are added.

A word of a row is below 2**28, so that 65,536 rows of them stay below 2**53, where floats hold whole numbers exactly,
and 2**34 rows below what an int64 holds. Words come most significant first.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.cells import IntArray
from fairlead.evaluation.intervals import FloatArray

WORD_BITS = 26
_RADIX = 2**WORD_BITS
_LOW = _RADIX - 1


def fraction_words(values: FloatArray, words: int) -> Iterator[FloatArray]:
    """Numbers from 0 to 1 in units of ``2**(-26 * words)``, rounded to the nearest; any shape."""
    rest = values
    for _ in range(words - 1):
        scaled = rest * _RADIX
        whole = np.floor(scaled)
        yield whole
        rest = scaled - whole  # exact: both are multiples of the last bit
    yield np.rint(rest * _RADIX)


def whole_words(values: IntArray) -> tuple[FloatArray, FloatArray]:
    """Whole numbers of up to 52 bits and a sign, as two words; the sign is the high one's."""
    return (values >> WORD_BITS).astype(np.float64), (values & _LOW).astype(np.float64)


def square_words(values: IntArray) -> tuple[FloatArray, ...]:
    """Squares of whole numbers from 0 to 2**52, as four words."""
    high, low = values >> WORD_BITS, values & _LOW
    first, second, third = high * high, 2 * high * low, low * low
    words = (
        first >> WORD_BITS,
        (first & _LOW) + (second >> WORD_BITS),
        (second & _LOW) + (third >> WORD_BITS),
        third & _LOW,
    )
    return tuple(word.astype(np.float64) for word in words)


def add_words(sums: IntArray, at: IntArray, words: Sequence[FloatArray]) -> None:
    """Add rows to ``sums``, shape (places, words), in place; ``at``: each row's place. At most 65,536 rows."""
    for column, numbers in enumerate(words):
        sums[:, column] += np.bincount(at, weights=numbers, minlength=len(sums)).astype(np.int64)


def total(words: Sequence[int]) -> int:
    """The whole number that summed words stand for."""
    found = 0
    for word in words:
        found = (found << WORD_BITS) + int(word)
    return found


def fractions_of(sums: NDArray[np.int64]) -> FloatArray:
    """What sums of ``fraction_words`` stand for, shape of ``sums`` without its last axis."""
    scales = np.ldexp(1.0, -WORD_BITS * np.arange(1, sums.shape[-1] + 1))
    return np.asarray((sums * scales).sum(axis=-1), dtype=np.float64)
