"""The catalogue of faults names every row of the design, and only tests that exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
CATALOGUE = (TESTS / "CATALOGUE.md").read_text()
COUNTS = (("P", 25), ("A", 7), ("J", 19), ("H", 17))
ROWS = [f"{letter}{number}" for letter, last in COUNTS for number in range(1, last + 1)]


def test_every_row_has_its_place_and_says_something() -> None:
    rows = re.findall(r"^\| ([PAJH]\d+) \| (.+) \| (.+) \|$", CATALOGUE, flags=re.M)
    assert [row for row, _, _ in rows] == ROWS
    without = [row for row, _, shown in rows if "::" not in shown and not re.search(r"not tested|there are no", shown)]
    assert not without, "these name neither a test nor the reason why there is none"


def test_every_test_that_it_names_exists_and_is_marked_as_it_says() -> None:
    named = re.findall(r"(N )?`(\S+\.py)::(\w+)`", CATALOGUE)
    assert len(named) > 40
    for nightly, path, name in named:
        found = {node.name: node for node in ast.parse((TESTS / path).read_text()).body if hasattr(node, "name")}
        assert name in found, f"{path} has no {name}"
        marks = "".join(ast.unparse(one) for one in getattr(found[name], "decorator_list", []))
        assert ("nightly" in marks) == bool(nightly), f"{name}: the catalogue and its mark differ on when it runs"
