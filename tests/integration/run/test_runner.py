import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from fairlead.lifecycle import Outcome
from fairlead.protocol import RESULT_FILE, LaunchDocument, ResultDocument
from fairlead.run.census import end_actors, find_family, marked_processes, remove_groups
from fairlead.run.environment import runner_environment
from fairlead.run.local import LocalRay
from fairlead.run.runner import RUNNER
from fairlead.run.spool import SpoolReader
from fairlead.run.storage import complete_checkpoints, problem_with
from fairlead.testing.ray import TINY, a_launch, a_spec, wait_for


@dataclass
class Attempts:
    storage: Path
    names: list[str]

    def start(self, document: LaunchDocument) -> Any:
        environment = runner_environment(document.runner_name, document.spec, worker_start_timeout_s=120)
        runner = RUNNER.options(
            name=document.runner_name, lifetime="detached", runtime_env={"env_vars": environment}
        ).remote()
        self.names.append(document.runner_name)
        begin = runner.begin.remote(
            document.model_dump_json(), storage=str(self.storage), code=str(TINY.parent), agent_epoch=1
        )
        assert ray.get(begin, timeout=60) == "begun"
        return runner

    def directory(self, document: LaunchDocument) -> Path:
        return self.storage / document.storage_path

    def result(self, document: LaunchDocument, *, within_s: float = 90) -> ResultDocument:
        path = self.directory(document) / RESULT_FILE
        wait_for(path.exists, within_s=within_s, what="result.json")
        return ResultDocument.model_validate_json(path.read_bytes())

    def run(self, experiment_id: str, *, within_s: float = 90, **changes: Any) -> tuple[LaunchDocument, ResultDocument]:
        document = a_launch(experiment_id, spec=a_spec(**changes))
        self.start(document)
        return document, self.result(document, within_s=within_s)

    def notes(self, document: LaunchDocument) -> list[str]:
        return [note.kind for note in SpoolReader(self.directory(document), "notes").read(0, 1000)]

    def steps(self, document: LaunchDocument, key: str) -> list[int]:
        points = SpoolReader(self.directory(document), "metrics").read(0, 100_000)
        return [point.step for point in points if point.key == key]


@pytest.fixture
def attempts(local_ray: LocalRay, tmp_path: Path) -> Iterator[Attempts]:
    made = Attempts(storage=tmp_path, names=[])
    yield made
    for name in made.names:
        family = find_family(name)
        end_actors(family.actors)
        remove_groups(family.groups)
        wait_for(
            lambda name=name: find_family(name).is_gone and not marked_processes(name), within_s=20, what="the end"
        )


def test_two_ranks_train_evaluate_and_export(attempts: Attempts) -> None:
    started = time.monotonic()
    document, result = attempts.run("exp-good", params={"misbehave": "nan", "at": 1, "steps": 4})
    print(f"a whole attempt took {time.monotonic() - started:.1f} s")
    assert (result.outcome, result.reason, result.detail) == (Outcome.SUCCEEDED, "completed", "")
    assert result.last_step == 3
    assert result.metrics == {"train/loss": 0.25, "train/world": 2.0}
    assert result.evaluation is not None
    assert result.evaluation.expected_rows == 133
    assert result.model is not None
    assert {entry.path for entry in result.model.files} == {"model.json", "weights.safetensors"}
    assert result.dataset is not None
    assert result.dataset["num_rows"] == 442
    assert attempts.steps(document, "train/loss") == [0, 1, 2, 3]
    found = complete_checkpoints(attempts.directory(document))
    assert [checkpoint.step for checkpoint in found] == [3, 2, 1, 0]
    assert all(problem_with(checkpoint.directory) is None for checkpoint in found)
    spool = attempts.directory(document) / "spool" / "metrics.jsonl"
    losses = [json.loads(line) for line in spool.read_text().splitlines() if "train/loss" in line]
    assert losses[1]["value"] == "NaN"
