"""Building on a node, with the real pip and wheels made here: once, whole or not at all."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fairlead.run.virtual import (
    Answer,
    Contact,
    Order,
    Ready,
    Refused,
    Stopped,
    build,
    command_line,
    launcher,
    order_for,
)
from fairlead.run.virtual.places import Place, Places
from fairlead.run.warm import launcher as warm_launcher
from fairlead.testing.ray import wait_for
from fairlead.testing.wheels import lock_of, make_wheel

BUILD_S = 120.0


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory where pip finds wheels, and nowhere else: as operators would say it."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def an_order(directory: Path, lock: bytes, *, build_s: float = BUILD_S, max_bytes: int = 2**40) -> Order:
    return order_for(lock, directory=directory / "environments", build_s=build_s, max_bytes=max_bytes)


def built(order: Order, *, stop: threading.Event | None = None, shown: list[str] | None = None) -> Answer:
    said = [] if shown is None else shown
    return build(order, Contact(should_stop=(stop or threading.Event()).is_set, show=said.append))


def run_in(order: Order, code: str) -> str:
    """What a program prints that Ray would start with the order's command line."""
    command = f"exec {command_line(order)} -c {code!r}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_an_environment_is_built_once_and_programs_run_in_it(tmp_path: Path, wheels: Path) -> None:
    order = an_order(tmp_path, lock_of(tinydep=("1.5", make_wheel(wheels, "tinydep", "1.5"))))
    program = "import tinydep, numpy, sys; print(tinydep.VERSION, sys.prefix)"
    shown: list[str] = []
    first = built(order, shown=shown)
    assert isinstance(first, Ready)
    assert (first.is_new, first.seconds > 0, first.size > 0) == (True, True, True)
    assert "Successfully installed tinydep-1.5" in "".join(shown)
    assert built(order) == Ready(is_new=False)
    assert run_in(order, program) == f"1.5 {order.place.prefix}"


def test_its_packages_come_before_those_of_the_node(tmp_path: Path, wheels: Path) -> None:
    order = an_order(tmp_path, lock_of(sortedcontainers=("99.0", make_wheel(wheels, "sortedcontainers", "99.0"))))
    assert isinstance(built(order), Ready)
    assert run_in(order, "import sortedcontainers; print(sortedcontainers.VERSION)") == "99.0"


def test_without_its_environment_a_program_starts_as_ever(tmp_path: Path) -> None:
    order = an_order(tmp_path, b"")
    assert run_in(order, "import sys; print(sys.prefix)") == sys.prefix


def test_a_wrong_hash_is_the_users_error_with_pips_last_lines(tmp_path: Path, wheels: Path) -> None:
    make_wheel(wheels, "tinydep", "1.5")
    order = an_order(tmp_path, lock_of(tinydep=("1.5", "0" * 64)))
    refused = built(order)
    assert isinstance(refused, Refused)
    assert (refused.is_of_node, refused.reason) == (
        False,
        "bad_environment: pip could not install the lock (exit code 1)",
    )
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.detail
    assert not order.place.prefix.exists()


@pytest.mark.parametrize(
    ("requires", "words"),
    [(("absent==1",), "absent==1"), (("pydantic<1",), "pydantic<1")],
)
def test_a_lock_that_leaves_something_out_is_refused(
    tmp_path: Path, wheels: Path, requires: tuple[str, ...], words: str
) -> None:
    order = an_order(tmp_path, lock_of(tinydep=("1", make_wheel(wheels, "tinydep", "1", requires=requires))))
    refused = built(order)
    assert isinstance(refused, Refused)
    assert words in refused.detail


def test_a_node_without_a_network_is_not_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    refused = built(an_order(tmp_path, lock_of(tinydep=("1", "0" * 64))))
    assert isinstance(refused, Refused)
    assert (refused.is_of_node, refused.reason) == (True, "environment: pip could not fetch or keep the packages")


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    order = an_order(tmp_path, b"")
    Path(order.directory).mkdir()
    Path(order.directory).chmod(0o777)
    refused = built(order)
    assert isinstance(refused, Refused)
    assert (refused.is_of_node, "must belong to this user" in refused.detail) == (True, True)


# ---- what takes long, and is stopped or killed ----------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path, wheels: Path) -> Iterator[tuple[Order, dict[str, str]]]:
    """An order, and variables by which pip waits for an index that never answers. Without them it finds a wheel."""
    order = an_order(tmp_path, lock_of(tinydep=("1", make_wheel(wheels, "tinydep", "1"))))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/simple"
        yield order, {"PIP_INDEX_URL": address, "PIP_NO_INDEX": "0", "PIP_DEFAULT_TIMEOUT": "100"}


def pips_of(order: Order) -> list[psutil.Process]:
    """Installers at work in an environment."""
    found = [
        each for each in psutil.process_iter(["cmdline"]) if str(order.place.python) in (each.info["cmdline"] or ())
    ]
    return [each for each in found if each.info["cmdline"][0] == str(order.place.python)]


