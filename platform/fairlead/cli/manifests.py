"""The command that writes a first manifest for a workload of the user's own."""

from pathlib import Path

from rich.markup import escape

from fairlead.cli.output import out
from fairlead.client.session import read_spec
from fairlead.data.drafts import as_toml, draft_manifest
from fairlead.data.manifests import place_of_manifest
from fairlead.errors import BadInput


def write_manifest(spec: Path, *, code: Path | None, is_forced: bool) -> Path:
    """Write it beside the module that ``spec`` names; returns where. Raises ``BadInput``, ``BadSpec``."""
    document, base = read_spec(spec)
    if not document.is_user_code:
        raise BadInput(f"{document.workload} is built in and has a manifest; see 'fairlead workloads show'")
    if code is None and (document.code is None or document.code.startswith("sha256:")):
        raise BadInput("the spec names no directory of code (`code: .`); say where it is with --code")
    directory = code if code is not None else base / str(document.code)
    path = directory / place_of_manifest(document.workload)
    page = path.with_suffix(".py")
    if not page.is_file():
        raise BadInput(f"there is no {page}: the spec's workload is {document.workload}")
    if path.exists() and not is_forced:
        raise BadInput(f"{path} is there already; --force replaces it")
    manifest = draft_manifest(page.read_text(encoding="utf-8"), document)
    path.write_text(as_toml(manifest), encoding="utf-8")
    names = ", ".join(manifest.parameters) or "none"
    out().print(f"wrote {escape(str(path))}: parameters {escape(names)}", soft_wrap=True)
    out().print("[dim]Add minimum and maximum where a value can be wrong; 'fairlead plan' checks specs by it.[/]")
    return path
