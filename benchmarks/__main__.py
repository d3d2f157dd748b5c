"""``make bench`` runs all and writes the table; ``make bench NAME=first_step`` runs one. The result comes last."""

import argparse
import json
import sys
import traceback
from types import ModuleType

from benchmarks import burst_of_50, first_step, idle_memory, metric_ingest, thousand_starts, throughput
from benchmarks.harness import HERE, RESULTS, as_plain, keep, processor_time, stolen_share, surroundings
from benchmarks.table import kept, written

BENCHMARKS: dict[str, ModuleType] = {
    module.NAME: module for module in (first_step, throughput, metric_ingest, burst_of_50, idle_memory, thousand_starts)
}
README = HERE / "README.md"


def main(arguments: list[str]) -> int:
    """Run what is asked for; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS], help="one of them; absent: all")
    name = parser.parse_args(arguments).name
    if name is not None:
        line = run(name)
        write_table()
        print(line, flush=True)
        return 0
    failed = [each for each in BENCHMARKS if not has_run(each)]
    write_table()
    print(f"failed: {', '.join(failed)}" if failed else "all were measured")
    return 1 if failed else 0


def has_run(name: str) -> bool:
    """Run one of many: the others are measured even if it fails."""
    print(f"{name} …", file=sys.stderr, flush=True)
    try:
        print(run(name), flush=True)
    except Exception:  # whatever it was, it is one benchmark's and is shown
        traceback.print_exc()
        return False
    return True


def run(name: str) -> str:
    """Measure, keep, draw; returns the line that says what came out."""
    place, began = surroundings(), processor_time()
    measurement = BENCHMARKS[name].measure()
    path = keep(name, measurement, place, stolen=stolen_share(began))
    if (draw := getattr(BENCHMARKS[name], "draw", None)) is not None:
        draw(json.loads(path.read_text()))
    return f"RESULT {json.dumps(as_plain(measurement.result))}"


def write_table() -> None:
    """Bring the README in line with what is kept."""
    README.write_text(written(README.read_text(), kept(RESULTS, [*BENCHMARKS])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
