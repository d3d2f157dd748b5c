"""Every benchmark from its command to its RESULT line, as small as it goes. What it finds means nothing then."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[3]
SMALL = {
    "first_step": ["RUNS=1", "OTHERS=1"],
    "throughput": ["RUNS=1", "STEPS=30"],
    "torchrun_ratio": ["RUNS=1", "EPOCHS=1"],
    "metric_ingest": ["POINTS=2000", "SPAN=2"],
    "burst_of_50": ["N=2", "WORK=1"],
    "growth": ["QUEUED=1,3", "WORKERS=1,2", "METRICS=1,5", "RUNS=1", "POINTS=200"],
    "evaluation_share": ["RUNS=1", "EPOCHS=1", "WIDTH=16"],
    "idle_memory": ["SETTLE=1"],
    "where_time_goes": ["RUNS=1"],
    "thousand_starts": ["STARTS=2"],
    "simulated_month": ["USERS=20", "EXPERIMENTS=200", "DAYS=2", "NODES=8"],
    "store_million": ["STORED=100,300", "QUEUED=200", "CALLS=10"],
    "submit_throughput": ["SPAN=2", "CLIENTS=4"],
    "sweep_overhead": ["TRIALS=6", "FRESH=2"],
    "sweep_crash": ["TRIALS=12", "KILLS=2", "SEED=1"],
    "sweep_10k": ["TRIALS=8", "WORK_MS=50", "CALLS=5", "POINTS=2"],
    "sweep_quality": ["SEEDS=2", "TRIALS=12", "LONG=60", "LONG_SEEDS=1"],
    "record_trials": ["TRIALS=120", "CALLS=5", "POINTS=2"],
}


@pytest.mark.nightly  # each starts stacks of its own: minutes
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_to_its_result(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", name, *SMALL[name], "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr[-4000:]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("RESULT ")
    document = json.loads((tmp_path / f"{name}.json").read_text())
    assert json.loads(last.removeprefix("RESULT ")) == document["result"]
    pictures = [*tmp_path.glob("*.svg")]
    assert pictures
    for picture in pictures:
        ElementTree.parse(picture)
    if (table := getattr(BENCHMARKS[name], "table", None)) is not None:
        assert table(document).count("\n|") > 5
