from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from fairlead.journal import journal_on


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
