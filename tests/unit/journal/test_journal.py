import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from fairlead.journal import as_text, journal_on


def test_a_disk_without_room_costs_the_line_and_not_the_work() -> None:
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115  # closing it fails as well
    logger = structlog.wrap_logger(journal_on(full)(), processors=[structlog.processors.KeyValueRenderer()])
    logger.warning("something")
    with pytest.raises(OSError, match="No space left"):
        structlog.WriteLogger(full).warning("something")
    with suppress(OSError):
        full.close()


def test_every_level_is_a_line_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        logger = structlog.wrap_logger(journal_on(file)(), processors=[structlog.processors.KeyValueRenderer()])
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logger, level)(level)
        assert (tmp_path / "log").read_text().splitlines() == [
            f"event='{level}'" for level in ("debug", "info", "warning", "error", "critical")
        ]


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def look(token: str, path: Path) -> bytes:
    """What fails, with a variable that must not be shown."""
    return token.encode() + path.read_bytes()


def test_a_process_without_descriptors_can_say_so_and_shows_no_values_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        logger = structlog.wrap_logger(journal_on(file)(), processors=as_text(file))
        with no_descriptors():
            say_what_fails(logger, lambda: look("fl_" + "secret", path))
    said = path.read_text()
    assert "[error    ] looking failed" in said
    assert "attempt=a-1" in said
    assert "OSError: [Errno 24] Too many open files" in said
    assert "fl_secret" not in said


def say_what_fails(logger: Any, act: Callable[[], object]) -> None:
    try:
        act()
    except OSError:
        logger.exception("looking failed", attempt="a-1")


LOUD = """
import logging, sys, threading, warnings
import structlog
from fairlead.journal import log_to

log_to(sys.stderr, form=sys.argv[1])
structlog.contextvars.bind_contextvars(request_id="r1")
structlog.get_logger().info("ours", attempt_id="e-a1")
logging.getLogger("library").warning("theirs %s", "said")
warnings.warn("take care")
thread = threading.Thread(target=lambda: 1 / 0, name="helper")
thread.start()
thread.join()
raise ValueError("the end\\nof it")
"""


def loud(form: str) -> list[str]:
    command = [sys.executable, "-c", LOUD, form]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr.splitlines()


def test_as_json_whatever_is_said_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in loud("json")]
    assert [line["event"] for line in lines[:2]] == ["ours", "theirs said"]
    assert (lines[0]["request_id"], lines[0]["attempt_id"], lines[1]["request_id"]) == ("r1", "e-a1", "r1")
    assert "take care" in lines[2]["event"]
    assert [(line["event"], line["level"]) for line in lines[3:]] == [("uncaught", "critical")] * 2
    assert lines[3]["thread"] == "helper"
    assert "ZeroDivisionError" in lines[3]["exception"]
    assert "the end\nof it" in lines[4]["exception"]


def test_as_text_a_line_is_for_people() -> None:
    lines = loud("text")
    assert "ours" in lines[0]
    assert "request_id=r1" in lines[0]
    assert not lines[0].startswith("{")
