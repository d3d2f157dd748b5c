"""What it costs that a million experiments are stored: lists, one of them, the queue, and a round of dispatch.

On each database 10^3 to 10^6 experiments that have ended, each with an attempt and two events; beside them, always,
10,000 that wait in 50 projects, and four clusters of 16 nodes with 8 GPUs that are full. A real API process is asked
over HTTP with a token; the queue at ten questions a second, so that each new look at it that the API takes shows. The
round is the real tick of ``dispatch``, in which four attempts have just ended. ``STORED``: the sizes; ``QUEUED``,
``PROJECTS``; ``CALLS`` of each kind.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import ColumnElement, FromClause, Integer, Text, cast, func, insert, literal, select, text, update
from sqlalchemy import Table as CoreTable

from benchmarks.chart import Line, curves
from benchmarks.control_plane import DATABASES, ControlPlane, control_plane, scratch_of
from benchmarks.fit import power_law
from benchmarks.harness import Measurement, quantile, size, sizes
from fairlead.clock import SystemClock
from fairlead.control.dispatch import Dispatch
from fairlead.control.situation import look
from fairlead.data import find_manifests
from fairlead.lifecycle import Outcome, State
from fairlead.preemption import place_or_preempt
from fairlead.protocol import AttachRequest, NodeInfo
from fairlead.queueing import order
from fairlead.settings import ControlSettings
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.store import Session, Store, attempts, clusters, experiments
from fairlead.store.experiments import Candidate
from fairlead.store.tables import AttemptRow, EventRow, ExperimentRow, Table

NAME = "store_million"
STORED = (1_000, 10_000, 100_000, 1_000_000)
QUEUED, PROJECTS, CALLS = 10_000, 50, 150
BASE = 1_000
"""Experiments that are written one by one; the others are copies of them, made by the database."""
COPIED_TOGETHER = 50
"""Copies of them in one transaction: no statement may take half a minute on PostgreSQL, here neither."""
CLUSTERS, NODES, CPUS, GPUS = 4, 16, 128, 8
ROUNDS = 15
WARM_UP = 5
"""Calls of each kind that are not counted."""
QUESTIONS_PER_S = 10
EXPLAINED = 100
"""Rounds at most until each has its reason."""
KINDS = ("list", "show", "queue", "dispatch")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreMillion:
    """With the most that was stored, on the slower of the two databases. The exponent is the largest of all: 0 where a
    thousand times as many cost the same, 1 where they cost a thousand times as much.
    """

    list_p95_ms: float
    show_p95_ms: float
    queue_p95_ms: float
    dispatch_round_ms: float
    growth_exponent: float


Point = dict[str, Any]


def measure() -> Measurement:
    """One database after the other, from few to many."""
    stored, queued = sizes("STORED", STORED), size("QUEUED", QUEUED)
    projects, calls = size("PROJECTS", PROJECTS), size("CALLS", CALLS)
    if len(stored) < 2:
        raise ValueError("STORED needs two sizes to show any growth")
    found = {name: _on(name, stored, queued=queued, projects=projects, calls=calls) for name in DATABASES}
    return conclude(found, {"stored": stored, "queued": queued, "projects": projects, "calls": calls})


def conclude(found: Mapping[str, Sequence[Point]], given: Mapping[str, Any]) -> Measurement:
    """The slower database with the most stored, and all exponents."""
    most = max(point["stored"] for points in found.values() for point in points)
    last = [point for points in found.values() for point in points if point["stored"] == most]
    exponents = {
        f"{kind}_{name}": round(power_law([(point["stored"], point[_shown(kind)]) for point in points]).exponent, 3)
        for name, points in found.items()
        for kind in KINDS
    }
    result = StoreMillion(
        **{each.name: max(point[each.name] for point in last) for each in fields(StoreMillion)[:-1]},
        growth_exponent=max(exponents.values()),
    )
    return Measurement(result=result, sizes=given, details={"databases": dict(found), "exponents": exponents})


def _shown(kind: str) -> str:
    return "dispatch_round_ms" if kind == "dispatch" else f"{kind}_p95_ms"


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """How each cost grows."""
    lines = [
        Line(label=f"{kind}, {name}", points=[(point["stored"], point[_shown(kind)]) for point in points])
        for name, points in document["details"]["databases"].items()
        for kind in KINDS
    ]
    picture = curves("With so many experiments stored", lines, x="stored", y="ms, p95; dispatch: median")
    (directory / f"{NAME}.svg").write_text(picture)


def table(document: Mapping[str, Any]) -> str:
    """The section of the README."""
    titles = {
        "list_p95_ms": "list",
        "show_p95_ms": "show",
        "queue_p95_ms": "queue, why",
        "plan_p50_ms": "plan (median)",
        "dispatch_round_ms": "round (median)",
        "decide_ms": "of it deciding",
        "load_s": "loading, s",
    }
    lines = [f"| database | stored | {' | '.join(titles.values())} |", "| --- " * (len(titles) + 2) + "|"]
    for name, points in document["details"]["databases"].items():
        for point in points:
            cells = " | ".join(f"{point[title]:.3g}" for title in titles)
            lines.append(f"| {name} | {point['stored']:,} | {cells} |")
    return "\n".join([*lines, ""])


# ---- one database ---------------------------------------------------------------------------------------------------


def _on(database: str, stored: Sequence[int], *, queued: int, projects: int, calls: int) -> list[Point]:
    with scratch_of(NAME) as directory, control_plane(directory, database, has_loops=False) as plane:
        draw_from = random.Random(0)
        world = World(plane, directory, projects=projects, draw=draw_from)
        world.store_base(min(BASE, stored[0]))
        world.fill_clusters()
        points, known = [], min(BASE, stored[0])
        for many in stored:
            began_s = time.perf_counter()
            world.store_copies(known, many)
            world.top_up(queued)
            known = many
            load_s = time.perf_counter() - began_s
            points.append({"stored": many, "load_s": load_s, **world.rounds(), **world.calls(calls)})
            told = ", ".join(f"{kind} {points[-1][_shown(kind)]:.3g} ms" for kind in KINDS)
            print(f"{database}, {many:,} stored: {told}", file=sys.stderr, flush=True)
        return points


@dataclass(slots=True)
class World:
    """A database with everything that takes part, and the API over it."""

    plane: ControlPlane
    directory: Path
    projects: int
    draw: random.Random
    began: datetime = field(default_factory=lambda: SystemClock().now())
    numbers: "count[int]" = field(default_factory=count)
    num_base: int = 0

    @property
    def store(self) -> Store:
        """The database."""
        return self.plane.store

    # ---- what is there ----

    def store_base(self, many: int) -> None:
        """Experiments that have ended, with an attempt and two events each, a minute apart."""
        with self.store.write() as session:
            clusters.ensure(session, "c0")
            for number in range(many):
                at = self.began - timedelta(minutes=number + 1)
                key, state = f"h{number:04}", self.draw.choice(8 * [State.SUCCEEDED] + [State.FAILED, State.CANCELLED])
                row = experiments.insert(
                    session, experiment_id=key, spec=self.spec(number), actor="bench", now=at, total_steps=None
                )
                row.state, row.spent_s, row.current_attempt_no = state, self.draw.uniform(60, 7200), 1
                row.reason, row.version, row.enqueued_at = "for the benchmark", 2, at
                session.flush()
                session.add(_ended_attempt(row, at))
                session.add(_last_event(row, at))
        self.num_base = many

    def store_copies(self, from_: int, to: int) -> None:
        """As many more as bring ``from_`` to ``to``, made in the database itself, so many copies a transaction."""
        if to > from_:
            first, last = -(-from_ // self.num_base), -(-to // self.num_base)
            for start in range(first, last, COPIED_TOGETHER):
                with self.store.write() as session:
                    for each in (ExperimentRow, AttemptRow, EventRow):
                        self._copy(session, each, start, min(last, start + COPIED_TOGETHER))
        self._analyze()

    def _copy(self, session: Session, each: type[Table], first: int, last: int) -> None:
        rows = each.__table__
        assert isinstance(rows, CoreTable), "rows are mapped to tables"
        copies = select(literal(first, Integer).label("copy")).cte("copies", recursive=True)
        copies = copies.union_all(select(copies.c.copy + 1).where(copies.c.copy + 1 < last))
        wanted = [self._copied(session, column, copies) for column in rows.columns]
        key = rows.c.id if "id" in rows.c else rows.c.experiment_id
        found = select(*wanted).select_from(rows.join(copies, literal(value=True))).where(_is_base(key))
        session.execute(insert(rows).from_select([column.name for column in rows.columns], found))

    def _copied(self, session: Session, column: Any, copies: FromClause) -> ColumnElement[Any]:
        suffix = "-" + cast(copies.c.copy, Text)
        if column.name == "id" and column.table.name == "attempt":
            return func.replace(column, "-a1", suffix + "-a1")
        if column.name in ("id", "experiment_id"):
            return column + suffix
        if column.name == "runner_name":
            return column + suffix
        if column.name in ("created_at", "ended_at"):  # a second earlier each: copies lie between the first ones
            return _earlier(session, column, copies.c.copy)
        return column

    def _analyze(self) -> None:
        """What PostgreSQL's own housekeeping would do; SQLite has none."""
        if not self.store.is_sqlite:
            with self.store.write() as session:
                session.execute(text("ANALYZE"))

    def spec(self, number: int) -> ExperimentSpec:
        """One of many shapes; a tenth would take other hardware as well."""
        resources: dict[str, Any] = {
            "workers": self.draw.choice((1, 1, 1, 2, 2, 4, 8, 16, 32)),
            "cpus_per_worker": 16,
            "gpus_per_worker": 1,
        }
        if self.draw.random() < 0.1:
            resources["any_of"] = [{"workers": 1}]
        document = {
            "name": f"n{number % 40}",
            "project": f"p{self.draw.randrange(self.projects):02}",
            "workload": "tabular_mlp",
            "data": {"uri": "builtin://diabetes"},
            "resources": resources,
            "policy": {
                "priority": self.draw.choice((20, 50, 50, 50, 80)),
                "preemptible": self.draw.random() < 0.3,
                "max_runtime_s": self.draw.randrange(600, 86_400),
            },
        }
        return from_mapping(ExperimentSpec, document)

    def fill_clusters(self) -> None:
        """Every GPU at work, placed by dispatch itself."""
        with self.store.write() as session:
            for number in range(CLUSTERS):
                nodes = tuple(_node(f"c{number}-{each}") for each in range(NODES))
                words = AttachRequest(
                    protocol=1, agent_version="1", ray_version="2", ray_session=f"r{number}", nodes=nodes
                )
                clusters.attach(session, f"c{number}", words, now=SystemClock().now())
        self.top_up(CLUSTERS * NODES * GPUS)
        self.dispatch(launches_per_cluster=10_000)()
        self.begin_all()

    def top_up(self, queued: int) -> None:
        """So many in the queue."""
        now = SystemClock().now()
        with self.store.write() as session:
            missing = queued - experiments.count_in(session, (State.QUEUED,))
            for number in islice(self.numbers, max(0, missing)):
                key, at = f"q{number:06}", now - timedelta(seconds=self.draw.uniform(0, 100_000))
                row = experiments.insert(
                    session, experiment_id=key, spec=self.spec(number), actor="bench", now=at, total_steps=None
                )
                row.state, row.enqueued_at = State.QUEUED, at

    # ---- rounds ----

    def settings(self, **changes: Any) -> ControlSettings:
        """Of the loops."""
        given = {
            "database_url": self.plane.database_url,
            "storage": self.directory / "storage",
            "mlflow_url": "http://127.0.0.1:9",
            "secret_key_file": self.directory / "secret",
            "agent_ttl_s": 1e9,
        }
        return ControlSettings(**{**given, **changes})

    def dispatch(self, **changes: Any) -> Dispatch:
        """The tick."""
        manifests = find_manifests()
        return Dispatch(store=self.store, clock=SystemClock(), settings=self.settings(**changes), manifests=manifests)

    def begin_all(self) -> None:
        """What was offered runs."""
        now = SystemClock().now()
        with self.store.write() as session:
            columns = {"leased_at": now, "started_at": now, "observation": "present", "observed_at": now}
            session.execute(update(AttemptRow).where(AttemptRow.leased_at.is_(None)).values(columns))
            session.execute(
                update(ExperimentRow).where(ExperimentRow.state == State.PLACED).values(state=State.RUNNING)
            )

    def end_some(self) -> None:
        """One attempt ends on each cluster."""
        now = SystemClock().now()
        with self.store.write() as session:
            for number in range(CLUSTERS):
                ended = self.draw.choice(attempts.open_on(session, f"c{number}"))
                ended.outcome, ended.ended_at, ended.is_settled = Outcome.SUCCEEDED, now, True
                experiments.get(session, ended.experiment_id).state = State.SUCCEEDED

    def rounds(self) -> Point:
        """Milliseconds of the whole tick, of looking and of deciding."""
        tick = self.dispatch()
        for _ in range(EXPLAINED):
            is_busy = tick()
            self.begin_all()
            if not is_busy:
                break
        whole, loading, deciding, num_placed = [], [], [], 0
        with self.store.read() as session:
            first_ms = _ms(lambda: experiments.candidates(session))
            known = {one.id: one for one in experiments.candidates(session)}
        for _ in range(ROUNDS):
            self.end_some()
            whole.append(_ms(tick))
            with self.store.read() as session:
                num_placed += len([one for one in attempts.open_everywhere(session) if one.leased_at is None])
            self.begin_all()
            loads, decides = self._in_parts(known)
            loading.append(loads)
            deciding.append(decides)
        return {
            "dispatch_round_ms": statistics.median(whole),
            "dispatch_round_p95_ms": quantile(whole, 0.95),
            "first_load_ms": first_ms,
            "look_ms": statistics.median(loading),
            "decide_ms": statistics.median(deciding),
            "placed_per_round": num_placed / ROUNDS,
        }

    def _in_parts(self, known: Mapping[str, Candidate]) -> tuple[float, float]:
        began_s = time.perf_counter()
        now, settings = SystemClock().now(), self.settings()
        with self.store.read() as session:
            candidates = experiments.candidates(session, known=known)
            here = look(session, settings, now)
        loaded_s = time.perf_counter()
        ordered = order(candidates, here.accounts, now=now, fairness=here.fairness)
        place_or_preempt(
            ordered,
            here.clusters,
            max_preemptions=settings.max_preemptions,
            launches_per_cluster=settings.launches_per_cluster,
            accounts=here.accounts,
        )
        return 1000 * (loaded_s - began_s), 1000 * (time.perf_counter() - loaded_s)

    # ---- calls ----

    def calls(self, many: int) -> Point:
        """Milliseconds over HTTP: percentiles of each kind, and the median of each question."""
        (api,) = self.plane.apis
        with self.store.read() as session:
            waiting = [one.id for one in experiments.candidates(session)]
        old = [f"h{self.draw.randrange(self.num_base):04}" for _ in range(many)]
        mixed = [self.draw.choice(pair) for pair in zip(old, self.draw.choices(waiting, k=many), strict=True)]
        with httpx.Client(base_url=str(api.url), headers=self.plane.headers, timeout=60, trust_env=False) as client:
            lists = _asked(client, islice(cycle(_lists(client)), many))
            shows = _asked(client, (f"/v1/experiments/{key}" for key in mixed))
            queue = _asked(client, islice(_of_queue(waiting, self.draw), many), per_s=QUESTIONS_PER_S)
            plans = [_ms(lambda: client.post("/v1/plan", json=_PLAN).raise_for_status()) for _ in range(5)]
        found = {"list": lists, "show": shows, "queue": queue}
        return {
            **{f"{kind}_p95_ms": quantile([ms for _, ms in taken], 0.95) for kind, taken in found.items()},
            **{f"{kind}_p50_ms": quantile([ms for _, ms in taken], 0.5) for kind, taken in found.items()},
            **{f"{kind}_max_ms": max(ms for _, ms in taken) for kind, taken in found.items()},
            "plan_p50_ms": statistics.median(plans),
            "by_question_ms": _by_question([*lists, *queue]),
        }


