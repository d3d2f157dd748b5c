"""A small honest API on a real socket, for tests of clients: it keeps its word, and breaks when told to.

It validates specs, replays idempotency keys, pages, streams with resume, and answers problems. What it does not have
is control loops: the test says what becomes of an experiment, with ``advance``.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from fairlead import bundle
from fairlead.errors import BadBundle, BadInput, BadSpec, Problem
from fairlead.lifecycle import Desired, Observation, State
from fairlead.representation import (
    AmendmentView,
    BundleView,
    ClusterChange,
    ClusterView,
    EventView,
    ExperimentDetail,
    ExperimentView,
    GateView,
    LinkView,
    LossDeclaration,
    MetricsView,
    NodeExclusion,
    NodeView,
    PlanView,
    ProblemView,
    QueueEntryView,
    QueueView,
    QuotaView,
    RegistrationView,
    ReportKeyView,
    Representation,
    SweepView,
    TrialDetail,
    TrialView,
    VersionView,
    WhoAmI,
    WhyView,
    WorkloadView,
)
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec, Manifest, Parameter, evaluation_request, from_json, spec_hash

TOKEN = "fl_0123abcd_secret"
AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
WORKLOAD = WorkloadView(
    name="tabular_mlp",
    title="A small network for tables",
    manifest=Manifest(
        name="tabular_mlp",
        title="A small network for tables",
        task="binary",
        module="fairlead_workloads.tabular_mlp:train",
        metrics=("train/loss",),
        steps="epochs",
        parameters={"epochs": Parameter(type="int", default=20, minimum=1, help="passes over the rows")},
    ),
)


ENTRY = QueueEntryView(
    position=1,
    id="exp0001",
    name="risk",
    project="default",
    priority=50,
    workers=2,
    cpus=2,
    gpus=1,
    enqueued_at=AT - timedelta(minutes=5),
    waiting="resources_in_use: needs 2 CPUs",
    estimated_start_at=AT + timedelta(minutes=10),
    basis="those ahead run as long as their like did before",
)
WHY = WhyView(
    id="exp0001",
    state=State.QUEUED,
    desired=Desired.RUN,
    is_waiting=True,
    reason="behind_others: exp0000 is ahead",
    code="behind_others",
    position=3,
    total=9,
    ahead=("exp0002", "exp0000"),
    basis="too far off to tell",
)


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Entry:
    """One experiment of the fake, and what the test gave it."""

    view: ExperimentDetail
    events: list[EventView] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    report: dict[str, Any] | None = None
    trials: list[TrialDetail] = field(default_factory=list)
    """Of a sweep, by number."""
    amendments: list[AmendmentView] = field(default_factory=list)


class FakeApi:
    """``with FakeApi() as api: Client(api.url, api.token)``. Stops its threads when left."""

    def __init__(self) -> None:
        self.token = TOKEN
        self.requests: list[Request] = []
        self.experiments: dict[str, Entry] = {}
        self.bundles: dict[str, bytes] = {}
        self.failures: list[int] = []
        """Statuses that the next requests are answered with instead."""
        self.stream_cuts = 0
        """How many of the next streams break after one message."""
        self.translate: Callable[[Any], Any] = lambda content: content
        """What becomes of its JSON answers: those of another release."""
        self.clusters: dict[str, ClusterView] = {
            "local": ClusterView(name="local", state="active", is_agent_fresh=True)
        }
        self.nodes: list[NodeView] = []
        self.report_key: ReportKeyView | None = None
        """None as of a release that signs no reports."""
        self._answers: dict[str, tuple[bytes, Answer]] = {}
        self.changed = threading.Condition()
        self.is_closing = False
        api = self
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.changed:
            self.is_closing = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def advance(self, experiment_id: str, to: State, *, reason: str = "", **changes: Any) -> None:
        """Move an experiment to a state, with an event; ``changes`` are other fields of its view."""
        with self.changed:
            entry = self.experiments[experiment_id]
            event = EventView(
                seq=len(entry.events) + 1,
                kind="state",
                from_state=entry.view.state,
                to_state=to,
                actor="control",
                reason=reason,
                at=AT,
            )
            entry.events.append(event)
            version = entry.view.version + 1
            entry.view = entry.view.model_copy(update={"state": to, "reason": reason, "version": version, **changes})
            self.changed.notify_all()

    def succeed(self, experiment_id: str, *, gate: str = "pass") -> None:
        """Take an experiment to its good end: metrics, one gate, a report, and a version where the gate passed."""
        has_passed = gate == "pass"
        for state in (State.PLACED, State.RUNNING, State.EVALUATING):
            self.advance(experiment_id, state, attempt_no=1, last_step=2, total_steps=2)
        self.experiments[experiment_id].report = a_report(gate)
        self.advance(
            experiment_id,
            State.SUCCEEDED,
            reason="evaluated",
            metrics={"train/loss": 0.25, "test/auc": 0.9},
            report_outcome=gate,
            gates=(
                GateView(
                    id="dp-sex",
                    metric="demographic_parity_difference",
                    by=("sex",),
                    require="<= 0.30",
                    evidence="upper_bound",
                    outcome=gate,
                    value=0.07,
                    bound=0.2,
                    why="the upper bound 0.2 meets the limit",
                ),
            ),
            registration=RegistrationView(
                is_registered=has_passed,
                name="risk",
                version="1" if has_passed else None,
                alias="candidate" if has_passed else None,
                reason="gates passed" if has_passed else f"gate dp-sex: {gate}",
            ),
        )

    def sweep(self, experiment_id: str, *trials: TrialDetail, **summary: Any) -> None:
        """Give a sweep its trials, some perhaps once more; ``summary``: best, front or nearest."""
        with self.changed:
            entry = self.experiments[experiment_id]
            there = {one.no: one for one in (*entry.trials, *trials)}
            entry.trials = [there[no] for no in sorted(there)]
            counts = {state: sum(one.state is state for one in entry.trials) for state in TrialState}
            asked = entry.view.spec.search.trials if entry.view.spec.search else 0
            ended = len(entry.trials) - counts[TrialState.RUNNING]
            known = entry.view.sweep.model_dump() if entry.view.sweep else {}
            view = SweepView(**{**known, "trials": asked, "ended": ended, "counts": counts, **summary})
            entry.view = entry.view.model_copy(update={"sweep": view})
            self.changed.notify_all()

    def derive(self, entry: Entry, **changes: Any) -> "Answer":
        """Accept what comes of a sweep: a spec like its own with ``changes``."""
        answer = self._accept(entry.view.spec.amended(**changes))
        made = self.experiments[json.loads(answer.body)["id"]]
        made.view = made.view.model_copy(update={"derived_from": entry.view.id})
        return Answer.of(made.view, status=201)

    def sent(self, method: str, path: str) -> list[Request]:
        """The requests of one kind, oldest first; ``path`` without its query."""
        return [r for r in self.requests if r.method == method and urlsplit(r.path).path == path]

    def create(self, body: bytes) -> "Answer":
        """Accept a spec."""
        return self._accept(from_json(ExperimentSpec, body))

    def create_evaluation(self, body: bytes) -> "Answer":
        """Accept a request for an evaluation."""
        return self._accept(evaluation_request(json.loads(body)).experiment)

    def _accept(self, spec: ExperimentSpec) -> "Answer":
        number = len(self.experiments) + 1
        identity = f"exp{number:04d}"
        view = ExperimentDetail(
            sweep=None if spec.search is None else SweepView(trials=spec.search.trials),
            id=identity,
            name=spec.name,
            project=spec.project,
            workload=spec.workload,
            state=State.QUEUED,
            desired=Desired.RUN,
            reason="admitted",
            version=1,
            priority=spec.policy.priority,
            spec_hash=spec_hash(spec),
            created_at=AT,
            updated_at=AT,
            total_steps=2,
            spec=spec,
            links={"mlflow": "http://127.0.0.1:1/#/runs/1"},
        )
        with self.changed:
            event = EventView(seq=1, kind="state", to_state=State.QUEUED, actor="user", reason="admitted", at=AT)
            self.experiments[identity] = Entry(view=view, events=[event])
            self.changed.notify_all()
        return Answer.of(view, status=201, headers={"Location": f"/v1/experiments/{identity}"})

    def once(self, key: str, body: bytes, act: Callable[[], "Answer"]) -> "Answer":
        """Act for a key's first time; afterwards repeat the answer, or refuse another body."""
        if key not in self._answers:
            self._answers[key] = (body, act())
        known, answer = self._answers[key]
        return answer if known == body else Answer.problem(422, "idempotency_key_reused", "another body, same key")


