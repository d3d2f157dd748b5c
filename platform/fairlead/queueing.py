"""Stage 2: whose turn is it? Priority first, then the place in the queue."""

from collections.abc import Iterable

from fairlead.store.experiments import Candidate


def order(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """All that wait, in the order in which they may go: higher priority, then longer in the queue, then the id."""
    return tuple(sorted(candidates, key=lambda one: (-one.priority, one.enqueued_at, one.id)))
