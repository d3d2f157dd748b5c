"""``fairlead workloads check``: trains here, and holds what came of it against the bars."""

import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape

from fairlead.cli.output import err, out, print_json, table


def check(name: str, *, is_short: bool, num_seeds: int | None, save: Path | None, as_json: bool) -> bool:
    """Whether every bar is met. Prints a line a seed while it goes on, then a table of the bars."""
    from fairlead.checking import checked_workloads, run_check  # loads scientific libraries, and then torch

    names = list(checked_workloads()) if name == "all" else [name]
    found = []
    for one in names:

        def told(seed: int, measured: Mapping[str, float], seconds: float, workload: str = one) -> None:
            shown = "  ".join(f"{key} {value:.4g}" for key, value in measured.items())
            err().print(f"{escape(workload)} seed {seed}: {escape(shown)}  [dim]{seconds:.1f} s[/]", highlight=False)

        with tempfile.TemporaryDirectory() as scratch:
            seeds = None if num_seeds is None else range(num_seeds)
            with contextlib.redirect_stdout(sys.stderr):  # what pages print is no answer
                found.append(run_check(one, is_short=is_short, seeds=seeds, scratch=Path(scratch), told=told))
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            (save / f"{one}.json").write_text(json.dumps(found[-1].to_json(), indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json([one.to_json() for one in found])
        return all(one.is_met for one in found)
    rows = table("workload", "bar", "required", "#mean", "#± s.e.", "#seeds", "met")
    for checked in found:
        for verdict in checked.verdicts:
            error = "-" if math.isnan(verdict.standard_error) else f"{verdict.standard_error:.4f}"
            met = "[green]yes[/]" if verdict.is_met else "[red]no[/]"
            cells = (checked.workload, verdict.bar.name, verdict.bar.require, f"{verdict.mean:.4f}", error)
            rows.add_row(*map(escape, cells), str(len(checked.seeds)), met)
    out().print(rows)
    return all(one.is_met for one in found)
