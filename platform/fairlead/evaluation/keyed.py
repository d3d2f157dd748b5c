"""Replicates that depend on a record alone: each gives a row a Poisson(1) weight found from its hash.

Resampling rows one by one is needed only where counts cannot be resampled: rows in clusters, rows with weights,
statistics of the user's own. Replicate r weighs a row by where ``splitmix64(hash XOR key(r))`` falls among the
quantiles of Poisson(1). So replicates do not depend on sharding, nor on any library's random generator.
Sources: Chamandy et al. 2012 (Poisson bootstrap by hash); Steele, Lea, Flood 2014 (splitmix64).
"""

import math

import numpy as np
from numpy.typing import NDArray

UIntArray = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
LARGEST_WEIGHT = 15
"""The chance of a larger one is below 2**-44."""


def splitmix64(values: UIntArray) -> UIntArray:
    """A well-mixed 64-bit number for each of ``values``, any shape; arithmetic wraps."""
    mixed = values + _GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def replicate_keys(replicates: int, *, seed: int) -> UIntArray:
    """One key for each replicate, shape (replicates,)."""
    start = splitmix64(np.array([seed], dtype=np.uint64))
    return splitmix64(np.arange(replicates, dtype=np.uint64) + start)


def poisson_weights(hashes: UIntArray, key: np.uint64) -> NDArray[np.int64]:
    """Poisson(1) weights of rows in one replicate; ``hashes``: shape (n,)."""
    return np.searchsorted(_THRESHOLDS, splitmix64(hashes ^ key), side="right")


def _thresholds() -> UIntArray:
    """Distribution function of Poisson(1) times 2**64: a weight is the number of thresholds not exceeded."""
    chances = [math.exp(-1) / math.factorial(count) for count in range(LARGEST_WEIGHT)]
    sums = [math.fsum(chances[: count + 1]) for count in range(LARGEST_WEIGHT)]
    return np.array([min(int(total * 2**64), 2**64 - 1) for total in sums], dtype=np.uint64)


_THRESHOLDS = _thresholds()
