"""Slow, silent and broken connections between real processes: training does not notice, nothing is lost or doubled."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from fairlead import Experiment
from fairlead.lifecycle import Observation, State
from fairlead.store import leases, open_store
from fairlead.store.tables import LeaseRow
from fairlead.testing.history import differences
from fairlead.testing.links import Link
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.mlflow import MlflowServer, recorded_points
from fairlead.testing.postgres import PostgresServer
from fairlead.testing.ray import wait_for
from fairlead.testing.servers import Server
from fairlead.testing.sites import Site, last_step, running_site

STEP_S = 0.1


def assert_trained_steadily(site: Site, experiment: Experiment, num_steps: int) -> None:
    """Every step arrived once and in order, and none of them waited for anybody's time-out."""
    life = site.life(experiment)
    points = [(step, at_ms) for batch in life.batches for key, _, step, at_ms in batch.payload if key == "train/step"]
    assert [step for step, _ in points] == list(range(num_steps))
    assert max(after - before for (_, before), (_, after) in pairwise(points)) < 3000
    assert len(life.attempts) == 1
    assert not [event.kind for event in life.events if event.kind == "worker_group_restarted"]


# ---- MLflow --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[tuple[MlflowServer, Link]]:
    server = MlflowServer(tmp_path / "mlflow")
    with Link(("127.0.0.1", server.port)) as link:
        server.allowed_hosts = (f"127.0.0.1:{link.port}",)
        server.start()
        yield server, link
        server.stop()


@pytest.mark.nightly  # half a minute of silence and steps
def test_an_mlflow_that_accepts_and_never_answers_neither_slows_training_nor_loses_a_point(
    mlflow: tuple[MlflowServer, Link], head: LocalRay, tmp_path: Path
) -> None:
    running, link = mlflow
    with (
        running_site(tmp_path, head, server=Server(tmp_path, mlflow_url=link.url)) as site,
        site.client() as client,
    ):
        site.start_agent()
        experiment = site.submit(client, "silent-mlflow", steps=300, step_s=STEP_S)
        wait_for(lambda: recorded_points(running.url, experiment.id), within_s=90, what="the first points in MLflow")
        link.silence()
        before = last_step(experiment)
        wait_for(lambda: last_step(experiment) >= before + 100, within_s=60, what="a hundred steps in silence")
        during = recorded_points(running.url, experiment.id)
        wait_for(lambda: "does not answer" in site.server.log, within_s=60, what="the word that MLflow is away")
        link.heal()
        wait_for(experiment.done, within_s=60, what="the end")
        assert experiment.state is State.SUCCEEDED
        assert_trained_steadily(site, experiment, 300)
        wait_for(
            lambda: not [*differences(site.life(experiment), recorded_points(running.url, experiment.id))],
            within_s=60,
            what="an MLflow that equals the batches",
        )
        assert recorded_points(running.url, experiment.id).total() > during.total() + 100
        assert site.broken_promises(experiment) == ()


# ---- the agent -----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(head: LocalRay, tmp_path: Path) -> Iterator[Site]:
    """Its server thinks an agent stale after five seconds."""
    server = Server(tmp_path, environment={"FAIRLEAD_AGENT_TTL_S": "5"})
    with running_site(tmp_path, head, server=server) as site:
        site.start_agent()
        yield site


@pytest.mark.nightly  # a whole platform with a Ray, cut off for a while
def test_an_agent_cut_off_trains_on_and_delivers_everything_afterwards(site: Site) -> None:
    with site.client() as client:
        experiment = site.submit(client, "cut-off", steps=150, step_s=STEP_S)
        wait_for(lambda: last_step(experiment) >= 5, within_s=90, what="step 5")
        site.link.silence()
        wait_for(
            lambda: experiment.attempts()[0].observation == Observation.UNKNOWN,
            within_s=30,
            what="the word that nothing is known",
        )
        time.sleep(8)  # the outage itself: a time in which nothing may happen
        assert experiment.refresh().state is State.RUNNING
        assert experiment.attempts()[0].outcome is None
        site.link.heal()
        assert experiment.result(timeout=120).state is State.SUCCEEDED
        assert_trained_steadily(site, experiment, 150)
        assert site.broken_promises(experiment) == ()


