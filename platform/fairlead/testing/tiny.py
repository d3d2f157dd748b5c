"""A workload for tests: counts steps, keeps checkpoints, and misbehaves as its parameters say.

``steps``: how many; ``step_s``: how long each takes; ``misbehave``: what goes wrong, at step ``at``; ``rank``: where.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from fairlead.workload import Context, Params

HUNDRED_MB = 100 * 1024 * 1024


def train(params: Params, context: Context) -> None:
    """Train for ``steps`` steps, evaluate and export."""
    steps = params.get("steps", 3)
    for step in range(_first_step(context), steps):
        time.sleep(params.get("step_s", 0.01))
        total = torch.ones(1)
        if context.world_size > 1:
            torch.distributed.all_reduce(total)
        if step == params.get("at", 1) and params.get("rank", 0) in (context.rank, "every"):
            MISBEHAVIOURS[params.get("misbehave", "not")](context)
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state.json").write_text(json.dumps({"step": step}))
            loss = float("nan") if params.get("misbehave") == "nan" and step == params.get("at", 1) else 1 / (step + 1)
            is_full = params.get("misbehave") == "fill_disk" and step >= params.get("at", 1)
            with _full_disk() if is_full else contextlib.nullcontext():
                context.report({"train/loss": loss, "train/world": float(total)}, step=step, checkpoint=Path(directory))
        if context.should_stop():
            return
    if params.get("misbehave") != "no_evaluation":
        _evaluate(context, twice=params.get("misbehave") == "evaluate_twice")
        context.export({"weight": torch.zeros(2, 3)}, config={"width": 3})


def _first_step(context: Context) -> int:
    if context.resume_from is None:
        return 0
    done: int = json.loads((context.resume_from / "state.json").read_text())["step"]
    return done + 1


def _evaluate(context: Context, *, twice: bool) -> None:
    shard = context.shard("test")
    for _ in range(1 + twice):
        scores = np.full(len(shard), 0.75)
        context.evaluate("test", records=shard.records, predictions=np.ones(len(shard), dtype=np.int64), scores=scores)


def _raise(context: Context) -> None:
    raise ValueError(f"the loss exploded on rank {context.rank}")


def _print_much(context: Context) -> None:
    print("first words")
    line = "x" * 1023 + "\n"
    for _ in range(HUNDRED_MB // len(line) // 64):
        sys.stdout.write(line * 64)
    print("last words")


def _die_once(context: Context) -> None:
    """Only a group that starts from nothing dies: the next one goes on from a checkpoint."""
    if context.resume_from is None:
        os.kill(os.getpid(), signal.SIGKILL)


def _nothing(context: Context) -> None:
    """Behave."""


def _defy(context: Context) -> None:
    """Leave two daemons behind, one forked and one executed, ignore signals and whatever is raised; never return."""
    print(f"daemons {_forked_daemon()} {_executed_daemon()}", flush=True)
    _ignore_signals()
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(3600)


def _ignore_signals() -> None:
    """By the C library: Python itself lets only the main thread, and workloads run in another."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        ctypes.CDLL(None).signal(int(number), int(signal.SIG_IGN))


def _forked_daemon() -> int:
    """As daemons do it: forked twice, a session of its own, every descriptor closed."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) == 0:
            os.closerange(0, 4096)
            _ignore_signals()
            while True:
                time.sleep(3600)
        os.write(writer, str(pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    pid = int(os.read(reader, 20))
    os.wait()
    return pid


def _executed_daemon() -> int:
    return subprocess.Popen(["sleep", "3600"], start_new_session=True, close_fds=True).pid


def _work(context: Context) -> None:
    """Rest for 75 seconds while a child works, a quarter of the time at most."""
    program = "import time\nwhile True:\n    time.sleep(0.15)\n    until = time.process_time() + 0.05\n"
    program += "    while time.process_time() < until: pass\n"
    child = subprocess.Popen([sys.executable, "-c", program])
    time.sleep(75)
    child.kill()
    child.wait()


def _block(context: Context) -> None:
    """Wait in C code that keeps the interpreter's lock: no other thread of this process runs any more."""
    ctypes.PyDLL(None).sleep(3600)


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """No file of this process may grow beyond four bytes, which is what a full disk looks like to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _defy_or_block(context: Context) -> None:
    (_defy if context.rank == 0 else _block)(context)


MISBEHAVIOURS: Mapping[str, Callable[[Context], Any]] = {
    "not": _nothing,
    "nan": _nothing,
    "no_evaluation": _nothing,
    "evaluate_twice": _nothing,
    "raise": _raise,
    "exit_zero": lambda _: os._exit(0),
    "print_and_exit": lambda _: (print("the licence server is busy", flush=True), os._exit(75)),
    "segfault": lambda _: ctypes.string_at(0),
    "sys_exit": lambda _: sys.exit(0),
    "print": _print_much,
    "die_once": _die_once,
    "hang": lambda _: time.sleep(3600),
    "work": _work,
    "fill_disk": _nothing,
    "defy": _defy,
    "block": _block,
    "defy_or_block": _defy_or_block,
    "crash": lambda _: ctypes.string_at(0),
}
