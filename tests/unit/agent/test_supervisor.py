import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BAD_SETTINGS = 2


def a_supervisor(environment: dict[str, str]) -> "subprocess.Popen[str]":
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLEAD_")}
    command = [sys.executable, "-m", "fairlead.agent"]
    return subprocess.Popen(command, env=plain | environment, stderr=subprocess.PIPE, text=True)


def test_settings_that_cannot_be_used_are_named_and_not_tried_again() -> None:
    with a_supervisor({}) as process:
        _, words = process.communicate(timeout=60)
    assert process.returncode == BAD_SETTINGS
    assert "FAIRLEAD_RAY_ADDRESS" in words


def test_an_agent_writes_json_where_that_is_asked_for() -> None:
    with a_supervisor({"FAIRLEAD_LOG_FORMAT": "json"}) as process:
        _, words = process.communicate(timeout=60)
    (line,) = [json.loads(each) for each in words.splitlines()]
    assert (line["event"], line["level"]) == ("settings are missing or wrong", "error")


def test_a_log_level_that_is_none_is_a_bad_setting_like_any_other() -> None:
    with a_supervisor({"FAIRLEAD_LOG_LEVEL": "loud"}) as process:
        _, words = process.communicate(timeout=60)
    assert process.returncode == BAD_SETTINGS
    assert "FAIRLEAD_LOG_LEVEL" in words
    assert "Traceback" not in words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_while_neither_ray_nor_the_control_plane_answers(tmp_path: Path, number: int) -> None:
    (tmp_path / "token").write_text("secret-token")
    settings = {
        "FAIRLEAD_CONTROL_URL": "http://127.0.0.1:9",
        "FAIRLEAD_AGENT_TOKEN_FILE": str(tmp_path / "token"),
        "FAIRLEAD_RAY_ADDRESS": "127.0.0.1:9",
        "FAIRLEAD_STORAGE": str(tmp_path),
        "FAIRLEAD_CACHE": str(tmp_path / "cache"),
        "FAIRLEAD_WARM_START": "0",
    }
    with a_supervisor(settings) as process:
        assert process.stderr is not None
        words = ""
        while "does not answer yet" not in words:
            line = process.stderr.readline()
            assert line, words
            words += line
        process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    assert "secret-token" not in words + rest
