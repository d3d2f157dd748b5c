"""``make bench`` runs all and writes the table; ``make bench NAME=first_step`` runs one. The result comes last.

Sizes are given as ``RUNS=3``, in the environment or as arguments.
"""

import argparse
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from benchmarks import (
    burst_of_50,
    crash_loop,
    evaluation_share,
    fairness_engine,
    first_step,
    growth,
    idle_memory,
    interval_coverage,
    metric_ingest,
    record_trials,
    recovery,
    simulated_month,
    store_million,
    submit_throughput,
    sweep_10k,
    sweep_crash,
    sweep_overhead,
    sweep_quality,
    thousand_starts,
    throughput,
    torchrun_ratio,
    where_time_goes,
)
from benchmarks.harness import HERE, RESULTS, as_plain, keep, processor_time, stolen_share, surroundings
from benchmarks.table import between, drawn, kept, written

BENCHMARKS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        first_step,
        throughput,
        torchrun_ratio,
        metric_ingest,
        burst_of_50,
        growth,
        idle_memory,
        where_time_goes,
        fairness_engine,
        interval_coverage,
        evaluation_share,
        crash_loop,
        recovery,
        simulated_month,
        store_million,
        submit_throughput,
        sweep_overhead,
        sweep_quality,
        sweep_crash,
        record_trials,
        sweep_10k,
        thousand_starts,  # the longest: last
    )
}
README = HERE / "README.md"
_SIZE = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be run. ``name``: one benchmark, or all; ``sizes``: as the environment would have them."""

    name: str | None = None
    sizes: dict[str, str] = field(default_factory=dict)


def order_of(arguments: Sequence[str], known: Sequence[str]) -> Order:
    """The words of the command line: a name, sizes, in any order. Raises ``ValueError`` for any other word."""
    sizes = {found[1]: found[2] for each in arguments if (found := _SIZE.fullmatch(each))}
    names = [each for each in arguments if not _SIZE.fullmatch(each)]
    if strangers := [each for each in names if each not in known]:
        raise ValueError(f"there is no benchmark {strangers[0]!r}; known: {', '.join(known)}")
    if len(names) > 1:
        raise ValueError("name one benchmark, or none for all of them")
    return Order(name=names[0] if names else None, sizes=sizes)


def main(arguments: list[str]) -> int:
    """Run what is asked for; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--into", type=Path, help="a directory for what comes out; the README then stays as it is")
    parser.add_argument("words", nargs="*", metavar="WORD", help=f"a name ({', '.join(BENCHMARKS)}), or a size: RUNS=3")
    given = parser.parse_args(arguments)
    try:
        order = order_of(given.words, [*BENCHMARKS])
    except ValueError as error:
        parser.error(str(error))
    os.environ.update(order.sizes)
    if order.name is not None:
        print(run(order.name, given.into), flush=True)
        return 0
    failed = [each for each in BENCHMARKS if not has_run(each, given.into)]
    print(f"failed: {', '.join(failed)}" if failed else "all were measured")
    return 1 if failed else 0


def has_run(name: str, into: Path | None) -> bool:
    """Run one of many: the others are measured even if it fails."""
    print(f"{name} …", file=sys.stderr, flush=True)
    try:
        print(run(name, into), flush=True)
    except Exception:  # whatever it was, it is one benchmark's and is shown
        traceback.print_exc()
        return False
    return True


def run(name: str, into: Path | None = None) -> str:
    """Measure, keep, draw, bring the README in line; returns the line that says what came out."""
    place, began = surroundings(), processor_time()
    measurement = BENCHMARKS[name].measure()
    path = keep(name, measurement, place, stolen=stolen_share(began), directory=into or RESULTS)
    if (draw := getattr(BENCHMARKS[name], "draw", None)) is not None:
        draw(json.loads(path.read_text()), path.parent)
    if into is None:
        README.write_text(up_to_date(README.read_text()))
    return f"RESULT {json.dumps(as_plain(measurement.result))}"


def up_to_date(readme: str) -> str:
    """``readme`` with all that is kept: results, pictures, and the section of each benchmark that has one."""
    documents = kept(RESULTS, [*BENCHMARKS])
    readme = written(readme, documents, drawn(RESULTS, [*BENCHMARKS]))
    for document in documents:
        if (table := getattr(BENCHMARKS[document["name"]], "table", None)) is not None:
            readme = between(readme, document["name"], table(document))
    return readme


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
