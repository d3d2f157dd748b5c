"""The agent itself, one process: settings, signals, and an exit code that tells its supervisor what to do."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

import structlog
from platformdirs import user_cache_path
from pydantic import ValidationError

from fairlead.agent.agent import Agent, Parts
from fairlead.agent.bundles import BundleCache
from fairlead.agent.cluster import RayCluster
from fairlead.agent.control_plane import ControlPlane
from fairlead.agent.endings import BAD_SETTINGS, STOPPED, SUPERSEDED, log_to_stderr
from fairlead.agent.tending import Surroundings
from fairlead.clock import SystemClock
from fairlead.errors import StaleAgent, Unauthorized
from fairlead.run.virtual import Conditions
from fairlead.run.warm import WarmServer, default_directory
from fairlead.settings import AgentSettings, names_of

_PR_SET_PDEATHSIG = 1
logger = structlog.get_logger("fairlead.agent")


def run_agent() -> int:
    """Be the agent until a signal comes."""
    _end_with_parent()
    try:
        log_to_stderr()
        settings = AgentSettings()
        token = settings.agent_token_file.read_text().strip()
    except ValidationError as error:
        logger.error("settings are missing or wrong", settings=names_of(error))
        return BAD_SETTINGS
    except OSError as error:
        logger.error("the settings cannot be used", error=str(error))
        return BAD_SETTINGS
    control = ControlPlane(settings.control_url, agent_token=token)
    cluster = RayCluster(
        address=settings.ray_address,
        storage=settings.storage,
        worker_start_timeout_s=settings.worker_start_timeout_s,
        warm=_warm_server(settings),
    )
    stopping = threading.Event()

    def keep_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())

    keep_signals()
    agent = Agent(_parts(settings, control, cluster, keep_signals), stopping)
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


def _warm_server(settings: AgentSettings) -> WarmServer | None:
    if not settings.warm_start:
        return None
    return WarmServer(settings.warm_directory or default_directory(f"{settings.ray_address} {settings.cluster}"))


def conditions(settings: AgentSettings) -> Conditions:
    """How this cluster builds environments."""
    directory = settings.environments or user_cache_path("fairlead") / "environments"
    return Conditions(
        directory=directory.absolute(),
        build_s=settings.environment_build_s,
        max_bytes=int(settings.environments_gb * 10**9),
    )


def _parts(
    settings: AgentSettings, control: ControlPlane, cluster: RayCluster, keep_signals: Callable[[], None]
) -> Parts:
    def surroundings(agent_epoch: int) -> Surroundings:
        return Surroundings(
            control=control,
            cluster=cluster,
            bundles=BundleCache(settings.cache, control),
            environments=conditions(settings),
            clock=SystemClock(),
            storage=settings.storage,
            agent_epoch=agent_epoch,
            evidence_gap_s=settings.evidence_gap_s,
            node_grace_s=settings.node_grace_s,
            tick_s=settings.tick_s,
        )

    return Parts(
        settings=settings, control=control, cluster=cluster, surroundings=surroundings, keep_signals=keep_signals
    )


def _end_with_parent() -> None:
    """Let the kernel end this process when its supervisor is gone, however it went."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before we could say so
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(run_agent())
