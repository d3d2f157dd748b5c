import hashlib
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fairlead.data import book_of, hash_ids


def test_a_hash_is_blake2b_of_the_text_alone() -> None:
    expected = int.from_bytes(hashlib.blake2b(b"patient-7", digest_size=8).digest(), "little")
    assert hash_ids(["other", "patient-7"])[1] == expected


def test_ids_may_be_any_text() -> None:
    assert len(set(hash_ids(["", "ä", "a\0b", "x" * 10_000]).tolist())) == 4


@given(st.lists(st.text(), unique=True, max_size=60), st.integers(0, 60))
def test_books_of_parts_add_up_to_the_book_of_the_whole(ids: list[str], cut: int) -> None:
    hashes = hash_ids(ids)
    first, second, whole = book_of(hashes[:cut]), book_of(hashes[cut:]), book_of(hashes)
    assert first.num_records + second.num_records == whole.num_records
    assert (first.hash_sum + second.hash_sum) % 2**64 == whole.hash_sum
    assert first.hash_xor ^ second.hash_xor == whole.hash_xor


def test_no_records_have_an_empty_book() -> None:
    book = book_of(np.empty(0, dtype=np.uint64))
    assert (book.num_records, book.hash_sum, book.hash_xor) == (0, 0, 0)


def test_a_hundred_thousand_ids_take_well_below_a_second_of_work() -> None:
    began = time.process_time()
    hash_ids(map(str, range(100_000)))
    assert time.process_time() - began < 1
