"""Disks without room under real processes: what was acknowledged stays, the rest is refused, and it heals by itself."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fairlead import Experiment
from fairlead.lifecycle import Outcome, State
from fairlead.store import migrate, open_store
from fairlead.testing.limits import fill, grow, small_disk
from fairlead.testing.local_ray import LocalRay, short_directory, start_local_ray
from fairlead.testing.postgres import PostgresServer
from fairlead.testing.ray import QUICK_RAY, wait_for
from fairlead.testing.servers import Server
from fairlead.testing.sites import Site, last_step, running_site

MANY = 3000


# ---- the database's ------------------------------------------------------------------------------------------------


def submit_until_refused(server: Server, acknowledged: dict[str, str]) -> httpx.Response:
    """The first answer that is no acknowledgement."""
    for _ in range(MANY):
        key = f"fills-{len(acknowledged)}"
        answer = server.submit(key)
        if not answer.is_success:
            return answer
        acknowledged[key] = answer.json()["id"]
    raise AssertionError("the disk never ran full")


def assert_refused_as_it_should_be(server: Server, refusal: httpx.Response) -> None:
    assert refusal.status_code == 503
    assert refusal.headers["Content-Type"] == "application/problem+json"
    assert int(refusal.headers["Retry-After"]) > 0
    assert server.get("/readyz").status_code == 503
    assert server.get("/healthz").status_code == 200


def await_readiness(server: Server) -> None:
    """Without a new start of the server."""
    wait_for(lambda: server.get("/readyz").status_code == 200, within_s=60, what="readiness")
    assert server.num_starts == 1


def assert_all_answer_again(server: Server, acknowledged: dict[str, str]) -> None:
    """Each key gets the answer that it got, and a new one is taken and queued by the loops."""
    for key in list(acknowledged)[-10:]:
        assert server.submit(key).json()["id"] == acknowledged[key]
    acknowledged["afterwards"] = server.submit("afterwards").json()["id"]
    path = f"/v1/experiments/{acknowledged['afterwards']}"
    wait_for(lambda: server.get(path).json()["state"] == State.QUEUED, within_s=30, what="a loop that still works")


def test_where_everything_is_on_one_full_disk_nothing_acknowledged_is_lost_and_it_heals(tmp_path: Path) -> None:
    """SQLite, the shared storage and the server's own log, as on a laptop."""
    with small_disk(tmp_path / "disk", megabytes=32) as disk:
        server = Server(disk)
        acknowledged: dict[str, str] = {}
        try:
            server.start()
            acknowledged["before"] = server.submit("before").json()["id"]
            ballast = fill(disk, leaving_kb=256)
            refusal = submit_until_refused(server, acknowledged)
            assert "full" in refusal.json()["detail"]
            rest = fill(disk)
            assert_refused_as_it_should_be(server, refusal)
            for _ in range(60):  # each is a line of the log, and not one of them can be written
                answer = server.get(f"/v1/experiments/{acknowledged['before']}")
                assert answer.status_code == 200, "it can still be read"
            assert_storage_refuses_a_bundle(server)
            for file in (ballast, rest):
                file.unlink()
            await_readiness(server)
            assert_all_answer_again(server, acknowledged)
        finally:
            server.stop()
        assert server.violations(acknowledged) == ()


