"""A workload that reports without measure: its training goes on, what is kept is bounded, and the rest is counted."""

import threading
from pathlib import Path

import psutil
import pytest

from fairlead.lifecycle import State
from fairlead.protocol import MAX_BATCH_POINTS
from fairlead.run.meter import MAX_KEYS
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.sites import running_site

STEPS, KEYS = 10, 100_000
MAX_GROWTH_MB = 300


class Watch:
    """The most memory that each of some processes had, until it is left."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.first_mb = self._sizes()
        self.most_mb = dict(self.first_mb)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _sizes(self) -> dict[str, float]:
        return {name: process.memory_info().rss / 2**20 for name, process in self._processes.items()}

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            for name, size in self._sizes().items():
                self.most_mb[name] = max(self.most_mb[name], size)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.nightly  # a million points take their time
def test_a_million_points_of_a_hundred_thousand_metrics_are_bounded_and_counted(head: LocalRay, tmp_path: Path) -> None:
    with running_site(tmp_path, head) as site, site.client() as client:
        site.start_agent()
        assert site.server.process is not None
        quiet = site.submit(client, "before", steps=2)  # so that everything is loaded that a run needs
        assert quiet.result(timeout=120).state is State.SUCCEEDED
        with Watch({"api": site.server.process.pid, "agent": site.agent_pid}) as watch:
            flood = site.submit(client, "flood", steps=STEPS, keys=KEYS, step_s=0.01)
            neighbour = site.submit(client, "beside", steps=60, step_s=0.1)
            assert neighbour.result(timeout=240).state is State.SUCCEEDED
            assert flood.result(timeout=240).state is State.SUCCEEDED
        for name, most in watch.most_mb.items():
            assert most - watch.first_mb[name] < MAX_GROWTH_MB, f"{name} grew from {watch.first_mb[name]:.0f} MB"

        life = site.life(flood)
        sizes = [len(batch.payload) for batch in life.batches]
        kept = [point for batch in life.batches for point in batch.payload if not point[0].startswith("system/")]
        assert max(sizes) <= MAX_BATCH_POINTS
        assert len({key for key, *_ in kept}) == MAX_KEYS
        assert len(kept) == STEPS * MAX_KEYS
        (told,) = [event.payload for event in life.events if event.kind == "metrics_dropped"]
        assert told["beyond_keys"] == STEPS * (KEYS + 1 - MAX_KEYS), "every point is kept or counted"
        assert not {"beyond_rate", "no_room"} & told.keys()

        steps = [p[2] for batch in site.life(neighbour).batches for p in batch.payload if p[0] == "train/step"]
        assert steps == list(range(60))
        assert site.broken_promises(flood, neighbour) == ()
