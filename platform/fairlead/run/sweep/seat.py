"""A seat: the Ray actor that holds what one rank of a slot's trials may use, and runs their processes in turn.

It knows nothing of sweeps: it starts a process for a task, passes on what is said in both directions, and says how the
process ended.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.util

from fairlead.run.log_pump import Segments
from fairlead.run.logs import NEWEST_SEGMENTS, SEGMENT_BYTES
from fairlead.run.sweep.channel import Message
from fairlead.run.sweep.process import TrialProcess
from fairlead.run.sweep.trial import Task
from fairlead.run.virtual import Answer, Contact, Order, Ready, Refused, Stopped, build

LAST_WORDS_S = 5.0
"""What a process gets to end by itself once its trial is over."""
ENDED = "ended"


class Seat:
    """See the module. ``news`` waits in a thread of its own; orders are carried out one by one, as they were given."""

    def __init__(self, environment: Order | None = None) -> None:
        self._environment = environment
        self._held: int | None = None
        self._news: queue.Queue[Message] = queue.Queue()
        self._process: TrialProcess | None = None
        self._reader: threading.Thread | None = None
        self._holds_gpus = bool(ray.get_gpu_ids())
        self._address: str = ray.util.get_node_ip_address()

    @ray.method(concurrency_group="orders")
    def hello(self) -> tuple[str, bool]:
        """Its node, and whether all that trials need is there: it is up."""
        if self._environment is not None:
            self._hold(self._environment)
        return ray.get_runtime_context().get_node_id(), self._environment is None or self._held is not None

    @ray.method(concurrency_group="orders")
    def prepare(self, log: str) -> Ready | Refused:
        """Have the environment on this node, for as long as this seat is there.

        ``log``: the installer's output, before the number of a segment.
        """
        assert self._environment is not None, "asked only where there is one"
        answer: Answer = Ready(is_new=False)
        with contextlib.closing(InstallerLog(log)) as kept:
            while self._held is None and isinstance(answer, Ready):
                answer = build(self._environment, Contact(should_stop=lambda: False, show=kept.show))
                if isinstance(answer, Ready):
                    self._hold(self._environment)  # unless it has been deleted between the two
        assert not isinstance(answer, Stopped), "nobody stops it: its seat is ended"
        return answer

    def _hold(self, environment: Order) -> None:
        with contextlib.suppress(OSError):  # the build says what is wrong with the directory
            self._held = self._held if self._held is not None else environment.place.hold()

    @ray.method(concurrency_group="orders")
    def begin(self, task: Task) -> None:
        """Run a task in a process of its own, or in the one before where that is still there for more."""
        if self._process is None or task.is_alone or not self._is_serving():
            self._part()
            self._process = process = TrialProcess(self._environment.place if self._environment else None)
            self._reader = threading.Thread(target=self._read, args=(process,), name="fairlead-trial", daemon=True)
            self._reader.start()
        self._process.key = task.key
        self._process.write_to(Path(task.directory), rank=task.rank)
        self.tell({"kind": "task", "task": asdict(task) | {"address": self._address}})

    @ray.method(concurrency_group="orders")
    def tell(self, message: Mapping[str, Any]) -> None:
        """Pass a message on to the process; one that has ended does not hear it, and that is told anyway."""
        if self._process is not None:
            try:
                self._process.channel.send(message)
            except OSError:
                return

    @ray.method(concurrency_group="orders")
    def end(self, *, within_s: float) -> None:
        """Let the process end by itself, and make it end after that time."""
        process, reader = self._process, self._reader
        if process is not None and reader is not None:
            reader.join(within_s)
            process.kill()
            reader.join()
        self._process = self._reader = None

    @ray.method(concurrency_group="news")
    def news(self, timeout_s: float) -> list[Message]:
        """What was said since the last time; waits for the first of it."""
        try:
            found = [self._news.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        while not self._news.empty():
            found.append(self._news.get())
        return found

    def _part(self) -> None:
        """Let the process before end by itself. Where it has a GPU, that has to be free first; else nobody waits."""
        if self._holds_gpus:
            self.end(within_s=LAST_WORDS_S)
        self._process = self._reader = None

    def _is_serving(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def _read(self, process: TrialProcess) -> None:
        while (message := process.channel.next()) is not None:
            is_up = message["kind"] == "up"
            if is_up:
                message |= {"key": process.key, "why_cold": process.why_cold or message["why_cold"]}
            self._news.put(message)
        code = process.end(within_s=LAST_WORDS_S)
        self._news.put({"kind": ENDED, "key": process.key, "code": code})


class InstallerLog:
    """What an installer prints, where a rank's output would be: a file that comes to be with the first word."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._segments: Segments | None = None

    def show(self, text: str) -> None:
        """Keep it. A storage that is away loses output, and no environment."""
        with contextlib.suppress(OSError):
            if self._segments is None:
                os.makedirs(os.path.dirname(self._prefix), exist_ok=True)
                self._segments = Segments(self._prefix, SEGMENT_BYTES, NEWEST_SEGMENTS)
            self._segments.write(text.encode())

    def close(self) -> None:
        """Take no more."""
        if self._segments is not None:
            self._segments.close()


SEAT = ray.remote(max_restarts=0, concurrency_groups={"orders": 1, "news": 1})(Seat)
"""The actor class: give it the resources of one rank."""
