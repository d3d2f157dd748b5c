"""How good a model is, for whom, and how certain that is: counts, then intervals, gates and a report.

Everything is a pure function of the counts that workers keep (``CountState``); numpy and scipy do the arithmetic.
The page lives in ``fairlead.evaluation.page`` and is imported by whoever renders it.
"""

from fairlead.evaluation.cells import UNKNOWN, Incomplete
from fairlead.evaluation.comparison import Baseline
from fairlead.evaluation.disparities import Disparity, Extreme, disparity
from fairlead.evaluation.gates import (
    GateOutcome,
    Outcome,
    evaluate_gates,
    overall_outcome,
    problem_with_gate,
)
from fairlead.evaluation.groups import Grouping, grouping
from fairlead.evaluation.intervals import (
    Bounds,
    Limits,
    koopman_interval,
    newcombe_interval,
    wilson_interval,
)
from fairlead.evaluation.measured import Measurements, read_measurements
from fairlead.evaluation.metrics import (
    aggregate_names,
    is_over_groups,
    known_metric,
    metric_names,
    nearest_metric,
)
from fairlead.evaluation.quantities import AnyState, read_state
from fairlead.evaluation.ranking import RankState
from fairlead.evaluation.regression import MomentState
from fairlead.evaluation.replicates import draw_tables
from fairlead.evaluation.report import (
    HEADLINES,
    FlatMetrics,
    Provenance,
    build_report,
    flat_metrics,
    report_bytes,
    report_schema,
    report_sha256,
)
from fairlead.evaluation.state import ABSTAINED, CountState, state_size_bytes

__all__ = [
    "ABSTAINED",
    "HEADLINES",
    "UNKNOWN",
    "AnyState",
    "Baseline",
    "Bounds",
    "CountState",
    "Disparity",
    "Extreme",
    "FlatMetrics",
    "GateOutcome",
    "Grouping",
    "Incomplete",
    "Limits",
    "Measurements",
    "MomentState",
    "Outcome",
    "Provenance",
    "RankState",
    "aggregate_names",
    "build_report",
    "disparity",
    "draw_tables",
    "evaluate_gates",
    "flat_metrics",
    "grouping",
    "is_over_groups",
    "known_metric",
    "koopman_interval",
    "metric_names",
    "nearest_metric",
    "newcombe_interval",
    "overall_outcome",
    "problem_with_gate",
    "read_measurements",
    "read_state",
    "report_bytes",
    "report_schema",
    "report_sha256",
    "state_size_bytes",
    "wilson_interval",
]
