"""Texts and pairs: records are cut without loss, documents stay together, and what is wrong is named."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fairlead.data.builtin.language import MONTHS, number_words, python_docs, rewriting, roman
from fairlead.data.dataset import open_dataset
from fairlead.data.splits import split_rows
from fairlead.errors import BadData
from fairlead.spec import DataSpec, SplitSpec, TextSpec


def write(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_records_are_the_text_cut_at_a_length_and_never_inside_a_character(tmp_path: Path) -> None:
    first, second = "naïve → " * 40, "plain. " * 30
    folder = write(tmp_path / "texts", a_txt=first, b_md=second, c_txt=b"\xef\xbb\xbf" + b"line\r\n" * 9)
    dataset = open_dataset(DataSpec(uri=str(folder), text=TextSpec(record_bytes=32), sensitive=("file",)))
    assert "".join(dataset.features) == first + second + "line\n" * 9
    assert max(len(text.encode()) for text in dataset.features) <= 32
    assert dataset.info.kind == "text"
    assert dataset.info.attributes[0].levels == ("a.txt", "b.md", "c.txt")


def test_a_file_alone_is_cut_into_blocks_that_follow_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "texts", a_txt="0123456789abcdef" * 20) / "a.txt"
    spec = DataSpec(uri=str(path), text=TextSpec(record_bytes=16), split=SplitSpec(train=0.5, validation=0.2, test=0.3))
    by_split = open_dataset(spec).by_split
    assert {name: rows.tolist() for name, rows in by_split.items()} == {
        "train": list(range(10)),
        "validation": list(range(10, 14)),
        "test": list(range(14, 20)),
    }


@pytest.mark.parametrize("seed", range(5))
def test_pieces_stay_together_but_for_one_at_each_edge(seed: int) -> None:
    blocks = np.repeat(np.arange(30), np.random.RandomState(seed).randint(1, 9, size=30))
    shares = SplitSpec(train=0.6, validation=0.1, test=0.3, seed=seed)
    found = split_rows(len(blocks), shares, blocks=blocks)
    plain = split_rows(len(blocks), shares)
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in plain.items()}
    assert sorted(np.concatenate([*found.values()])) == list(range(len(blocks)))
    torn = [block for block in range(30) if sum(block in blocks[rows] for rows in found.values()) > 1]
    assert len(torn) <= 2
    for rows in found.values():
        for block in torn:
            mine = rows[blocks[rows] == block]
            assert np.array_equal(mine, mine[:1] + np.arange(len(mine))), "cut once, not scattered"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a_txt": b"fine\xff", "b_txt": "fine"}, r"a\.txt: byte 5 \(0xff\) is not UTF-8"),
        ({"a_txt": " \n"}, r"a\.txt: the file is empty"),
        ({"a_txt_gz": b"no gzip"}, r"a\.txt\.gz: this is not a gzip file"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(BadData, match=words):
        open_dataset(DataSpec(uri=str(write(tmp_path / "texts", **files))))


def test_gzipped_texts_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", a_txt_gz=gzip.compress(b"word " * 100))
    spec = DataSpec(uri=str(folder), text=TextSpec(record_bytes=16))
    assert "".join(open_dataset(spec).features) == "word " * 100


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("question\tanswer\na\tb\n", "line 1 does not name one column 'source'"),
        ("source\tanswer\na\tb\nc\n", "line 3 has 1 fields, the first line names 2"),
        ("source\tanswer\na\tb\n\tc\n", "line 3 has an empty source"),
        ("source\tanswer\n", "holds no pairs"),
    ],
)
def test_what_is_no_table_of_pairs_is_named(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(BadData, match=words):
        open_dataset(DataSpec(uri=str(write(tmp_path / "pairs", a_tsv=content) / "a.tsv")))


def test_pairs_carry_other_columns_beside_and_equal_sources_stay_together(tmp_path: Path) -> None:
    lines = "".join(f'say "{number % 10}"\t{number % 10}!\t{"odd" if number % 2 else "even"}\n' for number in range(40))
    path = write(tmp_path / "pairs", a_tsv=f"source\tanswer\tparity\n{lines}") / "a.tsv"
    halves = SplitSpec(train=0.5, validation=0, test=0.5)
    dataset = open_dataset(DataSpec(uri=str(path), sensitive=("parity",), split=halves))
    train, test = dataset.rows("train"), dataset.rows("test")
    assert not set(train.features) & set(test.features)
    assert dataset.info.attributes[0].levels == ("even", "odd")
    assert test.targets["answer"][0] == test.features[0].removeprefix('say "').replace('"', "!")


def test_records_are_asked_of_texts_only() -> None:
    with pytest.raises(BadData, match="holds no texts"):
        open_dataset(DataSpec(uri="builtin://digits", text=TextSpec()))


def test_pythons_own_texts_hold_the_reference_and_no_paragraph_twice() -> None:
    source = python_docs()
    assert source.array is not None
    assert set(source.columns["origin"]) >= {"reference", "docstrings"}
    paragraphs = [" ".join(part.split()) for text in source.array for part in text.split("\n\n")]
    long = [part for part in paragraphs if len(part) >= 40]
    assert len(long) == len(set(long)) > 1000


@pytest.mark.parametrize(
    ("number", "words", "numeral"),
    [
        (7, "seven", "VII"),
        (90, "ninety", "XC"),
        (449, "four hundred and forty-nine", "CDXLIX"),
        (500, "five hundred", "D"),
    ],
)
def test_numbers_are_written_as_people_write_them(number: int, words: str, numeral: str) -> None:
    assert (number_words(number), roman(number)) == (words, numeral)


def test_a_date_in_each_writing_means_the_answer_beside_it() -> None:
    source = rewriting(rows=2000)
    assert source.array is not None
    for text, answer, writing in zip(source.array, source.targets["answer"], source.columns["writing"], strict=True):
        if writing == "month first":
            month, day, year = text.replace(",", "").split()
            assert answer == f"{year}-{MONTHS.index(month) + 1:02}-{int(day):02}"
        elif writing == "slashes":
            month, day, year = text.split("/")
            assert answer == f"{year}-{int(month):02}-{int(day):02}"
    assert rewriting(rows=3).array.tolist() == rewriting(rows=3).array.tolist()  # type: ignore[union-attr]
