from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.agent.control_plane import ControlPlane
from fairlead.agent.shipping import Shipper
from fairlead.errors import StaleAttempt, Unavailable
from fairlead.protocol import MAX_TRIAL_RECORDS, TrialRecord
from fairlead.run.spool import SpoolWriter
from fairlead.testing.control import AGENT_TOKEN, FakeAttempt, FakeControlPlane
from fairlead.testing.ray import a_launch


@pytest.fixture
def plane() -> Iterator[FakeControlPlane]:
    made = FakeControlPlane()
    yield made
    made.close()


@pytest.fixture
def control(plane: FakeControlPlane) -> Iterator[ControlPlane]:
    made = ControlPlane(plane.url, agent_token=AGENT_TOKEN)
    yield made
    made.close()


@pytest.fixture
def attempt(plane: FakeControlPlane) -> FakeAttempt:
    made = plane.offer(a_launch("exp"))
    made.token = "token"
    return made


def spool(directory: Path, first: int, last: int) -> None:
    writer = SpoolWriter(directory)
    for step in range(first, last):
        writer.metrics({"loss": 1.0}, step=step, at_ms=step)
    writer.close()


def a_shipper(control: ControlPlane, directory: Path, *, token: str = "token", offset: int = 0) -> Shipper:
    return Shipper(
        control,
        attempt_id="exp-1",
        token=token,
        attempt=directory,
        storage=directory.parent,
        offsets={"metrics": offset},
    )


@pytest.mark.parametrize("offset", [0, 700, 5000])
def test_whatever_offset_it_starts_with_every_point_arrives_once(
    control: ControlPlane, attempt: FakeAttempt, tmp_path: Path, offset: int
) -> None:
    spool(tmp_path, 0, 2500)
    a_shipper(control, tmp_path).ship()
    spool(tmp_path, 2500, 5200)
    assert a_shipper(control, tmp_path, offset=offset).ship()
    assert attempt.steps("loss") == list(range(5200))


def test_an_outage_is_said_and_nothing_is_lost(
    plane: FakeControlPlane, control: ControlPlane, attempt: FakeAttempt, tmp_path: Path
) -> None:
    spool(tmp_path, 0, 10)
    shipper = a_shipper(control, tmp_path)
    plane.is_away = True
    with pytest.raises(Unavailable):
        shipper.ship()
    plane.is_away = False
    assert shipper.ship()
    assert attempt.steps("loss") == list(range(10))


def test_a_superseded_attempt_ships_nothing(control: ControlPlane, attempt: FakeAttempt, tmp_path: Path) -> None:
    spool(tmp_path, 0, 3)
    with pytest.raises(StaleAttempt):
        a_shipper(control, tmp_path, token="an older token").ship()
    assert attempt.points == []


def test_what_is_refused_for_ever_is_said_once_and_keeps_nothing_else_back(
    plane: FakeControlPlane, control: ControlPlane, attempt: FakeAttempt, tmp_path: Path
) -> None:
    attempt.refuses_points = True
    writer = SpoolWriter(tmp_path)
    writer.metrics({"loss": 1.0}, step=1, at_ms=1)
    writer.note("workload_said", at_ms=1, detail="hello")
    writer.close()
    shipper = a_shipper(control, tmp_path)
    assert shipper.ship()
    assert shipper.ship()
    (said,) = attempt.refusals
    assert (said.stream, said.first_offset, said.points) == ("metrics", 0, ())
    assert "these points are refused" in str(said.refused)
    assert [note.detail for note in attempt.notes] == ["hello"]


def test_a_refusal_that_could_not_be_said_is_said_later(
    plane: FakeControlPlane, control: ControlPlane, attempt: FakeAttempt, tmp_path: Path
) -> None:
    attempt.refuses_points = True
    spool(tmp_path, 0, 1)
    shipper = a_shipper(control, tmp_path)
    ship = control.ship
    control.ship = cut_after(1, ship)  # type: ignore[method-assign]  # the server goes away between the two calls
    with pytest.raises(Unavailable):
        shipper.ship()
    control.ship = ship  # type: ignore[method-assign]
    assert shipper.ship()
    assert len(attempt.refusals) == 1


def cut_after(number: int, ship: Any) -> Any:
    calls: list[int] = []

    def shipping(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > number:
            raise Unavailable("cut")
        return ship(*arguments, **named)

    return shipping


def test_records_of_trials_arrive_once_and_in_order(
    control: ControlPlane, attempt: FakeAttempt, tmp_path: Path
) -> None:
    writer = SpoolWriter(tmp_path)
    for no in range(MAX_TRIAL_RECORDS + 50):
        writer.trial(TrialRecord(no=no, state="running", params={"lr": 0.5}, at_ms=no))
    writer.close()
    assert a_shipper(control, tmp_path).ship()
    assert a_shipper(control, tmp_path).ship()
    assert [record.no for record in attempt.trials] == list(range(MAX_TRIAL_RECORDS + 50))
