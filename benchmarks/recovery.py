"""Seconds from ``kill -9`` of one part to normal working, and whether anything that was well had to die for it.

``control_s``: the leading control process of two on PostgreSQL, until the other schedules. ``postgres_s``: PostgreSQL
killed and started again, until ``/readyz`` is green and a submit is acknowledged. ``agent_s``: the agent of an embedded
stack, until its successor reports the running attempt as present. ``head_s``: the Ray head of that stack, until the
experiment's next attempt runs: Ray's reconnect time-out, the delay before a retry and Ray's own start are in it.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from benchmarks.chart import numbers
from benchmarks.control_plane import ControlPlane, Part, control_plane, scratch_of
from benchmarks.harness import Measurement
from benchmarks.places import START_S, answers, await_true, fairlead_stack, submit, warm_up
from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.embedded.home import CLUSTER, Home
from fairlead.lifecycle import Observation, State
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, clusters, experiments, open_store
from fairlead.store.tables import LeaseRow

NAME = "recovery"
OUTAGE_S = 2.0
"""How long PostgreSQL stays away."""
RECOVERY_S = 300.0
PARTS = {
    "control_s": "control process, of two",
    "agent_s": "agent",
    "postgres_s": f"PostgreSQL, {OUTAGE_S:g} s of it away",
    "head_s": "Ray head, graces included",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """Seconds."""

    control_s: float
    agent_s: float
    postgres_s: float
    head_s: float


@dataclass(kw_only=True, slots=True)
class Watch:
    """Asks the API all the time, and counts how often it does not answer as it should."""

    url: str
    headers: dict[str, str]
    asked: int = 0
    failed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until ``stop``."""
        with httpx.Client(headers=self.headers, timeout=10, trust_env=False) as http:
            while not self._stop.wait(0.1):
                self.asked += 1
                self.failed += not self._is_well(http)

    def _is_well(self, http: httpx.Client) -> bool:
        try:
            return http.get(f"{self.url}/v1/experiments?limit=1").status_code == 200
        except httpx.TransportError:
            return False

    @contextlib.contextmanager
    def watching(self) -> Iterator["Watch"]:
        """Ask while the block runs."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join(30)


def measure() -> Measurement:
    """Without Ray first, then with it."""
    with scratch_of(NAME) as directory, control_plane(directory, "postgresql") as plane:
        control_s, watch = control(plane)
        postgres_s = postgres(plane)
    with scratch_of(NAME) as directory, fairlead_stack(directory / "home") as (stack, client):
        warm_up(client, directory / "home")
        agent_s, head_s, killed = _embedded(stack, client, directory)
    result = Recovery(control_s=control_s, agent_s=agent_s, postgres_s=postgres_s, head_s=head_s)
    graces = {
        name: ControlSettings.model_fields[name].default
        for name in ("control_ttl_s", "agent_ttl_s", "ray_session_grace_s")
    }
    details = {
        "healthy_attempts_killed": killed,
        "api_requests_while_control_was_away": watch.asked,
        "of_them_failed": watch.failed,
        "graces": {**graces, "retry_delay_at_most_s": 20},
    }
    return Measurement(result=result, sizes={"postgres_outage_s": OUTAGE_S}, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    found = {label: document["result"][name] for name, label in PARTS.items()}
    (directory / f"{NAME}.svg").write_text(numbers("Seconds from kill -9 to normal working", found))


# ---- without Ray ----------------------------------------------------------------------------------------------------


def control(plane: ControlPlane) -> tuple[float, Watch]:
    """Kill the leader; seconds until what was submitted afterwards is scheduled, and how the API did meanwhile."""
    _submit_until_acknowledged(plane, "before")
    await_true("the first experiment in the queue", lambda: _is_queued(plane, "before"), timeout_s=START_S)
    leader = _leader(plane)
    with Watch(url=str(plane.apis[0].url), headers=plane.headers).watching() as watch:
        began_s = time.monotonic()
        leader.kill()
        _submit_until_acknowledged(plane, "after")
        await_true("scheduling", lambda: _is_queued(plane, "after"), timeout_s=RECOVERY_S)
        took_s = time.monotonic() - began_s
    leader.start()
    return took_s, watch


def postgres(plane: ControlPlane) -> float:
    """Kill PostgreSQL and start it again; seconds until a submit is acknowledged by a server that says it is ready."""
    server, url = plane.postgres, plane.apis[0].url
    assert server is not None, "this plane stands on it"
    began_s = time.monotonic()
    server.kill()
    await_true("the end of readiness", lambda: not answers(f"{url}/readyz"), timeout_s=START_S)
    time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - began_s)))
    server.start()
    await_true("readiness", lambda: answers(f"{url}/readyz"), timeout_s=RECOVERY_S)
    _submit_until_acknowledged(plane, "after-postgres")
    took_s = time.monotonic() - began_s
    await_true("scheduling", lambda: _is_queued(plane, "after-postgres"), timeout_s=RECOVERY_S)
    return took_s


def _submit_until_acknowledged(plane: ControlPlane, name: str) -> None:
    def is_acknowledged() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return plane.submit(plane.apis[0], name).status_code == 201
        return False

    await_true(f"the acknowledgement of {name}", is_acknowledged, timeout_s=RECOVERY_S)


def _is_queued(plane: ControlPlane, name: str) -> bool:
    with plane.store.read() as session:
        (row,) = experiments.page(session, limit=1, names=(name,))
        return row.state == State.QUEUED


def _leader(plane: ControlPlane) -> Part:
    with plane.store.read() as session:
        holder = session.scalar(select(LeaseRow.holder)) or ""
    return next(part for part in plane.parts if part.process and f"-{part.process.pid}-" in holder)


# ---- with Ray -------------------------------------------------------------------------------------------------------


def _embedded(stack: EmbeddedStack, client: Client, directory: Path) -> tuple[float, float, int]:
    """Seconds after the agent and after the head; and how many attempts it cost to kill the agent and the api."""
    params = {"stamp": str(directory / "steady"), "steps": 1_000_000, "rest": 0.1, "metrics": 1}
    experiment = submit(client, "steady", params)
    await_true("ten steps", lambda: _last_step(experiment) >= 10, timeout_s=RECOVERY_S)
    with contextlib.closing(open_store(f"sqlite:///{Home(path=stack.home).database}")) as store:
        agent_s = _agent(stack, store, experiment)
    _timed(lambda: _kill(stack, "api"), lambda: answers(f"{stack.api_url}/readyz"))
    step = _last_step(experiment)
    await_true("more steps", lambda: _last_step(experiment) > step, timeout_s=RECOVERY_S)
    num_attempts = len(experiment.detail().attempts)
    head_s = _timed(lambda: _kill(stack, "ray"), lambda: _runs_again(experiment, num_attempts + 1))
    experiment.cancel()
    return agent_s, head_s, num_attempts - 1


def _agent(stack: EmbeddedStack, store: Store, experiment: Experiment) -> float:
    """Until an agent that came later reports what it sees: a word of the killed one may still be under way."""
    key = attempts.attempt_id(experiment.id, 1)
    with store.read() as session:
        epoch = clusters.get(session, CLUSTER).agent_epoch
    after = datetime.now(UTC) + timedelta(seconds=1)

    def is_adopted() -> bool:
        with store.read() as session:
            row, now = attempts.get(session, key), clusters.get(session, CLUSTER).agent_epoch
        is_seen = row.observation == Observation.PRESENT and row.observed_at is not None and row.observed_at > after
        return is_seen and now > epoch

    return _timed(lambda: _kill(stack, "agent"), is_adopted)


def _last_step(experiment: Experiment) -> int:
    return experiment.refresh().view.last_step or 0


def _runs_again(experiment: Experiment, attempt_no: int) -> bool:
    detail = experiment.detail()
    return detail.state is State.RUNNING and detail.attempts[-1].attempt_no >= attempt_no


def _timed(fault: Callable[[], None], is_well: Callable[[], bool]) -> float:
    began_s = time.monotonic()
    fault()
    await_true("recovery", is_well, timeout_s=RECOVERY_S)
    return time.monotonic() - began_s


def _kill(stack: EmbeddedStack, program: str) -> None:
    os.kill(stack.pid_of(program), signal.SIGKILL)
