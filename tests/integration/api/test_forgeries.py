"""Reports that are late, repeated, out of order, forged or broken: refused or absorbed, never committed twice."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from fairlead.lifecycle import Outcome
from fairlead.store import attempts, clusters, experiments, series
from fairlead.store.tables import BatchRow, CheckpointRow, SeriesRow
from fairlead.testing.stored import replayed_state
from fairlead_api.access import new_attempt_token

SHA, OTHER_SHA = "a" * 64, "b" * 64
AT = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
MIB = 2**20


@dataclass
class Running:
    """A running attempt, what may be sent for it, and what the database keeps of it."""

    bench: Any
    experiment_id: str
    attempt_id: str
    headers: dict[str, str]

    def post(self, what: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, str | None]:
        """Status and problem type of a report."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.bench.nobody.post(
            f"/internal/v1/attempts/{self.attempt_id}/{what}",
            content=raw,
            headers={"Content-Type": "application/json", **(headers or self.headers)},
        )
        return answer.status_code, answer.json()["code"] if answer.status_code >= 400 else None

    def points(self, first_offset: int, count: int = 2) -> dict[str, Any]:
        found = [{"key": "loss", "value": 1.0, "step": first_offset + i, "at_ms": 5} for i in range(count)]
        return {"stream": "metrics", "first_offset": first_offset, "points": found}

    def checkpoint(self, step: int = 3, **changes: Any) -> dict[str, Any]:
        path = f"default/{self.experiment_id}/a1/ckpt-{step}"
        return {"step": step, "path": path, "manifest_sha256": SHA, **changes}

    def reports(self, first_offset: int = 0) -> dict[str, Any]:
        """One good report of each kind but the result."""
        started = {"node_id": "n2", "pid": 2, "ray_session": "ray-2"}
        return {"started": started, "batches": self.points(first_offset), "checkpoints": self.checkpoint()}

    def result(self, sha256: str = SHA, **changes: Any) -> dict[str, Any]:
        document = {
            "experiment_id": self.experiment_id,
            "attempt_no": 1,
            "outcome": "succeeded",
            "reason": "finished",
            "started_at": AT,
            "ended_at": AT,
        }
        return {"result": {**document, **changes}, "result_sha256": sha256}

    def fold(self) -> None:
        """What the recorder does with batches some seconds later."""
        with self.bench.store.write() as session:
            series.fold(session, self.experiment_id, now=datetime.now(UTC))

    def events(self) -> list[str]:
        found = self.bench.user.get(f"/v1/experiments/{self.experiment_id}/events").json()["items"]
        return [event["kind"] for event in found]

    def kept(self) -> dict[str, Any]:
        """All that a report may have written; read anew, with an event log that replays to its row."""
        with self.bench.store.read() as session:
            row, attempt = experiments.get(session, self.experiment_id), attempts.get(session, self.attempt_id)
            assert replayed_state(session, self.experiment_id)[1] == row.version
            payloads = [batch.payload for batch in session.scalars(select(BatchRow).order_by(BatchRow.id))]
            return {
                "version": row.version,
                "metrics": row.metrics,
                "points": [point for payload in payloads for point in payload],
                "seen": session.scalar(select(func.sum(SeriesRow.seen))),
                "checkpoints": session.scalar(select(func.count()).select_from(CheckpointRow)),
                "outcome": attempt.outcome,
                "result_sha256": attempt.result_sha256,
                "started_at": attempt.started_at,
                "observation": attempt.observation,
                "death_since": attempt.death_since,
            }


@pytest.fixture
def running(bench: Any, spec: dict[str, Any]) -> Running:
    return Running(bench, *bench.running(spec))


@pytest.fixture
def other(running: Running, spec: dict[str, Any]) -> Running:
    """Another experiment's attempt on the same cluster."""
    bench = running.bench
    experiment_id = bench.submit(spec)["id"]
    attempt_id = bench.place(experiment_id)
    token = bench.lease(attempt_id, 1)["attempt_token"]
    return Running(bench, experiment_id, attempt_id, {"Authorization": f"Bearer {token}"})


