"""A whole platform of separate processes that a test may bend one by one: api, agent, Ray, and the link between them.

Unlike the embedded stack it lets a test choose what a process is started with, and what lies between two of them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fairlead.client import Client, Experiment
from fairlead.store import open_store
from fairlead.testing import history
from fairlead.testing.links import Link
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.ray import wait_for
from fairlead.testing.servers import Server

GREEDY = Path(__file__).with_name("greedy.py")
QUICK_AGENT = {
    "FAIRLEAD_TICK_S": "0.3",
    "FAIRLEAD_SYNC_WAIT_S": "0.5",
    "FAIRLEAD_EVIDENCE_GAP_S": "2",
    "FAIRLEAD_STRAY_AFTER_S": "10",
}
END_S = 120.0


@dataclass
class Site:
    """``server`` answers users directly; the agent reaches it through ``link``."""

    server: Server
    link: Link
    head: LocalRay
    agents: list[psutil.Process] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """Where everything lies."""
        return self.server.directory

    def start_agent(self, *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """Start an agent with its supervisor. ``prefix``: what the command line begins with."""
        token = self.directory / "agent-token"
        token.write_text(self.server.agent)
        settings = {
            **QUICK_AGENT,
            **self.head.environment,
            "FAIRLEAD_CONTROL_URL": self.link.url,
            "FAIRLEAD_AGENT_TOKEN_FILE": str(token),
            "FAIRLEAD_RAY_ADDRESS": self.head.address,
            "FAIRLEAD_STORAGE": str(self.server.storage),
            "FAIRLEAD_CACHE": str(self.directory / "cache"),
            "FAIRLEAD_WARM_DIRECTORY": str(self.head.warm_directory),
            **(environment or {}),
        }
        own = {name: value for name, value in os.environ.items() if not name.startswith(("FAIRLEAD_", "RAY_"))}
        with open(self.directory / "agent.log", "ab") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "fairlead.agent"], env=own | settings, stdout=log, stderr=log
            )
        self.agents.append(psutil.Process(process.pid))

    def stop_agents(self) -> None:
        """Ask them to end, and make sure that they have."""
        for process in self.agents:
            if process.is_running():
                process.terminate()
        _, left = psutil.wait_procs(self.agents, timeout=30)
        for process in left:
            process.kill()
        self.agents.clear()

    @property
    def agent_pid(self) -> int:
        """The agent itself, below its supervisor."""
        found = wait_for(lambda: self.agents[-1].children(), within_s=30, what="the agent's process")
        return int(found[0].pid)

    def client(self) -> Client:
        """A client of its api."""
        return Client(self.server.url, self.server.user)

    def submit(self, client: Client, name: str, *, workers: int = 1, policy: Any = None, **params: Any) -> Experiment:
        """Submit the greedy workload; ``params`` are its own."""
        code = self.directory / "code"
        if not code.exists():
            code.mkdir()
            shutil.copy(GREEDY, code / "greedy.py")
        spec = {
            "name": name,
            "workload": "greedy:train",
            "params": params,
            "data": {"uri": "builtin://diabetes"},
            "resources": {"workers": workers},
            "policy": {"stall_timeout_s": 120, **(policy or {})},
        }
        return client.submit(spec, code=code)

    def records(self) -> history.History:
        """What its database holds."""
        store = open_store(self.server.database_url)
        try:
            return history.read(store)
        finally:
            store.close()

    def life(self, experiment: Experiment) -> history.Life:
        """What the database knows of one experiment."""
        return next(life for life in self.records().lives if life.row.id == experiment.id)

    def broken_promises(self, *experiments: Experiment) -> tuple[str, ...]:
        """What the history of its database and its storage shows to be broken."""
        return self.server.violations({f"submit {one.id}": one.id for one in experiments})

    def log(self) -> str:
        """What the agents have said."""
        path = self.directory / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""


@contextmanager
def running_site(directory: Path, head: LocalRay, *, server: Server | None = None) -> Iterator[Site]:
    """Everything but the agent, which the test starts. What it has submitted is ended afterwards."""
    server = server or Server(directory)
    with Link(("127.0.0.1", server.port)) as link:
        site = Site(server=server, link=link, head=head)
        try:
            server.start()
            yield site
            if site.agents:
                _end_experiments(site)
        finally:
            print(site.log()[-6000:])
            site.stop_agents()
            server.stop()


def _end_experiments(site: Site) -> None:
    site.link.heal()
    with site.client() as client:
        for experiment in client.list():
            if not experiment.done():
                experiment.cancel()
        wait_for(lambda: all(one.done() for one in client.list()), within_s=END_S, what="the end of every experiment")


def has_event(experiment: Experiment, kind: str, *, times: int = 1) -> bool:
    """Whether an experiment has had so many events of a kind."""
    return sum(event.kind == kind for event in experiment.events(follow=False)) >= times


def last_step(experiment: Experiment) -> int:
    """The last step that the server has heard of; -1 before the first."""
    step = experiment.refresh().view.last_step
    return -1 if step is None else step
