"""Environment variables of a runner and of everything it starts. Never a secret: every workload can read them."""

from collections.abc import Sequence

from fairlead.run.census import MARKER
from fairlead.spec import ExperimentSpec

WORKER_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
NODE_ID_LABEL = "ray.io/node-id"
"""Ray itself gives every node this label."""
COLLECTIVE_MARGIN_S = 60
"""What a collective waits beyond the stall time-out: the watchdog comes first, with the stacks of all ranks."""

SILENT_PEER_S = 15
"""A connection over which nothing is confirmed for so long is broken. With Ray's own 120 s, what is cut off from its
head would go on for three minutes; with this, and Ray's reconnect time-out of 60 s, for no longer than the grace."""

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": f"{32 << 20}",  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": f"{1 << 30}",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""What the tensors of a step leave behind is kept for the next step, and large ones lie on large pages. Otherwise glibc
gives it back to the kernel, which hands it out again page by page: 5 to 10 % of a language model's step on a processor.
Source: mallopt(3), and PyTorch's ``c10/core/alignment.h`` and ``c10/core/impl/alloc_cpu.cpp``."""


def runner_environment(runner_name: str, spec: ExperimentSpec, *, worker_start_timeout_s: float) -> dict[str, str]:
    """Settings of Ray Train and of memory, and the marker by which left-over processes are found."""
    return {
        **KEEP_MEMORY,
        MARKER: runner_name,
        "RAY_grpc_client_keepalive_timeout_ms": f"{1000 * SILENT_PEER_S}",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": f"{spec.policy.stall_timeout_s:g}",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # the control plane decides who yields
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # output goes to our own capped files
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
        "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        WORKER_START_TIMEOUT: f"{worker_start_timeout_s:g}",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "10",
    }


def elsewhere(excluded: Sequence[str]) -> dict[str, str] | None:
    """For Ray, a selector by labels: any node but these. None where there are none."""
    return {NODE_ID_LABEL: f"!in({','.join(excluded)})"} if excluded else None


def collective_timeout_s(spec: ExperimentSpec) -> int:
    """How long torch waits in a collective."""
    return int(spec.policy.stall_timeout_s) + COLLECTIVE_MARGIN_S
