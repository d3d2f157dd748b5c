"""Answers to single rows: kept as they were counted, and put beside those of another model if the rows are the same."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fairlead.evaluation import ABSTAINED, CountState
from fairlead.evaluation.answers import ANSWER, AnswerFile, AnswerKeeper, StrangeAnswers, TooManyPairs, pair
from fairlead.workload import Attribute

ROWS = 5000
ATTRIBUTES = (Attribute(name="sex", levels=("f", "m")), Attribute(name="age", levels=("old", "young", "older")))


class Split:
    """Rows by record, and two models' answers to them."""

    def __init__(self, rows: int = ROWS, *, attributes: Sequence[Attribute] = ATTRIBUTES) -> None:
        random = np.random.default_rng(0)
        self.attributes = attributes
        self.hashes = random.integers(0, 2**64, rows, dtype=np.uint64)
        self.codes = (
            np.stack([random.integers(0, len(one.levels) + 1, rows) for one in attributes] or [], axis=1)
            if (attributes)
            else np.empty((rows, 0), dtype=np.int64)
        )
        self.labels = random.integers(0, 3, rows)
        self.ours, self.theirs = (random.integers(-1, 3, rows) for _ in range(2))

    def state(self, answers: NDArray[np.int64], **more: Any) -> CountState:
        """Their counts."""
        state = CountState(attributes=self.attributes, classes=("a", "b", "c"), has_champion="champion" in more)
        state.update(self.codes, self.labels, answers, record_hashes=self.hashes, **more)
        return state

    def files(
        self, answers: NDArray[np.int64], *, cuts: Sequence[int] = (), order: Any = slice(None)
    ) -> list[AnswerFile]:
        """As ranks leave them."""
        places = np.arange(len(self.hashes))[order]
        return [AnswerFile(io.BytesIO(self.content(answers, at))) for at in np.split(places, cuts)]

    def content(self, answers: NDArray[np.int64], at: Any = slice(None)) -> bytes:
        keeper, state = AnswerKeeper(), CountState(attributes=self.attributes, classes=("a", "b", "c"))
        for some in np.array_split(np.arange(len(self.hashes))[at], 3):
            keeper.add(state, self.codes[some], self.labels[some], answers[some], record_hashes=self.hashes[some])
        return keeper.to_bytes()


@pytest.mark.parametrize("attributes", [ATTRIBUTES, ()])
@pytest.mark.parametrize("cuts", [(), (1,), (0, 17, 4000)])
def test_two_models_are_paired_row_by_row_whatever_ranks_there_were(
    attributes: Sequence[Attribute], cuts: Sequence[int]
) -> None:
    split = Split(attributes=attributes)
    ours = split.files(split.ours, cuts=cuts)
    theirs = split.files(split.theirs, cuts=(2500,), order=slice(None, None, -1))
    found = pair(split.state(split.ours), ours, theirs)
    expected = split.state(split.ours, champion=split.theirs)
    assert found.state is not None
    assert found.state.to_bytes() == expected.to_bytes()
    assert (found.num_same, found.num_ours, found.num_theirs) == (ROWS, ROWS, ROWS)


def test_a_large_split_is_put_together_in_portions() -> None:
    split = Split(1_100_000)
    found = pair(split.state(split.ours), split.files(split.ours), split.files(split.theirs, cuts=(400_000,)))
    assert found.state is not None
    assert found.state.digest() == split.state(split.ours, champion=split.theirs).digest()


def test_without_rows_there_is_nothing_to_pair() -> None:
    split = Split(0)
    found = pair(
        split.state(split.ours), [AnswerFile(io.BytesIO(AnswerKeeper().to_bytes()))], split.files(split.theirs)
    )
    assert found.state is not None
    assert found.num_same == 0


@pytest.mark.parametrize(
    ("what", "num_theirs", "num_same"),
    [("fewer", 4000, 4000), ("others", ROWS, 4000), ("relabelled", ROWS, 4000), ("more", 6000, ROWS), ("none", 0, 0)],
)
def test_other_rows_are_counted_and_not_paired(what: str, num_theirs: int, num_same: int) -> None:
    split, other = Split(), Split()
    state, ours = split.state(split.ours), split.files(split.ours)
    if what == "others":
        other.hashes[:1000] += np.uint64(1)
    elif what == "relabelled":
        other.labels[:1000] = (other.labels[:1000] + 1) % 3
    elif what == "more":
        other = Split(6000)
        for name in ("hashes", "codes", "labels", "theirs"):
            getattr(other, name)[:ROWS] = getattr(split, name)
    kept = {"fewer": slice(4000), "none": slice(0)}.get(what, slice(None))
    found = pair(state, ours, other.files(other.theirs, order=kept))
    assert (found.state, found.num_ours, found.num_theirs, found.num_same) == (None, ROWS, num_theirs, num_same)