@dataclass
class Answer:
    """A status, headers and a body."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    @classmethod
    def of(cls, view: Representation, *, status: int = 200, headers: dict[str, str] | None = None) -> "Answer":
        """A document."""
        return cls(status, view.model_dump_json(by_alias=True).encode(), headers or {})

    @classmethod
    def json(cls, content: Any, *, status: int = 200) -> "Answer":
        """Plain JSON."""
        return cls(status, json.dumps(content).encode())

    @classmethod
    def problem(cls, status: int, code: str, detail: str, problems: tuple[Problem, ...] = ()) -> "Answer":
        """An RFC 9457 problem."""
        errors = [{"pointer": p.pointer, "message": p.message, "suggestion": p.suggestion} for p in problems]
        content = {"title": code, "status": status, "detail": detail, "code": code, "errors": errors}
        body = json.dumps({**content, "request_id": "req-1"}).encode()
        return cls(status, body, content_type="application/problem+json")


def a_report(gate: str = "pass") -> dict[str, Any]:
    """A report in the shape of ``rai-report/1``, with one grouping and one gate."""

    def rate(value: float, low: float, high: float) -> dict[str, Any]:
        return {"value": value, "num": 37, "den": 100, "interval": [low, high], "method": "wilson", "support": "ok"}

    def group(by: list[str], key: dict[str, str], n: int, value: float) -> dict[str, Any]:
        metrics = {"selection_rate": rate(value, value - 0.1, value + 0.1), "accuracy_score": rate(0.8, 0.7, 0.9)}
        return {"by": by, "key": key, "n": n, "metrics": metrics}

    return {
        "schema": "rai-report/1",
        "outcome": gate,
        "groups": [
            group([], {}, 133, 0.4),
            group(["sex"], {"sex": "F"}, 63, 0.37),
            group(["sex"], {"sex": "M"}, 70, 0.44),
        ],
        "disparities": [
            {
                "metric": "demographic_parity_difference",
                "by": ["sex"],
                "value": 0.07,
                "interval": [0.01, 0.2],
                "max": {"sex": "M"},
                "min": {"sex": "F"},
            }
        ],
        "data": {"uri": "builtin://diabetes", "n": 133},
        "gates": [
            {
                "id": "dp-sex",
                "metric": "demographic_parity_difference",
                "by": ["sex"],
                "require": "<= 0.30",
                "outcome": gate,
                "value": 0.07,
                "lower95": 0.01,
                "upper95": 0.2,
                "why": "the upper bound 0.2 meets the limit",
            }
        ],
        "not_measured": ["privacy"],
    }


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def log_message(self, *_args: Any) -> None:
        """Keep quiet."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.api.requests.append(Request(self.command, self.path, dict(self.headers.items()), body))
        if self.api.failures:
            return self._send(Answer.problem(self.api.failures.pop(0), "unavailable", "told to fail"))
        if self.headers.get("Authorization") != f"Bearer {self.api.token}":
            return self._send(Answer.problem(401, "unauthorized", "a token is needed"))
        if "text/event-stream" in self.headers.get("Accept", ""):
            return self._stream()
        try:
            answer = self._route(urlsplit(self.path).path.strip("/").split("/")[1:], body)
        except BadInput as error:
            answer = Answer.problem(422, error.code, str(error), error.problems)
        self._send(answer)
        return None

    def _send(self, answer: Answer) -> None:
        if answer.content_type == "application/json" and answer.body:
            answer = replace(answer, body=json.dumps(self.api.translate(json.loads(answer.body))).encode())
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _route(self, path: list[str], body: bytes) -> Answer:
        match self.command, path:
            case "POST", ["experiments" | "evaluations" as kind]:
                key = self.headers.get("Idempotency-Key")
                if key is None:
                    return Answer.problem(400, "bad_input", "Idempotency-Key is missing")
                create = self.api.create if kind == "experiments" else self.api.create_evaluation
                return self.api.once(key, body, lambda: create(body))
            case "POST", ["plan"]:
                return _plan(body)
            case "GET", ["experiments"]:
                return self._list()
            case _, ["experiments", identity, *rest] if identity in self.api.experiments:
                return self._experiment(self.api.experiments[identity], rest, body)
            case "GET", ["clusters"]:
                return Answer.json({"items": [view.model_dump(mode="json") for view in self.api.clusters.values()]})
            case "PATCH", ["clusters", name] if name in self.api.clusters:
                return self._label_cluster(self.api.clusters[name], body)
            case "GET", ["clusters", name, "nodes"] if name in self.api.clusters:
                here = [node.model_dump(mode="json") for node in self.api.nodes if node.cluster == name]
                return Answer.json({"items": here})
            case "POST", ["clusters", name, "nodes", node_id, verb]:
                return self._change_node(name, node_id, verb, body)
            case "POST", ["clusters", name, verb] if name in self.api.clusters:
                return self._change_cluster(self.api.clusters[name], verb, body)
            case "POST", ["code-bundles"]:
                return self._bundle(body)
            case "HEAD", ["code-bundles", name] if name in self.api.bundles:
                return Answer(200, b"")
            case "POST", ["links"]:
                url = f"{self.api.url}{json.loads(body)['path']}?signature=x"
                return Answer.of(LinkView(url=url, expires_at=AT), status=201)
        return _fixed("/".join(path), self.api) or Answer.problem(
            404, "not_found", f"nothing is called {'/'.join(path)}"
        )

    def _list(self) -> Answer:
        query = parse_qs(urlsplit(self.path).query)
        start, limit = int(query.get("cursor", ["0"])[0]), int(query.get("limit", ["50"])[0])
        wanted = query.get("state", ["eq:"])[0].removeprefix("eq:")
        views = [entry.view for entry in self.api.experiments.values() if not wanted or entry.view.state == wanted]
        found = views[start : start + limit]
        following = f"/v1/experiments?limit={limit}&cursor={start + limit}" if start + limit < len(views) else None
        items = [ExperimentView.model_validate(view.model_dump()).model_dump(mode="json") for view in found]
        return Answer.json({"items": items, "next": following})

    def _act(self, entry: Entry, verb: str) -> Answer:
        """Carried out at once; the real one writes down what is wanted."""
        state, identity = entry.view.state, entry.view.id
        if state.is_final or (verb == "release") is not (state is State.HELD):
            return Answer.problem(409, "conflict", f"the experiment is {state}: it cannot be asked to {verb}")
        if verb == "pause":
            self.api.advance(identity, State.PAUSED, reason="paused by the user", desired=Desired.PAUSE)
        elif verb == "release" or state is State.PAUSED:
            self.api.advance(identity, State.QUEUED, reason=f"{verb}d", desired=Desired.RUN)
        return Answer.of(entry.view, status=202)

    def _declare_lost(self, entry: Entry, number: int, body: bytes) -> Answer:
        given = from_json(LossDeclaration, body)
        found = next((one for one in entry.view.attempts if one.attempt_no == number), None)
        if found is None:
            return Answer.problem(404, "not_found", f"there is no attempt {number}")
        if found.observation is Observation.PRESENT and not given.force:
            return Answer.problem(409, "conflict", "its agent sees it at work")
        lost = found.model_copy(update={"declared_lost_by": "local", "detail": given.reason})
        return Answer.of(lost, status=202)

    def _label_cluster(self, view: ClusterView, body: bytes) -> Answer:
        changed = {**view.labels, **from_json(ClusterChange, body).labels}
        labels = {name: value for name, value in changed.items() if value is not None}
        self.api.clusters[view.name] = view.model_copy(update={"labels": labels})
        return Answer.of(self.api.clusters[view.name])

    def _change_node(self, name: str, node_id: str, verb: str, body: bytes) -> Answer:
        given = from_json(NodeExclusion, body) if verb == "exclude" else None
        changes = {"is_excluded": given is not None, "why": given.reason if given else ""}
        for index, node in enumerate(self.api.nodes):
            if (node.cluster, node.node_id) == (name, node_id):
                self.api.nodes[index] = node.model_copy(update=changes)
                return Answer.of(self.api.nodes[index])
        return Answer.problem(404, "not_found", f"cluster {name} has no node {node_id!r}")

    def _change_cluster(self, view: ClusterView, verb: str, body: bytes) -> Answer:
        states = {"drain": "draining", "activate": "active", "retire": "retired"}
        if verb == "retire" and view.open_attempts and not from_json(LossDeclaration, body).force:
            return Answer.problem(409, "conflict", f"it has {view.open_attempts} open attempts")
        self.api.clusters[view.name] = view.model_copy(update={"state": states[verb]})
        return Answer.of(self.api.clusters[view.name])

    def _experiment(self, entry: Entry, rest: list[str], body: bytes) -> Answer:
        match self.command, rest:
            case "GET", ["why"]:
                return Answer.of(WHY)
            case "GET", []:
                return Answer.of(entry.view, headers={"ETag": f'"{entry.view.version}"'})
            case "POST", ["cancel"] if entry.view.state.is_final and entry.view.state is not State.CANCELLED:
                return Answer.problem(409, "conflict", f"the experiment is {entry.view.state}")
            case "POST", ["cancel"]:
                self.api.advance(entry.view.id, State.CANCELLED, reason="cancelled by the user")
                return Answer.of(entry.view, status=202)
            case "POST", [("pause" | "resume" | "release") as verb]:
                return self._act(entry, verb)
            case "GET", ["trials"]:
                return self._trials(entry)
            case "GET", ["trials", number] if int(number) < len(entry.trials):
                return Answer.of(entry.trials[int(number)])
            case "GET", ["amendments"]:
                return Answer.json({"items": [one.model_dump(mode="json") for one in entry.amendments]})
            case "POST", [("amendments" | "finish" | "extend" | "promote") as verb]:
                return self._change_sweep(entry, verb, json.loads(body or b"{}"))
            case "POST", ["attempts", number, "declare-lost"]:
                return self._declare_lost(entry, int(number), body)
            case "GET", ["events"]:
                after = int(parse_qs(urlsplit(self.path).query).get("after", ["0"])[0])
                return Answer.json({"items": [e.model_dump(mode="json") for e in entry.events if e.seq > after]})
            case "GET", ["logs"]:
                tail = int(parse_qs(urlsplit(self.path).query).get("tail", ["1000"])[0])
                return Answer(200, "".join(f"{x}\n" for x in entry.lines[-tail:]).encode(), content_type="text/plain")
            case "GET", ["metrics"]:
                return Answer.of(MetricsView(last=entry.view.metrics))
            case "GET", ["report"] if entry.report is not None:
                if "text/html" in self.headers.get("Accept", ""):
                    return Answer(200, b"<!doctype html><title>report</title>", content_type="text/html")
                if asked := parse_qs(urlsplit(self.path).query).get("profile"):
                    return Answer(200, f"# {asked[0]}\n".encode(), content_type="text/markdown")
                return Answer.json(entry.report)
            case "GET", ["report"]:
                return Answer.problem(404, "not_found", "there is no report yet")
        return Answer.problem(404, "not_found", "no such page")

    def _trials(self, entry: Entry) -> Answer:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        start, limit = int(query.get("cursor", "0")), int(query.get("limit", "50"))
        sort = query.get("sort", "no")
        found = [one for one in entry.trials if one.state == query.get("state", one.state)]
        found.sort(key=partial(_rank, entry, sort.removeprefix("-")), reverse=sort.startswith("-"))
        following = None
        if start + limit < len(found):
            following = f"{urlsplit(self.path).path}?{urlencode({**query, 'cursor': start + limit})}"
        shown = [TrialView.model_validate(one.model_dump()) for one in found[start : start + limit]]
        return Answer.json({"items": [one.model_dump(mode="json") for one in shown], "next": following})

    def _change_sweep(self, entry: Entry, verb: str, given: dict[str, Any]) -> Answer:
        """Written down only, as the real one does: the test says what comes of it."""
        search, state = entry.view.spec.search, entry.view.state
        if search is None:
            return Answer.problem(409, "conflict", "the experiment is no sweep")
        if state.is_final is (verb in ("amendments", "finish")):
            return Answer.problem(409, "conflict", f"the sweep is {state}")
        if verb == "extend":
            wider = {**search.model_dump(by_alias=True), "trials": given["trials"], "inherit": entry.view.id}
            return self.api.derive(entry, search=wider)
        if verb == "promote":
            best = given.get("trial") if given.get("trial") is not None else entry.view.sweep and entry.view.sweep.best
            if best is None:
                return Answer.problem(409, "conflict", "there is no best trial: name one")
            is_taken = given.get("take") is not False
            start = {"experiment": entry.view.id, "trial": best} if is_taken else None
            name = given.get("name") or entry.view.name
            return self.api.derive(entry, search=None, start_from=start, name=name)
        if verb == "finish":
            return Answer.of(entry.view, status=202)
        no = len(entry.amendments) + 1
        ((kind, value),) = given.items()
        name = {"add_trials": "trials", "enqueue": "params", "stop_trial": "trial"}.get(kind, kind)
        entry.amendments.append(AmendmentView(no=no, kind=kind, actor="local", payload={name: value}, at=AT))
        return Answer.of(entry.amendments[-1], status=201)

    def _bundle(self, body: bytes) -> Answer:
        bundle.check(body)
        sha256 = hashlib.sha256(body).hexdigest()
        if self.headers.get("X-Content-SHA256", sha256) != sha256:
            raise BadBundle("the digest does not match")
        is_new = self.api.bundles.setdefault(sha256, body) is body
        view = BundleView(sha256=sha256, size=len(body), is_new=is_new)
        return Answer.of(view, status=201 if is_new else 200)

    def _stream(self) -> None:
        entry = self.api.experiments[urlsplit(self.path).path.split("/")[3]]
        is_log = urlsplit(self.path).path.endswith("/logs")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self._messages(entry, is_log, int(self.headers.get("Last-Event-ID") or 0))
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has had enough

    def _messages(self, entry: Entry, is_log: bool, sent: int) -> None:
        self.wfile.write(b": ping\nretry: 1000\n\n")
        is_cut = self.api.stream_cuts > 0
        self.api.stream_cuts -= is_cut
        while True:
            with self.api.changed:
                self.api.changed.wait_for(partial(self._has_more, entry, is_log, sent), timeout=0.1)
                news = [json.dumps(self.api.translate(e.model_dump(mode="json"))) for e in entry.events]
                rows = entry.lines if is_log else news
                fresh, is_over = rows[sent:], entry.view.state.is_final or self.api.is_closing
            for row in fresh:
                sent += 1
                kind = "" if is_log else "event: state\n"
                self.wfile.write(f"id: {sent}\n{kind}data: {row}\n\n".encode())
                self.wfile.flush()
                if is_cut:
                    return
            if is_over:
                self.wfile.write(b"event: end\ndata: {}\n\n")
                return
            self.wfile.write(b": ping\n\n")
            self.wfile.flush()

    def _has_more(self, entry: Entry, is_log: bool, sent: int) -> bool:
        num_rows = len(entry.lines) if is_log else len(entry.events)
        return num_rows > sent or entry.view.state.is_final or self.api.is_closing


