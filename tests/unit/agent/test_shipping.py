from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.agent.control_plane import ControlPlane
from fairlead.agent.shipping import Shipper
from fairlead.errors import StaleAttempt, Unavailable
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
