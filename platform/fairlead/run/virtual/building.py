"""Builds an environment on this node, once however many ask: a virtual environment that also sees what the node has.

Two steps: an empty environment at its final place, for it cannot be moved, and pip with ``--require-hashes``. The
marker comes last. pip dies with its parent, and inherits the lock: nobody begins beside one that is not yet dead.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
import venv
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from fairlead.lockfile import read_lock
from fairlead.run.virtual import tied as tie
from fairlead.run.virtual.agreement import disagreement
from fairlead.run.virtual.orders import Order, node_directories
from fairlead.run.virtual.places import Place, Places

LOOK_S = 0.2
LAST_LINES = 40
MAX_LINE = 500
LOCK_FILE = "requirements.lock"
_PIP = ("-m", "pip", "install", "--require-hashes", "--no-input", "--disable-pip-version-check")
_PIP_QUIETLY = ("--only-binary", ":all:", "--progress-bar", "off", "--no-warn-script-location")
"""Only wheels: what builds a source distribution is pinned by nobody."""
_NOT_FOR_PIP = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_DRY_RUN", "PIP_REQUIREMENT", "PIP_NO_BINARY")
"""Settings of a node that would put packages elsewhere, or install others."""
_NODE_TROUBLE = re.compile(r"Retrying \(Retry\(|No space left on device|Disk quota exceeded|Read-only file system")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """It is there. ``is_new``: it was built just now, in ``seconds``."""

    is_new: bool
    seconds: float = 0.0
    size: int = 0
    removed: tuple[str, ...] = ()
    """Keys of others that were deleted to make room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """It cannot be built. ``is_of_node``: the node or its network is at fault, and not the lock."""

    reason: str
    detail: str = ""
    is_of_node: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """The attempt is to end; what was begun is no environment."""


Answer = Ready | Refused | Stopped


@dataclass(frozen=True, kw_only=True, slots=True)
class Contact:
    """What a build asks and tells while it goes on, some times a second."""

    should_stop: Callable[[], bool]
    show: Callable[[str], None]
    """A piece of what the installer prints."""


def build(order: Order, contact: Contact) -> Answer:
    """Have the environment on this node: find it, wait for another who builds it, or build it. Raises nothing."""
    place = order.place
    try:
        Places(directory=place.directory).prepare()
        while not contact.should_stop():
            if (held := place.hold()) is not None:
                os.close(held)
                return Ready(is_new=False)
            if (claim := place.claim()) is not None:
                try:
                    return _build_alone(order, place, claim, contact)
                finally:
                    os.close(claim)
            time.sleep(LOOK_S)  # somebody builds it
    except (OSError, subprocess.SubprocessError) as error:
        return Refused(reason="environment: it cannot be built on this node", detail=str(error), is_of_node=True)
    return Stopped()


def _build_alone(order: Order, place: Place, claim: int, contact: Contact) -> Answer:
    if place.marker.exists():  # another was quicker between our two looks
        return Ready(is_new=False)
    lock = read_lock(order.lock)
    if lock.flaws:
        return Refused(reason=f"bad_environment: {lock.flaws[0]}")
    if (why := disagreement(lock.pins)) is not None:
        return Refused(reason=f"bad_environment: {why}")
    began_s = time.monotonic()
    place.clear()
    _make_empty(place)
    (place.prefix / LOCK_FILE).write_bytes(order.lock)
    answer = _install(order, place, claim, contact)
    if answer is not None:
        place.clear()
        return answer
    size = place.complete()
    removed = Places(directory=place.directory).make_room(order.max_bytes, keep=place)
    return Ready(is_new=True, seconds=time.monotonic() - began_s, size=size, removed=tuple(removed))


def _make_empty(place: Place) -> None:
    """An environment that finds its own packages first and then the node's, whatever kind of Python the node has."""
    venv.EnvBuilder(symlinks=True, with_pip=find_spec("pip") is None).create(place.prefix)
    own = next((place.prefix / "lib").glob("python*/site-packages"))
    lines = [f"import site; site.addsitedir({directory!r})" for directory in node_directories()]
    (own / "fairlead_node.pth").write_text("\n".join(lines) + "\n")


def _install(order: Order, place: Place, claim: int, contact: Contact) -> Refused | Stopped | None:
    """Let pip install the lock; None if it has."""
    tied = (sys.executable, "-IS", tie.__file__, str(os.getpid()))
    command = [*tied, str(place.python), *_PIP, *_PIP_QUIETLY, "-r", str(place.prefix / LOCK_FILE)]
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_PIP}
    with subprocess.Popen(
        command,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(claim,),
    ) as pip:
        try:
            output = Output(contact.show)
            deadline_s = time.monotonic() + order.build_s
            while output.read_from(pip):
                if contact.should_stop():
                    return Stopped()
                if time.monotonic() > deadline_s:
                    reason = (
                        f"bad_environment: pip was not done after {order.build_s:g} s (FAIRLEAD_ENVIRONMENT_BUILD_S)"
                    )
                    return Refused(reason=reason, detail=output.last_lines())
            return None if pip.wait() == 0 else _refusal(pip.returncode, output.last_lines())
        finally:
            pip.kill()


def _refusal(code: int, last_lines: str) -> Refused:
    if code == -signal.SIGKILL or _NODE_TROUBLE.search(last_lines):
        return Refused(
            reason="environment: pip could not fetch or keep the packages", detail=last_lines, is_of_node=True
        )
    return Refused(reason=f"bad_environment: pip could not install the lock (exit code {code})", detail=last_lines)


class Output:
    """What a child prints, shown as it comes; the last lines are kept."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._rest = ""

    def read_from(self, child: "subprocess.Popen[bytes]") -> bool:
        """Take what is there, or wait a moment for it; False at the end."""
        assert child.stdout is not None, "it was opened with a pipe"
        if not select.select([child.stdout], [], [], LOOK_S)[0]:
            return True
        block = os.read(child.stdout.fileno(), 65536)
        text = block.decode(errors="replace")
        self._show(text)
        *lines, self._rest = (self._rest + text).split("\n")
        self._lines.extend(line[:MAX_LINE] for line in lines)
        return bool(block)

    def last_lines(self) -> str:
        """The last that were printed."""
        return "\n".join([*self._lines, self._rest[:MAX_LINE]]).strip()
