"""A first manifest says what the source says, and comes back from its file as it was."""

from typing import Any

import pytest

from fairlead.data.drafts import as_toml, draft_manifest
from fairlead.data.manifests import own_manifest, place_of_manifest
from fairlead.errors import BadInput, BadSpec
from fairlead.spec import ExperimentSpec, Manifest, from_mapping

SETTINGS = '''"""Learns something.

More about it."""
from dataclasses import dataclass
from typing import Literal

@dataclass
class Settings:
    epochs: int = 3
    """How often it sees
    every row."""
    lr: float = 1e-3
    hidden: tuple[int, ...] = (8, 8)
    kind: Literal["a", "b"] = "b"
    quiet: bool = False
    width: int

def train(params, context):
    settings = Settings(**params)
    context.report({"train/loss": 1.0}, step=1)
    report(context, {"validation/loss": 2, other: 3}, step=1)
'''
READS = """
def train(given, context):
    for epoch in range(given["epochs"]):
        rate = given.get("lr", 0.5) * given.get("factor")
        other["no"]
"""


def a_spec(**params: Any) -> ExperimentSpec:
    return from_mapping(ExperimentSpec, {"name": "a", "workload": "pkg.mine:train", "code": ".", "params": params})


def defaults(manifest: Manifest) -> dict[str, tuple[str, Any]]:
    return {name: (one.type, one.default) for name, one in manifest.parameters.items()}


def test_settings_become_parameters() -> None:
    manifest = draft_manifest(SETTINGS, a_spec(width=7))
    assert defaults(manifest) == {
        "epochs": ("int", 3),
        "lr": ("float", 1e-3),
        "hidden": ("ints", (8, 8)),
        "kind": ("str", "b"),
        "quiet": ("bool", False),
        "width": ("int", 7),
    }
    assert manifest.parameters["epochs"].help == "How often it sees every row."
    assert manifest.parameters["kind"].choices == ("a", "b")
    assert (manifest.title, manifest.steps, manifest.data) == ("Learns something", "epochs", "own")
    assert (manifest.name, manifest.metrics) == ("mine", ("train/loss", "validation/loss"))


def test_without_settings_what_the_function_reads_becomes_parameters() -> None:
    found = defaults(draft_manifest(READS, a_spec(epochs=4, factor=True)))
    assert found == {"epochs": ("int", 4), "lr": ("float", 0.5), "factor": ("bool", True)}


@pytest.mark.parametrize(("source", "params"), [(SETTINGS, {"width": 1}), (READS, {"epochs": 1, "factor": 2.0})])
def test_a_manifest_comes_back_from_its_file(source: str, params: dict[str, Any]) -> None:
    manifest = draft_manifest(source, a_spec(**params))
    again = own_manifest(as_toml(manifest).encode(), "mine.toml", "pkg.mine:train")
    assert again is not None
    assert again.problems_with({name: one.default for name, one in manifest.parameters.items()}) == ()
    assert again.model_dump_json() == manifest.model_dump_json()


@pytest.mark.parametrize(
    ("source", "params", "message"),
    [
        ("def other(p, c): ...", {}, "has no function train, only other"),
        ("def train(:", {}, "line 1"),
        ("def train(): ...", {}, r"train\(params, context\)"),
        (READS, {"factor": 1}, "what epochs is by default"),
        (READS, {"epochs": 1, "factor": 1, "depth": 2}, "the spec has a parameter 'depth'"),
        (READS, {"epochs": 1, "factor": {"a": 1}}, "factor is {'a': 1}"),
        ("class Settings:\n    x: Path = 1\ndef train(p, c): ...", {}, "Settings.x is Path"),
        ("class Settings:\n    x: int = cores()\ndef train(p, c): ...", {}, r"the default of x is cores\(\)"),
        ("class Settings:\n    x: int = 'many'\ndef train(p, c): ...", {}, "default of x must be a whole number"),
    ],
)
def test_what_the_source_does_not_say_is_asked_for(source: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draft_manifest(source, a_spec(**params))


@pytest.mark.parametrize("content", [b"module = 'other:train'", b"a = 1", b"\xff", b"this is no toml"])
def test_a_file_that_is_called_like_the_module_need_be_no_manifest(content: bytes) -> None:
    assert own_manifest(content, "mine.toml", "mine:train") is None


def test_a_manifest_that_cannot_be_used_is_said_so() -> None:
    with pytest.raises(BadSpec, match=r"mine\.toml in it cannot be used: /name"):
        own_manifest(b"module = 'mine:train'\ntitle = 't'", "mine.toml", "mine:train")


def test_a_manifest_lies_beside_its_module() -> None:
    assert place_of_manifest("pkg.mine:train") == "pkg/mine.toml"
