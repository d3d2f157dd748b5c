import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """The files of a wheel built from this tree by hatchling itself, so that no index is asked for anything."""
    directory = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


def test_the_wheel_has_three_packages_and_its_own_description(members: frozenset[str]) -> None:
    top = {PurePosixPath(name).parts[0] for name in members}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "fairlead",
        "fairlead_api",
        "fairlead_workloads",
    }
    assert len(top) == 4


@pytest.mark.parametrize(
    "name",
    [
        "fairlead/py.typed",
        "fairlead/store/migrations/env.py",
        "fairlead/store/migrations/versions/0001_create_tables.py",
        "fairlead/store/migrations/versions/0002_release_and_retention.py",
        "fairlead/store/migrations/versions/0003_fold_series_later.py",
        "fairlead/store/migrations/versions/0005_projects_and_scheduling.py",
        "fairlead/store/migrations/versions/0006_members_and_audit.py",
        "fairlead/testing/__init__.py",
        "fairlead_workloads/tabular_mlp.toml",
        "fairlead_workloads/image_cnn.toml",
    ],
)
def test_the_wheel_ships_what_is_read_at_run_time(members: frozenset[str], name: str) -> None:
    assert name in members


def test_the_wheel_ships_every_manifest_spec_and_data_file_of_the_sources(members: frozenset[str]) -> None:
    roots = (ROOT / "platform", ROOT / "api", ROOT / "workloads")
    packaged = [path.relative_to(root) for root in roots for path in root.glob("fairlead*/**/*") if path.is_file()]
    missing = {str(path) for path in packaged if "__pycache__" not in path.parts} - members
    assert not missing
    specs = {f"fairlead_workloads/specs/{path.name}" for path in (ROOT / "workloads" / "specs").glob("*.yaml")}
    assert specs
    assert specs <= members


def test_the_wheel_ships_no_test_and_no_rubbish(members: frozenset[str]) -> None:
    assert not [name for name in members if "__pycache__" in name or name.startswith("tests/") or name.endswith(".db")]


def test_the_wheel_offers_a_command_and_its_workloads(members: frozenset[str]) -> None:
    assert [name for name in members if name.endswith(".dist-info/entry_points.txt")]
    assert [name for name in members if name.endswith(".dist-info/licenses/LICENSE")]