@pytest.mark.parametrize("harm", ["answers", "groups", "rows"])
def test_answers_that_are_not_those_that_were_counted_are_refused(harm: str) -> None:
    split, other = Split(), Split()
    state = split.state(split.ours)
    if harm == "answers":
        other.ours[0] = (other.ours[0] + 2) % 4 - 1
    elif harm == "groups":
        other.codes[0, 0] = (other.codes[0, 0] + 1) % 3
    else:
        other.hashes[0] += np.uint64(1)
    with pytest.raises(ValueError, match="not those that were counted"):
        pair(state, other.files(other.ours), other.files(other.theirs))


@pytest.mark.parametrize("answer", [3, -2])
def test_answers_that_are_no_class_are_refused(answer: int) -> None:
    split = Split()
    split.theirs[7] = answer
    content = np.zeros(ROWS, dtype=ANSWER)
    content["record"], content["label"], content["answer"] = split.hashes, split.labels, split.theirs
    buffer = io.BytesIO()
    np.save(buffer, content[np.argsort(split.hashes)])
    buffer.seek(0)
    with pytest.raises(StrangeAnswers, match="none of the 3 classes"):
        pair(split.state(split.ours), split.files(split.ours), [AnswerFile(buffer)])


def test_what_is_counted_as_an_abstention_is_kept_as_one() -> None:
    state = CountState(attributes=(), classes=("a", "b"), has_scores=True)
    scores, predictions = np.array([0.2, np.nan, 0.9, 0.5]), np.array([0.0, 1.0, np.nan, 1.0])
    state.update(np.empty((4, 0)), [0, 1, 1, 1], predictions, record_hashes=[4, 3, 2, 1], scores=scores)
    assert state.answered(predictions, scores).tolist() == [0, ABSTAINED, ABSTAINED, 1]
    assert state.answered(predictions[:0], scores[:0]).tolist() == []
    keeper = AnswerKeeper()
    keeper.add(state, np.empty((4, 0)), [0, 1, 1, 1], predictions, record_hashes=[4, 3, 2, 1], scores=scores)
    rows = AnswerFile(io.BytesIO(keeper.to_bytes())).between(0, 2**64)
    assert rows["record"].tolist() == [1, 2, 3, 4]
    assert rows["answer"].tolist() == [1, ABSTAINED, ABSTAINED, 0]
    many = CountState(attributes=(), classes=("a", "b", "c"), has_scores=True)
    assert many.answered([2, 1], [[0.1, 0.2, 0.7], [0.1, np.nan, 0.2]]).tolist() == [2, ABSTAINED]


def _as_npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not an array at all, but long enough to look like one",
        _as_npy(np.zeros(5)),
        _as_npy(np.zeros((2, 2), dtype=ANSWER)),
        _as_npy(np.array([{"a": 1}], dtype=object)),
    ],
)
def test_what_is_no_file_of_answers_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"magic|answers|EOF|reading|expected"):
        AnswerFile(io.BytesIO(content))


@pytest.mark.parametrize("end", [b"", b"more"])
def test_a_file_that_has_not_the_rows_it_speaks_of_is_refused_when_it_is_opened(end: bytes) -> None:
    split = Split()
    content = split.content(split.ours)
    with pytest.raises(ValueError, match="cut short"):
        AnswerFile(io.BytesIO(content + end if end else content[:-1]))


def test_pairs_of_more_groups_and_classes_than_can_be_counted_are_refused_by_a_name_of_their_own() -> None:
    """Pairs take eleven times the room that ten classes do."""
    levels = tuple(str(number) for number in range(24))
    attributes = tuple(Attribute(name=name, levels=levels) for name in ("a", "b", "c"))
    state = CountState(attributes=attributes, classes=[str(number) for number in range(10)])
    empty = [AnswerFile(io.BytesIO(AnswerKeeper().to_bytes()))]
    with pytest.raises(TooManyPairs, match="at most 64 are allowed"):
        pair(state, empty, empty)