def _rank(entry: Entry, name: str, trial: TrialDetail) -> Any:
    search = entry.view.spec.search
    if name == "value" and search is not None:
        return trial.values.get(search.objectives[0].metric) or 0.0
    at = {"started_at": trial.started_at, "ended_at": trial.ended_at}.get(name)
    latest = datetime.max.replace(tzinfo=UTC)
    return at or latest if name.endswith("_at") else {"no": trial.no, "state": trial.state}[name]


def _plan(body: bytes) -> Answer:
    try:
        spec = from_json(ExperimentSpec, body)
    except BadSpec as error:
        views = tuple(ProblemView(pointer=p.pointer, message=p.message) for p in error.problems)
        return Answer.of(PlanView(is_valid=False, problems=views, why=str(error)))
    fits = spec.resources.cpus <= 2
    why = "cluster local has 2 CPUs" if fits else f"needs {spec.resources.cpus:g} CPUs, the largest cluster has 2"
    return Answer.of(
        PlanView(is_valid=True, fits=fits, why=why, cpus=spec.resources.cpus, spec=spec, spec_hash=spec_hash(spec))
    )


def _fixed(path: str, api: FakeApi) -> Answer | None:
    match path:
        case "workloads":
            return Answer.json({"items": [WORKLOAD.model_dump(mode="json")]})
        case "queue":
            return Answer.of(QueueView(as_of=AT, total=2, items=(ENTRY,), next="/v1/queue?start=2"))
        case "projects/empty/queue":
            return Answer.of(QueueView(as_of=AT, total=0, items=()))
        case "projects/default/quota":
            return Answer.of(QuotaView(project="default", weight=2, gpus=8, gpus_held=3, used_cpu_hours=1.5))
        case "workloads/tabular_mlp":
            return Answer.of(WORKLOAD)
        case "version":
            view = VersionView(version="0.1.0", protocol=1, schema_revision="0001", mlflow_url="http://127.0.0.1:8171")
            return Answer.of(view.model_copy(update={"report_key": api.report_key}))
        case "whoami":
            return Answer.of(WhoAmI(kind="user", name="local"))
    return None
