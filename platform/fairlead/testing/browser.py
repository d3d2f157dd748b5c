"""Pages in a headless Chromium, as people will see them."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "google-chrome", "chromium-browser")
_COMPLAINT = re.compile(r"CONSOLE[^\"]*\"(?P<said>.*)\", source:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What became of a page."""

    dom: str
    """Its HTML once everything was laid out."""
    screenshot: Path
    complaints: tuple[str, ...]
    """What the browser said: scripts that failed, content that its policy refused, files that are not there."""


def open_page(page: Path, screenshot: Path, *, width: int = 1200, height: int = 3000) -> Opened:
    """Open a file without any network. Skips the test where the machine has no browser."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("needs chromium, which continuous integration installs")
    flags = ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--no-first-run"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to sandbox for root, and the page is ours
    profile = screenshot.with_suffix(".profile")
    done = subprocess.run(
        [
            program,
            *flags,
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--screenshot={screenshot}",
            "--dump-dom",
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    shutil.rmtree(profile, ignore_errors=True)
    return Opened(dom=done.stdout, screenshot=screenshot, complaints=tuple(_COMPLAINT.findall(done.stderr)))
