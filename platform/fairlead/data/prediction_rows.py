"""Rows of predictions as numbers, whatever they predict: groups, record ids, checksums; refusals name the row."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.groups import band_codes
from fairlead.data.prediction_files import PredictionFile, Seen, stamps_of, told
from fairlead.data.prediction_survey import Survey, Values, is_missing, numbers_of, plain, refuse_change, text_of
from fairlead.data.records import Book, hash_ids
from fairlead.errors import BadData
from fairlead.evaluation import AnyState
from fairlead.evaluation.keyed import splitmix64

Columns = Mapping[str, Any]
"""Some rows: pyarrow arrays by the names of their columns."""
MISSING, STRANGER = -1, -2
PORTION_ROWS = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Counted rows."""

    state: AnyState
    """Those that this rank has counted; all of them where it is alone."""
    book: Book
    """What the rows of all ranks add up to when each was counted once."""
    digest: str
    """``sha256:`` of all that was counted, in any order: it finds accidents, not forgers."""
    remarks: tuple[str, ...]
    """What a reader of the report must know."""


class Place:
    """Where in a file a batch lies: refusals name the row."""

    def __init__(self, file: PredictionFile, first: int) -> None:
        self.file, self.first = file, first

    def refuse(self, is_bad: NDArray[np.bool_], name: str, array: Any, why: str) -> None:
        """Raises ``BadData`` for the first bad row, if there is one."""
        if is_bad.any():
            row = int(np.argmax(is_bad))
            shown = str(array[row].as_py())[:60]
            raise BadData(f"{self.file.path}: row {self.first + row + 1} of {name!r} is {shown}{why}")


def batches(found: Survey, names: Sequence[str]) -> Iterator[tuple[Place, Columns, NDArray[np.uint64]]]:
    """This rank's rows, batch by batch: where they lie, their columns, and their places over all files."""
    before = 0
    for file, share in zip(found.files, found.shares, strict=True):
        reading = file.read(names, share)
        for batch in reading:
            first = before + batch.first
            yield Place(file, batch.first), batch.columns, np.arange(first, first + len(batch), dtype=np.uint64)
        if reading.num_rows not in (None, file.num_rows):
            refuse_change([str(file.path)], [[f"{file.num_rows} rows"], [f"{reading.num_rows} rows"]])
        before += file.num_rows or 0


def whole_book(found: Survey, books: Sequence[Book], hashes: Sequence[NDArray[np.uint64]] | None, seen: Seen) -> Book:
    """The book of all ranks' rows together; ``hashes``: this rank's record ids, where there are any. Collective.

    Raises ``BadData`` for files that have changed, and for record ids that occur twice.
    """
    paths = [str(file.path) for file in found.files]
    for stamps in found.ranks.gather(stamps_of(found.files, seen)):
        refuse_change(paths, [found.stamps, stamps])
    book = added(books)
    if book.num_records != found.num_rows:
        refuse_change(paths[:1], [[f"{found.num_rows} rows"], [f"{book.num_records} rows"]])
    if hashes is not None:
        refuse_repeated_ids(found, hashes, seen)
    return book


def digest_of(found: Survey, book: Book, sums: Sequence[NDArray[np.uint64]]) -> str:
    """``sha256:`` of all that was counted; ``sums``: each rank's ``mixed_sums``."""
    mixed = sum(sums, np.zeros(2, dtype=np.uint64))
    content = [list(found.classes), [[a.name, list(a.levels)] for a in found.attributes], mixed.tolist()]
    return f"sha256:{hashlib.sha256(json.dumps([book.num_records, *content]).encode()).hexdigest()}"


def remarks_of(found: Survey, what: str) -> Iterator[str]:
    """What a reader of any report on predictions must know; ``what``: was taken as the files have it."""
    yield f"Predictions were made elsewhere: {what} are taken as the files have them."
    if found.spec.columns.record_id is None:
        yield "Rows have no record ids: whether one was counted twice cannot be told."


def empty_levels(found: Survey) -> Iterator[str]:
    """Attributes that nobody has."""
    for attribute in found.attributes:
        if not attribute.levels:
            yield f"No row has a value of {attribute.name}: nothing can be compared by it."


def group_columns(found: Survey) -> list[str]:
    """The columns from which groups are read, in the order of the attributes."""
    bands = {name: spec.column for name, spec in found.spec.columns.bins.items()}
    return [bands.get(attribute.name, attribute.name) for attribute in found.attributes]


def looked_up(
    file: PredictionFile, name: str, array: Any, places: Mapping[str, int], values: Values
) -> NDArray[np.int64]:
    """The place of each value, -1 where missing and -2 where there is none; each different value is read once."""
    with told(file.path, file.format):
        encoded = plain(file, name, array).dictionary_encode()
    is_number = not values.are_texts
    of_distinct = [
        MISSING if is_missing(value) else places.get(text_of(value, is_number=is_number), STRANGER)
        for value in encoded.dictionary.to_pylist()
    ]
    indices = encoded.indices.fill_null(len(of_distinct)).to_numpy(zero_copy_only=False)
    return np.array([*of_distinct, MISSING], dtype=np.int64)[indices]