@pytest.mark.nightly  # every lost answer is waited for
def test_lost_answers_to_leases_batches_and_results_start_one_runner_and_lose_nothing(site: Site) -> None:
    """A lease that is repeated without success is offered again; everything else is known to have arrived."""
    with site.client() as client:
        site.link.lose_answers(b"/lease", times=3)
        experiment = site.submit(client, "unheard", steps=100, step_s=STEP_S)
        wait_for(lambda: last_step(experiment) >= 2, within_s=120, what="step 2")
        assert site.link.num_cut == 3
        for words in (b"/batches", b"/batches", b"/sync", b"/result"):
            before = site.link.num_cut
            site.link.lose_answers(words)
            wait_for(lambda before=before: site.link.num_cut > before, within_s=60, what=f"{words!r} to be lost")
        assert experiment.result(timeout=120).state is State.SUCCEEDED
        assert_trained_steadily(site, experiment, 100)
        (attempt,) = site.life(experiment).attempts
        assert attempt.lease_epoch >= 3
        assert site.broken_promises(experiment) == ()


# ---- PostgreSQL ----------------------------------------------------------------------------------------------------

ROUND_TRIP_S = 0.5
ANSWER_S = 20.0


def lease_of(url: str) -> LeaseRow:
    store = open_store(url)
    with store.read() as session:
        row = leases.get(session, "control")
        assert row is not None
    store.close()
    return row


def timed(server: Server, key: str) -> tuple[httpx.Response, float]:
    began_s = time.monotonic()
    return server.submit(key), time.monotonic() - began_s


@pytest.mark.nightly  # half a minute of delays and locks
def test_a_slow_or_locked_postgresql_is_answered_for_in_time_and_costs_no_leadership(
    postgres: PostgresServer, postgres_template: str, tmp_path: Path
) -> None:
    name = postgres.create_database(template=postgres_template)
    with Link(postgres.directory / ".s.PGSQL.5432") as link:
        server = Server(tmp_path, database_url=f"postgresql+psycopg://fairlead@127.0.0.1:{link.port}/{name}")
        try:
            server.start()
            acknowledged = {"quick": server.submit("quick").json()["id"]}
            first = lease_of(postgres.url(name))

            link.delay(ROUND_TRIP_S / 2)
            with ThreadPoolExecutor(60) as pool:
                asked = {f"slow-{number}": pool.submit(timed, server, f"slow-{number}") for number in range(60)}
                assert_alive(server, for_s=8)
                answers = {key: one.result() for key, one in asked.items()}
            assert {answer.status_code for answer, _ in answers.values()} <= {201, 503}
            assert max(seconds for _, seconds in answers.values()) < ANSWER_S
            acknowledged |= {key: one.json()["id"] for key, (one, _) in answers.items() if one.status_code == 201}

            link.heal()
            with closing(open_store(postgres.url(name))) as store, store.engine.begin() as holding:
                holding.exec_driver_sql("lock table experiment in access exclusive mode")
                answer, seconds = timed(server, "locked-out")
                assert (answer.status_code, seconds < 6) == (503, True)
                assert_alive(server, for_s=6)
            wait_for(lambda: timed(server, "locked-out")[0].is_success, within_s=30, what="an answer after the lock")
            acknowledged["locked-out"] = server.submit("locked-out").json()["id"]

            last = lease_of(postgres.url(name))
            assert (last.holder, last.epoch) == (first.holder, first.epoch), "another has led meanwhile"
            assert last.renewals >= first.renewals + 3
        finally:
            server.stop()
        server.database_url = postgres.url(name)
        assert server.violations(acknowledged) == ()
    postgres.drop_database(name)


def assert_alive(server: Server, *, for_s: float) -> None:
    """``/healthz`` answers at once, however many requests wait for the database."""
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        assert server.get("/healthz").status_code == 200
        assert time.monotonic() - began_s < 2
        time.sleep(0.2)
