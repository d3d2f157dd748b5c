from datetime import UTC, datetime
from pathlib import Path

import pytest

from fairlead.agent.files import Begun, read_begun, read_claim, result_without_a_run, write_result_unless_begun
from fairlead.lifecycle import Outcome
from fairlead.protocol import ResultDocument

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def a_result() -> ResultDocument:
    return result_without_a_run(
        experiment_id="exp", attempt_no=1, outcome=Outcome.CANCELLED, reason="cancelled", detail="", now=NOW
    )


@pytest.mark.parametrize(
    ("content", "begun"),
    [
        (None, None),
        ('{"ray_session": "s", "node_id": "n", "pid": 7}', Begun(ray_session="s", node_id="n", pid=7)),
        ('{"ray_sess', Begun()),
        ("[]", Begun()),
        ('{"by": "agent"}', Begun()),
    ],
)
def test_a_beginning_counts_however_badly_it_was_written(
    tmp_path: Path, content: str | None, begun: Begun | None
) -> None:
    if content is not None:
        (tmp_path / "BEGUN").write_text(content)
    assert read_begun(tmp_path) == begun


def test_an_attempt_that_no_runner_has_begun_can_be_ended_by_the_agent(tmp_path: Path) -> None:
    assert write_result_unless_begun(tmp_path / "a1", a_result())
    claim = read_claim(tmp_path / "a1")
    assert claim is not None
    assert claim.result == a_result()


def test_a_runner_that_has_begun_keeps_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "BEGUN").touch()
    assert not write_result_unless_begun(tmp_path, a_result())
    assert read_claim(tmp_path) is None


def test_a_result_that_does_not_validate_is_none(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"outcome": "succeeded"}')
    assert read_claim(tmp_path) is None
