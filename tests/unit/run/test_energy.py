"""The meter of a node: its files, its end, and what stands there where nothing can be measured. The real codecarbon."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fairlead.evaluation.energy import NodeEnergy, energy_section
from fairlead.evaluation.measured import MAX_SECTION_BYTES, measurements_bytes
from fairlead.run.energy import MOST_ENTRIES, EnergyMeter, energy_entries
from fairlead.spec import EnergySpec

ENTRY = NodeEnergy(node="n1", attempt=2, group=1, ranks=2, duration_s=0)


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    directory = tmp_path / "a2"
    directory.mkdir()
    return directory


def a_meter(attempt: Path, **asked: Any) -> EnergyMeter:
    return EnergyMeter(attempt, EnergySpec(**asked), ENTRY, rank=0, has_gpus=False)


def test_a_node_is_measured_without_a_trace_anywhere_else(
    attempt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = "[codecarbon]\nforce_cpu_power=100000\nsave_to_file=true\npue=7\n"
    (home / ".codecarbon.config").write_text(settings)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CODECARBON_PUE", "7")
    monkeypatch.chdir(home)
    meter = a_meter(attempt, country="DEU")
    meter.start()
    meter.wait()
    pid = meter._process.pid if meter._process else 0
    (path,) = (attempt / "energy").iterdir()
    before = NodeEnergy.model_validate_json(path.read_bytes())
    assert before.why_not is None
    assert not before.is_final
    sum(number * number for number in range(2_000_000))  # some work, and so some energy
    meter.end()
    entry = NodeEnergy.model_validate_json(path.read_bytes())
    assert entry.is_final
    assert 0 < entry.kwh < 0.1  # seconds of a machine without the settings above
    assert entry.kwh > before.kwh
    assert entry.intensity_g_per_kwh == pytest.approx(380.95)
    assert "Germany" in entry.intensity_source
    assert entry.library.startswith("codecarbon 3.3")
    assert {name: part.is_measured for name, part in entry.parts.items()}["ram"] is False
    assert not Path(f"/proc/{pid}").exists()
    assert [path.name for path in home.iterdir()] == [".codecarbon.config"]
    section = energy_section(EnergySpec(country="DEU"), energy_entries(attempt))
    assert section["metrics"]["co2e_kg"]["value"] == pytest.approx(entry.kwh * 0.38095)


def test_a_country_that_the_table_lacks_gets_no_other_intensity(attempt: Path) -> None:
    meter = a_meter(attempt, country="XXX")
    meter.start()
    meter.wait()
    meter.end()
    assert energy_entries(attempt)[0].get("intensity_g_per_kwh") is None


def test_without_codecarbon_training_goes_on_and_the_file_says_why(
    attempt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    meter = a_meter(attempt)
    meter.start()
    meter.wait()
    meter.end()
    (entry,) = energy_entries(attempt)
    assert "codecarbon is not installed" in entry["why_not"]
    assert "not measured" in capsys.readouterr().err


def test_a_meter_that_dies_at_once_says_its_last_words(attempt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    meter = a_meter(attempt)
    meter.start()
    meter.wait()
    meter.end()
    assert energy_entries(attempt)[0]["why_not"] == "it failed: it said nothing"
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    meter.start()
    meter.wait()
    meter.end()
    assert "could not be started" in energy_entries(attempt)[0]["why_not"]


def test_attempts_before_this_one_count_and_those_after_it_do_not(tmp_path: Path) -> None:
    for number in (1, 2, 10, 11):
        (tmp_path / f"a{number}" / "energy").mkdir(parents=True)
        entry = ENTRY.amended(attempt=number)
        (tmp_path / f"a{number}" / "energy" / "g1-r0.json").write_text(entry.model_dump_json())
    (tmp_path / "archive").mkdir()
    assert [entry["attempt"] for entry in energy_entries(tmp_path / "a10")] == [1, 2, 10]


def test_what_cannot_be_read_is_said_and_harms_no_result(attempt: Path) -> None:
    (attempt / "energy").mkdir()
    (attempt / "energy" / "g1-r0.json").write_text("{")
    section = energy_section(EnergySpec(), energy_entries(attempt))
    assert "g1-r0.json cannot be read" in section["why_not_measured"]
    for number in range(MOST_ENTRIES):
        os.link(attempt / "energy" / "g1-r0.json", attempt / "energy" / f"g2-r{number}.json")
    (only,) = energy_entries(attempt)
    assert "more than 4000" in only["why_not"]
    assert len(json.dumps(ENTRY.model_dump(mode="json"))) < 1000


@pytest.mark.parametrize(
    "changes", [{"duration_s": float("nan")}, {"parts": {"cpu": {"kwh": float("nan"), "is_measured": True, "how": ""}}}]
)
def test_figures_that_are_no_numbers_harm_no_result(attempt: Path, changes: dict[str, Any]) -> None:
    (attempt / "energy").mkdir()
    content = json.dumps({**ENTRY.model_dump(mode="json"), **changes})
    (attempt / "energy" / "g1-r0.json").write_text(content)
    (attempt / "energy" / "g2-r0.json").write_text(ENTRY.amended(group=2).model_dump_json())
    entries = energy_entries(attempt)
    assert json.loads(measurements_bytes({"energy": entries}))["sections"]["energy"] == entries
    section = energy_section(EnergySpec(), entries)
    assert "g1-r0.json cannot be read" in section["why_not_measured"]
    assert "g2-r0.json" not in section["why_not_measured"]


def test_files_that_are_too_large_for_a_report_harm_no_result(attempt: Path) -> None:
    (attempt / "energy").mkdir()
    (attempt / "energy" / "g1-r0.json").write_text(ENTRY.amended(library="x" * MAX_SECTION_BYTES).model_dump_json())
    (only,) = energy_entries(attempt)
    assert "more than" in only["why_not"]
    measurements_bytes({"energy": [only]})


def test_a_home_that_cannot_be_removed_ends_no_training(attempt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(sys, "executable", "/bin/false")
    meter = a_meter(attempt)
    meter.start()
    meter.wait()
    monkeypatch.setattr(os, "rmdir", refuse)
    meter.end()
    (only,) = energy_entries(attempt)
    assert only["why_not"], "it is said why nothing was measured"
