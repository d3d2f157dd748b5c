"""What an experiment has used of its budget: the resources of its attempts times their run time."""

from collections.abc import Iterable
from datetime import datetime

from fairlead.store import attempts
from fairlead.store.tables import AttemptRow, ExperimentRow


def over_budget(row: ExperimentRow, tries: Iterable[AttemptRow], now: datetime) -> str | None:
    """Which budget is spent, in hours; None while none is. ``tries``: all its attempts, an open one counting up to
    ``now``.
    """
    limits = (("CPU", row.budget_cpu_hours), ("GPU", row.budget_gpu_hours))
    if all(limit is None for _, limit in limits):
        return None
    spent = [attempts.held_s(one, now) for one in tries]
    used = (sum(cpu_s for cpu_s, _ in spent) / 3600, sum(gpu_s for _, gpu_s in spent) / 3600)
    for (what, limit), hours in zip(limits, used, strict=True):
        if limit is not None and hours >= limit:
            return f"{hours:.3g} of {limit:g} {what} hours are spent"
    return None
