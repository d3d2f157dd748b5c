"""Which locks ranks could not work with."""

import pytest

from fairlead.lockfile import read_lock
from fairlead.run.virtual.agreement import Installed, disagreement, find_installed

NODE = {
    "torch": Installed(version="2.13.0+cpu", requires=("numpy>=2", "sympy>=1.13; extra == 'opt'")),
    "ray": Installed(version="2.60.0", requires=("click>=7", "pyarrow>=9; extra == 'train'", "grpcio; extra == 'llm'")),
    "fairlead": Installed(version="0.1.0"),
}


def _disagreement(*pins: str) -> str | None:
    text = "".join(f"{pin} --hash=sha256:{'a' * 64}\n" for pin in pins)
    return disagreement(read_lock(text.encode()).pins, NODE.get)


@pytest.mark.parametrize(
    "pins",
    [
        ("einops==0.8.1",),
        ("torch==2.13.0", "ray==2.60.0"),  # a resolver put them in: they are there already
        ("numpy==2.3.0", "click==8.1"),
        ("torch==1.0 ; python_version < '3'",),  # not meant for this interpreter
        ("grpcio==0.1", "sympy==1.0"),  # of extras that the cluster does not use
    ],
)
def test_what_the_cluster_has_or_does_not_mind_is_accepted(pins: tuple[str, ...]) -> None:
    assert _disagreement(*pins) is None


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        (("torch==2.9.0",), "the lock pins torch==2.9.0 (line 1), and the cluster runs torch 2.13.0+cpu"),
        (("a==1", "Ray==2.50.0"), "the lock pins ray==2.50.0 (line 2), and the cluster runs ray 2.60.0"),
        (("numpy==1.26.4",), "the lock pins numpy==1.26.4 (line 1), and the cluster's torch needs numpy>=2"),
        (("pyarrow==8.0",), "the lock pins pyarrow==8.0 (line 1), and the cluster's ray needs pyarrow>=9"),
    ],
)
def test_what_would_replace_or_break_a_part_of_the_cluster_is_refused(pins: tuple[str, ...], words: str) -> None:
    told = _disagreement(*pins)
    assert told is not None
    assert told.startswith(words)


def test_this_very_installation_agrees_with_itself() -> None:
    pins = [f"{name}=={found.version.split('+')[0]}" for name in NODE if (found := find_installed(name))]
    assert pins
    text = "".join(f"{pin} --hash=sha256:{'a' * 64}\n" for pin in pins)
    assert disagreement(read_lock(text.encode()).pins) is None
