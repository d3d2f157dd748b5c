"""A control plane for tests of agents: real HTTP, state in memory, the same fences as the real one.

Tests offer attempts, read what arrived, and take the server away or let it forget answers.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fairlead.errors import (
    BadInput,
    Conflict,
    FairleadError,
    NotFound,
    StaleAgent,
    StaleAttempt,
    Unauthorized,
    WrongOffset,
)
from fairlead.lifecycle import Observation, Outcome
from fairlead.protocol import (
    AttachAnswer,
    AttachRequest,
    AttemptObservation,
    Batch,
    BatchAnswer,
    CheckpointCommit,
    LaunchDocument,
    LeaseRequest,
    MetricPoint,
    NoteRecord,
    Offer,
    OpenAttempt,
    ResultClaim,
    StartedReport,
    StopCommand,
    StopMode,
    SweepOrders,
    SyncAnswer,
    SyncRequest,
    TrialDocument,
    TrialRecord,
    TrialsAnswer,
)
from fairlead.spec import Document

AGENT_TOKEN = "agent-token-of-the-fake"
CLUSTER = "local"
_STATUS: tuple[tuple[type[FairleadError], int], ...] = (
    (Unauthorized, 401),
    (NotFound, 404),
    (Conflict, 409),
    (BadInput, 422),
)


@dataclass
class FakeAttempt:
    """One attempt and all that has arrived for it."""

    document: LaunchDocument
    token: str | None = None
    started: StartedReport | None = None
    points: list[MetricPoint] = field(default_factory=list)
    notes: list[NoteRecord] = field(default_factory=list)
    trials: list[TrialRecord] = field(default_factory=list)
    earlier_trials: list[TrialDocument] = field(default_factory=list)
    """Those of the sweep that there were before; answered in pages of two."""
    orders: SweepOrders | None = None
    """What its runner must know; repeated until it has heard of the last amendment."""
    checkpoints: dict[int, CheckpointCommit] = field(default_factory=dict)
    claim: ResultClaim | None = None
    is_over: bool = False
    """It has an outcome, claimed or not."""
    refuses_points: bool = False
    """Its points are refused as malformed."""
    refusals: list[Batch] = field(default_factory=list)
    """What the agent said about records that were refused."""
    refuses_success: bool = False
    """Its results that speak of success are refused as malformed."""
    stop: StopCommand | None = None
    observations: list[AttemptObservation] = field(default_factory=list)

    @property
    def offsets(self) -> dict[str, int]:
        """Next expected offset of each stream."""
        return {"metrics": len(self.points), "notes": len(self.notes), "trials": len(self.trials)}

    def steps(self, key: str) -> list[int]:
        """Steps of one metric, in order of arrival."""
        return [point.step for point in self.points if point.key == key]


class FakeControlPlane:
    """Serves ``/internal/v1`` on a free port of loopback until ``close``."""

    def __init__(self) -> None:
        self.attempts: dict[str, FakeAttempt] = {}
        self.bundles: dict[str, bytes] = {}
        self.agent_epoch = 0
        self.is_away = False
        """Every call is answered with 503."""
        self.translate: Callable[[Any], Any] = lambda content: content
        """What becomes of its JSON answers: those of another release."""
        self.stale_calls = 0
        self.strays: set[str] = set()
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"plane": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # ---- for tests ----

    def offer(self, document: LaunchDocument) -> FakeAttempt:
        """Put an attempt on offer."""
        with self._lock:
            attempt = FakeAttempt(document=document)
            self.attempts[document.attempt_id] = attempt
            return attempt

    def ask_to_stop(self, attempt_id: str, mode: StopMode, *, grace_s: float) -> None:
        """Repeat a stop command in every answer until the attempt is over."""
        command = StopCommand(attempt_id=attempt_id, mode=mode, grace_s=grace_s)
        with self._lock:
            self.attempts[attempt_id].stop = command

    # ---- routes ----

    def answer(self, method: str, path: str, token: str, body: bytes) -> Document | bytes | None:
        """Route one call. Raises Fairlead's own errors."""
        parts = path.removeprefix("/internal/v1/").split("/")
        if method == "GET" and parts[0] == "code-bundles":
            return self._bundle(parts[1], token)
        if method == "GET":
            return self._trials(parts[1], path, token)
        if parts[0] == "agent":
            _require(token == AGENT_TOKEN, Unauthorized("wrong agent token"))
            if parts[1] == "attach":
                return self._attach(AttachRequest.model_validate_json(body))
            return self._sync(SyncRequest.model_validate_json(body))
        if parts[2] == "lease":
            _require(token == AGENT_TOKEN, Unauthorized("wrong agent token"))
            return self._lease(parts[1], LeaseRequest.model_validate_json(body))
        with self._lock:
            return self._write(parts[1], parts[2], token, body)

    def _bundle(self, sha256: str, token: str) -> bytes:
        known = any(attempt.token == token for attempt in self.attempts.values())
        _require(known, Unauthorized("no attempt has this token"))
        _require(sha256 in self.bundles, NotFound(f"there is no bundle {sha256}"))
        return self.bundles[sha256]

    def _trials(self, attempt_id: str, path: str, token: str) -> TrialsAnswer:
        attempt = self.attempts[attempt_id]
        _require(attempt.token == token, Unauthorized("wrong token"))
        first_no = int(parse_qs(urlsplit(path).query)["first_no"][0])
        found = [one for one in attempt.earlier_trials if one.no >= first_no]
        return TrialsAnswer(trials=tuple(found[:2]), next_no=found[2].no if len(found) > 2 else None)

    def _attach(self, _: AttachRequest) -> AttachAnswer:
        with self._lock:
            self.agent_epoch += 1
            found = [self._open_attempt(attempt) for attempt in self.attempts.values() if not attempt.is_over]
            return AttachAnswer(cluster=CLUSTER, agent_epoch=self.agent_epoch, attempts=tuple(found))

    def _open_attempt(self, attempt: FakeAttempt) -> OpenAttempt:
        if attempt.token is not None:
            attempt.token = secrets.token_hex(8)
        document = attempt.document
        return OpenAttempt(
            attempt_id=document.attempt_id,
            experiment_id=document.experiment_id,
            attempt_no=document.attempt_no,
            runner_name=document.runner_name,
            attempt_token=attempt.token,
            is_leased=attempt.token is not None,
            storage_path=document.storage_path,
            batch_offsets=attempt.offsets,
        )

    def _sync(self, request: SyncRequest) -> SyncAnswer:
        deadline = time.monotonic() + request.wait_s
        with self._lock:
            self._require_epoch(request.agent_epoch)
            self.strays.update(request.stray_runners)
            for observation in request.observations:
                self.attempts[observation.attempt_id].observations.append(observation)
        while True:
            with self._lock:
                self._require_epoch(request.agent_epoch)
                answer = self._todo(request)
            if answer != SyncAnswer() or time.monotonic() > deadline:
                return answer
            time.sleep(0.05)

    def _todo(self, request: SyncRequest) -> SyncAnswer:
        known = {observation.attempt_id for observation in request.observations}
        served = {attempt.document.runner_name for attempt in self.attempts.values() if not attempt.is_over}
        return SyncAnswer(
            offers=tuple(
                Offer(attempt_id=name, runner_name=attempt.document.runner_name)
                for name, attempt in self.attempts.items()
                if attempt.token is None and not attempt.is_over
            ),
            stops=tuple(attempt.stop for attempt in self.attempts.values() if attempt.stop and not attempt.is_over),
            ended=tuple(sorted(name for name in known if self.attempts[name].is_over)),
            strays_to_stop=tuple(name for name in request.stray_runners if name not in served),
            sweeps=tuple(self._unheard(request)),
        )

    def _unheard(self, request: SyncRequest) -> Iterator[SweepOrders]:
        for seen in request.observations:
            orders = self.attempts[seen.attempt_id].orders
            if orders is None:
                continue
            last_no = orders.amendments[-1].no if orders.amendments else 0
            if seen.amendment_no < last_no or seen.slots not in (0, orders.slots):
                yield orders

    def _lease(self, attempt_id: str, request: LeaseRequest) -> LaunchDocument:
        with self._lock:
            self._require_epoch(request.agent_epoch)
            attempt = self.attempts[attempt_id]
            attempt.token = secrets.token_hex(8)
            return attempt.document.amended(attempt_token=attempt.token)

    def _write(self, attempt_id: str, what: str, token: str, body: bytes) -> Document | None:
        attempt = self.attempts[attempt_id]
        if attempt.token != token or (attempt.is_over and what != "result"):
            self.stale_calls += 1
            raise StaleAttempt(f"attempt {attempt_id} is not yours any more")
        match what:
            case "started":
                attempt.started = StartedReport.model_validate_json(body)
            case "batches":
                return self._take_batch(attempt, Batch.model_validate_json(body))
            case "checkpoints":
                commit = CheckpointCommit.model_validate_json(body)
                attempt.checkpoints[commit.step] = commit
            case "result":
                claim = ResultClaim.model_validate_json(body)
                _require(
                    claim.result.outcome is not Outcome.SUCCEEDED or not attempt.refuses_success,
                    BadInput("this result is refused"),
                )
                attempt.claim, attempt.is_over = claim, True
        return None

    def _take_batch(self, attempt: FakeAttempt, batch: Batch) -> BatchAnswer:
        expected = attempt.offsets[batch.stream]
        if batch.refused is not None:
            attempt.refusals.append(batch)
            return BatchAnswer(next_offset=expected)
        _require(not (batch.points and attempt.refuses_points), BadInput("these points are refused"))
        if batch.first_offset != expected:
            raise WrongOffset(f"expected offset {expected}", expected=expected)
        attempt.points.extend(batch.points)
        attempt.notes.extend(batch.notes)
        attempt.trials.extend(batch.trials)
        return BatchAnswer(next_offset=batch.next_offset)

    def _require_epoch(self, agent_epoch: int) -> None:
        _require(agent_epoch == self.agent_epoch, StaleAgent("a newer agent has attached"))

    def has_evidence(self, attempt_id: str) -> AttemptObservation | None:
        """The first observation of an attempt that proves its death."""
        seen = self.attempts[attempt_id].observations
        proofs = (each for each in seen if each.has_evidence_of_death and each.observation is Observation.ABSENT)
        return next(proofs, None)


def _require(condition: bool, error: FairleadError) -> None:
    if not condition:
        raise error


class _Handler(BaseHTTPRequestHandler):
    plane: FakeControlPlane
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve("GET", b"")

    def do_POST(self) -> None:
        self._serve("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _serve(self, method: str, body: bytes) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.plane.is_away:
            self._problem(503, "unavailable", "the server is away", {})
            return
        try:
            answer = self.plane.answer(method, self.path, token, body)
        except FairleadError as error:
            status = next(number for kind, number in _STATUS if isinstance(error, kind))
            more = {"expected": error.expected} if isinstance(error, WrongOffset) else {}
            self._problem(status, error.code, str(error), more)
            return
        if isinstance(answer, Document):
            said = self.plane.translate(answer.model_dump(mode="json", by_alias=True))
            self._reply(200, "application/json", json.dumps(said).encode())
        else:
            self._reply(200 if answer else 204, "application/zip", answer or b"")

    def _problem(self, status: int, code: str, detail: str, more: dict[str, Any]) -> None:
        body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail, **more}
        self._reply(status, "application/problem+json", json.dumps(body).encode())

    def _reply(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the standard library's
        """Say nothing: tests read the state instead."""
