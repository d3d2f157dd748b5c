"""A real Ray whose workers are forked: quick, distinct, without a trace, and cold whenever the server is not there."""

import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune
from ray.train import RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from fairlead.run.census import marked_processes
from fairlead.run.environment import KEEP_MEMORY
from fairlead.run.warm import SWITCHED_OFF, Birth, Status, WarmServer, birth, runtime_env, was_forked
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.ray import wait_for


@pytest.fixture
def server(local_ray: LocalRay) -> Iterator[WarmServer]:
    """The warm server beside the head, up and with this job's server ready."""
    server = WarmServer(local_ray.warm_directory).start()
    ray.get(asking(server).remote())
    yield server
    server.release()


def asking(server: WarmServer, **variables: str) -> Any:
    """A task, or in the end a process, that tells how it was started."""
    options = {"runtime_env": runtime_env(variables, directory=server.places.directory), "max_retries": 0}
    return ray.remote(num_cpus=0)(birth).options(**options)


class Needy:
    """An actor that needs torch and Ray Train."""

    def ready(self) -> tuple[bool, int]:
        import ray.train.torch
        import torch

        assert torch.zeros(1) is not None
        assert ray.train.torch is not None
        return was_forked(), os.getpid()

    def ids(self) -> tuple[str, str]:
        """Ids that Ray draws at random: of an object put by a thread, and of a placement group."""
        from threading import Thread

        drawn: list[str] = []
        thread = Thread(target=lambda: drawn.append(ray.put(1).hex()))
        thread.start()
        thread.join()
        group = ray.util.placement_group([{"CPU": 0.001}])
        assert group.wait(30)  # one that is removed while it is made may keep what it has reserved
        ray.util.remove_placement_group(group)
        return drawn[0], group.id.hex()


def needy(server: WarmServer, **variables: str) -> Any:
    environment = runtime_env(variables, directory=server.places.directory)
    return ray.remote(num_cpus=0)(Needy).options(runtime_env=environment).remote()


def standing(server: WarmServer) -> Status:
    found = server.status()
    assert found is not None
    return found


def launchers() -> dict[int, psutil.Process]:
    """Processes that stand for forked workers, or ask for one."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if "-IS" in (process.info["cmdline"] or [])[:3]:
            found[process.pid] = process
    return found


def has_asked(known: dict[int, psutil.Process]) -> bool:
    """Whether a new launcher has sent its request: it then waits for the answer."""
    new = [process for pid, process in launchers().items() if pid not in known]
    return any(process.status() == psutil.STATUS_SLEEPING and process.net_connections("unix") for process in new)


def test_actors_that_need_torch_answer_at_once(server: WarmServer) -> None:
    times = []
    for _ in range(10):
        started = time.monotonic()
        actor = needy(server)
        is_warm, _ = ray.get(actor.ready.remote())
        times.append(time.monotonic() - started)
        assert is_warm
        ray.kill(actor)
    print(f"actor with torch: p50 {statistics.median(times):.2f} s, slowest {max(times):.2f} s")
    assert statistics.median(times) < 3  # importing takes longer than that on any machine


class Noting(UserCallback):
    """Writes down how the process was started that Ray Train's controller lives in."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        note_birth(self._directory, "controller")


def note_birth(directory: str, name: str) -> None:
    with open(f"{directory}/{name}", "w") as file:
        file.write(f"{time.time()} {os.getpid()} {birth().is_warm}")


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_train_starts_its_controller_and_all_ranks_warm(server: WarmServer, workers: int, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()

    def loop(config: dict[str, str]) -> None:
        note_birth(config["notes"], f"rank{ray.train.get_context().get_world_rank()}")
        ray.train.report({})

    def fit() -> float:
        started = time.time()
        TorchTrainer(
            loop,
            train_loop_config={"notes": str(notes)},
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.9}),
            run_config=RunConfig(storage_path=str(tmp_path / "runs"), callbacks=[Noting(str(notes))]),
        ).fit()
        found = {name: (notes / name).read_text().split() for name in os.listdir(notes)}
        assert sorted(found) == ["controller", *(f"rank{rank}" for rank in range(workers))]
        assert {is_warm for _, _, is_warm in found.values()} == {"True"}
        assert len({pid for _, pid, _ in found.values()}) == workers + 1
        return float(found["rank0"][0]) - started

    driver = ray.remote(num_cpus=0)(fit).options(
        runtime_env=runtime_env({}, directory=server.places.directory), max_retries=0
    )
    times = [ray.get(driver.remote()) for _ in range(3)]
    print(f"fit() to the loop's first line, {workers} workers: {[round(each, 2) for each in times]} s")


