"""Submits while processes of the control plane are killed at random: is anything acknowledged lost, or there twice?

``SUBMITS``: how many, on each of the two databases. ``SEED``: decides when who is killed. Clients repeat what was not
acknowledged under the same key, at any server; some hang up before the answer. Nothing runs: experiments only queue.
"""

import contextlib
import queue
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import httpx
from sqlalchemy import select

from benchmarks.control_plane import DATABASES, SPEC, ControlPlane, Part, control_plane, scratch_of
from benchmarks.harness import Measurement, size
from benchmarks.places import await_true
from fairlead.lifecycle import State
from fairlead.store import Store, experiments
from fairlead.store.tables import EventRow, ExperimentRow, IdempotencyRow

NAME = "crash_loop"
SUBMITS = 10_000
SEED = 1
CLIENTS = 8
SUBMITS_A_KILL = 400
MIN_KILLS = 4
HANGS_UP = 0.02
"""Share of requests whose client does not wait for the answer."""
SETTLE_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CrashLoop:
    """Over both databases. ``submits``: acknowledged. ``event_gaps``: event logs that do not lead to their row."""

    submits: int
    lost: int
    doubled: int
    event_gaps: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of one database."""

    submits: int
    lost: int
    doubled: int
    event_gaps: int
    kills: dict[str, int]
    requests: int
    unanswered: int
    """Requests that ended without an answer, or with one that says: ask again."""
    seconds: float
    """Until the last acknowledgement."""


def measure() -> Measurement:
    """One database after the other."""
    submits, seed = size("SUBMITS", SUBMITS), size("SEED", SEED)
    found = {database: crash(database, submits=submits, seed=seed) for database in DATABASES}
    each = found.values()
    result = CrashLoop(
        submits=sum(one.submits for one in each),
        lost=sum(one.lost for one in each),
        doubled=sum(one.doubled for one in each),
        event_gaps=sum(one.event_gaps for one in each),
        seed=seed,
    )
    details = {database: asdict(one) for database, one in found.items()}
    return Measurement(result=result, sizes={"submits": submits, "seed": seed, "clients": CLIENTS}, details=details)


def crash(database: str, *, submits: int, seed: int) -> Outcome:
    """Submit, kill, repeat; then compare what was acknowledged with what is stored."""
    with scratch_of(NAME) as directory, control_plane(directory, database, idle_s="5") as plane:
        loop = _Loop(plane=plane, submits=submits, seed=seed)
        began_s = time.monotonic()
        loop.run()
        seconds = time.monotonic() - began_s
        print(f"{database}: all acknowledged after {seconds:.0f} s, {sum(loop.kills.values())} kills", file=sys.stderr)
        await_true("every experiment in the queue", lambda: num_accepted(plane.store) == 0, timeout_s=SETTLE_S)
        lost, doubled, gaps = compare(plane.store, loop.acknowledged)
    return Outcome(
        submits=len(loop.acknowledged),
        lost=lost,
        doubled=doubled,
        event_gaps=gaps,
        kills=dict(loop.kills),
        requests=loop.requests,
        unanswered=loop.unanswered,
        seconds=round(seconds, 1),
    )


@dataclass(kw_only=True)
class _Loop:
    """Clients and the killer. ``acknowledged``: ids by key, more than one where answers disagreed."""

    plane: ControlPlane
    submits: int
    seed: int
    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    unanswered: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _progress: threading.Condition = field(default_factory=threading.Condition)

    def run(self) -> None:
        """Until everything is acknowledged and everyone is up again."""
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(self.submits):
            todo.put(number)
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            killing = pool.submit(self._kill_at_random)
            for client in [pool.submit(self._submit_all, todo, number) for number in range(CLIENTS)]:
                client.result()
            killing.result()
        self.plane.await_ready()

    # ---- killing ----

    def _kill_at_random(self) -> None:
        """At random points of the progress, which is the same on a slow machine as on a fast one."""
        chance = random.Random(self.seed)
        count = max(MIN_KILLS, self.submits // SUBMITS_A_KILL)
        for point in sorted(chance.randrange(self.submits) for _ in range(count)):
            victim = chance.choice(self.plane.parts)
            with self._progress:
                self._progress.wait_for(partial(self._has_reached, point))
            time.sleep(chance.uniform(0, 0.2))  # so that it does not follow an answer
            victim.kill()
            self.kills[victim.name] += 1
            victim.start()

    def _has_reached(self, point: int) -> bool:
        return len(self.acknowledged) >= point

    # ---- submitting ----

    def _submit_all(self, todo: "queue.SimpleQueue[int]", client: int) -> None:
        chance = random.Random(f"{self.seed}-{client}")
        with httpx.Client(headers=self.plane.headers, trust_env=False) as http:
            while True:
                try:
                    number = todo.get_nowait()
                except queue.Empty:
                    return
                self._submit(http, f"crash-{number}", chance)

    def _submit(self, http: httpx.Client, name: str, chance: random.Random) -> None:
        """Repeat until it is acknowledged; with luck it is asked once more although it was."""
        asked_again = chance.random() < HANGS_UP
        while True:
            answer = self._ask(http, name, chance.choice(self.plane.apis), chance)
            if answer is None or answer.status_code in (409, 429, 503):
                with self._lock:
                    self.unanswered += 1
                time.sleep(chance.uniform(0.05, 0.5))
                continue
            if answer.status_code != 201:
                raise RuntimeError(f"{name}: {answer.status_code} {answer.text}")
            with self._progress:
                self.acknowledged.setdefault(name, set()).add(answer.json()["id"])
                self._progress.notify_all()
            if not asked_again:
                return
            asked_again = False

    def _ask(self, http: httpx.Client, name: str, part: Part, chance: random.Random) -> httpx.Response | None:
        with self._lock:
            self.requests += 1
        timeout_s = 0.01 if chance.random() < HANGS_UP else 30.0
        headers = {"Idempotency-Key": name}
        with contextlib.suppress(httpx.TransportError):
            body = {**SPEC, "name": name}
            return http.post(f"{part.url}/v1/experiments", json=body, headers=headers, timeout=timeout_s)
        return None


def num_accepted(store: Store) -> int:
    """Experiments that no loop has looked at yet."""
    with store.read() as session:
        return experiments.count_in(session, (State.ACCEPTED,))


def compare(store: Store, acknowledged: dict[str, set[str]]) -> tuple[int, int, int]:
    """Acknowledged and lost, there more than once, and event logs with a gap or another end than their row."""
    with store.read() as session:
        rows: list[Any] = list(session.execute(_ROWS))
        keys = set(session.scalars(select(IdempotencyRow.key)))
        events: list[Any] = list(session.execute(_EVENTS))
    ids = {row.id for row in rows}
    lost = sum(not found <= ids or key not in keys for key, found in acknowledged.items())
    names = Counter(row.name for row in rows)
    repeated = sum(count - 1 for count in names.values())
    disagreeing = sum(len(found) - 1 for found in acknowledged.values())
    return lost, repeated + disagreeing, _gaps(rows, events)


_ROWS = select(ExperimentRow.id, ExperimentRow.name, ExperimentRow.state, ExperimentRow.version)
_EVENTS = select(EventRow.experiment_id, EventRow.seq, EventRow.from_state, EventRow.to_state).order_by(
    EventRow.experiment_id, EventRow.seq
)


def _gaps(rows: list[Any], events: list[Any]) -> int:
    ends = {key: _replayed(list(log)) for key, log in groupby(events, key=lambda event: event.experiment_id)}
    return sum(ends.get(row.id) != (row.state, row.version) for row in rows) + len(
        ends.keys() - {row.id for row in rows}
    )


def _replayed(log: list[Any]) -> tuple[str, int] | None:
    """State and version that a log leads to; None where it has a gap."""
    state: str | None = None
    for position, event in enumerate(log, start=1):
        if event.seq != position or (event.to_state is not None and event.from_state != state):
            return None
        state = event.to_state or state
    return (state, len(log)) if state is not None else None