# ---- batches --------------------------------------------------------------------------------------------------------


def test_batches_out_of_turn_are_refused_and_change_nothing(running: Running) -> None:
    assert running.post("batches", running.points(2)) == (409, "offset")  # a gap before anything came
    assert running.post("batches", running.points(0))[0] == 200
    before = running.kept()
    assert len(before["points"]) == 2
    for first_offset, count in ((0, 2), (1, 2), (0, 5), (3, 1), (9, 1)):
        assert running.post("batches", running.points(first_offset, count)) == (409, "offset")
    assert running.kept() == before
    assert running.post("batches", running.points(2))[0] == 200
    assert [point[2] for point in running.kept()["points"]] == [0, 1, 2, 3]
    for _ in range(2):  # a crash may repeat it
        running.fold()
        assert running.kept()["seen"] == 4


def test_nothing_is_taken_under_another_attempts_token(running: Running, other: Running) -> None:
    before = running.kept(), other.kept()
    stale = {"Authorization": f"Bearer {new_attempt_token(running.attempt_id)}"}
    for headers in (other.headers, stale, {"Authorization": "Bearer fa_x_y"}):
        for what, body in {**running.reports(), "result": running.result()}.items():
            assert running.post(what, body, headers) == (401, "unauthorized"), what
    assert (running.kept(), other.kept()) == before


@pytest.mark.parametrize("how", ["ended", "superseded"])
def test_what_comes_after_the_outcome_or_another_attempt_is_refused(running: Running, how: str) -> None:
    assert running.post("batches", running.points(0))[0] == 200
    if how == "ended":
        assert running.post("result", running.result())[0] == 204
    else:
        with running.bench.store.write() as session:
            experiments.set_columns(session, running.experiment_id, current_attempt_no=2)
    before = running.kept()
    for what, body in running.reports(first_offset=2).items():
        assert running.post(what, body) == (409, "stale_attempt"), what
    assert running.kept() == before


def test_a_batch_that_cannot_be_read_is_refused_whole(running: Running) -> None:
    given_changes: list[Any] = [
        {"first_offset": -1},
        {"stream": "others"},
        {"points": [{"key": "loss", "value": "high", "step": 1, "at_ms": 5}]},
        {"points": [{"key": "", "value": 1, "step": 1, "at_ms": 5}]},
        {"notes": [{"kind": "No Kind", "at_ms": 5}]},
        {"surprise": 1},
    ]
    before = running.kept()
    for change in given_changes:
        assert running.post("batches", {**running.points(0), **change}) == (422, "bad_spec"), change
    assert running.kept() == before


def test_refused_records_become_one_event_however_often_it_is_said(running: Running) -> None:
    assert running.post("batches", running.points(0))[0] == 200
    said = {"stream": "metrics", "first_offset": 2, "refused": "422: /points/0/value: not a number"}
    for _ in range(3):
        assert running.post("batches", said)[0] == 200
    assert running.post("batches", {**said, "stream": "notes", "first_offset": 0})[0] == 200
    assert running.events().count("records_refused") == 2
    events = running.bench.user.get(f"/v1/experiments/{running.experiment_id}/events").json()["items"]
    event = next(one for one in events if one["kind"] == "records_refused")
    assert "metrics from record 2 on were refused" in event["reason"]
    assert event["payload"] == {"stream": "metrics", "first_offset": 2}
    assert running.post("batches", {**running.points(2), "refused": "x"}) == (422, "bad_input")
    assert len(running.kept()["points"]) == 2


# ---- results --------------------------------------------------------------------------------------------------------


