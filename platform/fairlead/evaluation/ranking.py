"""Ranking: who is shown where, and how well ranked lists serve each group.

*Exposure* of a row at rank r is ``1 / log2(1 + r)``: how much of a reader's attention the place gets; rows that share
places share their exposure. A group's exposure is the mean over its rows. *NDCG* of a query is its discounted sum of
relevances over the best possible one; its unit is the query, so it counts for the group of which all rows of the query
are (those of the one who asks); queries with rows of several groups have no such group, and count in the mean over all
rows alone. A query of one row or without any relevant one has no NDCG. Source: Singh and Joachims 2018; Järvelin and
Kekäläinen 2002, gains linear and ties averaged as in scikit-learn's ``ndcg_score``.

Rows of one query compete for places, so exposures of a list are not independent: their spread is found by leaving out
queries, a hundredth of them at a time (see ``Jackknifed``).

| array | shape, dtype | holds |
| --- | --- | --- |
| exposure | [cells, 100, 5] int64 | by bucket of queries: rows, exposures and relevances, two words each |
| ndcg | [query cells, 5] int64 | queries with an NDCG, sums of it and of its square, two words each |
| queries | [4] int64 | all, those with rows of several cells, those without any relevant row, those of one row |
| book | [6] uint64 | as in ``cells``; NaN labels are rows without a relevance |

A query's cell is that of its rows; each attribute has one more level, "several", after the unknown one. See ``words``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.cells import (
    CHUNK_ROWS,
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
    refuse_large,
    refuse_length,
    refuse_unknown_codes,
    shape_of,
    shaped_codes,
)
from fairlead.evaluation.disparities import Disparity, compare
from fairlead.evaluation.encoding import Encoded, digest, encode
from fairlead.evaluation.estimates import Estimates, Jackknifed, SampleMeans
from fairlead.evaluation.intervals import FloatArray
from fairlead.evaluation.keyed import splitmix64
from fairlead.evaluation.metrics import RANKING_METRICS, split_aggregate
from fairlead.evaluation.words import add_words, fraction_words, fractions_of
from fairlead.workload import Attribute

LARGEST_RELEVANCE = 1024.0
BUCKETS = 100
_FORMAT = "fairlead-ranking/2"
_ALL, _MIXED, _IRRELEVANT, _SINGLE = range(4)


class RankState:
    """Exposure and NDCG by cell. Raises ``ValueError`` for ambiguous attributes, and a state of more than 64 MB."""

    def __init__(self, *, attributes: Sequence[Attribute]) -> None:
        self.attributes = tuple(attributes)
        refuse_ambiguous(self.attributes)
        cells, query_cells = (math.prod(shape_of(each)) for each in (self.attributes, self._of_queries))
        refuse_large(self.attributes, 8 * (cells * BUCKETS * 5 + query_cells * 5))
        self._arrays: dict[str, NDArray[Any]] = {
            "book": np.zeros(6, dtype=np.uint64),
            "exposure": np.zeros((cells, BUCKETS, 5), dtype=np.int64),
            "ndcg": np.zeros((query_cells, 5), dtype=np.int64),
            "queries": np.zeros(4, dtype=np.int64),
        }

    @property
    def exposure(self) -> IntArray:
        """Rows, exposures and relevances by cell and bucket, shape (cells, 100, 5)."""
        return self._arrays["exposure"]

    @property
    def ndcg(self) -> IntArray:
        """Queries, NDCG and its square by the cell of the query, shape (query cells, 5)."""
        return self._arrays["ndcg"]

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

    @property
    def n_single_queries(self) -> int:
        """Queries of one row: there is nothing to rank, and they have no NDCG."""
        return int(self._arrays["queries"][_SINGLE])

    def update(
        self,
        codes: ArrayLike,
        ranks: ArrayLike,
        relevances: ArrayLike,
        queries: ArrayLike,
        *,
        record_hashes: ArrayLike,
        ties: ArrayLike | None = None,
    ) -> None:
        """Add whole queries, in place: all rows of a query must come in one call.

        ``codes``: shape (n, attributes); ``ranks``: 1 for the first; ``relevances``: 0 to 1024, NaN where unknown (such
        a row is entered in the book alone); ``queries``: whole numbers that tell queries apart; ``ties``: how many rows
        share the places from ``ranks`` on, see ``places``. All shape (n,). Raises ``ValueError`` for values outside
        these.
        """
        places, wanted = np.asarray(ranks), np.asarray(relevances, dtype=np.float64)
        asked, hashes = np.asarray(queries), np.asarray(record_hashes, dtype=np.uint64)
        shared = np.ones(len(places), dtype=np.int64) if ties is None else np.asarray(ties)
        levels = shaped_codes(codes, rows=len(places), columns=len(self.attributes))
        for what, values in (("relevances", wanted), ("queries", asked), ("record_hashes", hashes), ("ties", shared)):
            refuse_length(what, values, len(places))
        refuse_unknown_codes(levels, self.attributes)
        for what, values in (("ranks", places), ("ties", shared)):
            if len(values) and (np.any(values != np.rint(values)) or values.min() < 1):
                raise ValueError(f"{what} must be whole numbers from 1")
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
        attention = exposures(places[is_there].astype(np.int64), shared[is_there].astype(np.int64))
        self._count(levels[is_there].astype(np.int64), attention, wanted[is_there], asked[is_there])

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
        try:
            attributes = [
                Attribute(name=str(name), levels=tuple(map(str, each))) for name, each in header["attributes"]
            ]
        except (LookupError, TypeError) as error:
            raise ValueError(f"these bytes are not an evaluation state: {error!r}") from error
        state = cls(attributes=attributes)
        state._arrays = encoded.restore(state._arrays)
        state._refuse_contradictions()
        return state

    def digest(self) -> str:
        """``sha256:`` over the arrays and their meaning."""
        return digest(self._identity(), self._arrays)

    def check_complete(self, *, expected_n: int, expected_sum: int, expected_xor: int) -> Incomplete | None:
        """Whether the state holds exactly the rows of a split."""
        return self.book.check_complete(expected_n=expected_n, expected_sum=expected_sum, expected_xor=expected_xor)

    @property
    def _of_queries(self) -> tuple[Attribute, ...]:
        """The attributes of queries: the unknown level is one like the others, and the last code means several."""
        return tuple(Attribute(name=one.name, levels=(*one.levels, UNKNOWN)) for one in self.attributes)

    def _identity(self) -> dict[str, Any]:
        return {"attributes": [[attribute.name, list(attribute.levels)] for attribute in self.attributes]}

    def _refuse_contradictions(self) -> None:
        """A state from elsewhere must at least agree with itself."""
        if any(int(array.min(initial=0)) < 0 for name, array in self._arrays.items() if name != "book"):
            raise ValueError("this evaluation state has negative counts")
        rows, scored = int(self.exposure[:, :, 0].sum()), int(self.ndcg[:, 0].sum())
        if rows != self.book.n - self.book.n_nan_labels or scored > self.n_queries or self.n_queries > rows:
            raise ValueError("this evaluation state contradicts itself: its counts do not add up to its rows")

    def _count(self, codes: IntArray, attention: FloatArray, relevances: FloatArray, queries: NDArray[Any]) -> None:
        order = np.lexsort((relevances, -attention, queries))  # floats are added in one order, however rows came in
        codes, attention, relevances, queries = codes[order], attention[order], relevances[order], queries[order]
        self._count_exposures(codes, attention, relevances, queries)
        if not len(queries):
            return
        names, start, query, size = np.unique(queries, return_index=True, return_inverse=True, return_counts=True)
        gain = np.bincount(query, weights=relevances * attention, minlength=len(names))
        best = _best_gains(query, relevances, start)
        is_several = np.maximum.reduceat(codes, start, axis=0) != np.minimum.reduceat(codes, start, axis=0)
        several = np.array([len(one.levels) for one in self._of_queries], dtype=np.int64)
        homes = cells_of(np.where(is_several, several, codes[start]), shape_of(self._of_queries))
        is_relevant, is_single = best > 0, size == 1
        counted = np.flatnonzero(is_relevant & ~is_single)
        ndcg = np.minimum(gain[counted] / best[counted], 1.0)
        for first in range(0, len(counted), CHUNK_ROWS):
            some = ndcg[first : first + CHUNK_ROWS]
            words = [np.ones(len(some)), *fraction_words(some, 2), *fraction_words(some**2, 2)]
            add_words(self.ndcg, homes[counted[first : first + CHUNK_ROWS]], words)
        found = (len(names), is_several.any(axis=1).sum(), (~is_relevant).sum(), is_single.sum())
        self._arrays["queries"] += np.array(found, dtype=np.int64)

    def _count_exposures(
        self, codes: IntArray, attention: FloatArray, relevances: FloatArray, queries: NDArray[Any]
    ) -> None:
        cells = cells_of(codes, shape_of(self.attributes))
        places = cells * BUCKETS + buckets_of(queries)
        flat = self.exposure.reshape(-1, 5)
        for first in range(0, len(places), CHUNK_ROWS):
            rows = slice(first, first + CHUNK_ROWS)
            shares = relevances[rows] / LARGEST_RELEVANCE
            words = [*fraction_words(attention[rows], 2), *fraction_words(shares, 2)]
            add_words(flat, places[rows], [np.ones(len(shares)), *words])


def buckets_of(queries: NDArray[Any]) -> IntArray:
    """The bucket of each query, which follows from its number alone, shape (n,)."""
    return np.asarray(splitmix64(queries.astype(np.uint64)) % np.uint64(BUCKETS), dtype=np.int64)


def places(scores: FloatArray, queries: NDArray[Any]) -> tuple[IntArray, IntArray]:
    """First place and number of rows that share it, shape (n,) each: the highest score of a query comes first."""
    order = np.lexsort((-scores, queries))
    query, score = queries[order], scores[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = query[1:] != query[:-1]
    is_other = is_new.copy()
    is_other[1:] |= score[1:] != score[:-1]
    at = np.arange(len(order))
    place = at - np.maximum.accumulate(np.where(is_new, at, 0)) + 1
    run = np.cumsum(is_other) - 1
    first, size = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    first[order] = place[is_other][run]
    size[order] = np.bincount(run)[run] if len(order) else 0
    return first, size


def exposures(ranks: IntArray, ties: IntArray) -> FloatArray:
    """The mean attention that the places from ``ranks`` on get which ``ties`` rows share, shape (n,) each."""
    alone = 1 / np.log2(1 + ranks)
    is_shared = ties > 1
    if not is_shared.any():
        return np.asarray(alone, dtype=np.float64)
    first, last = ranks[is_shared] - 1, ranks[is_shared] - 1 + ties[is_shared]
    summed = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(last.max())))])
    alone[is_shared] = (summed[last] - summed[first]) / ties[is_shared]
    return np.asarray(alone, dtype=np.float64)


def _best_gains(query: IntArray, relevances: FloatArray, start: IntArray) -> FloatArray:
    """Discounted sum of relevances had the most relevant come first."""
    order = np.lexsort((-relevances, query))
    place = np.arange(len(query)) - start[query]
    gains = relevances[order] / np.log2(2 + place)
    return np.asarray(np.bincount(query, weights=gains, minlength=len(start)), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankGroups:
    """Groups of one grouping, as in ``groups.Grouping``.

    ``exposure``: shape (groups, 100, 5); ``ndcg``: shape (groups, 5).
    """

    by: tuple[str, ...]
    keys: tuple[Key, ...]
    exposure: IntArray
    ndcg: IntArray

    @property
    def sizes(self) -> IntArray:
        """Rows of each group that have a relevance."""
        return np.asarray(self.exposure[:, :, 0].sum(axis=1), dtype=np.int64)

    @property
    def queries(self) -> IntArray:
        """Queries of each group alone that have an NDCG."""
        return self.ndcg[:, 0]

    @property
    def is_unknown(self) -> NDArray[np.bool_]:
        """Groups with a missing level."""
        return np.array([UNKNOWN in key for key in self.keys], dtype=bool)


def rank_grouping(state: RankState, by: Sequence[str] = ()) -> RankGroups:
    """Sum the cells over all attributes but ``by``. Raises ``ValueError`` for an unknown attribute."""
    keys = keys_of(state.attributes, by)
    exposure = margin(state.attributes, state.exposure, by)
    chosen = listed(keys, np.asarray(exposure[:, :, 0].sum(axis=1), dtype=np.int64))
    return RankGroups(
        by=tuple(by),
        keys=tuple(keys[index] for index in chosen),
        exposure=exposure[chosen],
        ndcg=_of_one_group(state, by)[chosen],
    )


def _of_one_group(state: RankState, by: Sequence[str]) -> IntArray:
    """NDCG of the queries whose rows are all of one group, shape (groups, 5); of all queries without ``by``."""
    summed = margin(state._of_queries, state.ndcg, by)
    sizes = {one.name: len(one.levels) for one in state._of_queries}
    whole = summed.reshape(*(sizes[name] + 1 for name in by), 5)
    alone = whole[tuple(slice(sizes[name]) for name in by)]
    return np.ascontiguousarray(alone).reshape(-1, 5)


def rank_estimates(metric: str, groups: RankGroups) -> Estimates:
    """One of ``RANKING_METRICS`` for each group. Raises ``ValueError`` for another."""
    rows, seen, wanted = _parts(groups.exposure)
    match metric:
        case "exposure":
            return Jackknifed.of(seen, rows, rows=groups.sizes, domain=(0.0, 1.0), undefined="empty")
        case "exposure_per_relevance":
            return Jackknifed.of(seen, wanted, rows=groups.sizes, domain=(0.0, np.inf), undefined="no_relevance")
        case "ndcg_score":
            return _means(groups.ndcg)
        case _:
            raise ValueError(f"{metric!r} is no metric of ranking; there are {', '.join(RANKING_METRICS)}")


def _parts(exposure: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rows, exposures and relevances by group and bucket, shape (groups, 100) each."""
    rows = exposure[:, :, 0].astype(np.float64)
    return rows, fractions_of(exposure[:, :, 1:3]), fractions_of(exposure[:, :, 3:5]) * LARGEST_RELEVANCE


def _means(sums: IntArray) -> SampleMeans:
    queries = sums[:, 0]
    totals, squares = fractions_of(sums[:, 1:3]), fractions_of(sums[:, 3:5])
    rows = np.maximum(queries, 1)
    means = totals / rows
    spread = np.maximum(squares - rows * means**2, 0.0)
    variances = np.where(queries > 1, spread / np.maximum(queries - 1, 1), np.nan)
    return SampleMeans(
        rows=queries, means=means, variances=variances, undefined="no_query_of_its_own", domain=(0.0, 1.0)
    )


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
