"""The table in ``workloads/README.md`` is what the checks have found."""

import json
from pathlib import Path

from fairlead.checking import FULL_SEEDS, checked_workloads, find_check
from fairlead.data import find_manifests
from fairlead_workloads.results import table

WORKLOADS = Path(__file__).parents[3] / "workloads"


def test_the_table_of_the_readme_is_made_of_the_files_that_checks_wrote() -> None:
    assert table(WORKLOADS / "results") in (WORKLOADS / "README.md").read_text(), (
        "python -m fairlead_workloads.results workloads/results"
    )


def test_every_file_is_of_the_full_form_over_all_seeds_and_of_the_bars_that_hold_now() -> None:
    for path in sorted((WORKLOADS / "results").glob("*.json")):
        found = json.loads(path.read_text())
        assert (found["form"], found["seeds"]) == ("full", list(range(FULL_SEEDS))), path.name
        check = find_check(find_manifests()[found["workload"]])
        assert [(bar["bar"], bar["require"]) for bar in found["bars"]] == [(b.name, b.require) for b in check.bars]


def test_every_workload_has_a_check() -> None:
    assert set(checked_workloads()) == set(find_manifests())