_PLAN = {
    "name": "asked",
    "project": "p00",
    "workload": "tabular_mlp",
    "data": {"uri": "builtin://diabetes"},
    "resources": {"workers": 4, "gpus_per_worker": 1},
}


def _lists(client: httpx.Client) -> list[str]:
    """Pages with every filter, filters that find little or nothing, and a page far back."""
    far = "/v1/experiments?limit=500"
    for _ in range(2):
        far = client.get(far).raise_for_status().json()["next"] or far
    return [
        "/v1/experiments",
        "/v1/experiments?state=eq:queued",
        "/v1/experiments?state=eq:cancelled",
        "/v1/experiments?state=in:succeeded,failed",
        "/v1/experiments?state=in:running,placed",
        "/v1/experiments?state=eq:held",
        "/v1/experiments?project=eq:p07",
        "/v1/experiments?project=in:p07,p08,p09",
        "/v1/experiments?project=eq:p07&state=eq:cancelled",
        "/v1/experiments?project=eq:p07&state=eq:held",
        "/v1/experiments?project=eq:p07&name=eq:n3",
        "/v1/experiments?name=eq:n3",
        "/v1/experiments?name=eq:nobody",
        "/v1/experiments?name=eq:nobody&state=eq:succeeded",
        far.replace("limit=500", "limit=50"),
    ]


