"""Samples for people to look at: pictures, sounds and texts that a workload shows while it trains.

They lie as files below one directory, under the names the workload gave them; whoever records the run reads them there.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fairlead.errors import BadInput

SAMPLE_ENDINGS = (".png", ".gif", ".jpg", ".svg", ".txt", ".html", ".json", ".csv", ".wav")
MAX_SAMPLE_BYTES = 10 * 1024 * 1024
MAX_SAMPLES = 200
_MAX_NAME = 200


class Samples:
    """The samples of one attempt. ``directory``: where they go; None: they are looked at for flaws, and dropped."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._names: set[str] = set()

    def keep(self, name: str, content: bytes | str) -> None:
        """Write one, replacing it whole. Raises ``BadInput`` for a name or a size that is not taken."""
        path = _checked(name)
        data = content.encode() if isinstance(content, str) else bytes(content)
        if len(data) > MAX_SAMPLE_BYTES:
            raise BadInput(f"show: {name} has {len(data)} bytes, more than {MAX_SAMPLE_BYTES}; make it smaller")
        self._names.add(str(path))
        if len(self._names) > MAX_SAMPLES:
            raise BadInput(f"show: more than {MAX_SAMPLES} samples; show fewer, or the last ones under the same name")
        if self._directory is not None:
            target = self._directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f".{target.name}.unfinished")
            unfinished.write_bytes(data)
            os.replace(unfinished, target)


def found_samples(directory: Path) -> Iterator[tuple[str, Path]]:
    """Name and place of every sample below ``directory``, sorted; what is no sample is passed over."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        is_file = path.is_file() and not path.is_symlink()
        if is_file and not path.name.startswith(".") and path.stat().st_size <= MAX_SAMPLE_BYTES:
            yield name, path


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    is_plain = name.isascii() and name.isprintable() and len(name) <= _MAX_NAME and "\\" not in name
    if not is_plain or path.is_absolute() or any(part.startswith(".") for part in path.parts) or str(path) != name:
        raise BadInput(f"show: {name!r:.100} is no relative path of plain characters, such as epoch-3.png")
    if path.suffix not in SAMPLE_ENDINGS:
        raise BadInput(f"show: {name} must end in one of {', '.join(SAMPLE_ENDINGS)}")
    return path
