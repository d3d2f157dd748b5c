"""Which committed checkpoints may go. Pure; ``reap`` marks them and an agent deletes their files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.spec import CheckpointsSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A committed checkpoint of an experiment."""

    id: int
    attempt_no: int
    step: int
    score: float | None = None


def newest_first(checkpoints: Sequence[Kept]) -> list[Kept]:
    """In the order in which a resume tries them."""
    return sorted(checkpoints, key=lambda one: (one.step, one.attempt_no), reverse=True)


def superfluous(
    checkpoints: Sequence[Kept], policy: CheckpointsSpec, *, open_attempt_no: int | None
) -> tuple[Kept, ...]:
    """Those that may go: neither among the newest, nor among the best, nor what an open attempt resumes from.

    While an open attempt has committed nothing of its own, any earlier checkpoint may be the one it resumes from.
    """
    ordered = newest_first(checkpoints)
    needed = {one.id for one in ordered[: policy.keep_last]}
    needed |= {one.id for one in _best_first(ordered, policy)[: policy.keep_best]}
    if open_attempt_no is not None and all(one.attempt_no != open_attempt_no for one in ordered):
        return ()
    return tuple(one for one in ordered if one.id not in needed)


def _best_first(ordered: Sequence[Kept], policy: CheckpointsSpec) -> list[Kept]:
    """Those with a score; the newer of two equals first. NaN is no score."""
    sign = 1 if policy.mode == "min" else -1
    scored = [(sign * one.score, one) for one in ordered if one.score is not None and not math.isnan(one.score)]
    return [one for _, one in sorted(scored, key=lambda pair: pair[0])]