class Sweeper:
    """An actor that a search lives in."""

    def sweep(self, storage: str) -> list[dict[str, Any]]:
        """Two trials; what each says of its process."""

        def trial(config: dict[str, int]) -> None:
            born = birth()
            tune.report({"is_warm": born.is_warm, "why": born.why, "pid": os.getpid(), "number": config["number"]})

        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": 0.5}),
            param_space={"number": tune.grid_search([1, 2])},
            tune_config=tune.TuneConfig(max_concurrent_trials=2),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        return [{**(result.metrics or {}), "error": result.error} for result in tuner.fit()]


def test_trials_of_ray_tune_in_a_detached_actor_start_warm(server: WarmServer, tmp_path: Path) -> None:
    environment = runtime_env({}, directory=server.places.directory)
    options = {"num_cpus": 0, "name": "sweeper", "lifetime": "detached", "runtime_env": environment}
    sweeper = ray.remote(Sweeper).options(**options).remote()
    started = time.monotonic()
    trials = ray.get(sweeper.sweep.remote(str(tmp_path)), timeout=400)
    print(f"two trials of Ray Tune: {time.monotonic() - started:.1f} s")
    ray.kill(sweeper)
    assert [trial["error"] for trial in trials] == [None, None]
    assert sorted(trial["number"] for trial in trials) == [1, 2]
    assert [(trial["is_warm"], trial["why"]) for trial in trials] == [(True, ""), (True, "")]
    assert len({trial["pid"] for trial in trials}) == 2


def test_brothers_draw_different_ids(server: WarmServer) -> None:
    actors = [needy(server) for _ in range(8)]
    drawn = ray.get([actor.ids.remote() for actor in actors])
    objects, groups = zip(*drawn, strict=True)
    assert len(set(objects)) == len(set(groups)) == len(actors)
    for actor in actors:
        ray.kill(actor)


def test_thirty_starts_leave_no_process_and_no_descriptor(server: WarmServer) -> None:
    def held() -> tuple[int, int, int]:
        found = standing(server)
        pids = [found.pid, *(job.pid for job in found.jobs)]
        return len(pids), sum(job.children for job in found.jobs), sum(psutil.Process(pid).num_fds() for pid in pids)

    before, forked = held(), sum(job.forked for job in standing(server).jobs)
    for _ in range(30):
        actor = needy(server, FAIRLEAD_ATTEMPT="fl-thirty-a1")
        is_warm, pid = ray.get(actor.ready.remote())
        assert is_warm
        assert pid in marked_processes("fl-thirty-a1")
        ray.kill(actor)
    wait_for(lambda: not marked_processes("fl-thirty-a1"), within_s=30, what="the end of thirty workers")
    assert sum(job.forked for job in standing(server).jobs) >= forked + 30
    wait_for(lambda: held() <= before, within_s=30, what="what was held before thirty workers")


def test_another_job_has_a_server_of_its_own(server: WarmServer) -> None:
    """Ray reads the number of its job when it is imported; a worker of another job would abort."""
    here = ray.get_runtime_context().get_job_id()
    jobs = {job.job.partition("-")[0] for job in standing(server).jobs}
    assert here in jobs
    program = (
        "import ray, sys\n"
        "from fairlead.run.warm import birth\n"
        "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')\n"
        "print(ray.get(ray.remote(num_cpus=0)(birth).remote()).is_warm, ray.get_runtime_context().get_job_id())\n"
    )
    address = ray.get_runtime_context().gcs_address
    found = subprocess.run(
        [sys.executable, "-c", program, address], capture_output=True, text=True, timeout=120, check=True
    )
    is_warm, other = found.stdout.split()
    assert is_warm == "True"
    assert other != here
    assert other in {job.job.partition("-")[0] for job in standing(server).jobs}


