"""Pages of the documentation whose blocks are files and commands, for tests that do what the page says."""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(?P<language>\w+) (?P<place>\S+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """What a page has to give. A block begins with a language and a path: of its file, or of where to run it."""

    files: dict[str, str]
    """Content by path."""
    commands: dict[str, list[str]]
    """Lines of ``sh`` blocks by directory."""

    def write(self, folder: str, into: Path) -> Path:
        """The files of one folder, in ``into``."""
        for path, text in self.files.items():
            if path.startswith(f"{folder}/"):
                (into / path.removeprefix(f"{folder}/")).write_text(text)
        return into


def read_page(path: Path) -> Page:
    """The blocks that name a place."""
    files: dict[str, str] = {}
    commands: dict[str, list[str]] = {}
    for block in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        if block["language"] == "sh":
            commands.setdefault(block["place"], []).extend(block["text"].splitlines())
        else:
            files[block["place"]] = block["text"]
    return Page(files=files, commands=commands)
