"""Slots: where the trials of a sweep run, one at a time each. A slot has a seat for every rank.

All ranks of a slot get their resources together or not at all, and keep them from trial to trial: so no trial waits for
half of what it needs, and none starves.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fairlead.run.environment import elsewhere
from fairlead.run.sweep.channel import Message
from fairlead.run.sweep.seat import ENDED, SEAT
from fairlead.run.sweep.trial import Task
from fairlead.run.virtual import Order, Ready, Refused
from fairlead.spec import ResourcesSpec

NEWS_S = 2.0
"""How long a seat waits for something to tell before it says that there is nothing."""


class SlotLost(Exception):
    """A seat of it is gone, with its process. ``node_id``: where it was, if that is known."""

    def __init__(self, why: str, node_id: str | None) -> None:
        super().__init__(why)
        self.node_id = node_id


class EnvironmentRefused(Exception):
    """The environment of the trials cannot be built on the node of a seat."""

    def __init__(self, answer: Refused, node_id: str) -> None:
        super().__init__(answer.reason)
        self.answer = answer
        self.node_id = node_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """What one rank of a slot has said."""

    rank: int
    message: Message


@dataclass(kw_only=True)
class Slot:
    """One slot. ``key`` names the try of a trial that runs in it; empty: it is free."""

    number: int
    resources: ResourcesSpec
    excluded: Sequence[str]
    environment: Order | None = None
    """What its trials run in."""
    logs: str = ""
    """The directory for what installers print."""
    tell_news: Callable[[str, Ready | None], None] = lambda node_id, answer: None
    """Told of each node that begins to build the environment (None), that has built it, or that had it."""
    key: str = ""
    began_s: float = field(default_factory=time.monotonic)
    """When it was asked for."""
    is_ready: bool = False
    _seats: list[Any] = field(default_factory=list)
    _nodes: dict[int, str] = field(default_factory=dict)
    _group: PlacementGroup | None = None
    _waiting: dict[Any, int] = field(default_factory=dict)
    """Calls that are under way, by the rank that was asked."""
    _hellos: dict[Any, int] = field(default_factory=dict)
    _preparing: dict[Any, int] = field(default_factory=dict)
    """Calls to seats that see to the environment on their node."""

    def open(self) -> None:
        """Ask Ray for the seats; ``take`` says when they are there."""
        per_rank = {"num_cpus": self.resources.cpus_per_worker, "num_gpus": self.resources.gpus_per_worker}
        options: dict[str, Any] = dict(per_rank)
        selector = elsewhere(self.excluded)
        if self.resources.workers > 1:
            bundle = {"CPU": self.resources.cpus_per_worker}
            if self.resources.gpus_per_worker:
                bundle["GPU"] = self.resources.gpus_per_worker
            bundles = [dict(bundle) for _ in range(self.resources.workers)]
            selectors = [selector] * self.resources.workers if selector else None
            self._group = placement_group(bundles, strategy="PACK", bundle_label_selector=selectors)
        elif selector:
            options["label_selector"] = selector
        for rank in range(self.resources.workers):
            if self._group is not None:
                options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._group, rank)
            seat = SEAT.options(**options).remote(self.environment)
            self._seats.append(seat)
            self._hellos[seat.hello.remote()] = rank

    @property
    def calls(self) -> list[Any]:
        """What to wait for."""
        return [*self._hellos, *self._preparing, *self._waiting]

    @property
    def is_preparing(self) -> bool:
        """Whether it has its seats, and not yet its environment on all of their nodes."""
        return bool(self._preparing) and not self._hellos

    def take(self, call: Any) -> list[Word]:
        """What an answered call brings. Raises ``SlotLost`` and ``EnvironmentRefused``."""
        if call in self._hellos or call in self._preparing:
            self._get_ready(call)
            return []
        rank = self._waiting.pop(call)
        words = [Word(rank=rank, message=message) for message in self._answer(call, rank)]
        self._waiting[self._seats[rank].news.remote(NEWS_S)] = rank
        return [word for word in words if word.message["key"] == self.key and self.key]

    def _get_ready(self, call: Any) -> None:
        """A seat is up, or has its environment; the slot is ready when all are."""
        if call in self._hellos:
            rank = self._hellos.pop(call)
            self._nodes[rank], has_environment = self._answer(call, rank)
            if self.environment is not None:
                prefix = os.path.join(self.logs, f"rank-{rank}")
                self._preparing[self._seats[rank].prepare.remote(prefix)] = rank
            if not has_environment:
                self.tell_news(self._nodes[rank], None)
        else:
            rank = self._preparing.pop(call)
            answer = self._answer(call, rank)
            if isinstance(answer, Refused):
                raise EnvironmentRefused(answer, self._nodes[rank])
            self.tell_news(self._nodes[rank], answer)
        self.is_ready = not self._hellos and not self._preparing
        if self.is_ready:
            self._waiting = {seat.news.remote(NEWS_S): rank for rank, seat in enumerate(self._seats)}

    def _answer(self, call: Any, rank: int) -> Any:
        try:
            return ray.get(call)
        except ray.exceptions.RayError as error:
            raise SlotLost(f"{type(error).__name__}: {error}", self._nodes.get(rank)) from error

    def begin(self, key: str, tasks: Sequence[Task]) -> None:
        """Run a trial, a task for each rank."""
        self.key = key
        for seat, task in zip(self._seats, tasks, strict=True):
            seat.begin.remote(task)

    def tell(self, message: Mapping[str, Any], *, but: int | None = None) -> None:
        """To all ranks, except one."""
        for rank, seat in enumerate(self._seats):
            if rank != but:
                seat.tell.remote({**message, "key": self.key})

    def end_processes(self) -> None:
        """End what runs in it, at once; the slot is free."""
        self.key = ""
        for seat in self._seats:
            seat.end.remote(within_s=0.0)

    def free(self) -> None:
        """The trial is over, and its processes end by themselves."""
        self.key = ""

    def close(self) -> None:
        """Give the resources back."""
        for seat in self._seats:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(seat)
        if self._group is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                remove_placement_group(self._group)
        self._hellos, self._preparing, self._waiting = {}, {}, {}


def is_end(message: Message) -> bool:
    """Whether it tells that the process has ended."""
    return bool(message["kind"] == ENDED)
