"""What a node keeps of tables that do not fit into memory: one directory a table, built once, bounded as a whole."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from fairlead.errors import StorageAway
from fairlead.settings import DataSettings

_GB = 10**9


def entry(name: str, build: Callable[[Path], None], use: Callable[[Path], None]) -> None:
    """Call ``use`` with the directory called ``name``, after ``build`` has filled it if it was not there.

    All processes of the node may ask at once: one builds, the others wait. A build that fails or is killed leaves
    nothing that is taken for whole. ``use`` must have opened what it needs when it returns: later the directory may be
    deleted, which files that are open survive. Raises ``StorageAway`` where the disk says no, and what both raise.
    """
    settings = DataSettings()
    directory = settings.data_cache or user_cache_path("fairlead") / "data"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f"{name}.lock"):
            is_new = not (directory / name).is_dir()
            if is_new:
                _build(directory / f".{name}.unfinished", directory / name, build)
            os.utime(directory / name)
            use(directory / name)
        if is_new:
            _bound(directory, most=settings.data_cache_gb * _GB, keep=name)
    except OSError as error:
        raise StorageAway(f"FAIRLEAD_DATA_CACHE, {directory}, cannot be used: {error}") from error


def _build(unfinished: Path, whole: Path, build: Callable[[Path], None]) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)  # of a build that was killed: the lock is ours
    unfinished.mkdir()
    try:
        build(unfinished)
        unfinished.rename(whole)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _bound(directory: Path, *, most: float, keep: str) -> None:
    """Delete what was used longest ago, until the rest fits. What another process is about to open is left."""
    sizes = {path: _size(path) for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")}
    total = sum(sizes.values())
    for path in sorted(sizes, key=_last_use):
        if total <= most:
            return
        if path.name == keep:
            continue
        try:
            with FileLock(directory / f"{path.name}.lock", timeout=0):
                shutil.rmtree(path, ignore_errors=True)
                total -= sizes[path]
        except Timeout:
            continue


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file()) if path.is_dir() else 0


def _last_use(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
