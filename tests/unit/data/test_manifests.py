import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fairlead.data import check, find_manifests, find_specs
from fairlead.data.manifests import GROUP, find_manifest, read_manifest
from fairlead.errors import BadInput, NotFound
from fairlead.spec import ExperimentSpec, from_yaml


def test_the_workloads_that_come_along_are_found() -> None:
    assert entry_points(group=GROUP), "install the project first: pip install -e ."
    assert {"tabular_mlp", "image_cnn"} <= set(find_manifests())


def test_finding_manifests_imports_neither_workloads_nor_torch_nor_pandas() -> None:
    program = (
        "import sys; from fairlead.data import find_manifests; assert find_manifests();"
        "heavy = {'torch', 'pandas', 'sklearn', 'pyarrow', 'ray', 'fairlead_workloads'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_unknown_workload_is_answered_with_those_that_exist() -> None:
    with pytest.raises(NotFound, match=r"installed: .*image_cnn, .*tabular_mlp"):
        find_manifest("tabular")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name = ", "not TOML"),
        ('name = "x"\ntitle = "X"', "module"),
        ('name = "x"\ntitle = "X"\nmodule = "a:b"\nunknwon = 1', "unknwon"),
        ('name = "x"\ntitle = "X"\nmodule = "a:b"\n[parameters.n]\ntype = "int"\ndefault = 1.5', "default of n"),
    ],
)
def test_a_broken_manifest_is_refused_with_its_file(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(content)
    with pytest.raises(BadInput, match=words) as caught:
        read_manifest(path)
    assert "broken.toml" in str(caught.value)


def test_every_ready_spec_is_valid_and_fits_its_workload() -> None:
    specs = find_specs()
    assert {"diabetes_risk", "diabetes_unfair", "digits"} <= set(specs)
    for path in specs.values():
        spec = from_yaml(ExperimentSpec, path.read_text())
        manifest = find_manifest(spec.workload)
        assert manifest.problems_with(spec.params) == ()
        assert check(spec.data, task=manifest.task, kind=manifest.data) == ()
