"""What ``README.md`` shows of ``results/``, and nothing else, between pairs of markers."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- {}: written by make bench -->", "<!-- /{} -->"
MEASURED = "measured"


def written(readme: str, documents: Sequence[Mapping[str, Any]], pictures: Sequence[Path] = ()) -> str:
    """``readme`` with the table of all results and their pictures. Raises ``ValueError`` where markers are missing."""
    images = "".join(f"![{_title(path)}](results/{path.name})\n\n" for path in pictures)
    return between(readme, MEASURED, table(documents) + images)


def _title(picture: Path) -> str:
    found = re.search(r'aria-label="([^"]*)"', picture.read_text())
    return found[1] if found else picture.stem


def between(readme: str, section: str, text: str) -> str:
    """``readme`` with ``text`` between the two markers of a section. Raises ``ValueError`` where they are missing."""
    begin, end = BEGIN.format(section), END.format(section)
    head, found_begin, rest = readme.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the README needs the lines {begin} and {end}")
    return f"{head}{begin}\n{text}{end}{tail}"


def table(documents: Sequence[Mapping[str, Any]]) -> str:
    """One line a number, and one line a benchmark that says where and when."""
    lines = ["", "| benchmark | number | measured |", "| --- | --- | --- |"]
    for document in documents:
        for number, (name, value) in enumerate(document["result"].items()):
            lines.append(f"| {document['name'] if number == 0 else ''} | {name} | {_shown(value)} |")
    lines += ["", *(_origin(document) for document in documents), ""]
    return "\n".join(lines) + "\n"


def _shown(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _origin(document: Mapping[str, Any]) -> str:
    place = document["surroundings"]
    sizes = ", ".join(f"{name} {value}" for name, value in document["sizes"].items())
    versions = ", ".join(f"{name} {place['versions'][name]}" for name in ("ray", "torch", "mlflow"))
    return (
        f"- `{document['name']}`: {place['date']}, commit {place['commit']}, {place['cores']} cores of {place['cpu']}, "
        f"{place['memory_gb']} GB, Python {place['python']}, {versions}; load {place['load_average'][0]} at the start, "
        f"{place['processor_time_stolen']:.1%} of the processor taken by the host; {sizes}"
    )


def drawn(directory: Path, names: Sequence[str]) -> list[Path]:
    """The pictures that have been drawn, in the order of ``names``: a benchmark may have several."""
    return [path for name in names for path in sorted(directory.glob("*.svg")) if _is_of(path, name)]


def _is_of(picture: Path, name: str) -> bool:
    return picture.stem == name or picture.stem.startswith(f"{name}_")


def kept(directory: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The results that have been measured, in the order of ``names``."""
    paths = (directory / f"{name}.json" for name in names)
    return [json.loads(path.read_text()) for path in paths if path.exists()]
