"""What holds between the folders, kept by machine: doors, source roots, exported names, documents, light imports."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import fairlead
from fairlead import settings
from fairlead.lifecycle import Desired, Observation, Outcome, State
from fairlead.settings import BaseSettings

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = ("platform", "api", "workloads")

DOORS = {
    "alembic": ("platform/fairlead/store/",),
    "captum": ("platform/fairlead/attributions.py",),
    "codecarbon": ("platform/fairlead/run/energy_meter.py",),
    "datasets": ("platform/fairlead/data/saved_datasets.py",),
    "fastapi": ("api/fairlead_api/",),
    "gymnasium": ("platform/fairlead/data/",),
    "httpcore": ("platform/fairlead/webhooks/",),
    "lightning": ("platform/fairlead/integrations/lightning.py",),
    "jinja2": ("platform/fairlead/evaluation/",),
    "mlflow": ("platform/fairlead/tracking/",),
    "PIL": ("platform/fairlead/data/", "workloads/"),
    "opacus": ("platform/fairlead/privacy.py",),
    "optuna": ("platform/fairlead/search/importance.py", "platform/fairlead/search/proposals.py"),
    "psycopg": ("platform/fairlead/store/",),
    "pyarrow": ("platform/fairlead/data/",),
    "pycocotools": ("platform/fairlead/data/scenes.py", "workloads/"),
    "ray": ("platform/fairlead/run/", "platform/fairlead/agent/", "platform/fairlead/embedded/ray_hook.py"),
    "rich": ("platform/fairlead/cli/", "platform/fairlead/data/alone.py"),
    "safetensors": ("platform/fairlead/data/", "workloads/"),
    "scipy": ("platform/fairlead/evaluation/",),
    "sklearn": ("platform/fairlead/data/", "workloads/"),
    "snntorch": ("workloads/",),
    "soundfile": ("platform/fairlead/data/", "workloads/"),
    "tokenizers": ("workloads/",),
    "sqlalchemy": ("platform/fairlead/store/",),
    "standardwebhooks": ("platform/fairlead/webhooks/",),
    "starlette": ("api/fairlead_api/",),
    "torch": (
        "platform/fairlead/run/",
        "platform/fairlead/attributions.py",
        "platform/fairlead/data/torch.py",
        "platform/fairlead/integrations/",
        "platform/fairlead/mitigation.py",
        "platform/fairlead/privacy.py",
        "platform/fairlead/probes.py",
        "platform/fairlead/training/",
        "workloads/",
    ),
    "transformers": ("platform/fairlead/integrations/huggingface.py",),
    "typer": ("platform/fairlead/cli/",),
    "uvicorn": ("api/fairlead_api/__main__.py", "platform/fairlead/tracking/__main__.py"),
    "yaml": ("platform/fairlead/spec/", "platform/fairlead/tracking/", "platform/fairlead/data/alone.py"),
}
"""Who may import what is large, or must be replaceable. ``fairlead.testing`` stands beside the layers: it may."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "pydantic_settings": "pydantic-settings",
    "prometheus_client": "prometheus-client",
    "pytest": "pytest",
}


@cache
def imports() -> tuple[tuple[str, str], ...]:
    """(file, imported module) of every import statement of the sources, those inside functions included."""
    return tuple(
        (str(path.relative_to(ROOT)), module)
        for root in SOURCE_ROOTS
        for path in sorted((ROOT / root).rglob("*.py"))
        for module in modules_of(ast.parse(path.read_text()))
    )


def modules_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


# ---- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", DOORS)
def test_a_large_dependency_has_one_door(package: str) -> None:
    allowed = (*DOORS[package], "platform/fairlead/testing/")
    strangers = {file for file, module in imports() if module.split(".")[0] == package and not file.startswith(allowed)}
    assert not strangers, f"{package} is imported past its door {DOORS[package]}; ask the folder that owns it"


def test_whatever_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for line in lines}
    ours = {"fairlead", "fairlead_api", "fairlead_workloads"}
    used = {module.split(".")[0] for _, module in imports()} - set(sys.stdlib_module_names) - ours
    undeclared = {name for name in used if DISTRIBUTIONS.get(name, name).lower() not in declared}
    assert not undeclared, "imported, but only there because something else needs it: add it to pyproject.toml"


def test_no_package_shadows_pythons_own_platform() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not (ROOT / "tests" / "platform").exists()


@pytest.mark.parametrize(
    ("root", "packages"),
    [("platform", {"fairlead"}), ("api", {"fairlead_api"}), ("workloads", {"fairlead_workloads"})],
)
def test_a_source_root_holds_one_package_and_is_none_itself(root: str, packages: set[str]) -> None:
    assert {path.parent.name for path in (ROOT / root).glob("*/__init__.py")} == packages
    assert not (ROOT / root / "__init__.py").exists()
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert root in config["tool"]["hatch"]["build"]["dev-mode-dirs"]
    wheel = config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {f"{root}/{package}" for package in packages} <= set(wheel)


