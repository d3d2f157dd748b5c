"""Ranking: who is shown where, and how well ranked lists serve each group.

*Exposure* of a row at rank r is ``1 / log2(1 + r)``: how much of a reader's attention the place gets. A group's
exposure is the mean over its rows. *NDCG* of a query is its discounted sum of relevances over the best possible one;
its unit is the query, so it counts for the group of which all rows of the query are (those of the one who asks);
queries with rows of several groups have no such group, and are counted apart. Source: Singh and Joachims 2018;
Järvelin and Kekäläinen 2002, gains linear as in scikit-learn's ``ndcg_score``.

| array | shape, dtype | holds |
| --- | --- | --- |
| sums | [cells, 7] int64 | n; exposures and their squares times 2**32; relevances times 2**20; queries; NDCG and its
  square times 2**32 |
| queries | [3] int64 | all, those with rows of several cells, those without any relevant row |
| book | [6] uint64 | as in ``cells``; NaN labels are rows without a relevance |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.cells import (
    UNKNOWN,
    Book,
    Incomplete,
    IntArray,
    Key,
    cells_of,
    is_unknown_cell,
    keys_of,
    listed,
    margin,
    refuse_ambiguous,
    refuse_length,
    refuse_unknown_codes,
    shape_of,
    shaped_codes,
)
from fairlead.evaluation.disparities import Disparity, compare
from fairlead.evaluation.encoding import Encoded, digest, encode
from fairlead.evaluation.estimates import Estimates, Plain, SampleMeans
from fairlead.evaluation.intervals import FloatArray
from fairlead.evaluation.metrics import split_aggregate
from fairlead.workload import Attribute

RANKING_METRICS = ("exposure", "exposure_per_relevance", "ndcg_score")
"""``exposure_per_relevance`` is the sum of exposures over that of relevances: its ratio between groups is the
disparate treatment ratio."""
LARGEST_RELEVANCE = 1024.0
_FORMAT = "fairlead-ranking/1"
_SCALE, _RELEVANCE_SCALE = 2.0**32, 2.0**20
_ALL, _MIXED, _IRRELEVANT = range(3)


class RankState:
    """Exposure and NDCG by cell. Raises ``ValueError`` for ambiguous attributes."""

    def __init__(self, *, attributes: Sequence[Attribute]) -> None:
        self.attributes = tuple(attributes)
        refuse_ambiguous(self.attributes)
        self._arrays: dict[str, NDArray[Any]] = {
            "book": np.zeros(6, dtype=np.uint64),
            "queries": np.zeros(3, dtype=np.int64),
            "sums": np.zeros((math.prod(shape_of(self.attributes)), 7), dtype=np.int64),
        }

    @property
    def sums(self) -> IntArray:
        """Sums by cell, shape (cells, 7)."""
        return self._arrays["sums"]

    @property
    def book(self) -> Book:
        """Rows seen, and what proves that they were seen once."""
        return Book(self._arrays["book"])

    @property
    def n_queries(self) -> int:
        """Queries seen."""
        return int(self._arrays["queries"][_ALL])

    @property
    def n_mixed_queries(self) -> int:
        """Queries with rows of several groups: they have exposure, but count for no group's NDCG."""
        return int(self._arrays["queries"][_MIXED])

    @property
    def n_irrelevant_queries(self) -> int:
        """Queries without any relevant row: they have no NDCG."""
        return int(self._arrays["queries"][_IRRELEVANT])

    def update(
        self,
        codes: ArrayLike,
        ranks: ArrayLike,
        relevances: ArrayLike,
        queries: ArrayLike,
        *,
        record_hashes: ArrayLike,
    ) -> None:
        """Add whole queries, in place: all rows of a query must come in one call.

        ``codes``: shape (n, attributes); ``ranks``: 1 for the first; ``relevances``: 0 to 1024, NaN where unknown (such
        a row is entered in the book alone); ``queries``: whole numbers that tell queries apart. All shape (n,). Raises
        ``ValueError`` for values outside these.
        """
        places, wanted = np.asarray(ranks), np.asarray(relevances, dtype=np.float64)
        asked, hashes = np.asarray(queries), np.asarray(record_hashes, dtype=np.uint64)
        levels = shaped_codes(codes, rows=len(places), columns=len(self.attributes))
        for what, values in (("relevances", wanted), ("queries", asked), ("record_hashes", hashes)):
            refuse_length(what, values, len(places))
        refuse_unknown_codes(levels, self.attributes)
        if len(places) and (np.any(places != np.rint(places)) or places.min() < 1):
            raise ValueError("ranks must be whole numbers from 1")
        if np.any((wanted < 0) | (wanted > LARGEST_RELEVANCE)):
            raise ValueError(f"relevances must lie between 0 and {LARGEST_RELEVANCE:g}")
        cells = cells_of(levels, shape_of(self.attributes))
        is_there = ~np.isnan(wanted)
        self.book.enter(
            hashes,
            unknown=int(is_unknown_cell(shape_of(self.attributes))[cells].sum()),
            nan_labels=int(np.count_nonzero(~is_there)),
            nan_scores=0,
        )
        self._count(cells[is_there], places[is_there].astype(np.float64), wanted[is_there], asked[is_there])

    def merge(self, other: "RankState") -> "RankState":
        """The sum of both. Raises ``ValueError`` when they count different things."""
        if self.attributes != other.attributes:
            raise ValueError("only states over the same attributes can be merged")
        merged = RankState(attributes=self.attributes)
        merged._arrays = {name: array + other._arrays[name] for name, array in self._arrays.items()}
        merged._arrays["book"] = self.book.merged(other.book)
        return merged

    def to_bytes(self) -> bytes:
        """Deterministic bytes; see ``encoding``."""
        return encode(self._identity() | {"format": _FORMAT}, self._arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "RankState":
        """Read what ``to_bytes`` wrote. Raises ``ValueError`` for anything else."""
        encoded = Encoded(data)
        header = encoded.header
        if header.get("format") != _FORMAT:
            raise ValueError(f"the format of this evaluation state is {header.get('format')!r}, not {_FORMAT!r}")
        state = cls(
            attributes=[Attribute(name=str(name), levels=tuple(map(str, each))) for name, each in header["attributes"]]
        )
        state._arrays = encoded.restore(state._arrays)
        return state

    def digest(self) -> str:
        """``sha256:`` over the arrays and their meaning."""
        return digest(self._identity(), self._arrays)

    def check_complete(self, *, expected_n: int, expected_sum: int, expected_xor: int) -> Incomplete | None:
        """Whether the state holds exactly the rows of a split."""
        return self.book.check_complete(expected_n=expected_n, expected_sum=expected_sum, expected_xor=expected_xor)

    def _identity(self) -> dict[str, Any]:
        return {"attributes": [[attribute.name, list(attribute.levels)] for attribute in self.attributes]}

    def _count(self, cells: IntArray, ranks: FloatArray, relevances: FloatArray, queries: NDArray[Any]) -> None:
        order = np.lexsort((relevances, ranks, queries))  # sums of floats in one order, whatever order rows came in
        cells, ranks, relevances = cells[order], ranks[order], relevances[order]
        names, query = np.unique(queries[order], return_inverse=True)
        exposure = 1 / np.log2(1 + ranks)
        self._add(0, cells, np.ones(len(cells)))
        self._add(1, cells, np.rint(exposure * _SCALE))
        self._add(2, cells, np.rint(exposure**2 * _SCALE))
        self._add(3, cells, np.rint(relevances * _RELEVANCE_SCALE))
        if not len(names):
            return
        gain = np.bincount(query, weights=relevances * exposure, minlength=len(names))
        best = _best_gains(query, relevances, len(names))
        start = np.searchsorted(query, np.arange(len(names)))
        is_mixed = np.bincount(query, weights=cells != cells[start][query], minlength=len(names)) > 0
        is_relevant = best > 0
        counted = is_relevant & ~is_mixed
        ndcg = np.minimum(gain[counted] / best[counted], 1.0)
        home = cells[start][counted]
        self._add(4, home, np.ones(len(home)))
        self._add(5, home, np.rint(ndcg * _SCALE))
        self._add(6, home, np.rint(ndcg**2 * _SCALE))
        self._arrays["queries"] += np.array([len(names), is_mixed.sum(), (~is_relevant).sum()], dtype=np.int64)

    def _add(self, column: int, cells: IntArray, values: FloatArray) -> None:
        for start in range(0, len(cells), 2**16):  # floats are exact below 2**53
            rows = slice(start, start + 2**16)
            total = np.bincount(cells[rows], weights=values[rows], minlength=len(self.sums))
            self.sums[:, column] += total.astype(np.int64)


def _best_gains(query: IntArray, relevances: FloatArray, num_queries: int) -> FloatArray:
    """Discounted sum of relevances had the most relevant come first."""
    order = np.lexsort((-relevances, query))
    start = np.searchsorted(query, np.arange(num_queries))
    place = np.arange(len(query)) - start[query]
    gains = relevances[order] / np.log2(2 + place)
    return np.asarray(np.bincount(query, weights=gains, minlength=num_queries), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankGroups:
    """Groups of one grouping, as in ``groups.Grouping``; ``sums``: shape (groups, 7)."""

    by: tuple[str, ...]
    keys: tuple[Key, ...]
    sums: IntArray

    @property
    def sizes(self) -> IntArray:
        """Rows of each group."""
        return self.sums[:, 0]

    @property
    def is_unknown(self) -> NDArray[np.bool_]:
        """Groups with a missing level."""
        return np.array([UNKNOWN in key for key in self.keys], dtype=bool)


def rank_grouping(state: RankState, by: Sequence[str] = ()) -> RankGroups:
    """Sum the cells over all attributes but ``by``. Raises ``ValueError`` for an unknown attribute."""
    keys = keys_of(state.attributes, by)
    sums = margin(state.attributes, state.sums, by)
    chosen = listed(keys, sums[:, 0])
    return RankGroups(by=tuple(by), keys=tuple(keys[index] for index in chosen), sums=sums[chosen])


def rank_estimates(metric: str, groups: RankGroups) -> Estimates:
    """One of ``RANKING_METRICS`` for each group. Raises ``ValueError`` for another."""
    n, exposures, squares, relevances, queries, ndcg, ndcg_squares = groups.sums.T
    match metric:
        case "exposure":
            return _means(n, exposures / _SCALE, squares / _SCALE, "empty")
        case "ndcg_score":
            return _means(queries, ndcg / _SCALE, ndcg_squares / _SCALE, "no_query_of_its_own")
        case "exposure_per_relevance":
            wanted = relevances / _RELEVANCE_SCALE
            values = np.where(wanted > 0, exposures / _SCALE / np.where(wanted > 0, wanted, 1.0), np.nan)
            return Plain(values=values, support=n, undefined="no_relevance")
        case _:
            raise ValueError(f"{metric!r} is no metric of ranking; there are {', '.join(RANKING_METRICS)}")


def _means(n: IntArray, totals: FloatArray, squares: FloatArray, undefined: str) -> SampleMeans:
    rows = np.maximum(n, 1)
    means = totals / rows
    spread = np.maximum(squares - rows * means**2, 0.0)
    variances = np.where(n > 1, spread / np.maximum(n - 1, 1), np.nan)
    return SampleMeans(rows=n, means=means, variances=variances, undefined=undefined)


def rank_disparity(name: str, groups: RankGroups, overall: RankGroups, *, alpha: float, min_support: int) -> Disparity:
    """A gap, ratio or extreme such as ``exposure_ratio``, as ``disparities.disparity``."""
    metric, aggregate = split_aggregate(name)
    return compare(
        name,
        aggregate=aggregate,
        estimates=rank_estimates(metric, groups),
        total=rank_estimates(metric, overall),
        by=groups.by,
        is_unknown=groups.is_unknown,
        alpha=alpha,
        min_support=min_support,
    )
