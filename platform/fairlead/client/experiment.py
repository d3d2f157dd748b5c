"""A submitted experiment as a Future, and the result it ends with."""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel

from fairlead.client.errors import ExperimentCancelled, ExperimentFailed
from fairlead.client.transport import Transport
from fairlead.lifecycle import State
from fairlead.protocol import from_answer
from fairlead.representation import (
    AmendmentView,
    AttemptView,
    EventView,
    ExperimentDetail,
    ExperimentView,
    Extension,
    GateOverride,
    GateView,
    LinkView,
    LossDeclaration,
    MetricsView,
    Page,
    ProfileName,
    Promotion,
    RegistrationView,
    SweepChange,
    TrialDetail,
    TrialView,
)
from fairlead.spec import ExperimentSpec, from_mapping

R = TypeVar("R", bound=BaseModel)
REGISTRATION_WAIT_S = 60.0
"""MLflow may be away for longer; the experiment has its result all the same."""
RELEASE_WAIT_S = 15.0
"""The control loops move it within a second or two, where they run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What an experiment that succeeded leaves."""

    id: str
    state: State
    reason: str
    metrics: Mapping[str, float | None]
    """Last value of each metric; None where it was NaN or infinite."""
    gates: tuple[GateView, ...] = ()
    report_outcome: str | None = None
    registration: RegistrationView | None = None
    """Whether a model version was registered, and if not, why."""
    links: Mapping[str, str] = field(default_factory=dict)


