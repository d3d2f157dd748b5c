"""More than fits on a whole stack of two CPUs: who waits, why, and who makes room."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import Outcome, State
from fairlead.testing.ray import wait_for

PROJECT = "queue"
LONG = 10_000
"""Epochs that nobody waits for."""


class Queue:
    """Submits, and takes back what is left at the end."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.submitted: list[Experiment] = []

    def submit(self, name: str, *, workers: int, epochs: int = 3, **more: Any) -> Experiment:
        spec = {
            "name": name,
            "project": PROJECT,
            "workload": "tabular_mlp",
            "params": {"epochs": epochs, "batch_size": 8},
            "data": {"uri": "builtin://diabetes"},
            "resources": {"workers": workers},
            **more,
        }
        self.submitted.append(self.client.submit(spec))
        return self.submitted[-1]

    def empty(self) -> None:
        for one in self.submitted:
            if not one.refresh().state.is_final:
                one.cancel()
        wait_for(
            lambda: all(one.refresh().state.is_final for one in self.submitted), within_s=120, what="an empty queue"
        )


@pytest.fixture
def queue(client: Client) -> Iterator[Queue]:
    made = Queue(client)
    yield made
    made.empty()


def await_reason(experiment: Experiment, code: str) -> str:
    def has_it() -> bool:
        return str(experiment.refresh().view.waiting).startswith(f"{code}:")

    wait_for(has_it, within_s=60, what=f"{experiment.id} to wait for {code}")
    return str(experiment.view.waiting)


def test_a_busy_stack_says_who_waits_why_and_until_when(queue: Queue, fairlead: Any, tmp_path: Path) -> None:
    def said(*arguments: str) -> Mapping[str, Any]:
        done = fairlead(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    holder = queue.submit("holds-one", workers=1, epochs=LONG, policy={"max_runtime_s": 900})
    wait_for(lambda: holder.refresh().state is State.RUNNING, within_s=240, what="the first to run")
    head = queue.submit("wants-both", workers=2)
    assert "needs 2 CPUs for 2 workers; local has 1 CPUs free now" in await_reason(head, "resources_in_use")
    behind = queue.submit("wants-one", workers=1)
    await_reason(behind, "behind_others")
    never = queue.submit("wants-64", workers=64)
    assert "local has 2 CPUs" in await_reason(never, "no_cluster_fits")
    wait_for(lambda: len(said("queue")["items"]) == 3, within_s=30, what="all in the queue")

    view = said("queue", "--project", PROJECT)
    assert [(one["position"], one["id"]) for one in view["items"]] == [(1, head.id), (2, behind.id), (3, never.id)]
    assert view["items"][0]["estimated_start_at"] is not None
    assert "max_runtime_s" in view["items"][0]["basis"]
    assert view["items"][2]["basis"] == "never, as things are"
    words = (head.id, behind.id, "resources_in_use", "behind_others", "no_cluster_fits")
    wait_for(  # an answer may be some seconds old, and so from before a reason was written
        lambda: all(word in fairlead("queue").stdout for word in words), within_s=30, what=f"a table with {words}"
    )

    (tmp_path / "spec.yaml").write_text(
        f"{{name: asked, project: {PROJECT}, workload: tabular_mlp, data: {{uri: 'builtin://diabetes'}}}}\n"
    )
    plan = said("plan", "spec.yaml")
    assert (plan["fits"], plan["position"], plan["ahead_ids"]) == (True, 4, [head.id, behind.id, never.id])
    assert f"behind {never.id}, {behind.id}, {head.id}" in fairlead("plan", "spec.yaml").stdout

    why = said("why", behind.id)
    assert (why["code"], why["position"], why["ahead"]) == ("behind_others", 2, [head.id])
    assert said("projects", "quota", PROJECT, "--set", "experiments=1")["experiments_held"] == 1
    await_reason(behind, "quota_in_use")
    wait_for(lambda: said("why", behind.id)["code"] == "quota_in_use", within_s=30, what="the new reason")
    assert said("projects", "quota", PROJECT, "--set", "experiments=")["experiments"] is None

    holder.cancel()
    assert head.result(timeout=240).state is State.SUCCEEDED
    assert behind.result(timeout=240).state is State.SUCCEEDED
    assert said("why", behind.id)["is_waiting"] is False


@pytest.mark.nightly  # three experiments one after the other on a whole stack: a minute
def test_one_that_may_be_stopped_makes_room_and_goes_on_from_its_checkpoint(queue: Queue) -> None:
    low = queue.submit("low", workers=2, epochs=400, policy={"priority": 10, "preemptible": True})
    wait_for(lambda: (low.refresh().view.last_step or 0) > 20, within_s=240, what="some steps")
    high = queue.submit("high", workers=2, policy={"priority": 90})
    assert high.result(timeout=240).state is State.SUCCEEDED
    assert low.result(timeout=300).state is State.SUCCEEDED
    first, second = low.attempts()
    assert (first.outcome, second.outcome) == (Outcome.PREEMPTED, Outcome.SUCCEEDED)
    told = {event.kind: event for event in low.events(follow=False)}
    assert told["preempting"].payload["for"] == high.id
    assert told["resumed"].payload["step"] == first.last_step, "its checkpoint was written when it was asked to stop"


@pytest.mark.nightly  # half a minute of run time is spent on purpose
def test_a_spent_budget_ends_it_and_keeps_its_checkpoint(queue: Queue, stack: EmbeddedStack) -> None:
    spent = queue.submit("spent", workers=2, epochs=LONG, budget={"cpu_hours": 0.01})  # 18 s of two CPUs
    wait_for(lambda: spent.refresh().state.is_final, within_s=300, what="the end of the budget")
    assert spent.state is State.FAILED
    assert spent.view.reason.startswith("over_budget: ")
    (attempt,) = spent.attempts()
    assert attempt.outcome is Outcome.OVER_BUDGET
    assert [*stack.home.rglob(f"{spent.id}/a1/ckpt-*/MANIFEST.json")], "what it was stopped at is kept"
