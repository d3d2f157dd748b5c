from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from fairlead.agent.control_plane import BeyondThisRelease, ControlPlane
from fairlead.errors import BadInput
from fairlead.protocol import PROTOCOL, AttachRequest, Batch, LeaseRequest, MetricPoint, StopMode, SyncRequest
from fairlead.testing.control import AGENT_TOKEN, FakeControlPlane
from fairlead.testing.ray import a_launch, a_spec
from fairlead.testing.releases import NEWS, saying_more


@pytest.fixture
def plane() -> Iterator[FakeControlPlane]:
    plane = FakeControlPlane()
    yield plane
    plane.close()


@pytest.fixture
def control(plane: FakeControlPlane) -> Iterator[ControlPlane]:
    control = ControlPlane(plane.url, agent_token=AGENT_TOKEN)
    yield control
    control.close()


def attach(control: ControlPlane) -> int:
    request = AttachRequest(protocol=PROTOCOL, agent_version="1", ray_version="2", ray_session="s")
    return control.attach(request).agent_epoch


def test_an_agent_leaves_out_what_a_newer_server_says_more(plane: FakeControlPlane, control: ControlPlane) -> None:
    plane.translate = saying_more
    document = a_launch("exp", spec=a_spec(code=None))
    attempt = plane.offer(document)
    epoch = attach(control)
    (offer,) = control.sync(SyncRequest(agent_epoch=epoch, ray_session="s")).offers
    leased = control.lease(offer.attempt_id, LeaseRequest(agent_epoch=epoch))
    assert leased == document.amended(attempt_token=attempt.token)
    plane.ask_to_stop(offer.attempt_id, StopMode.CANCEL, grace_s=1)
    assert len(control.sync(SyncRequest(agent_epoch=epoch, ray_session="s")).stops) == 1
    points = (MetricPoint(key="loss", value=1.0, step=0, at_ms=1),)
    batch = Batch(stream="metrics", first_offset=0, points=points)
    assert control.ship(offer.attempt_id, batch, token=leased.attempt_token) == 1


def of_another_kind(content: Any) -> Any:
    """A launch document in which a setting has a value that is new."""
    if "spec" in content:
        content["spec"]["resources"]["strategy"] = NEWS
    return content


@pytest.mark.parametrize("translate", [partial(saying_more, also=("spec",)), of_another_kind])
def test_a_spec_that_asks_for_more_than_the_release_knows_is_refused_with_a_lease_to_give_back(
    plane: FakeControlPlane, control: ControlPlane, translate: Callable[[Any], Any]
) -> None:
    plane.translate = translate
    attempt = plane.offer(a_launch("exp", spec=a_spec(code=None)))
    epoch = attach(control)
    with pytest.raises(BeyondThisRelease, match="release") as caught:
        control.lease("exp-1", LeaseRequest(agent_epoch=epoch))
    (problem,) = caught.value.problems
    assert NEWS in f"{problem.pointer} {problem.message}" or problem.pointer.endswith("/strategy")
    assert caught.value.leased.attempt_token == attempt.token


def test_an_answer_that_says_less_than_it_must_is_refused_with_advice(
    plane: FakeControlPlane, control: ControlPlane
) -> None:
    plane.translate = lambda _: {}
    with pytest.raises(BadInput, match=r"/agent_epoch.*install the release of the server"):
        attach(control)
