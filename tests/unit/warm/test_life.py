"""What a process says of its own start, in words for people."""

import os
import subprocess
import sys

import pytest

from fairlead.run.warm import SWITCHED_OFF, Birth, cold_env, describe
from fairlead.run.warm.launcher import COLD

WARM, OFF, NEW = Birth(is_warm=True, why=""), Birth(is_warm=False, why="off"), Birth(is_warm=False, why="none yet")
ASK = [sys.executable, "-c", "from fairlead.run.warm import birth; print(birth().why)"]


@pytest.mark.parametrize(
    ("runner", "ranks", "said"),
    [
        (WARM, (WARM, WARM), "warm"),
        (OFF, (OFF, OFF), "cold: off"),
        (OFF, (NEW, OFF), "cold: off; none yet"),
        (WARM, (WARM, NEW), "rank 1 cold: none yet"),
        (NEW, (WARM, NEW), "runner, rank 1 cold: none yet"),
    ],
)
def test_an_attempt_says_who_started_cold_and_why(runner: Birth, ranks: tuple[Birth, ...], said: str) -> None:
    assert describe({"runner": runner} | {f"rank {rank}": each for rank, each in enumerate(ranks)}) == said


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "it was started without the warm launcher"),
        ({COLD: f"{os.getpid()}:of another process"}, "it was started without the warm launcher"),
        (cold_env({}, why=SWITCHED_OFF)["env_vars"], "FAIRLEAD_WARM_START=0 switches warm starts off"),
    ],
)
def test_a_cold_process_knows_why(variables: dict[str, str], why: str) -> None:
    found = subprocess.run(ASK, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == why
