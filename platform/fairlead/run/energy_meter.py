"""Measures the node it runs on until its standard input ends: ``python -m fairlead.run.energy_meter <json>``.

A process of its own, so that whatever codecarbon does, training goes on, and so that it finds a home, a working
directory and an environment without anybody's settings. The only door to codecarbon: its offline tracker, which asks
no server, with no output of its own. Figures go to one file, again and again, as ``fairlead.evaluation.energy`` reads.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import codecarbon
from codecarbon.input import DataSource
from codecarbon.output_methods.base_output import BaseOutput

from fairlead.run.storage import write_atomically

EVERY_S = 10
READY = "ready"
_CPU_MODES = {
    "intel_rapl": (True, "the processor's own counters (RAPL)"),
    "cpu_load": (False, "load of the processor and its rated power"),
    "constant": (False, "half of the processor's rated power"),
}


def main() -> None:
    """Measure until standard input ends. Says ``ready`` on standard output once it does."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # codecarbon prints
    output = FileOutput(Path(given["path"]), {**given["entry"], **_intensity(given["country"])})
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code=given["country"] or "USA",  # not used: the intensity below comes before it
        force_carbon_intensity_g_co2e_kwh=0.0,
        measure_power_secs=EVERY_S,
        api_call_interval=1,
        output_methods=[],
        output_handlers=[output],
        output_dir=".",
        gpu_ids=None if given["has_gpus"] else [],
        tracking_mode="machine",
        allow_multiple_runs=True,
        log_level="error",
    )
    tracker.start()
    if not getattr(tracker, "_hardware", None):
        raise SystemExit("codecarbon found nothing to measure")
    output.hardware = tracker._hardware
    tracker.flush()
    print(READY, file=answers, flush=True)
    sys.stdin.buffer.read()
    output.is_final = True
    tracker.stop()


class FileOutput(BaseOutput):
    """Keeps the newest figures in one file."""

    def __init__(self, path: Path, entry: dict[str, Any]) -> None:
        self.hardware: list[Any] = []
        self.is_final = False
        self._path = path
        self._entry = {**entry, "library": f"codecarbon {codecarbon.__version__}"}

    def live_out(self, total: Any, delta: Any) -> None:
        """Now and then while it runs."""
        self.out(total, delta)

    def out(self, total: Any, delta: Any) -> None:
        """At the start and at the end."""
        entry = {
            **self._entry,
            "duration_s": total.duration,
            "scope": "machine",
            "is_final": self.is_final,
            "parts": {name: part for each in self.hardware for name, part in _part(each, total).items()},
        }
        write_atomically(self._path, f"{json.dumps(entry, indent=1)}\n".encode())


def _part(hardware: Any, total: Any) -> dict[str, dict[str, Any]]:
    """What one piece of hardware used, and how that is known."""
    match type(hardware).__name__:
        case "CPU":
            is_measured, how = _CPU_MODES.get(hardware._mode, (False, str(hardware._mode)))
            return {"cpu": {"kwh": total.cpu_energy, "is_measured": is_measured, "how": how}}
        case "RAM":
            how = "a model of its memory modules"
            return {"ram": {"kwh": total.ram_energy, "is_measured": False, "how": how}}
        case "GPU" if hardware.gpu_ids:
            return {"gpu": {"kwh": total.gpu_energy, "is_measured": True, "how": "the GPUs' own counters"}}
    return {}


def _intensity(country: str | None) -> dict[str, Any]:
    """Mean intensity of a country's electricity, where codecarbon's table has it; never the world's mean instead."""
    mix = DataSource().get_global_energy_mix_data().get(country) if country else None
    grams = mix.get("carbon_intensity") if mix else None
    if mix is None or grams is None:
        return {}
    source = f"codecarbon {codecarbon.__version__}: {mix['country_name']}, mean of {mix['year']}"
    return {"intensity_g_per_kwh": float(grams), "intensity_source": source}


if __name__ == "__main__":
    main()
