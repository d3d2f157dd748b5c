"""What Prometheus and probes are told, on both databases."""

import re
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update
from starlette.testclient import TestClient

from fairlead.control.leader import LEASE
from fairlead.control.meters import LoopMeters
from fairlead.errors import StaleLeader, Unavailable
from fairlead.lifecycle import State
from fairlead.settings import ControlSettings
from fairlead.store import batches, experiments, gauges, leases, migrate, open_store
from fairlead.store.tables import ExperimentRow, OutboxRow, WebhookEndpointRow
from fairlead.testing.stored import a_node
from fairlead_api import create_app
from fairlead_api.meters import OTHERS

Labels = frozenset[tuple[str, str]]
LABELS = {"method", "status", "kind", "state", "project", "cluster", "loop", "cause", "code", "version", "le"}


def samples(bench: Any) -> dict[tuple[str, Labels], float]:
    answer = bench.user.get("/metrics")
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(found: Mapping[tuple[str, Labels], float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def named(found: Mapping[tuple[str, Labels], float], name: str) -> list[dict[str, str]]:
    return [dict(labels) for each, labels in found if each == name]


def test_meters_count_requests_under_bounded_labels(small_bench: Any, spec: dict[str, Any]) -> None:
    small_bench.submit(spec)
    small_bench.user.request("STRANGE", "/v1/whoami")
    small_bench.user.get("/nowhere/at/all")
    small_bench.sync(small_bench.attach())
    found = samples(small_bench)
    assert value(found, "fairlead_request_seconds_count", method="other", status="4xx", kind="user") == 1
    assert value(found, "fairlead_request_seconds_count", method="GET", status="4xx", kind="other") == 1
    assert value(found, "fairlead_request_seconds_count", method="POST", status="2xx", kind="agent") == 2
    assert value(found, "fairlead_experiments", state="accepted") == 1
    assert {name for _, labels in found for name, _ in labels} <= LABELS
    assert not [labels for _, labels in found for _, text in labels if re.search(r"STRANGE|nowhere", text)]
    assert value(found, "process_open_fds") > 0


def test_the_queue_is_told_by_the_longest_queues_and_the_first_in_it(bench: Any, spec: dict[str, Any]) -> None:
    assert value(samples(bench), "fairlead_queue_oldest_seconds") == 0
    num_projects = gauges.MOST_PROJECTS + 3
    for number in range(num_projects):
        for _ in range(2 if number < gauges.MOST_PROJECTS else 1):
            experiment_id = bench.submit({**spec, "project": f"p{number:02}"})["id"]
            queue(bench, experiment_id)
        bench.clock.advance(1)
    found = samples(bench)
    told = named(found, "fairlead_queued")
    assert len(told) == gauges.MOST_PROJECTS + 1
    assert value(found, "fairlead_queued", project="p00") == 2
    assert value(found, "fairlead_queued", project=OTHERS) == 3
    assert value(found, "fairlead_queue_oldest_seconds") == num_projects
    with bench.store.write() as session:  # running is no waiting
        session.execute(update(ExperimentRow).values(spent_s=num_projects - 3.0))
    assert value(samples(bench), "fairlead_queue_oldest_seconds") == 3


def queue(bench: Any, experiment_id: str) -> None:
    now = bench.clock.now()
    with bench.store.write() as session:
        row = experiments.get(session, experiment_id)
        columns = {"enqueued_at": now}
        experiments.move_if_current(
            session, row, State.QUEUED, reason="admitted", actor="dispatch", now=now, columns=columns
        )


def test_clusters_are_told_until_they_are_retired(bench: Any, spec: dict[str, Any]) -> None:
    nodes = [a_node("n1", cpus=4, gpus=1).model_dump(mode="json"), a_node("n2", cpus=2).model_dump(mode="json")]
    epoch = bench.attach()
    bench.sync(epoch, nodes=nodes)
    experiment_id = bench.submit(spec)["id"]
    bench.lease(bench.place(experiment_id), epoch)
    bench.clock.advance(7)
    found = samples(bench)
    told = ("cpus", "cpus_held", "gpus", "gpus_held", "open")
    assert [value(found, f"fairlead_cluster_{name}", cluster="local") for name in told] == [6, 1, 1, 0, 1]
    assert value(found, "fairlead_agent_silence_seconds", cluster="local") == 7
    bench.clock.advance(60)
    assert value(samples(bench), "fairlead_cluster_open", cluster="local") == 0, "its agent is silent"
    assert bench.user.post("/v1/clusters/local/retire", json={"reason": "sold"}).status_code == 200
    assert named(samples(bench), "fairlead_agent_silence_seconds") == []


def test_what_is_behind_is_told_with_its_age(bench: Any, spec: dict[str, Any]) -> None:
    before = samples(bench)
    names = ("webhook_pending", "webhook_oldest_seconds", "webhook_given_up", "webhooks_disabled", "unrecorded_seconds")
    assert [value(before, f"fairlead_{name}") for name in names] == [0, 0, 0, 0, 0]
    assert value(before, "fairlead_control_lease_seconds") == 0
    _, attempt_id, headers = bench.running(spec)
    now = bench.clock.now()
    with bench.store.write() as session:
        session.add_all([an_endpoint("we_1", "active", now), an_endpoint("we_2", "disabled", now)])
        session.flush()
        for number, (endpoint, state) in enumerate([("we_1", "pending"), ("we_1", "failed"), ("we_2", "pending")]):
            session.add(a_message(number, endpoint, state, now))
        leases.take(session, name=LEASE, holder="h", ttl_s=15, now=now)
    point = {"key": "loss", "value": 1.0, "step": 1, "at_ms": 1}
    batch = {"stream": "metrics", "first_offset": 0, "points": [point]}
    sent = bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/batches", json=batch, headers=headers)
    assert sent.status_code == 200, sent.text
    bench.clock.advance(9)
    found = samples(bench)
    assert [value(found, f"fairlead_{name}") for name in names] == [1, 9, 1, 1, 9]
    assert 0 < value(found, "fairlead_control_lease_seconds") <= 15
    with bench.store.write() as session:
        ids = [one.id for one in batches.unrecorded(session)]
        batches.mark_recorded(session, ids, now=bench.clock.now())
    assert value(samples(bench), "fairlead_unrecorded_seconds") == 0


def an_endpoint(key: str, state: str, now: Any) -> WebhookEndpointRow:
    written = {"created_by": "u", "created_at": now, "updated_at": now, "version": 1, "secret_no": 1}
    return WebhookEndpointRow(
        id=key, url=f"https://x.test/{key}", state=state, reason="", description="", kinds=[], **written
    )


def a_message(number: int, endpoint: str, state: str, now: Any) -> OutboxRow:
    return OutboxRow(
        endpoint_id=endpoint,
        message_id=f"m{number}",
        kind="state",
        body="{}",
        state=state,
        created_at=now,
        due_at=now,
        tries=0,
    )


@pytest.mark.parametrize(
    ("error", "cause"),
    [(StaleLeader("x"), "stale"), (Unavailable("x"), "unavailable"), (ValueError("x"), "crashed"), (None, "")],
)
def test_a_round_is_timed_and_its_end_counted(error: Exception | None, cause: str) -> None:
    meters = LoopMeters()
    with pytest.raises(type(error)) if error else nullcontext(), meters.round("settle"):
        if error is not None:
            raise error
    found = {(one.name, frozenset(one.labels.items())): one.value for f in meters.collect() for one in f.samples}
    assert value(found, "fairlead_round_seconds_count", loop="settle") == 1
    told = {labels["cause"] for labels in named(found, "fairlead_round_failures_total")}
    assert told == ({cause} if cause else set())


def test_a_stream_that_waits_tells_how_late_events_are_and_not_what_it_catches_up_with(
    small_bench: Any, spec: dict[str, Any], serve: Any
) -> None:
    experiment_id = small_bench.submit(spec)["id"]
    address, headers = serve(small_bench.app), {"Accept": "text/event-stream", **small_bench.user.headers}
    path = f"{address}/v1/experiments/{experiment_id}/events"
    with httpx.stream("GET", path, headers=headers, timeout=20) as answer:
        lines = answer.iter_lines()
        while next(lines) != "id: 1":
            pass
        assert value(samples(small_bench), "fairlead_event_lag_seconds_count") == 0
        await_waiter(small_bench)
        small_bench.user.post(f"/v1/experiments/{experiment_id}/cancel")
        while next(lines) != "id: 2":
            pass
        assert value(samples(small_bench), "fairlead_event_lag_seconds_count") == 1
    small_bench.move(experiment_id, State.CANCELLED)


def await_waiter(bench: Any) -> None:
    deadline_s = time.monotonic() + 20
    while not bench.app.state.watch._waiters and time.monotonic() < deadline_s:
        time.sleep(0.01)


# ---- probes ---------------------------------------------------------------------------------------------------------


def test_each_probe_says_its_own_thing(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url=empty_url,
        storage=tmp_path,
        mlflow_url="http://127.0.0.1:9",
        secret_key_file=tmp_path / "secret",
        allowed_hosts=("testserver",),
    )
    store = open_store(empty_url)
    app = create_app(settings, store)
    client = TestClient(app)

    def said() -> list[int]:
        return [client.get(path).status_code for path in ("/healthz", "/startupz", "/readyz")]

    assert said() == [200, 503, 503], "a server without its schema lives and has not started"
    migrate(store)
    assert said() == [200, 200, 200]
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE fairlead_schema SET version_num = '9999'"))
    assert said() == [200, 200, 503], "what has started once is not started again for what befalls its database"
    app.state.api.stopping.set()
    detail = client.get("/readyz").json()["detail"]
    assert (said(), detail) == ([200, 200, 503], "the server is about to end")
    store.close()


def test_probes_need_no_token_and_no_thread_once_started(small_bench: Any) -> None:
    assert small_bench.nobody.get("/startupz").status_code == 200
    before = threading.active_count()
    assert [small_bench.nobody.get(path).status_code for path in ("/healthz", "/startupz")] == [200, 200]
    assert threading.active_count() == before