def _of_queue(waiting: Sequence[str], draw: random.Random) -> Iterator[str]:
    while True:
        yield "/v1/queue"
        yield f"/v1/experiments/{draw.choice(waiting)}/why"
        yield "/v1/projects/p07/queue"
        yield f"/v1/experiments/{draw.choice(waiting)}/why"


def _asked(client: httpx.Client, paths: Iterator[str], *, per_s: float | None = None) -> list[tuple[str, float]]:
    """Milliseconds of each question, but for the first few; at so many a second if asked to."""
    found = []
    for path in paths:
        began_s = time.perf_counter()
        client.get(path).raise_for_status()
        took_s = time.perf_counter() - began_s
        found.append((path, 1000 * took_s))
        if per_s is not None:
            time.sleep(max(0.0, 1 / per_s - took_s))
    return found[WARM_UP:] if len(found) > 2 * WARM_UP else found


def _by_question(taken: Sequence[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for path, ms in taken:
        name = "why" if path.endswith("/why") else path.partition("cursor=")[0]
        found.setdefault(name, []).append(ms)
    return {name: round(statistics.median(each), 2) for name, each in found.items()}


def _ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began_s)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _is_base(key: ColumnElement[str]) -> ColumnElement[bool]:
    """Of the first ones, by a key of experiments or of attempts: neither a copy nor one that waits."""
    return key.like("h____") | key.like("h____-a_")


def _earlier(session: Session, column: Any, seconds: Any) -> ColumnElement[Any]:
    if session.get_bind().dialect.name == "sqlite":
        return func.strftime("%Y-%m-%d %H:%M:%f", column, "-" + cast(seconds, Text) + " seconds") + "000"
    return column - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _node(key: str) -> NodeInfo:
    return NodeInfo(
        node_id=key, address="10.0.0.1", is_alive=True, cpus=CPUS, gpus=GPUS, free_cpus=CPUS, free_gpus=GPUS
    )


def _ended_attempt(row: ExperimentRow, at: datetime) -> AttemptRow:
    return AttemptRow(
        id=attempts.attempt_id(row.id, 1),
        experiment_id=row.id,
        attempt_no=1,
        cluster="c0",
        runner_name=f"fl-{row.id}-a1",
        storage_path=f"{row.project}/{row.id}/a1",
        workers=row.workers,
        cpus=row.cpus,
        gpus=row.gpus,
        created_at=at,
        leased_at=at,
        lease_epoch=1,
        started_at=at,
        ended_at=at,
        observation="absent",
        observed_detail="",
        death_reason="",
        outcome=Outcome.SUCCEEDED,
        reason="",
        detail="",
        is_settled=True,
    )


def _last_event(row: ExperimentRow, at: datetime) -> EventRow:
    return EventRow(
        experiment_id=row.id,
        seq=2,
        kind="state",
        from_state=State.EVALUATING,
        to_state=row.state,
        attempt_no=1,
        actor="settle",
        reason="for the benchmark",
        payload={},
        at=at,
    )
