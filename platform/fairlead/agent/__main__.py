"""``python -m fairlead.agent``: a small supervisor of the agent of one cluster.

Ray ends a driver that has lost its head for a minute; such ends, and crashes, are followed by a new start. A newer
agent, bad settings or a signal end both. Exit codes: 0 stopped, 2 bad settings, 3 superseded by a newer agent.
"""

import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import structlog
from pydantic import ValidationError

from fairlead.agent.endings import BAD_SETTINGS, STOPPED, SUPERSEDED, log_to_stderr
from fairlead.settings import names_of

MAX_RESTART_DELAY_S = 30.0
STEADY_AFTER_S = 60.0
logger = structlog.get_logger("fairlead.agent")


def supervise() -> int:
    """Keep one agent running; pass signals on."""
    try:
        log_to_stderr()
    except ValidationError as error:
        logger.error("settings are missing or wrong", settings=names_of(error))
        return BAD_SETTINGS
    stopping = threading.Event()
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        stopping.set()
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    delay_s = 1.0
    while not stopping.is_set():
        started_s = time.monotonic()
        code = _run_once(children, stopping)
        if code in (STOPPED, BAD_SETTINGS, SUPERSEDED) or stopping.is_set():
            return code
        delay_s = 1.0 if time.monotonic() - started_s > STEADY_AFTER_S else min(MAX_RESTART_DELAY_S, delay_s * 2)
        logger.warning("the agent has ended; it is started again", exit_code=code, in_s=delay_s)
        stopping.wait(delay_s)
    return STOPPED


def _run_once(children: list["subprocess.Popen[bytes]"], stopping: threading.Event) -> int:
    """Run an agent to its end; returns its exit code."""
    child = subprocess.Popen([sys.executable, "-m", "fairlead.agent.process"], start_new_session=True)
    children[:] = [child]
    if stopping.is_set():  # a signal came before there was a child to pass it on to
        child.terminate()
    return child.wait()


if __name__ == "__main__":
    sys.exit(supervise())
