"""Record ids as 64-bit hashes, and the sums that prove each record was counted once.

The hash is BLAKE2b with 8 bytes over the UTF-8 text of the id, read as a little-endian whole number: it depends on
the record alone, not on its place, on the split or on any random generator. The *book* of some records is their
number, the wrapping sum and the xor of their hashes: books of disjoint parts add up to the book of the whole.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """What must be found over all ranks when every record was counted exactly once."""

    num_records: int
    hash_sum: int
    """Modulo 2**64."""
    hash_xor: int


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """BLAKE2b-64 of each id, shape (ids,). About a second for a million."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def book_of(hashes: NDArray[np.uint64]) -> Book:
    """The book of records with these hashes; of none at all: zeros."""
    return Book(
        num_records=len(hashes),
        hash_sum=int(np.add.reduce(hashes, dtype=np.uint64)),
        hash_xor=int(np.bitwise_xor.reduce(hashes, dtype=np.uint64)),
    )
