"""Gates against the champion on both databases: whom the loop finds, and what it makes of rows that are not there."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.control.evaluate import Evaluate, report_directory
from fairlead.evaluation import CountState, state_size_bytes
from fairlead.evaluation.answers import AnswerKeeper
from fairlead.lifecycle import Outcome, State
from fairlead.protocol import EvaluationSummary, FileEntry, ResultDocument, attempt_path
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, experiments
from fairlead.testing import FakeClock
from fairlead.testing.builders import a_model
from fairlead.testing.stored import an_experiment, next_attempt
from fairlead.workload import Attribute

ROWS = 1000
ATTRIBUTES = (Attribute(name="sex", levels=("f", "m")), Attribute(name="age_band", levels=("old", "young")))
GATES = (
    {"id": "accuracy", "metric": "accuracy_score", "require": ">= champion - 0.02"},
    {"id": "gap", "metric": "demographic_parity_difference", "by": ["sex"], "require": "<= champion + 0.05"},
)


class Books:
    """Experiments whose results are in, and the loop that makes their reports."""

    def __init__(self, store: Store, clock: FakeClock, settings: ControlSettings) -> None:
        self.store, self.clock, self.settings = store, clock, settings
        self.evaluate = Evaluate(store=store, clock=clock, settings=settings)

    def report(self, key: str, *, num_wrong: int, **options: Any) -> dict[str, Any]:
        """One from its result to its report."""
        self.end(key, num_wrong=num_wrong, **options)
        self.evaluate()
        project = options.get("project", "default")
        content = (report_directory(self.settings.storage, project, key) / "report.json").read_bytes()
        report: dict[str, Any] = json.loads(content)
        return report

    def end(
        self, key: str, *, num_wrong: int, first_row: int = 0, keeps: bool = True, harm: str = "", **changes: Any
    ) -> None:
        """An experiment that waits for its report: ``num_wrong`` of its answers to 1,000 rows are wrong."""
        self.clock.advance(1)
        spec = {"gates": GATES, "register": {"name": "risk"}, **changes}
        an_experiment(self.store, key, state=State.QUEUED, clock=self.clock, **spec)
        attempt = next_attempt(self.store, key, clock=self.clock)
        path = self.settings.storage / attempt.storage_path
        path.mkdir(parents=True)
        now = self.clock.now()
        result = ResultDocument(
            experiment_id=key,
            attempt_no=1,
            outcome=Outcome.SUCCEEDED,
            reason="",
            started_at=now,
            ended_at=now,
            evaluation=_left(path, num_wrong=num_wrong, first_row=first_row, keeps=keeps, harm=harm),
            model=a_model(),
            dataset={"classes": ["no", "yes"] if harm != "classes" else ["yes", "no"], "digest": "sha256:0"},
        )
        with self.store.write() as session:
            told = result.model_dump(mode="json")
            attempts.end(session, attempt.id, outcome=Outcome.SUCCEEDED, reason="", now=now, result=told)
            experiments.set_columns(session, key, state=State.EVALUATING)

    def register(self, key: str, version: str | None, *, name: str = "risk", alias: str = "candidate") -> None:
        """As ``record`` writes it once MLflow has answered; without a version, as it is before."""
        self.clock.advance(1)
        is_registered = version is not None
        registration = {"is_registered": is_registered, "is_pending": not is_registered, "name": name, "alias": alias}
        with self.store.write() as session:
            experiments.note(
                session,
                key,
                kind="registered",
                actor="record",
                now=self.clock.now(),
                columns={"registration": {**registration, "version": version}},
            )


def _left(path: Path, *, num_wrong: int, first_row: int, keeps: bool, harm: str) -> EvaluationSummary:
    """Counts, and the answers of two ranks, as a runner leaves them."""
    rows = np.arange(first_row, first_row + ROWS)
    codes, labels = np.stack([rows % 2, rows // 2 % 2], axis=1), rows // 4 % 2
    if harm == "labels":
        labels = np.where(rows < 100, 1 - labels, labels)
    answers = np.where(np.arange(ROWS) < num_wrong, 1 - labels, labels)
    hashes = (rows * 2**50 + 1).astype(np.uint64)
    state = CountState(attributes=ATTRIBUTES, classes=("no", "yes"))
    state.update(codes, labels, answers, record_hashes=hashes)
    if harm == "lies":
        answers = labels
    files = []
    for rank, at in enumerate(np.array_split(np.arange(ROWS), 2)):
        keeper = AnswerKeeper()
        keeper.add(state, codes[at], labels[at], answers[at], record_hashes=hashes[at])
        content = keeper.to_bytes()[: -1 if harm == "cut" else None]
        files.append(_written(path / f"answers-1-{rank}.npy", content))
    if harm == "outside":
        files[0] = files[0].amended(path="../../../secret")
    return EvaluationSummary(
        state_file=_written(path / "evaluation.state", state.to_bytes()),
        expected_rows=ROWS,
        expected_sum=state.record_sum,
        expected_xor=state.record_xor,
        answers=tuple(files) if keeps else (),
    )


def _written(path: Path, content: bytes) -> FileEntry:
    path.write_bytes(content)
    return FileEntry(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def books(store: Store, clock: FakeClock, tmp_path: Path) -> Books:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://", storage=tmp_path / "storage", mlflow_url="http://127.0.0.1:1", secret_key_file=key
    )
    return Books(store, clock, settings)


def outcomes(report: dict[str, Any]) -> list[str]:
    return [gate["outcome"] for gate in report["gates"]]


def test_the_first_has_nobody_to_be_held_against_and_the_next_is_held_against_it(books: Books) -> None:
    first = books.report("first", num_wrong=100)
    assert outcomes(first) == ["pass", "pass"]
    assert first["gates"][0]["why"].startswith("no model risk is registered as @candidate yet")
    assert first["gates"][0]["champion"]["experiment"] is None
    books.register("first", "1")
    worse, equal, better = (books.report(key, num_wrong=wrong) for key, wrong in (("w", 300), ("e", 100), ("b", 50)))
    assert [outcomes(one)[0] for one in (worse, equal, better)] == ["fail", "pass", "pass"]
    gate = worse["gates"][0]
    who = {"experiment": "first", "name": "risk", "version": "1", "alias": "candidate", "column": None}
    assert gate["champion"] == {**who, "of_model": 0.7, "of_champion": 0.9, "why_not_compared": None}
    assert (gate["value"], gate["limit"]) == (pytest.approx(-0.2), "-0.02")
    assert "even the upper bound" in gate["why"]
    assert "gate_failed" in _row(books, "w").registration["reason"]
    assert _row(books, "w").gates == worse["gates"]


def _row(books: Books, key: str) -> Any:
    with books.store.read() as session:
        return experiments.get(session, key)


def test_of_several_the_newest_version_with_name_and_alias_in_the_project_counts(books: Books) -> None:
    """All but one answer all rows right: held against any of those the model would fail."""
    changes = {"other-alias": {"register": {"name": "risk", "alias": "live"}}, "other-project": {"project": "other"}}
    changes |= {"other-name": {"register": {"name": "else"}}, "older": {}, "withheld": {}}
    for key, more in changes.items():
        books.report(key, num_wrong=0, **{**more, "gates": ()})
        books.register(key, "2", alias=more.get("register", {}).get("alias", "candidate"))
    with books.store.write() as session:
        experiments.set_columns(session, "withheld", registration={"is_registered": False, "is_pending": False})
        experiments.set_columns(
            session, "other-name", registration={**_row(books, "other-name").registration, "name": "else"}
        )
    books.report("newest", num_wrong=200, gates=())
    books.register("newest", "11")
    books.register("older", "9")
    found = books.report("new", num_wrong=200)
    assert [gate["champion"]["experiment"] for gate in found["gates"]] == ["newest", "newest"]
    assert outcomes(found) == ["pass", "pass"]
    books.report("pending", num_wrong=150, gates=())
    books.register("pending", None)
    again = books.report("again", num_wrong=160)
    assert again["gates"][0]["champion"].items() >= {"experiment": "pending", "version": None}.items()


def test_a_champion_that_a_server_of_the_release_before_took_in_is_found(books: Books) -> None:
    """While servers of both releases run, those of before leave out under which name a model is to be registered."""
    books.end("champion", num_wrong=100)
    with books.store.write() as session:
        experiments.set_columns(session, "champion", register_name=None)
    books.evaluate()
    assert outcomes(books.report("new", num_wrong=300))[0] == "fail"


def test_pairs_that_cannot_be_counted_prove_nothing_and_hold_nothing(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.report("champion", num_wrong=100, gates=())
    books.register("champion", "1")
    size = state_size_bytes(attributes=ATTRIBUTES, num_classes=2)
    monkeypatch.setattr("fairlead.evaluation.cells.MAX_STATE_BYTES", size)  # of counts without pairs
    report = books.report("new", num_wrong=0)
    assert outcomes(report) == ["inconclusive", "inconclusive"]
    assert "pairs of answers cannot be counted: counting sex (2 levels)" in report["gates"][0]["why"]


def test_an_experiment_is_not_its_own_champion(books: Books) -> None:
    books.report("e1", num_wrong=100)
    books.register("e1", "1")
    with books.store.write() as session:
        experiments.set_columns(session, "e1", state=State.EVALUATING)
    books.evaluate()
    assert "no_champion" in _row(books, "e1").gates[0]["why"]


@pytest.mark.parametrize(
    ("champion", "harm", "words"),
    [
        ({"first_row": 200}, "", "the champion was evaluated on other rows: 800 of 1,000 are the same"),
        ({"harm": "labels"}, "", "the champion was evaluated on other rows: 900 of 1,000 are the same"),
        ({"harm": "classes"}, "", "the champion knows other classes"),
        ({"keeps": False}, "", "of the champion no answers to single rows were kept"),
        ({}, "deleted", "the champion's answers to single rows have been deleted"),
        ({}, "changed", "the champion's answers cannot be used: answers-1-0.npy is not the file"),
        ({}, "junk", "the champion's answers cannot be used: answers-1-0.npy is not the file"),
        ({"harm": "outside"}, "", "the champion's answers cannot be used: the result names a file outside"),
        ({"harm": "cut"}, "", "the champion's answers cannot be used: answers-1-0.npy: these answers are cut short"),
    ],
)
def test_a_champion_that_cannot_be_compared_with_proves_nothing_and_the_report_says_why(
    books: Books, champion: dict[str, Any], harm: str, words: str
) -> None:
    books.report("champion", num_wrong=100, gates=(), **champion)
    books.register("champion", "1")
    path = books.settings.storage / attempt_path("default", "champion", 1) / "answers-1-0.npy"
    if harm == "deleted":
        path.unlink()
    elif harm:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"x" if harm == "changed" else b"junk")
    report = books.report("new", num_wrong=0)
    assert outcomes(report) == ["inconclusive", "inconclusive"]
    assert words in report["gates"][0]["why"]
    assert words in report["gates"][0]["champion"]["why_not_compared"]
    assert report["gates"][0]["champion"]["experiment"] == "champion"
    assert "gate_inconclusive" in _row(books, "new").registration["reason"]


def test_a_model_whose_own_answers_were_not_kept_proves_nothing(books: Books) -> None:
    books.report("champion", num_wrong=100, gates=())
    books.register("champion", "1")
    report = books.report("new", num_wrong=0, keeps=False)
    assert "of this experiment no answers to single rows were kept" in report["gates"][0]["why"]


@pytest.mark.parametrize("harm", ["lies", "outside"])
def test_own_answers_that_are_not_what_was_counted_hold_the_experiment(books: Books, harm: str) -> None:
    books.report("champion", num_wrong=100, gates=())
    books.register("champion", "1")
    books.end("new", num_wrong=300, harm=harm)
    books.evaluate()
    assert (_row(books, "new").state, "evaluation_error" in _row(books, "new").reason) == (State.HELD, True)


def test_a_storage_that_has_lost_own_answers_makes_the_evaluation_wait(books: Books) -> None:
    books.report("champion", num_wrong=100, gates=())
    books.register("champion", "1")
    books.end("new", num_wrong=300)
    path = books.settings.storage / attempt_path("default", "new", 1) / "answers-1-1.npy"
    content = path.read_bytes()
    path.unlink()
    books.evaluate()
    assert (_row(books, "new").state, "storage cannot be used" in str(_row(books, "new").waiting)) == (
        State.EVALUATING,
        True,
    )
    path.write_bytes(content)
    books.evaluate()
    assert _row(books, "new").state == State.SUCCEEDED
