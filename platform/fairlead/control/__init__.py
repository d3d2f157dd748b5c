"""The control loops: each takes one step of an experiment's way. They decide from the database and write to it alone.

dispatch   accepted -> queued -> placed: admission, queueing, placement
settle     what follows from attempts, results, evidence of death and users' wishes
record     writes metrics, reports and models to MLflow, the only writer there but for one tag
verify     flags what differs in MLflow's registry from what was registered
deliver    sends events to webhooks
reap       marks what has fallen silent, deletes what has expired
"""

from fairlead.control.loops import Loops, start

__all__ = ["Loops", "start"]
