"""Acknowledged submits a second: sixteen clients at real API processes, with tokens, roles and the audit.

On PostgreSQL two API processes and two control processes share the machine with the clients, on SQLite the one server
that there may be does all of it. A submit counts when its 201 has come: experiment, event, audit row and stored answer
are in the database then, one durable transaction each. ``SPAN``: seconds of each; ``CLIENTS``: how many submit at once.
"""

import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from benchmarks.chart import Bar, bars
from benchmarks.control_plane import DATABASES, SPEC, ControlPlane, control_plane, scratch_of
from benchmarks.harness import Measurement, quantile, size
from fairlead.clock import SystemClock
from fairlead.rights import Role
from fairlead.store.tables import AuditRow, ExperimentRow
from fairlead.testing.people import a_member, a_token

NAME = "submit_throughput"
SPAN_S = 30
CLIENTS = 16
WARM_UP_S = 3.0
PROJECT = "bench"


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitThroughput:
    """``p99_ms``: from request to answer, of the slower database."""

    postgresql_per_s: float
    sqlite_per_s: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of one database."""

    per_s: float
    submits: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def measure() -> Measurement:
    """One database after the other."""
    seconds, clients = size("SPAN", SPAN_S), size("CLIENTS", CLIENTS)
    found = {database: submits(database, seconds=seconds, clients=clients) for database in DATABASES}
    result = SubmitThroughput(
        postgresql_per_s=found["postgresql"].per_s,
        sqlite_per_s=found["sqlite"].per_s,
        p99_ms=max(one.p99_ms for one in found.values()),
    )
    details = {database: asdict(one) for database, one in found.items()}
    return Measurement(result=result, sizes={"seconds": seconds, "clients": clients}, details=details)


def submits(database: str, *, seconds: float, clients: int) -> Outcome:
    """Submit for ``seconds`` as an editor of one project. Raises ``RuntimeError`` where not every answer is a 201."""
    with scratch_of(NAME) as directory, control_plane(directory, database) as plane:
        now = SystemClock().now()
        a_member(plane.store, "bench-editor", {PROJECT: Role.EDITOR}, now=now)
        headers = a_token(plane.store, "bench-editor", now=now, project=PROJECT, role=Role.EDITOR)
        _drive(plane, headers, WARM_UP_S, clients, "warm-up")
        before = _stored(plane)
        began_s = time.monotonic()
        took_s = _drive(plane, headers, seconds, clients, "submit")
        lasted_s = time.monotonic() - began_s
        after = _stored(plane)
    if any(later - earlier != len(took_s) for earlier, later in zip(before, after, strict=True)):
        raise RuntimeError(f"{len(took_s)} submits were acknowledged, but {before} rows became {after}")
    print(f"{database}: {len(took_s) / lasted_s:.0f} submits a second", file=sys.stderr, flush=True)
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}
    return Outcome(
        per_s=round(len(took_s) / lasted_s, 1),
        submits=len(took_s),
        seconds=round(lasted_s, 2),
        **{name: round(quantile(took_s, share) * 1000, 1) for name, share in shares.items()},
    )


def _drive(plane: ControlPlane, headers: Mapping[str, str], seconds: float, clients: int, name: str) -> list[float]:
    """Seconds of each submit until its answer. All clients begin together and send the next one when answered."""
    gate = threading.Barrier(clients)

    def client(number: int) -> list[float]:
        took_s = []
        url = plane.apis[number % len(plane.apis)].url
        with httpx.Client(base_url=url or "", headers=dict(headers), timeout=60, trust_env=False) as http:
            gate.wait()
            end_s = time.monotonic() + seconds
            while (sent_s := time.monotonic()) < end_s:
                key = f"{name}-{number}-{len(took_s)}"
                body = {**SPEC, "name": key, "project": PROJECT}
                answer = http.post("/v1/experiments", json=body, headers={"Idempotency-Key": key})
                took_s.append(time.monotonic() - sent_s)
                if answer.status_code != 201:
                    raise RuntimeError(f"{answer.status_code} {answer.text}")
        return took_s

    with ThreadPoolExecutor(clients) as pool:
        return [each for found in pool.map(client, range(clients)) for each in found]


def _stored(plane: ControlPlane) -> tuple[int, int]:
    """Experiments, and what the audit knows of their creation."""
    with plane.store.read() as session:
        made = session.scalar(select(func.count()).select_from(ExperimentRow)) or 0
        is_creation = AuditRow.action == "createExperiment"
        told = session.scalar(select(func.count()).select_from(AuditRow).where(is_creation)) or 0
    return made, told


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    rates = {database: document["details"][database]["per_s"] for database in DATABASES}
    rows = [Bar(label=name, value=rate, low=rate, high=rate, is_ours=True) for name, rate in rates.items()]
    (directory / f"{NAME}.svg").write_text(bars("Acknowledged submits a second, sixteen clients", rows))
