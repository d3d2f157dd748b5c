"""Arms failpoints inside the test's own process, for loops and agents that a test drives by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NoReturn

from fairlead import failpoints

Mode = Literal["crash", "raise"]


class Crash(BaseException):
    """The process dies here: nothing that catches exceptions may stop it. Transactions under way are rolled back."""


@contextmanager
def armed(name: str | None, mode: Mode = "crash") -> Iterator[None]:
    """Let the failpoint act once, if it is passed; None arms nothing. ``crash`` raises ``Crash``."""
    assert name is None or name in failpoints.NAMES, f"there is no failpoint {name!r}"
    if name is not None:
        failpoints._armed[name] = _crash if mode == "crash" else failpoints.parse(f"{name}:raise")[name]
    try:
        yield
    finally:
        failpoints._armed.clear()


def _crash() -> NoReturn:
    raise Crash
