"""``python -m fairlead.agent``: the agent of one cluster, and a small supervisor that starts it again.

Ray ends a driver that has lost its head for a minute; such ends, and crashes, are followed by a new start. A newer
agent, bad settings or a signal end both. Exit codes: 0 stopped, 2 bad settings, 3 superseded by a newer agent.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

import structlog
from pydantic import ValidationError

from fairlead.agent.agent import Agent, Parts
from fairlead.agent.bundles import BundleCache
from fairlead.agent.cluster import RayCluster
from fairlead.agent.control_plane import ControlPlane
from fairlead.agent.tending import Surroundings
from fairlead.clock import SystemClock
from fairlead.errors import StaleAgent, Unauthorized
from fairlead.settings import AgentSettings

STOPPED, BAD_SETTINGS, SUPERSEDED = 0, 2, 3
MAX_RESTART_DELAY_S = 30.0
STEADY_AFTER_S = 60.0
_PR_SET_PDEATHSIG = 1
logger = structlog.get_logger("fairlead.agent")


def main() -> int:
    """Supervise an agent, or be one with ``--unsupervised``."""
    parser = argparse.ArgumentParser(prog="python -m fairlead.agent", description=__doc__)
    parser.add_argument("--unsupervised", action="store_true", help="run the agent itself, without a supervisor")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))
    return run_agent() if arguments.unsupervised else supervise()


def supervise() -> int:
    """Keep one agent running; pass signals on."""
    command = [sys.executable, "-m", "fairlead.agent", "--unsupervised"]
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


def run_agent() -> int:
    """Be the agent until a signal comes."""
    _end_with_parent()
    try:
        settings = AgentSettings()
        token = settings.agent_token_file.read_text().strip()
    except (ValidationError, OSError) as error:
        logger.error("the settings cannot be used", error=str(error))
        return BAD_SETTINGS
    control = ControlPlane(settings.control_url, agent_token=token)
    cluster = RayCluster(
        address=settings.ray_address,
        storage=settings.storage,
        worker_start_timeout_s=settings.worker_start_timeout_s,
    )
    agent = Agent(_parts(settings, control, cluster))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    try:
        agent.run()
    except StaleAgent as error:
        logger.error("superseded: another agent has attached to this cluster, and this one ends", error=str(error))
        return SUPERSEDED
    except Unauthorized as error:
        logger.error("the agent's token is refused; check FAIRLEAD_AGENT_TOKEN_FILE", error=str(error))
        return BAD_SETTINGS
    finally:
        cluster.close()
        control.close()
    return STOPPED


def _parts(settings: AgentSettings, control: ControlPlane, cluster: RayCluster) -> Parts:
    def surroundings(agent_epoch: int) -> Surroundings:
        return Surroundings(
            control=control,
            cluster=cluster,
            bundles=BundleCache(settings.cache, control),
            clock=SystemClock(),
            storage=settings.storage,
            agent_epoch=agent_epoch,
            evidence_gap_s=settings.evidence_gap_s,
            tick_s=settings.tick_s,
        )

    return Parts(settings=settings, control=control, cluster=cluster, surroundings=surroundings)


def _end_with_parent() -> None:
    """Let the kernel end this process when its supervisor is gone, however it went."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before we could say so
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