def group_codes(found: Survey, batch: Columns, at: Place) -> NDArray[np.int64]:
    """Level codes of a batch, shape (rows, attributes)."""
    columns = []
    for attribute in found.attributes:
        if attribute.name in found.spec.columns.bins:
            spec = found.spec.columns.bins[attribute.name]
            values = numbers_of(at.file, spec.column, batch[spec.column])
            columns.append(band_codes(values, spec.edges).astype(np.int64))
            continue
        name = attribute.name
        places = {level: code for code, level in enumerate(attribute.levels)}
        codes = looked_up(at.file, name, batch[name], places, found.values[name])
        at.refuse(codes == STRANGER, name, batch[name], ", which was not there when the file was read first")
        columns.append(np.where(codes == MISSING, len(attribute.levels), codes))
    rows = len(batch[found.spec.columns.target])
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0), dtype=np.int64)


def record_hashes(found: Survey, batch: Columns, places: NDArray[np.uint64], at: Place) -> NDArray[np.uint64]:
    """Of the record ids; without any, ``places``: those of the rows over all files."""
    name = found.spec.columns.record_id
    if name is None:
        return places
    return hashes_of(name, batch[name], at, "every row needs an id, or name no record_id")


def hashes_of(name: str, array: Any, at: Place, advice: str) -> NDArray[np.uint64]:
    """A hash of each value; ``advice`` for a missing one. Each different value is hashed once."""
    with told(at.file.path, at.file.format):
        encoded = plain(at.file, name, array).dictionary_encode()
    values = encoded.dictionary.to_pylist()
    texts = ["" if is_missing(value) else text_of(value, is_number=False) for value in values]
    is_absent = np.array([*map(is_missing, values), True], dtype=bool)
    indices = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    at.refuse(is_absent[indices], name, array, f"; {advice}")
    return np.concatenate([hash_ids(texts), np.zeros(1, dtype=np.uint64)])[indices]


def added(books: Sequence[Book]) -> Book:
    """The book of all rows together."""
    return Book(
        num_records=sum(book.num_records for book in books),
        hash_sum=sum(book.hash_sum for book in books) % 2**64,
        hash_xor=reduce(xor, (book.hash_xor for book in books)),
    )


def mixed_sums(columns: Sequence[NDArray[Any]], rows: int) -> NDArray[np.uint64]:
    """Two sums over rows, shape (2,), in which every value of a row is mixed; the order of rows plays no part."""
    sums = []
    for lane in (1, 2):
        mixed = np.full(rows, lane, dtype=np.uint64)
        for column in columns:
            mixed = splitmix64(mixed ^ np.ascontiguousarray(column).view(np.uint64))
        sums.append(np.sum(mixed, dtype=np.uint64))
    return np.array(sums, dtype=np.uint64)


def refuse_repeated_ids(found: Survey, hashes: Sequence[NDArray[np.uint64]], seen: Seen) -> None:
    """Raise ``BadData`` for an id that occurs more than once on any ranks. Collective.

    The hashes go round in portions, each looked at by one rank: none ever holds those of all rows.
    """
    ranks, repeated = found.ranks, [np.empty(0, dtype=np.uint64)]
    portions = num_portions(found)
    for portion in range(portions):
        own = [part[part % np.uint64(portions) == portion] for part in hashes]
        gathered = ranks.gather(np.concatenate([np.empty(0, dtype=np.uint64), *own]))
        if portion % ranks.of == ranks.number:
            different, times = np.unique(np.concatenate(gathered), return_counts=True)
            repeated.append(different[times > 1])
        seen(0)
    all_repeated = np.sort(np.concatenate(ranks.gather(np.concatenate(repeated))))
    if len(all_repeated):
        name = str(found.spec.columns.record_id)
        first = where_is(found, name, all_repeated[0], seen) if ranks.number == 0 else ""
        where, more = ranks.gather(first)[0], len(all_repeated) - 1
        also = f", and {more} more ids do" if more else ""
        raise BadData(f"{name!r} names one row, but {where} occurs more than once{also}; keep one row of each")


def num_portions(found: Survey) -> int:
    """Into how many portions of about a million rows, for each rank as many, all rows are dealt."""
    return found.ranks.of * -(-found.num_rows // (found.ranks.of * PORTION_ROWS))


def where_is(found: Survey, name: str, wanted: np.uint64, seen: Seen) -> str:
    """The id with this hash, and its first file and row."""
    for file in found.files:
        for batch in file.read([name]):
            for row, value in enumerate(batch.columns[name].to_pylist(), start=batch.first + 1):
                if hash_ids([text_of(value, is_number=False)])[0] == wanted:
                    return f"{text_of(value, is_number=False)!r} ({file.path}, row {row})"
            seen(0)
    return "an id"