def assert_storage_refuses_a_bundle(server: Server) -> None:
    headers = {"Content-Type": "application/zip"}
    answer = server.ask("POST", "/v1/code-bundles", content=bytes(100_000), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


@pytest.fixture
def cramped_postgres() -> Iterator[PostgresServer]:
    """On a disk of its own, whose directory its account may enter."""
    with tempfile.TemporaryDirectory(prefix="fl-pg-") as name:
        Path(name).chmod(0o755)
        with small_disk(Path(name) / "disk", megabytes=128) as disk:
            server = PostgresServer(disk)
            server.initialise()
            server.start()
            try:
                yield server
            finally:
                server.stop()


@pytest.mark.nightly  # seconds of submits, until 128 MiB are full
def test_a_full_disk_under_postgresql_loses_nothing_acknowledged_and_heals(
    cramped_postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres, disk = cramped_postgres, cramped_postgres.directory
    url = postgres.url(postgres.create_database())
    store = open_store(url)
    migrate(store)
    store.close()
    server = Server(tmp_path, database_url=url)
    acknowledged: dict[str, str] = {}
    try:
        server.start()
        ballast = fill(disk, leaving_kb=256)
        refusal = submit_until_refused(server, acknowledged)
        assert "No space left" in refusal.json()["detail"]
        assert_refused_as_it_should_be(server, refusal)
        postgres.begin_new_log()  # there is no room for it either, and that ends the whole server
        assert_refused_as_it_should_be(server, server.submit("to-nobody"))
        ballast.unlink()
        postgres.keep_running()
        await_readiness(server)
        assert_all_answer_again(server, acknowledged)
        assert server.violations(acknowledged) == ()
    finally:
        server.stop()


# ---- the storage's -------------------------------------------------------------------------------------------------

SMALL_KB, LARGE_KB = 16, 64 * 1024


@pytest.fixture
def cramped_site(head: LocalRay, tmp_path: Path) -> Iterator[Site]:
    """A storage of 24 MiB: room for everything but a large checkpoint."""
    with small_disk(tmp_path / "storage", megabytes=24), running_site(tmp_path, head) as site:
        site.start_agent()
        yield site


def failures(experiment: Experiment, attempt_no: int = 1) -> int:
    events = experiment.events(follow=False)
    return sum(one.kind == "checkpoint_failed" and one.attempt_no == attempt_no for one in events)


@pytest.mark.nightly  # a whole platform with a Ray
def test_training_goes_on_through_two_checkpoints_without_room(cramped_site: Site) -> None:
    with cramped_site.client() as client:
        sizes = {"checkpoint_kb": SMALL_KB, "large_kb": LARGE_KB, "large_at": [2, 3, 5, 6]}
        experiment = cramped_site.submit(client, "two-fail", steps=9, step_s=0.3, **sizes)
        assert experiment.result(timeout=120).state is State.SUCCEEDED
        assert len(experiment.attempts()) == 1
        assert failures(experiment) == 4, "never three in a row"
        life = cramped_site.life(experiment)
        assert {one.step for one in life.checkpoints} == {0, 1, 4, 7, 8}
        steps = [step for batch in life.batches for key, _, step, _ in batch.payload if key == "train/step"]
        assert steps == list(range(9))
        assert cramped_site.broken_promises(experiment) == ()


@pytest.mark.nightly  # a whole platform with a Ray, and two attempts
def test_three_checkpoints_without_room_end_the_attempt_and_the_next_goes_on_once_there_is_room(
    cramped_site: Site,
) -> None:
    with cramped_site.client() as client:
        sizes = {"checkpoint_kb": SMALL_KB, "large_kb": LARGE_KB, "large_at": [3, 4, 5]}
        experiment = cramped_site.submit(client, "three-fail", steps=8, step_s=0.3, **sizes)
        wait_for(lambda: failures(experiment) >= 3, within_s=120, what="three failures")
        wait_for(lambda: experiment.attempts()[0].outcome, within_s=60, what="the end of the first attempt")
        first = experiment.attempts()[0]
        assert (first.outcome, first.reason) == (Outcome.INFRA_ERROR, "storage")
        kept = {one.step for one in cramped_site.life(experiment).checkpoints if one.state == "committed"}
        assert max(kept) == 2
        assert cramped_site.broken_promises(experiment) == ()

        grow(cramped_site.server.storage, megabytes=400)
        assert experiment.result(timeout=180).state is State.SUCCEEDED
        resumed = [one.payload["step"] for one in experiment.events(follow=False) if one.kind == "resumed"]
        assert resumed[0] == 2
        assert cramped_site.broken_promises(experiment) == ()


# ---- Ray's own -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cramped_ray() -> Iterator[LocalRay]:
    """A Ray whose session directory has a disk of its own."""
    directory = short_directory()
    with small_disk(directory / "ray", megabytes=64):
        ray = start_local_ray(num_cpus=4, environment=QUICK_RAY, directory=directory)
        try:
            yield ray
        finally:
            ray.stop()
    shutil.rmtree(directory)


@pytest.mark.nightly  # a Ray of its own, and half a minute without room
def test_a_full_session_directory_of_rays_harms_nothing_that_runs_and_delays_the_rest(
    cramped_ray: LocalRay, tmp_path: Path
) -> None:
    with running_site(tmp_path, cramped_ray) as site, site.client() as client:
        site.start_agent()
        running = site.submit(client, "runs", steps=150, step_s=0.1)
        wait_for(lambda: last_step(running) >= 5, within_s=90, what="step 5")
        ballast = fill(cramped_ray.directory / "ray")
        late = site.submit(client, "late", steps=5)
        assert running.result(timeout=120).state is State.SUCCEEDED
        assert len(running.attempts()) == 1
        wait_for(lambda: "launch failed" in site.log(), within_s=60, what="a runner that cannot be started")
        assert not late.refresh().done()
        ballast.unlink()
        assert late.result(timeout=180).state is State.SUCCEEDED
        steps = [
            point[2] for batch in site.life(running).batches for point in batch.payload if point[0] == "train/step"
        ]
        assert steps == list(range(150))
        assert site.broken_promises(running, late) == ()