class Experiment:
    """A handle on one experiment. Its attributes are as of the last ``refresh``; methods ask the API."""

    def __init__(self, transport: Transport, view: ExperimentView) -> None:
        self._transport = transport
        self.view = view

    def __repr__(self) -> str:
        return f"<Experiment {self.id} {self.view.name!r} {self.view.state}>"

    @property
    def id(self) -> str:
        """The experiment's name for the API."""
        return self.view.id

    @property
    def state(self) -> State:
        """As of the last refresh."""
        return self.view.state

    def refresh(self) -> "Experiment":
        """Ask the API how it stands; returns itself."""
        self.view = self.detail()
        return self

    def detail(self) -> ExperimentDetail:
        """Everything that the API says of it, spec and attempts included."""
        return self._get(ExperimentDetail, "")

    @property
    def spec(self) -> ExperimentSpec:
        """What was asked for."""
        view = self.view if isinstance(self.view, ExperimentDetail) else self.refresh().view
        assert isinstance(view, ExperimentDetail), "refresh sets a detail"
        return view.spec

    def done(self) -> bool:
        """Whether it has ended, for good or ill."""
        return self.refresh().state.is_final

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the end and return what it left. Ends of waiting leave the experiment running.

        ``timeout``: seconds; then ``TimeoutError``. Raises ``ExperimentFailed`` with the reason (also when it is held
        for a human to look at), ``ExperimentCancelled`` when it was cancelled, ``Unavailable`` when the API is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        view = self._wait(deadline)
        if view.state is not State.SUCCEEDED:
            raise _end_of(view)
        view = self.await_registration(deadline)
        return Result(
            id=view.id,
            state=view.state,
            reason=view.reason,
            metrics=view.metrics,
            gates=view.gates,
            report_outcome=view.report_outcome,
            registration=view.registration,
            links=view.links,
        )

    def cancel(self) -> "Experiment":
        """Ask for its end; a second call changes nothing. Raises ``Conflict`` when it has already ended."""
        return self._act("cancel")

    def pause(self) -> "Experiment":
        """Ask it to stop after its next checkpoint and to wait."""
        return self._act("pause")

    def resume(self) -> "Experiment":
        """Ask it to go on after a pause."""
        return self._act("resume")

    def release(self) -> "Experiment":
        """Let it go on after it was held, with fresh budgets; returns when it has moved, at most 15 s later.

        Raises ``Conflict`` where it is not held, or while its attempt is still open.
        """
        self._act("release")
        latest = time.monotonic() + RELEASE_WAIT_S
        while self.view.state is State.HELD and time.monotonic() < latest:
            self._transport.pause()
            self.refresh()
        return self

    def override_gate(self, gate: str, *, reason: str, expires_at: datetime | None = None) -> GateView:
        """Let the model pass a gate that it has not passed: signed with your name, and written down for good.

        ``expires_at``: when somebody must look again. Raises ``Conflict`` where the gate has passed, or is overridden.
        """
        at = None if expires_at is None else expires_at.isoformat()
        document = from_mapping(GateOverride, {"reason": reason, "expires_at": at}).model_dump(mode="json")
        path = self._path(f"/gates/{quote(gate, safe='')}/override")
        return from_answer(GateView, self._transport.request("POST", path, document=document).content)

    def declare_lost(self, attempt_no: int, *, reason: str, force: bool = False) -> AttemptView:
        """Vouch for the death of an attempt that nobody can see, so that the next may begin.

        ``force``: even though its agent sees it at work. Raises ``Conflict`` without it, or when the attempt has ended.
        """
        document = LossDeclaration(reason=reason, force=force).model_dump()
        path = self._path(f"/attempts/{attempt_no}/declare-lost")
        return from_answer(AttemptView, self._transport.request("POST", path, document=document).content)

    def events(self, *, after: int = 0, follow: bool = True, deadline: float | None = None) -> Iterator[EventView]:
        """Its events in order, each once, from ``after`` (a ``seq``). With ``follow`` live until it has ended.

        ``deadline``: on ``time.monotonic``; a stream that lasts longer raises ``TimeoutError``.
        """
        if not follow:
            return self._pages(EventView, "/events", {"after": str(after)})
        return self._follow(after, deadline)

    def logs(
        self,
        *,
        rank: int = 0,
        attempt: int | None = None,
        trial: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> Iterator[str]:
        """Lines that a worker printed, without line ends. ``tail``: only the last so many. ``follow``: live.

        ``trial``: of a sweep, what that one has printed.
        """
        asked = {"rank": str(rank), "attempt": attempt, "trial": trial, "tail": tail}
        params = {key: str(value) for key, value in asked.items() if value is not None}
        if follow:
            stream = self._transport.stream(self._path("/logs"), params=params)
            return (line for event in stream for line in event.data.splitlines())
        headers = {"Accept": "text/plain"}
        answer = self._transport.request("GET", self._path("/logs"), params=params, headers=headers)
        return iter(answer.text.splitlines())

    def stacks(self, *, rank: int = 0, attempt: int | None = None) -> Iterator[str]:
        """What the threads of a worker were doing when it stalled. Raises ``NotFound`` where none were taken."""
        params = {"rank": str(rank), "stacks": "true"} | ({"attempt": str(attempt)} if attempt is not None else {})
        answer = self._transport.request("GET", self._path("/logs"), params=params, headers={"Accept": "text/plain"})
        return iter(answer.text.splitlines())

    def metrics(self, *keys: str) -> MetricsView:
        """Last values of all metrics; with ``keys`` also their series, down-sampled."""
        params = _repeated("key", keys)
        return from_answer(MetricsView, self._transport.request("GET", self._path("/metrics") + params).content)

    def report(self) -> dict[str, Any]:
        """The evaluation's report. Raises ``NotFound`` while there is none."""
        headers = {"Accept": "application/json"}
        report: dict[str, Any] = self._transport.request("GET", self._path("/report"), headers=headers).json()
        return report

    def report_html(self) -> str:
        """The report as one self-contained page. Raises ``NotFound`` while there is none."""
        return self._transport.request("GET", self._path("/report"), headers={"Accept": "text/html"}).text

    def report_profile(self, profile: ProfileName) -> str:
        """The report in another layout: Markdown, or JSON for ``cyclonedx``. Raises ``NotFound``, ``BadInput``."""
        return self._transport.request("GET", self._path("/report"), params={"profile": profile}).text

    def attempts(self) -> tuple[AttemptView, ...]:
        """Every try at running it, oldest first."""
        return self.detail().attempts

    def link(self, page: str = "report") -> LinkView:
        """An address of one page (report, logs, events) that a browser opens without a token, for some minutes."""
        answer = self._transport.request("POST", "/v1/links", document={"path": self._path(f"/{page}")})
        return from_answer(LinkView, answer.content)

    def await_registration(self, deadline: float | None = None) -> ExperimentView:
        """Wait while a version that passed is being registered, but no longer than ``REGISTRATION_WAIT_S``."""
        latest = time.monotonic() + REGISTRATION_WAIT_S
        while is_registration_pending(self.view) and time.monotonic() < min(latest, deadline or latest):
            self._transport.pause()
            self.refresh()
        return self.view

    def trials(self, *, state: str | None = None, sort: str = "no", limit: int = 50) -> Iterator[TrialView]:
        """Trials of a sweep, page after page as they are asked for; ``limit``: of one page.

        ``sort``: ``no``, ``value``, ``started_at``, ``ended_at`` or ``state``; ``-`` before it: the largest first. By
        value those come first that keep all constraints.
        """
        params = {"sort": sort, "limit": str(limit)} | ({"state": state} if state else {})
        return self._pages(TrialView, "/trials", params)

    def trial(self, no: int) -> TrialDetail:
        """One trial with its metrics and their courses. Raises ``NotFound``."""
        return self._get(TrialDetail, f"/trials/{no}")

    def amendments(self) -> tuple[AmendmentView, ...]:
        """How a sweep was changed while it ran, in order."""
        return tuple(self._pages(AmendmentView, "/amendments", {}))

    def amend(self, *, key: str | None = None, **change: Any) -> AmendmentView:
        """Change a sweep that runs: exactly one of ``add_trials``, ``concurrency``, ``priority``, ``enqueue`` (a point)
        and ``stop_trial`` (a number). ``key``: an idempotency key.

        Raises ``BadSpec``; ``Conflict`` where it has ended or is no sweep.
        """
        document = from_mapping(SweepChange, change).model_dump(mode="json", exclude_none=True)
        return from_answer(AmendmentView, self._make("/amendments", document, key))

    def finish(self) -> "Experiment":
        """Ask a sweep to begin no more trials, let those that run end, and keep the best."""
        return self._act("finish")

    def promote(
        self, *, trial: int | None = None, take: bool | None = None, name: str | None = None, key: str | None = None
    ) -> "Experiment":
        """Make a model of a trial, the best unless told: a new experiment that judges it on the test split.

        ``take``: take its last checkpoint as it is, or train once more; None: taken where it has one. ``key``: an
        idempotency key. Raises ``BadSpec`` or ``Conflict`` where a trial must be named.
        """
        document = from_mapping(Promotion, {"trial": trial, "take": take, "name": name}).model_dump(exclude_none=True)
        return self._derived("/promote", document, key)

    def extend(self, trials: int, *, key: str | None = None) -> "Experiment":
        """Go on from a sweep that has ended with so many new trials: a new sweep that inherits the finished ones."""
        return self._derived("/extend", from_mapping(Extension, {"trials": trials}).model_dump(), key)

    def _derived(self, rest: str, document: dict[str, Any], key: str | None) -> "Experiment":
        return Experiment(self._transport, from_answer(ExperimentDetail, self._make(rest, document, key)))

    def _make(self, rest: str, document: dict[str, Any], key: str | None) -> bytes:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return self._transport.request("POST", self._path(rest), headers=headers, document=document).content

    def _path(self, rest: str) -> str:
        return f"/v1/experiments/{self.id}{rest}"

    def _get(self, model: type[R], rest: str) -> R:
        return from_answer(model, self._transport.request("GET", self._path(rest)).content)

    def _act(self, verb: str) -> "Experiment":
        self._transport.request("POST", self._path(f"/{verb}"))
        return self.refresh()

    def _pages(self, model: type[R], rest: str, params: Mapping[str, str]) -> Iterator[R]:
        return pages(self._transport, model, self._path(rest), params)

    def _follow(self, after: int, deadline: float | None) -> Iterator[EventView]:
        last_id = str(after) if after else None
        for event in self._transport.stream(self._path("/events"), last_id=last_id, deadline=deadline):
            yield from_answer(EventView, event.data)

    def _wait(self, deadline: float | None) -> ExperimentView:
        seen = 0
        while not has_ended(self.refresh().view):
            for event in self.events(after=seen, deadline=deadline):
                seen = event.seq
                if event.to_state is State.HELD or (event.to_state is not None and event.to_state.is_final):
                    break
            else:
                self._transport.pause()
        return self.view


def is_registration_pending(view: ExperimentView) -> bool:
    """Whether a model version has been promised and is not there yet."""
    return view.registration is not None and view.registration.is_pending


def has_ended(view: ExperimentView) -> bool:
    """Whether waiting longer is of no use: it is final, or held until a human looks."""
    return view.state.is_final or view.state is State.HELD


def _repeated(name: str, values: tuple[str, ...]) -> str:
    return "?" + urlencode([(name, value) for value in values]) if values else ""


def pages(transport: Transport, model: type[R], path: str, params: Mapping[str, str]) -> Iterator[R]:
    """Every item of a paged list, asking for the next page when it is needed."""
    read = partial(from_answer, Page[model])  # type: ignore[valid-type]  # the type is an argument here
    page = read(transport.request("GET", path, params=params).content)
    while True:
        yield from page.items
        if page.next is None:
            return
        page = read(transport.request("GET", _below(page.next)).content)


def _below(address: str) -> str:
    """Path and query only: the token goes to no other server, whatever ``next`` says."""
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _end_of(view: ExperimentView) -> ExperimentFailed:
    if view.state is State.CANCELLED:
        message = f"experiment {view.id} was cancelled: {view.reason}"
        return ExperimentCancelled(message, experiment_id=view.id, reason=view.reason)
    advice = f"; a human must look, then 'fairlead release {view.id}'" if view.state is State.HELD else ""
    message = f"experiment {view.id} is {view.state}: {view.reason}{advice}; see 'fairlead logs {view.id}'"
    return ExperimentFailed(message, experiment_id=view.id, reason=view.reason)
