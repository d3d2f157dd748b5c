"""Which workloads are installed, by their manifests alone: neither their code nor torch is imported.

A distribution offers workloads by an entry point in the group ``fairlead.workloads`` that names a top-level package;
every ``*.toml`` in that package's folder is a manifest. Ready specs lie in ``specs`` inside that folder (or, in a
source tree, beside it).
"""

import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from fairlead.errors import BadInput, BadSpec, NotFound, Problem
from fairlead.spec import EVALUATION, Manifest, from_mapping

GROUP = "fairlead.workloads"


def find_manifests() -> Mapping[str, Manifest]:
    """Every installed workload by name, sorted. Raises ``BadInput`` for a broken manifest or a name used twice."""
    found: dict[str, Manifest] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.toml")):
            manifest = read_manifest(path)
            if manifest.name == EVALUATION:
                raise BadInput(f"{path}: {EVALUATION!r} is what evaluations of predictions are called; choose another")
            if manifest.name in found:
                raise BadInput(f"{path}: another installed workload is already called {manifest.name!r}")
            found[manifest.name] = manifest
    return dict(sorted(found.items()))


def find_manifest(name: str) -> Manifest:
    """One installed workload. Raises ``NotFound`` with the known names."""
    manifests = find_manifests()
    if name not in manifests:
        raise NotFound(f"no workload is called {name!r}; installed: {', '.join(manifests) or 'none'}")
    return manifests[name]


def manifest_beside(page: Path, workload: str) -> Manifest | None:
    """The manifest of a workload of the user's own: ``<module>.toml`` beside ``<module>.py``; see ``own_manifest``."""
    path = page.with_suffix(".toml")
    return own_manifest(path.read_bytes(), path.name, workload) if path.is_file() else None


def own_manifest(content: bytes, name: str, workload: str) -> Manifest | None:
    """The manifest of ``package.module:function`` in a file that lies beside the module and is called like it.

    None where the file is something else: a manifest says in ``module`` whose it is. Raises ``BadSpec`` naming the
    file for a manifest that cannot be used.
    """
    try:
        found = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return None
    if found.get("module") != workload:
        return None
    try:
        return from_mapping(Manifest, found)
    except BadSpec as error:
        message = f"the manifest {name} in it cannot be used: {error}"
        raise BadSpec(message, problems=(Problem(pointer="/code", message=message),)) from error


def place_of_manifest(workload: str) -> str:
    """Where in a bundle the manifest of ``package.module:function`` lies."""
    return f"{workload.partition(':')[0].replace('.', '/')}.toml"


def read_manifest(path: Path) -> Manifest:
    """Read one file. Raises ``BadInput`` naming it."""
    try:
        return from_mapping(Manifest, tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: this is not TOML: {error}") from error
    except BadSpec as error:
        raise BadInput(f"{path}: {error}", problems=error.problems) from error


def find_specs() -> Mapping[str, Path]:
    """Ready specs by file name without ending, sorted."""
    folders = [folder / "specs" if (folder / "specs").is_dir() else folder.parent / "specs" for folder in _folders()]
    paths = [path for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def _folders() -> Iterator[Path]:
    """Folders of the packages offered, each once, without importing them."""
    names = sorted({entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group=GROUP)})
    for name in names:
        located = find_spec(name)
        if located is not None:
            yield from map(Path, located.submodule_search_locations or ())
