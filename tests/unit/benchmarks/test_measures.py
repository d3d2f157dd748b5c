import os
import re
from pathlib import Path

import psutil
import pytest
from benchmarks.chart import Bar, Line, bars, curves, numbers, shown
from benchmarks.first_step import Sample, conclude
from benchmarks.memory import Footprint, footprint, process_table, read_rollup, short_name, total_mb
from benchmarks.metric_ingest import compare, steady_rate
from benchmarks.table import BEGIN, END, MEASURED, between, drawn, written
from benchmarks.thousand_starts import Holdings, leaks

DOCUMENT = {
    "name": "burst",
    "result": {"makespan_s": 12.345, "starts": 1000},
    "sizes": {"n": 5},
    "surroundings": {
        "date": "2026-01-02 03:04 UTC",
        "commit": "abc",
        "cores": 2,
        "cpu": "Some CPU",
        "memory_gb": 8.0,
        "python": "3.11.0",
        "versions": {"ray": "1", "torch": "2", "mlflow": "3"},
        "load_average": [0.5, 0.4, 0.3],
        "processor_time_stolen": 0.02,
    },
}


def samples(*seconds: float) -> list[Sample]:
    return [Sample(workers=1 + n % 2, first_s=each, result_s=each + 1, start="warm") for n, each in enumerate(seconds)]


def test_the_first_start_of_a_stack_is_told_apart() -> None:
    found = {"warm": samples(1.0, 2.0, 3.0), "cold": samples(20.0), "ray_jobs": samples(30.0, 50.0)}
    measurement = conclude({**found, "ray_train": samples(15.0), "torchrun": samples(5.0)}, {}, first_after_start_s=9.0)
    result = measurement.result
    assert (result.warm_p50_s, result.warm_p95_s, result.ray_jobs_p50_s) == (2.0, 3.0, 40.0)
    assert result.ratio_to_ray_jobs == pytest.approx(0.05)
    assert measurement.details["first_after_start_s"] == 9.0
    assert measurement.details["seconds_to_result"]["torchrun"] == {
        "1": {"p50": 6.0, "p95": 6.0, "min": 6.0, "max": 6.0, "runs": 1}
    }


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (Holdings(processes=5, descriptors={1: 10, 2: 7}, shared_memory=2), (0, 0, 0)),
        (Holdings(processes=7, descriptors={1: 9, 2: 10, 3: 99}, shared_memory=3), (2, 3, 1)),
        (Holdings(processes=4, descriptors={1: 12}, shared_memory=0), (0, 2, 0)),
    ],
)
def test_a_leak_is_what_there_is_more_of(after: Holdings, expected: tuple[int, int, int]) -> None:
    before = Holdings(processes=5, descriptors={1: 10, 2: 7}, shared_memory=2)
    assert tuple(leaks(before, after).values()) == expected


def test_delays_are_shares_of_the_median_step_without_reports() -> None:
    found = compare([1.0, 1.0, 1.0, 1.2], [1.0, 1.1, 1.1, 1.5])
    assert found["worst"] == 0.5
    assert found["with_reports"]["p50"] == 0.1
    assert found["noise"]["max"] == 0.2


def test_the_steady_rate_leaves_out_begin_and_end() -> None:
    curve = [(0.0, 0), (2.0, 10), (3.0, 50), (4.0, 90), (9.0, 100)]
    assert steady_rate(curve) == 40.0
    assert steady_rate([(1.0, 100)]) == 0.0


def test_a_rollup_is_read() -> None:
    text = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 10 kB\n"
    assert read_rollup(text) == {"Rss": 2048, "Pss": 1024, "Pss_Dirty": 10}
    assert read_rollup("") == {}


def test_a_process_has_a_share_of_its_pages() -> None:
    own = footprint(psutil.Process(os.getpid()))
    assert own is not None
    assert 0 < own.pss_mb <= own.rss_mb


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/python3", "-m", "fairlead_api"], "fairlead_api"),
        (["/usr/bin/python3", "-I", "-S", "/a/tether.py", "1"], "tether.py"),
        (["/usr/bin/python3", "-u", "/a/dashboard/dashboard.py", "--host"], "dashboard.py"),
        (["/a/raylet/raylet", "--node-ip"], "raylet"),
        (["ray::IDLE"], "ray::IDLE"),
        ([], "zombie"),
    ],
)
def test_a_process_is_named_without_paths(command: list[str], name: str) -> None:
    assert short_name(command, "zombie") == name


def test_memory_adds_up() -> None:
    one = Footprint(name="a", pid=1, pss_mb=1.5, rss_mb=2, shared_mb=0)
    assert total_mb([one, one]) == 3.0


