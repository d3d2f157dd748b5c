"""The agent's main loop: attach, adopt what runs, then report and obey until told to end.

It holds nothing that cannot be found again: attempts come from the server, runners from Ray, offsets from both.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import ray
import structlog

from fairlead import __version__
from fairlead.agent.cluster import HURRIED_S, RayCluster
from fairlead.agent.collecting import Collector
from fairlead.agent.control_plane import BeyondThisRelease, ControlPlane, Leased
from fairlead.agent.files import read_begun, read_claim
from fairlead.agent.tending import Lease, Surroundings, Tending
from fairlead.errors import BadInput, Conflict, FairleadError, NotFound, StaleAgent, Unavailable
from fairlead.failpoints import failpoint
from fairlead.lifecycle import Observation
from fairlead.protocol import (
    MAX_DELETIONS,
    PROTOCOL,
    AttachAnswer,
    AttachRequest,
    AttemptObservation,
    LaunchDocument,
    LeaseRequest,
    Offer,
    OpenAttempt,
    SyncAnswer,
    SyncRequest,
)
from fairlead.settings import AgentSettings

RAY_FIRST_WAIT_S = 20.0
"""How long the first words wait for Ray; after that the agent reports that it cannot see."""
LEAVE_TIMEOUT_S = 10.0
MAX_BACKOFF_S = 10.0
BUSY_REST_S = 0.2
logger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What an agent is made of."""

    settings: AgentSettings
    control: ControlPlane
    cluster: RayCluster
    surroundings: Callable[[int], Surroundings]
    """What the attempts share, for an agent epoch."""
    keep_signals: Callable[[], None]
    """Called again and again from the main thread: Ray takes the signals for itself whenever it connects."""


