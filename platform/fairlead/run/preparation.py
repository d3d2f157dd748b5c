"""What a runner knows of its ranks' environments: who is building, who is ready, what must be told. Thread-safe."""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fairlead.lifecycle import Outcome
from fairlead.run.messages import Preparing
from fairlead.run.verdict import MAX_DETAIL, MAX_REASON, Verdict
from fairlead.run.virtual.building import Ready, Refused

MEGABYTE = 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """An event of the attempt."""

    kind: str
    detail: str
    payload: dict[str, Any]


class Preparation:
    """Words of ranks in, events and a barrier out: ranks begin again together, or the slower ones would be ended."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._ready: dict[str, set[int]] = {}
        self._building: set[tuple[str, str]] = set()
        self._built: set[str] = set()
        self._told: set[str] = set()
        """Nodes of which it is known how they came to have it."""

    def hear(self, word: Preparing) -> News | None:
        """What is new in it: a node has begun to build, or has built."""
        with self._lock:
            if isinstance(word.answer, Ready):
                self._ready.setdefault(word.group_id, set()).add(word.rank)
                return self._note_built(word.node_id, word.answer) if word.answer.is_new else None
            if word.answer is None and (word.group_id, word.node_id) not in self._building:
                self._building.add((word.group_id, word.node_id))
                self._told.add(word.node_id)
                return building(word.node_id, self._key)
            return None

    def is_everyone_ready(self, word: Preparing, *, entered: Collection[int]) -> bool:
        """Whether all ranks of its group have their environment; ``entered``: those that run in it."""
        with self._lock:
            return len(self._ready.get(word.group_id, set()) | set(entered)) >= word.world_size

    def found_on(self, nodes: Collection[str]) -> News | None:
        """Of nodes where ranks run in their environment: those that had it already, each told once."""
        with self._lock:
            had = sorted(set(nodes) - self._told)
            self._told.update(had)
        if not had:
            return None
        told = f"{len(had)} node{'s' if len(had) != 1 else ''} had it already"
        return News(kind="environment_cached", detail=told, payload={"nodes": had, "key": self._key})

    def _note_built(self, node_id: str, answer: Ready) -> News | None:
        if node_id in self._built:
            return None
        self._built.add(node_id)
        self._told.add(node_id)
        return built(node_id, self._key, answer)


def building(node_id: str, key: str) -> News:
    """A node begins to build."""
    detail = f"node {node_id[:12]} has no such environment yet and builds it"
    return News(kind="environment_building", detail=detail, payload={"node": node_id, "key": key})


def built(node_id: str, key: str, answer: Ready) -> News:
    """A node has built one."""
    removed = f"; {len(answer.removed)} older ones were deleted" if answer.removed else ""
    detail = f"node {node_id[:12]}: {answer.seconds:.1f} s, {answer.size / MEGABYTE:.1f} MB{removed}"
    payload = {"node": node_id, "key": key, "seconds": round(answer.seconds, 2), "bytes": answer.size}
    return News(kind="environment_built", detail=detail, payload=payload)


def refusal(answer: Refused, *, node_id: str) -> Verdict:
    """How an attempt ends whose environment cannot be built."""
    outcome = Outcome.INFRA_ERROR if answer.is_of_node else Outcome.USER_ERROR
    told = f"node {node_id[:12]}: {answer.detail}" if answer.detail else f"node {node_id[:12]}"
    return Verdict(outcome=outcome, reason=answer.reason[:MAX_REASON], detail=told[-MAX_DETAIL:])