BUILDER = """
import sys
from pathlib import Path
from fairlead.run.virtual import Contact, Order, build
lock, directory, key = Path(sys.argv[1]).read_bytes(), sys.argv[2], sys.argv[3]
order = Order(lock=lock, directory=directory, key=key, build_s=100, max_bytes=2**40)
build(order, Contact(should_stop=lambda: False, show=print))
"""


def test_a_builder_that_is_killed_leaves_nothing_that_is_taken_for_whole(
    tmp_path: Path, slow: tuple[Order, dict[str, str]]
) -> None:
    order, variables = slow
    (tmp_path / "lock").write_bytes(order.lock)
    arguments = [sys.executable, "-c", BUILDER, str(tmp_path / "lock"), order.directory, order.key]
    with subprocess.Popen(arguments, env={**os.environ, **variables}) as builder:
        (pip,) = wait_for(lambda: pips_of(order), within_s=60, what="pip")
        builder.kill()
    assert order.place.hold() is None
    psutil.wait_procs([pip], timeout=10)
    assert pips_of(order) == [], "it dies with its parent"
    answer = built(order)
    assert isinstance(answer, Ready)
    assert answer.is_new


def test_nobody_builds_beside_an_installer_that_still_runs(slow: tuple[Order, dict[str, str]]) -> None:
    """One that is stuck in the kernel outlives its builder for a while: it has inherited the lock."""
    order, _ = slow
    Path(order.directory).mkdir()
    claim = order.place.claim()
    assert claim is not None
    with subprocess.Popen(["sleep", "60"], pass_fds=(claim,)) as installer:
        os.close(claim)
        assert order.place.claim() is None
        installer.kill()
    again = order.place.claim()
    assert again is not None
    os.close(again)


def test_a_build_ends_when_the_attempt_is_to_end(
    slow: tuple[Order, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, variables = slow
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answer = build(order, Contact(should_stop=lambda: bool(pips_of(order)), show=print))
    assert answer == Stopped()
    assert (pips_of(order), order.place.prefix.exists()) == ([], False)


def test_a_build_that_takes_too_long_is_given_up(
    tmp_path: Path, slow: tuple[Order, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, variables = slow
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused = built(replace(order, build_s=2))
    assert isinstance(refused, Refused)
    assert refused.reason == "bad_environment: pip was not done after 2 s (FAIRLEAD_ENVIRONMENT_BUILD_S)"
    assert (pips_of(order), order.place.prefix.exists()) == ([], False)


def test_of_two_who_need_it_one_builds(tmp_path: Path, wheels: Path) -> None:
    order = an_order(tmp_path, lock_of(tinydep=("1", make_wheel(wheels, "tinydep", "1"))))
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda _: built(order), range(2)))
    assert sorted(isinstance(answer, Ready) and answer.is_new for answer in answers) == [False, True]


# ---- what is kept ---------------------------------------------------------------------------------------------------


def kept_place(directory: Path, key: str, *, used_at: float, size: int = 100) -> Place:
    """As one that was built, as far as the books go; ``used_at`` 0: one that was never finished."""
    place = Place(directory=directory, key=key)
    place.prefix.mkdir(parents=True)
    place.lock.touch()
    if used_at:
        place.marker.write_text(f'{{"bytes": {size}}}')
        os.utime(place.marker, (used_at, used_at))
    return place


@pytest.mark.parametrize(
    ("max_bytes", "gone"),
    [
        (500, ["unfinished"]),
        (300, ["unfinished", "old"]),
        (200, ["unfinished", "old", "recent"]),
        (0, ["unfinished", "old", "recent"]),  # what is kept is needed, whatever it takes
    ],
)
def test_what_was_used_longest_ago_goes_first(tmp_path: Path, max_bytes: int, gone: list[str]) -> None:
    used = {"recent": 30.0, "old": 10.0, "unfinished": 0.0, "held": 5.0}
    places = {key: kept_place(tmp_path, key, used_at=at) for key, at in used.items()}
    new = kept_place(tmp_path, "new", used_at=40.0)
    held = places["held"].hold()
    assert held is not None
    try:
        os.utime(places["held"].marker, (5, 5))
        assert Places(directory=tmp_path).make_room(max_bytes, keep=new) == gone
    finally:
        os.close(held)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted({*used, "new"} - set(gone))


def test_what_is_being_built_is_not_deleted(tmp_path: Path) -> None:
    building, new = kept_place(tmp_path, "building", used_at=0), kept_place(tmp_path, "new", used_at=1)
    claim = building.claim()
    assert claim is not None
    assert Places(directory=tmp_path).make_room(0, keep=new) == []
    os.close(claim)
    assert Places(directory=tmp_path).make_room(0, keep=new) == ["building"]


def test_to_use_one_counts(tmp_path: Path) -> None:
    place = kept_place(tmp_path, "a", used_at=10)
    held = place.hold()
    assert held is not None
    assert place.marker.stat().st_mtime > 10
    assert place.claim() is None
    os.close(held)


def test_both_launchers_tell_alike_why_a_process_is_cold() -> None:
    assert launcher.COLD == warm_launcher.COLD
