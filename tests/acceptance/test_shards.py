"""A model whose weights are spread over ranks, on a whole stack: its checkpoints are written by all ranks together."""

from pathlib import Path
from typing import Any

from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import Outcome, State
from fairlead.testing.ray import wait_for

EPOCHS = 60
SPEC: dict[str, Any] = {
    "name": "spread",
    "workload": "transformer_lm",
    "params": {
        "strategy": "shards",
        "tokens": "bytes",
        "context": 32,
        "width": 16,
        "heads": 2,
        "batch_size": 32,
        "epochs": EPOCHS,
    },
    "data": {"uri": "builtin://python_docs?kilobytes=20", "text": {"record_bytes": 1024}},
    "resources": {"workers": 2, "cpus_per_worker": 1},
}


def parts_of(stack: EmbeddedStack, experiment: Experiment, attempt_no: int) -> dict[str, set[str]]:
    """File names of the kept checkpoints of an attempt, by checkpoint."""
    found: dict[str, set[str]] = {}
    for path in stack.home.rglob("ckpt-*/*"):
        if {experiment.id, f"a{attempt_no}"} <= set(path.parts):
            found.setdefault(path.parent.name, set()).add(path.name)
    return found


def test_shards_are_kept_by_all_ranks_paused_and_gone_on_with(
    stack: EmbeddedStack, client: Client, tmp_path: Path
) -> None:
    experiment = client.submit({**SPEC})
    wait_for(lambda: (experiment.refresh().view.last_step or 0) >= 5, within_s=120, what="some epochs")
    experiment.pause()
    wait_for(lambda: experiment.refresh().state is State.PAUSED, within_s=120, what="the pause")
    kept = parts_of(stack, experiment, 1)
    assert kept, "a paused experiment has a checkpoint"
    for names in kept.values():
        assert {".metadata", "__0_0.distcp", "__1_0.distcp"} <= names, "each rank wrote its part"
    experiment.resume()
    assert experiment.result(timeout=300).state is State.SUCCEEDED
    first, second = experiment.attempts()
    assert (first.outcome, second.outcome) == (Outcome.PREEMPTED, Outcome.SUCCEEDED)
    assert first.last_step is not None
    assert 0 < first.last_step < EPOCHS
    (resumed,) = [event for event in experiment.events(follow=False) if event.kind == "resumed"]
    assert resumed.payload["step"] == first.last_step
    assert experiment.view.last_step == EPOCHS
    assert experiment.report()["outcome"] == "pass"
