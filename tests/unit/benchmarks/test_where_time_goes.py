import json

import pytest
from benchmarks.where_time_goes import FIRST_STEP, PARTS, conclude, controller_times, import_times, parts, table

from fairlead.errors import Unavailable

IMPORTS = {name: {"torch": 1.0, "ray": 0.5} for name in ("client", "command line", "runner", "worker")}
COMPUTED = {"runner": {"ray": 30.0, "python": 10.0}}
LOG = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   _io
import time:    250000 |     500000 |   torch._C
import time:    750000 |    1250000 | torch
"""


def at(**changed: float) -> dict[str, float]:
    """Milestones a second apart."""
    return {**{name: float(number) for number, name in enumerate(["called", *PARTS])}, **changed}


def line(message: str, seconds: int) -> str:
    return json.dumps({"asctime": f"2026-01-02 03:04:{seconds:02},250", "message": message})


def test_parts_add_up_to_the_whole() -> None:
    found = parts(at())
    assert [*found] == [*PARTS]
    assert set(found.values()) == {1.0}


def test_a_stamp_that_comes_late_takes_no_time_from_the_whole() -> None:
    found = parts(at(placed=3.5, leased=3.2))
    assert (found["placed"], found["leased"]) == (1.5, 0.0)
    assert sum(found.values()) == len(PARTS)


def test_a_start_is_the_sum_of_its_parts() -> None:
    result = conclude([parts(at())] * 3, IMPORTS, COMPUTED).result
    names = [*PARTS]
    assert result.first_step_s == names.index(FIRST_STEP) + 1
    assert result.control_plane_s + result.runner_s + result.train_s + result.workload_s == result.first_step_s
    assert result.first_step_s + result.to_result_s == len(PARTS)
    assert result.import_cli_s == 1.5


def test_the_section_shows_every_part_and_every_import() -> None:
    measurement = conclude([parts(at())], IMPORTS, COMPUTED)
    document = {"details": measurement.details, "result": {"first_step_s": 11.0, "to_result_s": 5.0}}
    text = table(document)
    assert all(f"{name} |" in text or f"{name}** |" in text for name in PARTS)
    assert "| command line: `import fairlead.cli.app` | 1.50 | torch 1.00, ray 0.50, others 0.00 |" in text


def test_the_log_of_the_controller_is_read() -> None:
    lines = [
        line("No checkpoint manager snapshot found.", 5),
        line("Attempting to start training worker group of size 1", 6),
        line("[Worker Group Initialization] 1 worker actors created in 1.00s.", 7),
        line("[Worker Group Initialization] Train function launched on workers in 0.07s.", 9),
    ]
    found = controller_times(lines)
    first = found["controller up"]
    assert [found[name] - first for name in ("group asked for", "workers created", "loop launched")] == [1, 2, 4]
    with pytest.raises(Unavailable, match="Train function launched"):
        controller_times(lines[:-1])


def test_imports_are_summed_by_package() -> None:
    assert import_times(LOG) == {"_io": 0.0001, "torch": 1.0}
