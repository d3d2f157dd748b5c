"""The OpenAPI document is kept in the repository, so that a change of the API is seen in review."""

import difflib
import json
import os
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_name("openapi.json")
UPDATE = "UPDATE_OPENAPI"
SHOWN = 120


def test_the_api_is_as_its_snapshot_says(small_bench: Any) -> None:
    now = json.dumps(small_bench.nobody.get("/openapi.json").json(), indent=1, sort_keys=True) + "\n"
    if os.environ.get(UPDATE):
        SNAPSHOT.write_text(now)
    kept = SNAPSHOT.read_text() if SNAPSHOT.exists() else ""
    lines = list(difflib.unified_diff(kept.splitlines(), now.splitlines(), SNAPSHOT.name, "the API", lineterm="", n=2))
    shown = "\n".join([*lines[:SHOWN], f"... {len(lines) - SHOWN} lines more"] if len(lines) > SHOWN else lines)
    advice = f"{UPDATE}=1 .venv/bin/pytest {Path(__file__).relative_to(Path(__file__).parents[3])}"
    assert not lines, f"the API has changed; look whether that is meant, then write it down:\n  {advice}\n{shown}"