def test_no_test_mocks_and_none_sleeps_on_a_guess() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        assert "unittest" not in {name.split(".")[0] for name in modules_of(ast.parse(path.read_text()))}, path


def test_nothing_goes_through_a_shell() -> None:
    shells = re.compile(
        r"shell=True|os\.(system|popen)\(|subprocess\.(getoutput|getstatusoutput)|create_subprocess_shell"
    )
    assert not [path for path, text in sources() if shells.search(text)], "names would become commands"


UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def test_the_control_plane_unpickles_nothing() -> None:
    own = ("run/", "agent/", "integrations/", "training/")
    own = (*(f"platform/fairlead/{folder}" for folder in own), "workloads/")
    strangers = {file for file, module in imports() if module.split(".")[0] in UNPICKLERS and not file.startswith(own)}
    assert not strangers
    loose = re.compile(r"allow_pickle=True|weights_only=False|torch\.load\(")
    assert not [path for path, text in sources() if loose.search(text) and not path.startswith(own)]


def test_clients_leave_out_what_a_newer_server_says_more() -> None:
    strict = [path for path, text in sources() if "/client/" in path and "model_validate_json" in text]
    assert not strict, "read answers by protocol.from_answer: a newer server may say more than this client knows"


def sources() -> list[tuple[str, str]]:
    """Every source file and its text."""
    return [
        (str(path.relative_to(ROOT)), path.read_text())
        for root in SOURCE_ROOTS
        for path in sorted((ROOT / root).rglob("*.py"))
    ]


def test_the_packages_export_what_they_promise() -> None:
    assert set(fairlead.__all__) == {"Client", "Experiment", "__version__"}
    assert all(getattr(fairlead, name) for name in fairlead.__all__)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        fairlead.nothing_of_that_name  # noqa: B018 - the point
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert fairlead.__version__ == version


def test_the_layers_hold() -> None:
    checked = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout[-4000:]


# ---- light imports ------------------------------------------------------------------------------------------------

HEAVY = ("ray", "torch", "mlflow", "pandas", "numpy", "scipy", "sqlalchemy", "fastapi", "sklearn", "pyarrow")
LIGHT = {
    "the package": ("import fairlead", HEAVY),
    "the spec": ("import fairlead.spec", (*HEAVY, "httpx", "rich")),
    "the SDK": ("from fairlead import Client", HEAVY),
    "fairlead --help": ("from fairlead.cli import main; import sys; sys.argv = ['fairlead', '--help']; main()", HEAVY),
    "the control loops": ("import fairlead.control", ("ray", "torch")),
    "the agent's documents": ("import fairlead.protocol", HEAVY),
}


@pytest.mark.parametrize("subject", LIGHT)
def test_what_starts_often_loads_nothing_heavy(subject: str) -> None:
    code, heavy = LIGHT[subject]
    there = [name for name in heavy if find_spec(name)]
    script = f"""
import sys
try:
    exec({code!r})
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", sorted(set(sys.modules) & set({there!r})))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.splitlines()[-1] == "LOADED []"


# ---- documents ----------------------------------------------------------------------------------------------------

DOCUMENTS = [path for path in [*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md")] if ".venv" not in path.parts]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name} links to {target}, which is not there"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{path.name} links to {target}, but {there.name} has no such heading"


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.replace(" ", "-") for text in plain}


@cache
def documents() -> str:
    return "\n".join((ROOT / name).read_text() for name in ("ARCHITECTURE.md", "README.md"))


@pytest.mark.parametrize("word", [*State, *Desired, *Observation, *Outcome])
def test_every_state_and_outcome_is_explained(word: str) -> None:
    assert re.search(rf"\b{word}\b", documents()), f"neither ARCHITECTURE.md nor README.md mentions {word}"


def setting_names() -> list[str]:
    classes = [kind for kind in vars(settings).values() if isinstance(kind, type) and issubclass(kind, BaseSettings)]
    return sorted({f"FAIRLEAD_{field.upper()}" for kind in classes for field in kind.model_fields})


@pytest.mark.parametrize("name", setting_names())
def test_every_setting_is_explained(name: str) -> None:
    assert re.search(rf"\b{name}\b", documents()), f"neither ARCHITECTURE.md nor README.md mentions {name}"


def test_no_document_and_no_source_tells_of_one_machine() -> None:
    telling = re.compile(r"/(?:home|Users|root)/[a-z]|/work/")
    sources = [path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py")]
    assert not [path.name for path in [*DOCUMENTS, *sources] if telling.search(path.read_text())]