def test_the_table_of_memory_has_each_process_under_its_group() -> None:
    sizes = {"raylet": 20.0, "ray::IDLE": 40.5, "fairlead_api": 100.0, "stranger": 1.0}
    found = [
        Footprint(name=name, pid=pid, pss_mb=mb, rss_mb=200, shared_mb=0)
        for pid, (name, mb) in enumerate(sizes.items())
    ]
    lines = [line.split() for line in process_table(found, {0: 1.5, 1: 2.0}).splitlines()]
    assert lines[1] == ["100.0", "200.0", "0.0", "API"]
    assert lines[3] == ["60.5", "3.5", "Ray"]
    assert [line[-1] for line in lines[4:6]] == ["raylet", "ray::IDLE"]
    assert lines[6][-1] == "other"
    assert lines[-1][:2] == ["161.5", "3.5"]


def test_the_table_holds_what_was_kept_and_where() -> None:
    begin, end = BEGIN.format(MEASURED), END.format(MEASURED)
    text = written(f"before\n{begin}\nold\n{end}\nafter\n", [DOCUMENT])
    assert "| burst | makespan_s | 12.3 |\n|  | starts | 1,000 |" in text
    assert "2 cores of Some CPU" in text
    assert "2.0% of the processor taken by the host; n 5" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith(f"{end}\nafter\n")
    assert written(text, [DOCUMENT]) == text


def test_a_readme_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        written("nothing", [DOCUMENT])


def test_sections_of_a_readme_are_told_apart() -> None:
    readme = "<!-- a: written by make bench -->\n<!-- /a -->\n<!-- b: written by make bench -->\nkept\n<!-- /b -->\n"
    assert between(readme, "a", "new\n") == readme.replace("-->\n<!-- /a", "-->\nnew\n<!-- /a")


def test_a_chart_holds_every_bar() -> None:
    drawn = bars("Seconds", [Bar(label="a & b", value=1, low=0.5, high=2), Bar(label="c", value=4, low=4, high=4)])
    assert drawn.count("<rect") == 2
    assert "a &amp; b" in drawn
    assert bars("nothing", []).startswith("<svg")


def test_a_curve_holds_every_point_it_has_a_place_for() -> None:
    line = Line(label="a & b", points=[(1, 0.01), (10, 0.1), (100, 0.0)])
    assert curves("Seconds", [line], x="n", y="s").count("<circle") == 2  # nothing has a logarithm of zero
    assert curves("Seconds", [line], x="n", y="s", is_log=False).count("<circle") == 3
    assert "a &amp; b" in curves("Seconds", [line], x="n", y="s")


def test_curves_lie_inside_their_picture() -> None:
    drawn = curves("Seconds", [Line(label="a", points=[(3, 0.7), (870, 42.0)])], x="n", y="s")
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert all(0 < float(x) < 760 and 0 < float(y) < 360 for x, y in places)
    assert float(places[0][0]) < float(places[1][0])
    assert float(places[0][1]) > float(places[1][1])  # more is higher


def test_long_numbers_under_a_curve_do_not_touch() -> None:
    drawn = curves("Seconds", [Line(label="a", points=[(1_000, 1), (1_000_000, 2)])], x="n", y="s")
    named = re.findall(r'<text x="[\d.]+" y="325" text-anchor="middle">([\d,]+)</text>', drawn)
    assert named == ["1,000", "10,000", "100,000", "1,000,000"]


@pytest.mark.parametrize("lines", [[], [Line(label="a", points=[])], [Line(label="a", points=[(5, 5)])]])
def test_few_points_are_no_trouble(lines: list[Line]) -> None:
    for is_log in (True, False):
        assert curves("Seconds", lines, x="n", y="s", is_log=is_log).startswith("<svg")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.00123, "0.00123"), (0.5, "0.5"), (17.04, "17"), (4.456, "4.46"), (12345, "12,345")]
)
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_numbers_measured_once_are_drawn_as_bars_that_never_go_left() -> None:
    drawn = numbers("burst", {"makespan_s": 12.345, "starts": 1000, "growth": -0.5})
    assert drawn.count("<rect") == 3
    assert 'width="-' not in drawn


def test_every_picture_of_a_benchmark_is_shown_with_its_title(tmp_path: Path) -> None:
    for name in ("growth_b", "growth_a", "burst", "stranger"):
        (tmp_path / f"{name}.svg").write_text(bars(f"Title of {name}", []))
    pictures = drawn(tmp_path, ["burst", "growth"])
    assert [path.stem for path in pictures] == ["burst", "growth_a", "growth_b"]
    text = written(f"{BEGIN.format(MEASURED)}\n{END.format(MEASURED)}\n", [DOCUMENT], pictures)
    assert "![Title of growth_a](results/growth_a.svg)\n" in text
