"""What the agent does for one attempt, in a thread of its own, so that a bad one does not hold up the others."""

import math
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from fairlead.agent.bundles import BundleCache
from fairlead.agent.cluster import Cluster, Sighting
from fairlead.agent.control_plane import ControlPlane
from fairlead.agent.files import (
    Begun,
    has_result,
    read_begun,
    read_claim,
    result_without_a_run,
    write_result_unless_begun,
)
from fairlead.agent.reconcile import Action, Decision, RunnerSeen, Seen, decide, ticks_to_rest
from fairlead.agent.shipping import Shipper
from fairlead.clock import Clock
from fairlead.errors import BadBundle, BadInput, FairleadError, NotFound, StaleAttempt, Unavailable
from fairlead.failpoints import failpoint
from fairlead.lifecycle import Observation, Outcome
from fairlead.protocol import (
    TRIALS_FILE,
    AttemptObservation,
    LaunchDocument,
    ResultClaim,
    StartedReport,
    StopCommand,
    StopMode,
    SweepOrders,
)
from fairlead.run.messages import RunnerStatus
from fairlead.run.storage import unfinished_checkpoints, write_atomically
from fairlead.run.virtual import Conditions, Order

FORCE_AFTER_S = 30.0
"""How long after the grace of a stop the runner itself may take to end the group."""
GLANCE_S = 0.2
"""How often an agent that rests between two looks asks whether there is a result."""
HURRY_FOR_S = 10.0
"""How long after the end of an attempt others hurry for what it gives back; what stays longer may stay for ever."""
LAUNCH_LIMIT_S = 300.0
_STOPPED_BEFORE_START = {
    StopMode.CANCEL: (Outcome.CANCELLED, "cancelled"),
    StopMode.PAUSE: (Outcome.PREEMPTED, "pause_requested"),
    StopMode.PREEMPT: (Outcome.PREEMPTED, "preempted"),
    StopMode.TIMEOUT: (Outcome.TIMEOUT, "run time spent"),
    StopMode.BUDGET: (Outcome.OVER_BUDGET, "budget spent"),
}
logger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """An attempt that this agent may write for. ``document`` is absent where a runner was adopted.

    ``refusal``: why this agent must not launch it; it is given back as an infrastructure error.
    """

    attempt_id: str
    experiment_id: str
    attempt_no: int
    runner_name: str
    token: str = field(repr=False)
    storage_path: str
    document: LaunchDocument | None = None
    refusal: str = ""
    offsets: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What every attempt of an agent shares."""

    control: ControlPlane
    cluster: Cluster
    bundles: BundleCache
    environments: Conditions
    clock: Clock
    storage: Path
    agent_epoch: int
    evidence_gap_s: float
    node_grace_s: float
    tick_s: float


class Tending:
    """Look, decide, act, report; again and again until nothing is left of the attempt."""

    def __init__(self, lease: Lease, around: Surroundings) -> None:
        self.lease = lease
        self.is_done = False
        """Nothing is left here and the server knows the outcome: the attempt may be forgotten."""
        self._around = around
        self._attempt = around.storage / lease.storage_path
        self._shipper = Shipper(
            around.control,
            attempt_id=lease.attempt_id,
            token=lease.token,
            attempt=self._attempt,
            storage=around.storage,
            offsets=lease.offsets,
        )
        self._log = logger.bind(attempt_id=lease.attempt_id)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop_agent = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tend-{lease.runner_name}", daemon=True)
        now_s = around.clock.monotonic_s()
        self._leased_s = now_s
        self._silent_since_s: float | None = None
        self._absent_since_s: float | None = None
        self._orders: SweepOrders | None = None
        self._stop: StopCommand | None = None
        self._stop_since_s = now_s
        self._has_reported_start = False
        self._has_claimed = False
        self._is_behind = False
        self._over_since_s: float | None = None
        self._observation = AttemptObservation(
            attempt_id=lease.attempt_id, observation=Observation.UNKNOWN, detail="not looked at yet"
        )

    # ---- from the agent's main thread ----

    def start(self) -> None:
        """Begin to tend."""
        self._thread.start()

    def leave(self) -> None:
        """Stop tending; the runner goes on."""
        self._stop_agent.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has left."""
        self._thread.join(timeout_s)

    @property
    def is_leaving(self) -> bool:
        """Whether it has just ended and its processes have not, as far as is known: for 10 s at most."""
        since_s = self._over_since_s
        if since_s is None or self.is_done:
            return False
        return self._around.clock.monotonic_s() - since_s < HURRY_FOR_S

    def observation(self) -> AttemptObservation:
        """What was seen last."""
        with self._lock:
            return self._observation

    def obey(self, command: StopCommand) -> None:
        """Take a stop command; repeats change nothing."""
        with self._lock:
            if self._stop is None or self._stop.mode is not command.mode:
                self._stop, self._stop_since_s = command, self._around.clock.monotonic_s()
                self._wake.set()

    def amend(self, orders: SweepOrders) -> None:
        """Take what the runner of a sweep must know; repeats change nothing."""
        with self._lock:
            if self._orders != orders:
                self._orders = orders
                self._wake.set()

    def end(self) -> None:
        """The server says that the attempt is over; repeats change nothing."""
        if self._over_since_s is None:
            self._note_end()

    def _note_end(self) -> None:
        self._over_since_s = self._around.clock.monotonic_s()
        self._wake.set()

    # ---- the thread ----

    def _run(self) -> None:
        while not self._stop_agent.is_set() and not self.is_done:
            is_old = has_result(self._attempt)  # asked before the look: a result that comes during it is new
            self.tick()
            self._rest(is_old=is_old)

    def _rest(self, *, is_old: bool) -> None:
        """Until the next look, or until there is a result that the last look cannot have seen: to ask the file system
        costs less than a look.
        """
        rest_s = self.ticks_to_rest() * self._around.tick_s
        for _ in range(math.ceil(rest_s / GLANCE_S)):
            if self._wake.wait(min(GLANCE_S, rest_s)) or self._stop_agent.is_set():
                break
            if not is_old and has_result(self._attempt):
                break
        self._wake.clear()

    def ticks_to_rest(self) -> int:
        """How many ticks may pass until the next look."""
        return ticks_to_rest(
            self._observation.observation,
            age_s=self._around.clock.monotonic_s() - self._leased_s,
            is_behind=self._is_behind,
            stop_asked=self._stop is not None,
        )

    def tick(self) -> None:
        """One look and its consequence."""
        try:
            self._publish(self._look_and_act())
        except StaleAttempt as error:
            # Another agent's token may be why. Only the server's answer to a sync says that the attempt has ended.
            self._log.warning("the attempt's token is refused", error=str(error))
        except Unavailable as error:
            self._log.info("try again", error=str(error))
        except FairleadError as error:
            self._log.error("refused", error=str(error))
        except Exception as error:  # one bad attempt must not take the agent along
            self._log.exception("tending failed")
            failed = AttemptObservation(
                attempt_id=self.lease.attempt_id, observation=Observation.UNKNOWN, detail=f"agent error: {error}"
            )
            self._publish(failed)

    def _publish(self, observation: AttemptObservation) -> None:
        with self._lock:
            self._observation = observation

    def _look_and_act(self) -> AttemptObservation:
        sighting = self._around.cluster.look(self.lease.runner_name, agent_epoch=self._around.agent_epoch)
        begun = read_begun(self._attempt)
        decision = decide(self._seen(sighting, begun))
        self._publish(self._describe(decision, sighting))
        return self._act(decision, sighting, begun)

    def _seen(self, sighting: Sighting, begun: Begun | None) -> Seen:
        now_s = self._around.clock.monotonic_s()
        if sighting.runner is not RunnerSeen.SILENT:
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = now_s
        document = self.lease.document
        return Seen(
            is_over=self._over_since_s is not None,
            has_result=not self._has_claimed and read_claim(self._attempt) is not None,
            runner=sighting.runner,
            has_begun=begun is not None or bool(sighting.status and sighting.status.has_begun),
            has_document=document is not None,
            stop_asked=self._stop is not None,
            stop_overdue=self._is_stop_overdue(now_s),
            same_session=_is_same_session(begun, self._around.cluster.session()),
            silent_s=now_s - self._silent_since_s if self._silent_since_s is not None else 0.0,
            stall_timeout_s=begun.stall_timeout_s if begun else math.inf,
            progress_age_s=_age_s(sighting.status),
        )

    def _is_stop_overdue(self, now_s: float) -> bool:
        return self._stop is not None and now_s - self._stop_since_s > self._stop.grace_s + FORCE_AFTER_S

    def _describe(self, decision: Decision, sighting: Sighting, *, evidence: str | None = None) -> AttemptObservation:
        status = sighting.status
        return AttemptObservation(
            attempt_id=self.lease.attempt_id,
            observation=decision.observation if evidence is None else Observation.ABSENT,
            detail=decision.detail,
            last_step=status.last_step if status else None,
            progress_age_s=status.progress_age_s if status else None,
            amendment_no=status.amendment_no if status else 0,
            slots=status.slots if status else 0,
            has_evidence_of_death=bool(evidence),
            death_reason=evidence or "",
        )

    def _act(self, decision: Decision, sighting: Sighting, begun: Begun | None) -> AttemptObservation:
        seen = self._describe(decision, sighting)
        if decision.action is not Action.PROVE_DEATH:
            self._absent_since_s = None
        match decision.action:
            case Action.WATCH:
                self._watch(sighting)
            case Action.LAUNCH:
                self._launch()
            case Action.ABANDON:
                self._abandon()
            case Action.CLAIM:
                self._claim()
            case Action.REMOVE:
                self.is_done = self._around.cluster.remove(self.lease.runner_name)
                if self.is_done:  # nobody is left who could finish them
                    for leftover in unfinished_checkpoints(self._attempt):
                        shutil.rmtree(leftover, ignore_errors=True)
            case Action.FORCE:
                self._around.cluster.remove(self.lease.runner_name)
            case Action.PROVE_DEATH:
                return self._prove_death(decision, sighting, begun)
            case Action.WAIT:
                self._harvest()
        return seen

    # ---- while it lives ----

    def _watch(self, sighting: Sighting) -> None:
        status = sighting.status
        if status is not None:
            self._report_start(status)
        with self._lock:
            stop, orders = self._stop, self._orders
        if stop is not None and status is not None and not status.is_finished:
            self._around.cluster.stop(self.lease.runner_name, stop, agent_epoch=self._around.agent_epoch)
        if orders is not None and status is not None and not status.is_finished and _is_news(orders, status):
            self._around.cluster.amend(self.lease.runner_name, orders, agent_epoch=self._around.agent_epoch)
        self._is_behind = not self._harvest()

    def _report_start(self, begun: Begun | RunnerStatus) -> None:
        if not self._has_reported_start:
            report = StartedReport(node_id=begun.node_id, pid=begun.pid, ray_session=begun.ray_session)
            self._around.control.started(self.lease.attempt_id, report, token=self.lease.token)
            failpoint("agent.started")
            self._has_reported_start = True

    def _harvest(self) -> bool:
        """Ship and commit what is there; whether nothing is left to ship."""
        is_shipped = self._shipper.ship()
        self._shipper.commit_checkpoints()
        return is_shipped

    # ---- the beginning ----

    def _launch(self) -> None:
        document = self.lease.document
        assert document is not None, "decide() launches only with a document"
        try:
            code, environment = self._fetch_code(document), self._fetch_lock(document)
        except BadBundle as error:
            self._end_unbegun(Outcome.USER_ERROR, f"bad_bundle: {error}")
            return
        except (Unavailable, NotFound, OSError) as error:
            self._retry_or_give_up(f"the code could not be prepared: {error}")
            return
        try:
            self._write_trials(document)
        except (Unavailable, OSError) as error:
            self._retry_or_give_up(f"the sweep's trials could not be fetched: {error}")
            return
        try:
            answer = self._around.cluster.launch(
                document, code=code, environment=environment, agent_epoch=self._around.agent_epoch
            )
        except Unavailable as error:
            self._retry_or_give_up(f"the runner could not be started: {error}")
            return
        failpoint("agent.launched")
        self._log.info("launched", answer=answer)
        self._wake.set()

    def _fetch_code(self, document: LaunchDocument) -> Path | None:
        if document.code_sha256 is None:
            return None
        return self._around.bundles.fetch(document.code_sha256, token=self.lease.token)

    def _fetch_lock(self, document: LaunchDocument) -> Order | None:
        asked = document.spec.environment
        if asked is None:
            return None
        found = self._around.bundles.fetch(asked.requirements.removeprefix("sha256:"), token=self.lease.token)
        files = [path for path in found.rglob("*") if path.is_file()]
        if len(files) != 1:
            raise BadBundle(f"the bundle of the lock holds {len(files)} files, and must hold one")
        return self._around.environments.order(files[0].read_bytes())

    def _write_trials(self, document: LaunchDocument) -> None:
        """Lay down the trials that a sweep has already, a line each, for its runner to go on from."""
        if document.sweep is None or document.sweep.num_trials == 0:
            return
        lines: list[str] = []
        next_no: int | None = 0
        while next_no is not None:
            page = self._around.control.trials(self.lease.attempt_id, next_no, token=self.lease.token)
            lines += [f"{trial.model_dump_json()}\n" for trial in page.trials]
            next_no = page.next_no
        self._attempt.mkdir(parents=True, exist_ok=True)
        write_atomically(self._attempt / TRIALS_FILE, "".join(lines).encode())

    def _retry_or_give_up(self, detail: str) -> None:
        self._log.warning("launch failed", error=detail)
        if self._around.clock.monotonic_s() - self._leased_s > LAUNCH_LIMIT_S:
            self._end_unbegun(Outcome.INFRA_ERROR, "environment", detail)

    def _abandon(self) -> None:
        with self._lock:
            stop = self._stop
        if stop is not None:
            outcome, reason = _STOPPED_BEFORE_START[stop.mode]
            self._end_unbegun(outcome, reason, stop.detail)
        elif self.lease.refusal:
            self._end_unbegun(Outcome.INFRA_ERROR, "environment", self.lease.refusal)

    def _end_unbegun(self, outcome: Outcome, reason: str, detail: str = "") -> None:
        result = result_without_a_run(
            experiment_id=self.lease.experiment_id,
            attempt_no=self.lease.attempt_no,
            outcome=outcome,
            reason=reason,
            detail=detail,
            now=self._around.clock.now(),
        )
        write_result_unless_begun(self._attempt, result)
        self._wake.set()

    # ---- the end ----

    def _claim(self) -> None:
        if not self._harvest():
            self._wake.set()
            return
        claim = read_claim(self._attempt)
        assert claim is not None, "it was there a moment ago, and results are never removed"
        failpoint("agent.claiming")
        try:
            self._around.control.claim(self.lease.attempt_id, claim, token=self.lease.token)
        except BadInput as error:  # it would be refused for ever: say so instead of it
            claim = self._refused_claim(claim, error)
            self._around.control.claim(self.lease.attempt_id, claim, token=self.lease.token)
        failpoint("agent.claimed")
        self._log.info("result claimed", outcome=claim.result.outcome, reason=claim.result.reason)
        self._has_claimed = True
        self._note_end()

    def _refused_claim(self, claim: ResultClaim, error: BadInput) -> ResultClaim:
        self._log.error("the result is refused", error=str(error))
        result = result_without_a_run(
            experiment_id=self.lease.experiment_id,
            attempt_no=self.lease.attempt_no,
            outcome=Outcome.USER_ERROR,
            reason="bad_result",
            detail=f"the server refuses the result that the runner wrote: {error}",
            now=self._around.clock.now(),
        )
        return ResultClaim(result=result, result_sha256=claim.result_sha256)

    def _prove_death(self, decision: Decision, sighting: Sighting, begun: Begun | None) -> AttemptObservation:
        """Absent, with everything asked, twice. Leftovers of a dead runner are ended: nobody can use them."""
        clock = self._around.clock
        if not self._around.cluster.remove(self.lease.runner_name):
            self._absent_since_s = None
            left = Decision(action=decision.action, observation=Observation.PRESENT, detail="ending what is left of it")
            return self._describe(left, sighting)
        if begun is not None and begun.ray_session:  # a loss of Ray is judged by the session that was reported
            self._report_start(begun)
        if not self._harvest():
            self._wake.set()
            return self._describe(decision, sighting)
        if not _is_same_session(begun, self._around.cluster.session()):
            return self._describe(decision, sighting)  # the control plane waits out the grace of a lost head
        if self._absent_since_s is None:
            self._absent_since_s = clock.monotonic_s()
        lost = self._around.cluster.lost_nodes(self.lease.runner_name)
        if any(since_s < self._around.node_grace_s for since_s in lost.values()):
            why = "a node of it is lost, and what runs there cannot be asked: waiting until it has ended itself"
            left = Decision(action=decision.action, observation=Observation.UNKNOWN, detail=why)
            return self._describe(left, sighting)
        is_proven = clock.monotonic_s() - self._absent_since_s >= self._around.evidence_gap_s
        reason = "node_lost" if begun is not None and begun.node_id in lost else "runner_died"
        return self._describe(decision, sighting, evidence=reason if is_proven else "")


def _age_s(status: RunnerStatus | None) -> float:
    """Seconds since the last step, as far as they tell of a watchdog that sleeps."""
    return 0.0 if status is None or status.is_kept_alive else status.progress_age_s or 0.0


def _is_news(orders: SweepOrders, status: RunnerStatus) -> bool:
    last_no = orders.amendments[-1].no if orders.amendments else 0
    return status.amendment_no < last_no or status.slots != orders.slots


def _is_same_session(begun: Begun | None, session: str) -> bool:
    """Whether Ray's session is the one in which the attempt began, as far as is known."""
    return begun is None or begun.ray_session in ("", session)
