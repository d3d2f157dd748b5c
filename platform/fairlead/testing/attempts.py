"""Attempts on a real Ray, without agent or control plane: start a runner, and read what it leaves."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from fairlead.protocol import RESULT_FILE, LaunchDocument, MetricPoint, NoteRecord, ResultDocument
from fairlead.run.census import end_actors, end_marked_processes, find_family, remove_groups
from fairlead.run.environment import runner_environment
from fairlead.run.runner import RUNNER
from fairlead.run.spool import SpoolReader
from fairlead.run.virtual import Order
from fairlead.run.warm import runtime_env
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.ray import TINY, a_launch, a_spec, wait_for


@dataclass
class Attempts:
    """Starts attempts below ``storage``."""

    storage: Path
    warm_directory: Path
    names: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    """For the processes of an attempt, besides its own."""
    environment: Order | None = None
    """What its ranks are to run in."""

    def start(self, document: LaunchDocument) -> Any:
        """Make its runner and let it begin."""
        environment = runner_environment(document.runner_name, document.spec, worker_start_timeout_s=120)
        warm = runtime_env({**environment, **self.variables}, directory=self.warm_directory)
        runner = RUNNER.options(name=document.runner_name, lifetime="detached", runtime_env=warm).remote()
        self.names.append(document.runner_name)
        begin = runner.begin.remote(
            document.model_dump_json(),
            storage=str(self.storage),
            code=str(TINY.parent),
            agent_epoch=1,
            environment=self.environment,
        )
        assert ray.get(begin, timeout=60) == "begun"
        return runner

    def directory(self, document: LaunchDocument) -> Path:
        """Where it writes."""
        return self.storage / document.storage_path

    def result(self, document: LaunchDocument, *, within_s: float = 180) -> ResultDocument:
        """What it has left, once it is there."""
        path = self.directory(document) / RESULT_FILE
        wait_for(path.exists, within_s=within_s, what="result.json")
        return ResultDocument.model_validate_json(path.read_bytes())

    def run(
        self, experiment_id: str, *, within_s: float = 180, **changes: Any
    ) -> tuple[LaunchDocument, ResultDocument]:
        """One from its start to its result."""
        document = a_launch(experiment_id, spec=a_spec(**changes))
        self.start(document)
        return document, self.result(document, within_s=within_s)

    def notes(self, document: LaunchDocument) -> list[str]:
        """Kinds of its notes, but for how it was started."""
        return [note.kind for note in self._notes(document) if note.kind != "warm_start"]

    def starts(self, document: LaunchDocument) -> list[NoteRecord]:
        """Its notes of how it was started."""
        return [note for note in self._notes(document) if note.kind == "warm_start"]

    def told(self, document: LaunchDocument, kind: str) -> list[NoteRecord]:
        """Its notes of one kind."""
        return [note for note in self._notes(document) if note.kind == kind]

    def _notes(self, document: LaunchDocument) -> list[NoteRecord]:
        found = SpoolReader(self.directory(document), "notes").read(0, 1000)
        return [note for note in found if isinstance(note, NoteRecord)]

    def steps(self, document: LaunchDocument, key: str) -> list[int]:
        """At which a metric was reported."""
        points = SpoolReader(self.directory(document), "metrics").read(0, 100_000)
        return [point.step for point in points if isinstance(point, MetricPoint) and point.key == key]


@pytest.fixture
def attempts(local_ray: LocalRay, tmp_path: Path) -> Iterator[Attempts]:
    """None yet; those made are ended afterwards."""
    made = Attempts(storage=tmp_path, warm_directory=local_ray.warm_directory, names=[])
    yield made
    for name in made.names:
        family = find_family(name)
        end_actors(family.actors)
        remove_groups(family.groups)
        # A process that Ray had started for an actor that was then not made stays in its pool: the agent ends it, too.
        wait_for(partial(_is_gone, name), within_s=60, what="the end")


def _is_gone(name: str) -> bool:
    return find_family(name).is_gone and not end_marked_processes(name)