def test_a_result_counts_once_and_only_its_exact_repetition_is_absorbed(running: Running) -> None:
    assert running.post("result", running.result())[0] == 204
    before = running.kept()
    assert (before["outcome"], before["result_sha256"]) == ("succeeded", SHA)
    assert running.post("result", running.result())[0] == 204
    assert running.post("result", running.result(OTHER_SHA)) == (409, "stale_attempt")
    assert running.post("result", running.result(OTHER_SHA, outcome="user_error")) == (409, "stale_attempt")
    assert running.kept() == before


def test_a_result_of_a_superseded_attempt_is_refused(running: Running) -> None:
    with running.bench.store.write() as session:
        experiments.set_columns(session, running.experiment_id, current_attempt_no=2)
    before = running.kept()
    assert running.post("result", running.result()) == (409, "stale_attempt")
    assert running.kept() == before
    assert before["outcome"] is None


def test_a_result_after_a_proven_death_changes_nothing(running: Running) -> None:
    with running.bench.store.write() as session:
        outcome, now = Outcome.INFRA_ERROR, running.bench.clock.now()
        attempts.end(session, running.attempt_id, outcome=outcome, reason="node_lost", now=now)
    before = running.kept()
    assert running.post("result", running.result()) == (409, "stale_attempt")
    assert running.kept() == before


def test_a_result_of_something_else_is_refused(running: Running) -> None:
    given_changes: list[Any] = [
        {"experiment_id": "another"},
        {"attempt_no": 2},
        {"outcome": "victory"},
        {"started_at": "yesterday"},
    ]
    before = running.kept()
    for change in given_changes:
        assert running.post("result", running.result(**change))[0] == 422, change
    assert running.kept() == before


def test_a_truncated_result_is_refused_wherever_it_is_cut(running: Running) -> None:
    whole, before = json.dumps(running.result()).encode(), running.kept()
    for length in range(0, len(whole), 7):
        assert running.post("result", whole[:length]) == (422, "bad_spec")
    assert running.post("result", whole[:50] + b"\xff\x00" + whole[52:])[0] == 422
    assert running.kept() == before
    assert running.post("result", whole)[0] == 204


def test_a_result_of_three_mebibytes_is_taken_and_a_larger_one_refused(running: Running) -> None:
    before = running.kept()
    assert running.post("result", running.result(detail="x" * 5 * MIB)) == (413, "too_large")
    assert running.kept() == before
    assert running.post("result", running.result(detail="x" * 3 * MIB))[0] == 204
    with running.bench.store.read() as session:
        assert len(attempts.get(session, running.attempt_id).detail) == 20_000


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_committed_once_and_another_of_its_step_refused(running: Running) -> None:
    assert running.post("checkpoints", running.checkpoint())[0] == 204
    before = running.kept()
    assert running.post("checkpoints", running.checkpoint())[0] == 204
    assert running.post("checkpoints", running.checkpoint(manifest_sha256=OTHER_SHA)) == (409, "conflict")
    assert running.kept() == before
    assert (before["checkpoints"], running.events().count("checkpoint_committed")) == (1, 1)


def test_a_checkpoint_lies_at_the_place_of_its_step_or_nowhere(running: Running) -> None:
    given_paths: list[Any] = [
        "default/{id}/a1/ckpt-4",
        "default/{id}/a1",
        "default/{id}/a1/ckpt-3/deeper",
        "default/{id}/a2/ckpt-3",
        "default/another/a1/ckpt-3",
        "default/{id}/a1/../a2/ckpt-3",
        "default/{id}/a1/./ckpt-3",
        "default/{id}/a1/x/../ckpt-3",
        "/default/{id}/a1/ckpt-3",
        "default/{id}/a1/ckpt-3.tmp-1",
        "default/{id}/a1/ckpt-03",
        "",
    ]
    before = running.kept()
    for path in given_paths:
        given = running.checkpoint(path=path.format(id=running.experiment_id))
        assert running.post("checkpoints", given) == (422, "bad_input"), path
    assert running.kept() == before


