"""A manifest in a code bundle: specs are checked by it, and trained with its defaults."""

from pathlib import Path
from typing import Any

import pytest

from fairlead import bundle

MANIFEST = """
name = "mine"
title = "Mine"
module = "pkg.mine:train"
steps = "epochs"
data = "own"
[parameters.epochs]
type = "int"
default = 7
minimum = 1
[parameters.lr]
type = "float"
default = 0.5
"""


def uploaded(bench: Any, directory: Path, manifest: str) -> dict[str, Any]:
    """A spec for a bundle with this file beside its module."""
    (directory / "pkg").mkdir()
    (directory / "pkg" / "mine.py").write_text("def train(params, context):\n    pass\n")
    (directory / "pkg" / "mine.toml").write_text(manifest)
    packed = bundle.pack(directory)
    bench.user.post("/v1/code-bundles", content=packed.content, headers={"Content-Type": "application/zip"})
    return {"name": "a", "workload": "pkg.mine:train", "code": f"sha256:{packed.sha256}"}


def submitted(bench: Any, spec: dict[str, Any]) -> Any:
    return bench.user.post("/v1/experiments", json=spec, headers={"Idempotency-Key": "k"})


@pytest.mark.parametrize(
    ("params", "pointer", "message"),
    [
        ({"epoch": 3}, "/params/epoch", "unknown parameter"),
        ({"epochs": 0}, "/params/epochs", "must be at least 1"),
        ({"lr": "fast"}, "/params/lr", "must be a number"),
    ],
)
def test_parameters_are_checked_by_the_manifest_of_the_bundle(
    small_bench: Any, tmp_path: Path, params: dict[str, Any], pointer: str, message: str
) -> None:
    spec = {**uploaded(small_bench, tmp_path, MANIFEST), "params": params}
    (planned,) = small_bench.user.post("/v1/plan", json=spec).json()["problems"]
    refused = submitted(small_bench, spec)
    assert refused.status_code == 422
    for problem in (planned, *refused.json()["errors"]):
        assert (problem["pointer"], message in problem["message"]) == (pointer, True)


def test_its_defaults_are_what_is_trained_with(bench: Any, tmp_path: Path) -> None:
    spec = {**uploaded(bench, tmp_path, MANIFEST), "params": {"lr": 0.25}}
    submitted = bench.submit(spec)
    assert submitted["total_steps"] == 7
    epoch = bench.attach()
    assert bench.lease(bench.place(submitted["id"]), epoch)["params"] == {"epochs": 7, "lr": 0.25}


@pytest.mark.parametrize("manifest", ["a = 1", "module = 'other:train'", "no toml"])
def test_another_file_of_that_name_is_none(small_bench: Any, tmp_path: Path, manifest: str) -> None:
    spec = {**uploaded(small_bench, tmp_path, manifest), "params": {"whatever": 1}}
    planned = small_bench.user.post("/v1/plan", json=spec).json()
    assert planned["is_valid"]
    assert "this workload has no manifest: its parameters are passed on unchecked" in planned["warnings"]


def test_a_manifest_that_cannot_be_used_refuses_the_spec(small_bench: Any, tmp_path: Path) -> None:
    spec = uploaded(small_bench, tmp_path, MANIFEST.replace('type = "int"', 'type = "number"'))
    assert not small_bench.user.post("/v1/plan", json=spec).json()["is_valid"]
    refused = submitted(small_bench, spec)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/code")
    assert "pkg/mine.toml" in refused.json()["errors"][0]["message"]


def test_nobody_learns_from_a_bundle_of_another_project(small_bench: Any, tmp_path: Path) -> None:
    spec = {**uploaded(small_bench, tmp_path, MANIFEST), "project": "elsewhere", "params": {"epoch": 3}}
    problems = small_bench.user.post("/v1/plan", json=spec).json()["problems"]
    assert [problem["pointer"] for problem in problems] in (["/code"], ["/project"])