def test_a_forked_worker_takes_rays_settings_from_its_own_environment(server: WarmServer) -> None:
    """Though its server imported Ray with other ones: runners are told so how long a silent head is waited for."""

    def is_warm_and_patient() -> tuple[bool, int]:
        from ray._raylet import Config

        return was_forked(), Config.grpc_client_keepalive_timeout_ms()

    variables = {"RAY_grpc_client_keepalive_timeout_ms": "14321"}
    environment = runtime_env(variables, directory=server.places.directory)
    task = ray.remote(num_cpus=0)(is_warm_and_patient).options(runtime_env=environment)
    assert ray.get(task.remote()) == (True, 14321)


def test_a_forked_worker_keeps_the_memory_of_a_step_for_the_next_one_if_it_is_told_so(server: WarmServer) -> None:
    """As a new process would, which reads the variables when it begins."""

    def faults_of_steps() -> tuple[bool, int]:
        """Page faults while 64 tensors of a megabyte are made and let go, twenty times."""
        import torch

        def faults() -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        def step() -> None:
            [torch.ones(1 << 18) for _ in range(64)]

        step()
        before = faults()
        for _ in range(20):
            step()
        return was_forked(), faults() - before

    found = {}
    for name, variables in (("plain", {}), ("kept", KEEP_MEMORY)):
        environment = runtime_env(variables, directory=server.places.directory)
        task = ray.remote(num_cpus=0)(faults_of_steps).options(runtime_env=environment)
        is_warm, found[name] = ray.get(task.remote())
        assert is_warm
    print(f"page faults: {found}")
    assert found["kept"] < found["plain"] / 20


def test_the_switch_turns_it_off(server: WarmServer) -> None:
    assert ray.get(asking(server, FAIRLEAD_WARM_START="0").remote()) == Birth(is_warm=False, why=SWITCHED_OFF)


@pytest.mark.parametrize("level", ["job", "root"])
def test_a_start_whose_server_is_killed_succeeds_and_soon_starts_are_warm_again(server: WarmServer, level: str) -> None:
    running = needy(server)
    assert ray.get(running.ready.remote())[0]
    found = standing(server)
    killed = [job.pid for job in found.jobs] if level == "job" else [found.pid]
    known = launchers()
    for pid in killed:  # it takes the request and never answers it
        os.kill(pid, signal.SIGSTOP)
    call = asking(server, MINE=level).remote()
    wait_for(lambda: has_asked(known), within_s=30, what="a launcher at the server's door")
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    born = ray.get(call, timeout=120)
    print(f"killed {level}: {born}")  # warm where another server was up before the second of the two launchers
    assert born.is_warm or born.why
    assert ray.get(running.ready.remote(), timeout=20)[0]  # unharmed
    ray.kill(running)

    def is_warm_again() -> bool | None:
        server.ensure()
        return ray.get(asking(server, MINE=f"{level} {time.monotonic()}").remote()).is_warm or None

    wait_for(is_warm_again, within_s=90, what="a warm start")


def test_a_worn_server_is_replaced_while_its_workers_go_on(local_ray: LocalRay) -> None:
    directory = local_ray.directory / "worn"
    with WarmServer(directory, max_forks=3) as server:
        print(ray.get(asking(server).remote()))
        first = needy(server)
        assert ray.get(first.ready.remote())[0]
        pids = {job.pid for job in standing(server).jobs}
        for number in range(3):
            ray.get(asking(server, NUMBER=str(number)).remote())
        wait_for(
            lambda: {job.pid for job in standing(server).jobs if job.is_ready and not job.is_retired} - pids or None,
            within_s=60,
            what="a successor",
        )
        assert ray.get(first.ready.remote())[0]
        assert ray.get(asking(server, NUMBER="last").remote()).is_warm
        ray.kill(first)