def test_a_checkpoint_with_an_impossible_step_or_digest_is_refused(running: Running) -> None:
    given_changes: list[Any] = [{"step": -1}, {"manifest_sha256": "x"}, {"manifest_sha256": SHA.upper()}]
    before = running.kept()
    for change in given_changes:
        assert running.post("checkpoints", running.checkpoint(**change)) == (422, "bad_spec"), change
    assert running.kept() == before


# ---- heartbeats -----------------------------------------------------------------------------------------------------


def sync(bench: Any, **body: Any) -> tuple[int, str | None]:
    answer = bench.agent.post("/internal/v1/agent/sync", json={"agent_epoch": 1, "ray_session": "ray-1", **body})
    return answer.status_code, answer.json().get("code")


def test_the_older_of_two_agents_can_neither_report_nor_take_anything(running: Running, spec: dict[str, Any]) -> None:
    bench = running.bench
    assert bench.attach() == 2
    offered = bench.place(bench.submit(spec)["id"])
    before = running.kept()
    dead = {"attempt_id": running.attempt_id, "observation": "absent", "has_evidence_of_death": True}
    assert sync(bench, observations=[dead]) == (409, "stale_agent")
    answer = bench.agent.post(f"/internal/v1/attempts/{offered}/lease", json={"agent_epoch": 1})
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_agent")
    assert running.post("batches", running.points(0)) == (401, "unauthorized")  # its tokens were replaced
    assert running.kept() == before
    with bench.store.read() as session:
        assert attempts.get(session, offered).leased_at is None


def test_an_epoch_that_was_never_given_is_refused(running: Running) -> None:
    given_epochs: list[Any] = [0, -1, 3, 2**70]
    before = running.kept()
    seen = [{"attempt_id": running.attempt_id, "observation": "absent"}]
    for epoch in given_epochs:
        refusals = ((409, "stale_agent"), (422, "bad_input"))
        assert sync(running.bench, agent_epoch=epoch, observations=seen) in refusals, epoch
    assert running.kept() == before


def test_a_heartbeat_that_makes_no_sense_is_refused_whole(running: Running) -> None:
    given_changes: list[Any] = [{"progress_age_s": -1}, {"observation": "maybe"}, {"progress_age_s": "Infinity"}]
    before = running.kept()
    dead = {"attempt_id": running.attempt_id, "observation": "absent", "has_evidence_of_death": True}
    for change in given_changes:
        assert sync(running.bench, observations=[{**dead, **change}]) == (422, "bad_spec"), change
    assert running.kept() == before


def test_an_agent_says_nothing_about_attempts_of_other_clusters_or_of_nobody(running: Running) -> None:
    with running.bench.store.write() as session:
        clusters.ensure(session, "elsewhere")
        attempts.write_if_open(session, running.attempt_id, cluster="elsewhere")
    before = running.kept()
    gone = {"observation": "absent", "has_evidence_of_death": True, "death_reason": "forged"}
    seen = [{"attempt_id": key, **gone} for key in (running.attempt_id, "nobodys-a1", "")]
    assert sync(running.bench, observations=seen)[0] == 200
    assert running.kept() == before


def test_a_heartbeat_after_the_outcome_changes_nothing(running: Running) -> None:
    assert running.post("result", running.result())[0] == 204
    before = running.kept()
    seen = [{"attempt_id": running.attempt_id, "observation": "absent", "has_evidence_of_death": True}]
    assert sync(running.bench, observations=seen)[0] == 200
    assert running.kept() == before


def test_a_step_that_runs_backwards_is_not_believed(running: Running) -> None:
    for step, shown in ((9, 9), (4, 9), (-5, 9), (10, 10)):
        seen = [{"attempt_id": running.attempt_id, "observation": "present", "last_step": step}]
        assert sync(running.bench, observations=seen)[0] == 200
        with running.bench.store.read() as session:
            assert attempts.get(session, running.attempt_id).last_step == shown
