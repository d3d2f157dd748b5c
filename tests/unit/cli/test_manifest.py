"""``fairlead manifest``: what it writes is what the documentation shows, but for the ranges that a person adds."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fairlead.cli import app
from fairlead.data.manifests import own_manifest
from fairlead.testing.pages import Page, read_page

PAGE = Path(__file__).parents[3] / "docs" / "your-own-workload.md"


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """Its files lie in the test's directory, but for the manifest."""
    page = read_page(PAGE)
    page.write("own", tmp_path)
    (tmp_path / "digits.toml").unlink()
    return page


def test_it_writes_what_the_documentation_shows(page: Page, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["manifest", str(tmp_path / "digits.yaml")])
    assert result.exit_code == 0, result.output
    written = own_manifest((tmp_path / "digits.toml").read_bytes(), "digits.toml", "digits:train")
    shown = own_manifest(page.files["own/digits.toml"].encode(), "digits.toml", "digits:train")
    assert written is not None
    assert shown is not None
    epochs = {"epochs": {**written.parameters["epochs"].model_dump(), "minimum": 1, "maximum": 1000}}
    assert written.amended(parameters=epochs) == shown


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{name: a, workload: tabular_mlp, data: {uri: u}}", "built in and has a manifest"),
        ("{name: a, workload: 'digits:train'}", "names no directory of code"),
        ("{name: a, workload: 'nowhere:train', code: .}", "there is no"),
        ("{name: a, workload: 'digits:trian', code: .}", "no function trian, only train"),
        ("{name: a, workload: 'digits:train', code: .}", "what epochs is by default"),
        ("{name: a, workload: 'digits:train', code: ., params: {epochs: 1, lr: 2}}", "'lr', and digits reads epochs"),
    ],
)
def test_what_it_cannot_tell_it_says(page: Page, tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "spec.yaml").write_text(spec)
    result = CliRunner().invoke(app, ["manifest", str(tmp_path / "spec.yaml")])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "digits.toml").exists()


def test_it_replaces_nothing_unless_told(page: Page, tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text("mine = 1")
    refused = CliRunner().invoke(app, ["manifest", str(tmp_path / "digits.yaml")])
    assert (refused.exit_code, "--force" in refused.stderr) == (2, True)
    assert CliRunner().invoke(app, ["manifest", str(tmp_path / "digits.yaml"), "--force"]).exit_code == 0
    assert "epochs" in (tmp_path / "digits.toml").read_text()
