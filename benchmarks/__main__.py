"""``make bench``: what a user waits for, beside running the same page without any platform, in one run.

Wall seconds on this machine, several runs each; compare columns, not machines.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import State

RUNS = 3
SPEC = Path(__file__).parents[1] / "workloads" / "specs" / "diabetes_risk.yaml"


def main() -> None:
    """Measure and print a table."""
    rows = {"alone: python -m fairlead_workloads.tabular_mlp": [_alone() for _ in range(RUNS)]}
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as home:
        began = time.monotonic()
        with EmbeddedStack(Path(home)) as stack, stack.client() as client:
            rows["embedded stack: start until ready"] = [time.monotonic() - began]
            waits = [_submitted(client) for _ in range(RUNS)]
        for place, name in enumerate(("to running", "to the first step", "to succeeded, evaluated and gated")):
            rows[f"fairlead submit, 2 ranks: {name}"] = [wait[place] for wait in waits]
    print(f"{'what':62} {'median s':>9} {'all'}")
    for name, seconds in rows.items():
        print(f"{name:62} {statistics.median(seconds):9.1f} {' '.join(f'{value:.1f}' for value in seconds)}")


def _alone() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "fairlead_workloads.tabular_mlp"], check=True, capture_output=True)
    return time.monotonic() - began


def _submitted(client: Client) -> tuple[float, float, float]:
    began = time.monotonic()
    experiment = client.submit(SPEC)
    for event in experiment.events():
        if event.to_state is State.RUNNING:
            break
    running_s = time.monotonic() - began
    first_step_s = _first_step(experiment, began)
    experiment.result(timeout=600)
    return running_s, first_step_s, time.monotonic() - began


def _first_step(experiment: Experiment, began: float) -> float:
    while experiment.refresh().view.last_step is None and not experiment.state.is_final:
        time.sleep(0.1)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