class Agent:
    """One agent of one cluster, from its first words to its last."""

    def __init__(self, parts: Parts, stop: threading.Event) -> None:
        self._parts = parts
        self._stop = stop
        self._tended: dict[str, Tending] = {}
        self._strays: dict[str, float] = {}
        self._around: Surroundings | None = None
        self._collector = Collector(parts.settings.storage)

    def run(self) -> None:
        """Work until ``stop`` is set; runners go on. Raises ``StaleAgent`` once a newer agent has attached."""
        self._wait_for_ray()
        self._collector.start()
        try:
            self._persist(self._attach)
            while not self._stop.is_set():
                self._persist(self._turn)
        finally:
            self._leave()

    def _wait_for_ray(self) -> None:
        for _ in range(int(RAY_FIRST_WAIT_S / BUSY_REST_S)):
            if self._stop.is_set() or self._parts.cluster.wait_until_connected(BUSY_REST_S):
                return

    def _persist(self, step: Callable[[], bool]) -> None:
        """Repeat a step through outages of the control plane, more and more slowly."""
        backoff_s = BUSY_REST_S
        while not self._stop.is_set():
            try:
                is_busy = step()
            except (Unavailable, NotFound) as error:
                logger.warning("the control plane is away; runners go on", error=str(error), retry_s=backoff_s)
                self._stop.wait(backoff_s)
                backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)
                continue
            if is_busy:
                self._stop.wait(BUSY_REST_S)
            return

    # ---- attach and adopt ----

    def _attach(self) -> bool:
        cluster = self._parts.cluster
        request = AttachRequest(
            protocol=PROTOCOL,
            agent_version=__version__,
            ray_version=str(ray.__version__),
            ray_session=cluster.session(),
            nodes=cluster.nodes(),
        )
        answer = self._parts.control.attach(request)
        failpoint("agent.attached")
        self._around = self._parts.surroundings(answer.agent_epoch)
        self._adopt(answer)
        return False

    def _adopt(self, answer: AttachAnswer) -> None:
        for found in answer.attempts:
            if found.attempt_token is not None and self._has_traces(found):
                self._tend(
                    Lease(
                        attempt_id=found.attempt_id,
                        experiment_id=found.experiment_id,
                        attempt_no=found.attempt_no,
                        runner_name=found.runner_name,
                        token=found.attempt_token,
                        storage_path=found.storage_path,
                        offsets=dict(found.batch_offsets),
                    )
                )
        logger.info("attached", cluster=answer.cluster, agent_epoch=answer.agent_epoch, adopted=sorted(self._tended))

    def _has_traces(self, found: OpenAttempt) -> bool:
        """Whether it has begun. One that has not will be offered again, with its launch document."""
        attempt = self._parts.settings.storage / found.storage_path
        return read_begun(attempt) is not None or read_claim(attempt) is not None

    # ---- turns ----

    def _turn(self) -> bool:
        around = self._require_around()
        self._parts.keep_signals()
        self._forget_done()
        cluster = self._parts.cluster
        request = SyncRequest(
            agent_epoch=around.agent_epoch,
            ray_session=cluster.session(),
            nodes=cluster.nodes(),
            observations=tuple(self._observation(tending) for tending in self._tended.values()),
            stray_runners=self._old_strays(),
            collected=self._collector.done()[:MAX_DELETIONS],
            wait_s=self._patience_s(),
        )
        answer = self._parts.control.sync(request)
        self._collector.acknowledge(request.collected)
        self._collector.take(answer.deletions)
        self._obey(answer)
        return answer != SyncAnswer()

    def _patience_s(self) -> float:
        """How long an answer may be held back: not while an attempt gives up what others may wait for."""
        is_freeing = self._parts.cluster.is_freeing or any(one.is_leaving for one in self._tended.values())
        return min(HURRIED_S if is_freeing else math.inf, self._parts.settings.sync_wait_s)

    def _observation(self, tending: Tending) -> AttemptObservation:
        """What was seen last; nothing is known while Ray is away, however fresh the last sighting is."""
        seen = tending.observation()
        if self._parts.cluster.is_answering:
            return seen
        return AttemptObservation(attempt_id=seen.attempt_id, observation=Observation.UNKNOWN, detail="ray_unreachable")

    def _obey(self, answer: SyncAnswer) -> None:
        for attempt_id in answer.ended:
            if attempt_id in self._tended:
                self._tended[attempt_id].end()
        for offer in answer.offers:
            if offer.attempt_id not in self._tended:
                self._take(offer)
        for command in answer.stops:
            if command.attempt_id in self._tended:
                self._tended[command.attempt_id].obey(command)
        for orders in answer.sweeps:
            if orders.attempt_id in self._tended:
                self._tended[orders.attempt_id].amend(orders)
        for runner_name in answer.strays_to_stop:
            self._remove_stray(runner_name)

    def _take(self, offer: Offer) -> None:
        try:
            request = LeaseRequest(agent_epoch=self._require_around().agent_epoch)
            document = self._parts.control.lease(offer.attempt_id, request)
        except StaleAgent:
            raise
        except BeyondThisRelease as refusal:
            self._tend(_lease(refusal.leased, refusal=str(refusal)))
            return
        except (BadInput, Conflict, NotFound, Unavailable) as error:
            logger.warning("an offer could not be taken", attempt_id=offer.attempt_id, error=str(error))
            return
        failpoint("agent.leased")
        self._tend(_lease(document))

    def _tend(self, lease: Lease) -> None:
        tending = Tending(lease, self._require_around())
        self._tended[lease.attempt_id] = tending
        tending.start()

    def _forget_done(self) -> None:
        for attempt_id in [each for each, tending in self._tended.items() if tending.is_done]:
            del self._tended[attempt_id]

    # ---- strays ----

    def _old_strays(self) -> tuple[str, ...]:
        """Runners that belong to none of our attempts, seen for some time already."""
        now_s = self._require_around().clock.monotonic_s()
        ours = {tending.lease.runner_name for tending in self._tended.values()}
        strangers = set(self._parts.cluster.runners()) - ours
        self._strays = {name: self._strays.get(name, now_s) for name in strangers}
        limit_s = now_s - self._parts.settings.stray_after_s
        return tuple(sorted(name for name, since_s in self._strays.items() if since_s <= limit_s))

    def _remove_stray(self, runner_name: str) -> None:
        try:
            self._parts.cluster.remove(runner_name)
            logger.warning("removed a runner that belongs to no attempt", runner_name=runner_name)
        except FairleadError as error:
            logger.warning("a stray runner could not be removed", runner_name=runner_name, error=str(error))

    # ---- the end ----

    def _leave(self) -> None:
        for tending in self._tended.values():
            tending.leave()
        for tending in self._tended.values():
            tending.join(LEAVE_TIMEOUT_S)
        self._collector.stop(LEAVE_TIMEOUT_S)

    def _require_around(self) -> Surroundings:
        assert self._around is not None, "attach() comes first"
        return self._around


def _lease(leased: LaunchDocument | Leased, *, refusal: str = "") -> Lease:
    return Lease(
        attempt_id=leased.attempt_id,
        experiment_id=leased.experiment_id,
        attempt_no=leased.attempt_no,
        runner_name=leased.runner_name,
        token=leased.attempt_token,
        storage_path=leased.storage_path,
        document=leased if isinstance(leased, LaunchDocument) else None,
        refusal=refusal,
    )
