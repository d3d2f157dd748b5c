"""Whether a lock lets ranks work with their runner: some packages must be those of the cluster."""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fairlead.lockfile import Pin

SHARED = {"fairlead": ("agent",), "ray": ("default", "train", "tune"), "torch": ()}
"""What runner and ranks must have alike, and with which extras: they exchange its objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """One of them, as the node has it. ``requires``: lines of its metadata."""

    version: str
    requires: tuple[str, ...] = ()


def find_installed(name: str) -> Installed | None:
    """What this process would import."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Installed(version=found.version, requires=tuple(found.requires or ()))


def disagreement(pins: Sequence[Pin], find: Callable[[str], Installed | None] = find_installed) -> str | None:
    """Why ranks with these packages could not work with the cluster, if so: for the user."""
    wanted = {pin.name: pin for pin in pins if pin.requirement.marker is None or pin.requirement.marker.evaluate()}
    for name, extras in SHARED.items():
        installed = find(name)
        if installed is None:
            continue
        for trouble in (_replaced(name, installed, wanted), *_broken(name, installed, extras, wanted)):
            if trouble:
                return trouble
    return None


def _replaced(name: str, installed: Installed, wanted: Mapping[str, Pin]) -> str | None:
    pin = wanted.get(name)
    if pin is None or pin.requirement.specifier.contains(installed.version, prereleases=True):
        return None
    return (
        f"the lock pins {name}=={pin.version} (line {pin.line}), and the cluster runs {name} {installed.version}, "
        f"which runner and ranks must share: leave {name} out of the lock (uv pip compile --excludes FILE)"
    )


def _broken(name: str, installed: Installed, extras: Sequence[str], wanted: Mapping[str, Pin]) -> Iterator[str | None]:
    for line in installed.requires:
        needed = Requirement(line)
        pin = wanted.get(canonicalize_name(needed.name))
        if pin is None or needed.specifier.contains(pin.version, prereleases=True):
            continue
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield f"the lock pins {pin.name}=={pin.version} (line {pin.line}), and the cluster's {name} needs {needed}"
