"""A sweep as a user sees it: the ready spec, cut short, followed, looked at, promoted, extended by the command line."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Fairlead = Callable[..., "subprocess.CompletedProcess[str]"]
GAP = "rai/demographic_parity_difference/sex"


def test_a_sweep_is_followed_looked_at_promoted_and_extended(fairlead: Fairlead, specs: Path) -> None:
    text = (specs / "diabetes_sweep.yaml").read_text(encoding="utf-8").replace("trials: 40", "trials: 6")
    followed = fairlead("submit", "--watch", "-", text=text)
    assert followed.returncode in (0, 3), followed.stdout  # 3: by chance none of so few keeps the constraints
    assert "6 of 6 trials ended" in followed.stdout
    sweep = followed.stdout.split()[0]

    shown = json.loads(fairlead("show", sweep, "--json").stdout)
    assert (shown["state"], shown["gates"], shown["sweep"]["counts"]["succeeded"]) == ("succeeded", [], 6)
    rows = list(csv.DictReader(io.StringIO(fairlead("trials", sweep, "--csv", "-").stdout)))
    assert sorted(int(row["no"]) for row in rows) == list(range(6))
    assert all(0 <= float(row[GAP]) <= float(row[f"{GAP}.upper95"]) <= 1 for row in rows)
    trial = fairlead("trial", sweep, rows[0]["no"]).stdout
    assert ("validation/loss" in trial, "█" in trial) == (True, True)
    assert "176 rows x 10 inputs" in fairlead("logs", sweep, "--trial", rows[0]["no"]).stdout

    promoted = fairlead("promote", sweep, "--trial", rows[0]["no"], "--watch", "--json")
    made = json.loads(promoted.stdout.splitlines()[-1])
    assert promoted.returncode in (0, 3), promoted.stderr  # as the gates decide
    assert (made["state"], made["derived_from"], len(made["gates"])) == ("succeeded", sweep, 2)

    extended = fairlead("extend", sweep, "--trials", "2", "--watch")
    assert extended.returncode in (0, 3), extended.stderr
    assert "2 of 2 trials ended" in extended.stdout
    assert len(json.loads(fairlead("trials", extended.stdout.split()[0], "--all", "--json").stdout)) == 8
