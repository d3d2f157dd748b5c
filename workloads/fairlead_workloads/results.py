"""The table of what each workload reaches, as Markdown, from the files that ``fairlead workloads check --save`` wrote.

python -m fairlead_workloads.results workloads/results
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairlead.data import find_manifests, find_specs
from fairlead.spec import ExperimentSpec, Manifest, from_yaml

HEAD = ("| workload | learns | data | bar | measured | seconds a seed |", "| --- | --- | --- | --- | --- | --- |")


def table(directory: Path) -> str:
    """One line a workload, by name; what has not been measured says so."""
    return "\n".join((*HEAD, *_lines(directory)))


def _lines(directory: Path) -> Iterator[str]:
    for name, manifest in find_manifests().items():
        path = directory / f"{name}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        bars = " · ".join(f"{bar['bar']} {bar['require']}" for bar in found["bars"]) if found else "see its check"
        measured = " · ".join(_measured(bar) for bar in found["bars"]) if found else "not yet over five seeds"
        seconds = f"{statistics.median(found['seconds']):.0f}" if found else "-"
        yield f"| `{name}` | {manifest.title} | {_data_of(manifest)} | {bars} | {measured} | {seconds} |"


def _measured(bar: Mapping[str, Any]) -> str:
    error = bar["standard_error"]
    text = f"{bar['mean']:.3f}" + ("" if error is None else f" ± {error:.3f}")
    return text if bar["is_met"] else f"**{text}, below its bar**"


def _data_of(manifest: Manifest) -> str:
    if manifest.example is None:
        return ""
    spec = from_yaml(ExperimentSpec, find_specs()[manifest.example].read_text(encoding="utf-8"))
    return f"`{spec.data.uri}`"


if __name__ == "__main__":
    print(table(Path(sys.argv[1] if len(sys.argv) > 1 else "workloads/results")))
