"""What an attempt's environment is made of, and the name it has on every node."""

import hashlib
import os
import shlex
import site
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fairlead.run.virtual import launcher
from fairlead.run.virtual.places import Place

_METADATA = (".dist-info", ".egg-info")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One environment, as every rank is told of it."""

    lock: bytes
    directory: str
    """Where nodes keep environments, the same path on each."""
    key: str
    build_s: float
    """After so long a build is given up."""
    max_bytes: int
    """What a node keeps of environments that nobody uses."""

    @property
    def place(self) -> Place:
        """Of this environment, on whichever node this is."""
        return Place(directory=Path(self.directory), key=self.key)

    @property
    def is_entered(self) -> bool:
        """Whether this very process runs in it."""
        return Path(sys.prefix) == self.place.prefix


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """How a cluster builds environments and keeps them."""

    directory: Path
    build_s: float
    max_bytes: int

    def order(self, lock: bytes) -> Order:
        """What an attempt with this lock needs."""
        return order_for(lock, directory=self.directory, build_s=self.build_s, max_bytes=self.max_bytes)


def order_for(lock: bytes, *, directory: Path, build_s: float, max_bytes: int) -> Order:
    """The order for a lock. Nodes are taken to have the installation of this process, as launchers do."""
    key = key_of(lock, names=_distributions(node_directories()))
    return Order(lock=lock, directory=str(directory), key=key, build_s=build_s, max_bytes=max_bytes)


def key_of(lock: bytes, *, names: Iterable[str]) -> str:
    """Names an environment by what is in it: the lock, the interpreter, and ``names`` of what the node has itself.

    An environment holds only what the node lacks, so another installation there needs another one.
    """
    parts = (hashlib.sha256(lock).hexdigest(), sys.version, sys.prefix, *sorted(names))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def node_directories() -> tuple[str, ...]:
    """Where this interpreter finds the packages that were installed for it."""
    own = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return tuple(directory for directory in dict.fromkeys(own) if os.path.isdir(directory))


def _distributions(directories: Iterable[str]) -> list[str]:
    """Names and versions, as the directories of their metadata tell them."""
    return [name for directory in directories for name in os.listdir(directory) if name.endswith(_METADATA)]


def command_line(order: Order) -> str:
    """What Ray's ``py_executable`` takes for processes that are to run in the environment."""
    words = (sys.executable, "-IS", launcher.__file__, order.directory, order.key)
    return " ".join(shlex.quote(word) for word in words)
