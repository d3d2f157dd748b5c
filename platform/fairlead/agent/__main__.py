"""``python -m fairlead.agent``: a small supervisor of the agent of one cluster.

Ray ends a driver that has lost its head for a minute; such ends, and crashes, are followed by a new start. A newer
agent, bad settings or a signal end both. Exit codes: 0 stopped, 2 bad settings, 3 superseded by a newer agent.
"""

import signal
import subprocess
import sys
import time
from types import FrameType

import structlog

from fairlead.agent.endings import BAD_SETTINGS, STOPPED, SUPERSEDED, log_to_stderr

MAX_RESTART_DELAY_S = 30.0
STEADY_AFTER_S = 60.0
logger = structlog.get_logger("fairlead.agent")


def supervise() -> int:
    """Keep one agent running; pass signals on."""
    log_to_stderr()
    command = [sys.executable, "-m", "fairlead.agent.process"]
    child: subprocess.Popen[bytes] | None = None
    is_stopping = False

    def pass_on(number: int, _: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True
        if child is not None and child.poll() is None:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    delay_s = 1.0
    while not is_stopping:
        started_s = time.monotonic()
        child = subprocess.Popen(command, start_new_session=True)
        code = child.wait()
        if is_stopping or code in (STOPPED, BAD_SETTINGS, SUPERSEDED):
            return code
        delay_s = 1.0 if time.monotonic() - started_s > STEADY_AFTER_S else min(MAX_RESTART_DELAY_S, delay_s * 2)
        logger.warning("the agent has ended; it is started again", exit_code=code, in_s=delay_s)
        time.sleep(delay_s)
    return STOPPED


if __name__ == "__main__":
    sys.exit(supervise())
