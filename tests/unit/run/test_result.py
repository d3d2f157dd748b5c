"""What a runner writes down where the plain truth does not fit into JSON, or not into a claim."""

import pytest

from fairlead.lifecycle import Outcome
from fairlead.protocol import MAX_RESULT_BYTES, ResultDocument
from fairlead.run.outputs import Outputs
from fairlead.run.runner import Runner
from fairlead.run.verdict import Verdict
from fairlead.testing.ray import a_launch

DONE = Verdict(outcome=Outcome.SUCCEEDED, reason="completed")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr("fairlead.run.runner._stand_back", lambda: None)  # it would be this process that does
    made = Runner()
    made._document = a_launch("exp")
    return made


def written(runner: Runner, verdict: Verdict, outputs: Outputs) -> ResultDocument:
    return ResultDocument.model_validate_json(runner._encoded(verdict, outputs))


def test_last_words_that_are_no_unicode_are_written_legibly(runner: Runner) -> None:
    verdict = Verdict(outcome=Outcome.USER_ERROR, reason="FileNotFoundError: caf\udce9.png", detail="\udce9")
    result = written(runner, verdict, Outputs())
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, "FileNotFoundError: caf\\udce9.png")


def test_a_result_that_json_cannot_hold_says_so(runner: Runner) -> None:
    result = written(runner, DONE, Outputs(dataset={"classes": ["caf\udce9"]}))
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, "bad_result")


def test_a_result_that_no_server_would_take_says_so(runner: Runner) -> None:
    result = written(runner, DONE, Outputs(dataset={"vocabulary": "x" * MAX_RESULT_BYTES}))
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, "bad_result")
    assert "put what is large into tensors" in result.detail
