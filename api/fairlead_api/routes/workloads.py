"""Training programs and uploaded code."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import FileResponse, Response

from fairlead import bundle
from fairlead.data.manifests import own_manifest, place_of_manifest
from fairlead.errors import BadBundle, BadSpec, NotFound, Problem, Unavailable
from fairlead.representation import BundleView, Page, WorkloadView
from fairlead.rights import Role
from fairlead.spec import Manifest
from fairlead.store import bundles
from fairlead_api.access import REFUSAL, Caller, require
from fairlead_api.audits import note_made
from fairlead_api.bodies import chunks
from fairlead_api.openapi import problems
from fairlead_api.parts import Api, ApiParts
from fairlead_api.problems import UnsupportedMediaType
from fairlead_api.views import answer

router = APIRouter(prefix="/v1", tags=["workloads"])
UPLOAD_TIMEOUT_S = 300.0
ZIP_TYPES = frozenset({"application/zip", "application/octet-stream", "application/x-zip-compressed"})
BUNDLES = "bundles"
MAX_MANIFEST_BYTES = 256 * 1024
"""As of a spec. What is larger is something else."""
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Project = Annotated[str, Query(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Whose code it is.")]
DEFAULT_PROJECT = "default"


def _view(manifest: Manifest) -> WorkloadView:
    return WorkloadView(name=manifest.name, title=manifest.title, manifest=manifest)


@router.get(
    "/workloads",
    operation_id="listWorkloads",
    summary="Installed training programs",
    response_model=Page[WorkloadView],
)
def list_workloads(api: ApiParts) -> Response:
    """With their parameters, defaults and ranges."""
    return answer(Page[WorkloadView](items=tuple(_view(manifest) for manifest in api.manifests.values())))


@router.get(
    "/workloads/{name}",
    operation_id="getWorkload",
    summary="One training program",
    response_model=WorkloadView,
    responses=problems(404),
)
def get_workload(api: ApiParts, name: str) -> Response:
    """Its manifest."""
    if name not in api.manifests:
        raise NotFound(f"no workload is called {name!r}; installed: {', '.join(api.manifests) or 'none'}")
    return answer(_view(api.manifests[name]))


# ---- code bundles ---------------------------------------------------------------------------------------------------


@router.post(
    "/code-bundles",
    operation_id="uploadCodeBundle",
    summary="Upload a zip of code; it is named by its SHA-256",
    status_code=201,
    response_model=BundleView,
    responses={200: {"model": BundleView, "description": "It was known"}, **problems(408, 413, 415, 422)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    request: Request,
    api: ApiParts,
    caller: Caller,
    project: Project = DEFAULT_PROJECT,
    x_content_sha256: Annotated[str | None, Header(pattern=r"^[0-9a-fA-F]{64}$")] = None,
) -> Response:
    """For one project, at most 50 MiB. One bad member refuses the whole bundle. A repeated upload changes nothing."""
    require(caller, Role.EDITOR, project)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ZIP_TYPES:
        raise UnsupportedMediaType(f"send application/zip, not {media_type or 'a body without Content-Type'}")
    body = chunks(request, max_bytes=bundle.MAX_ARCHIVE_BYTES, timeout_s=UPLOAD_TIMEOUT_S)
    try:
        sha256, size, is_new = await _take(api, body, x_content_sha256, project, caller.name)
    except OSError as error:  # full, say, or gone for now
        raise Unavailable(f"the storage takes no bundle: {error.strerror or error}") from error
    view = BundleView(sha256=sha256, size=size, is_new=is_new)
    headers = {"Location": f"/v1/code-bundles/{sha256}"}
    return answer(view, status=201 if is_new else 200, headers=headers)


async def _take(
    api: Api, body: AsyncIterator[bytes], announced: str | None, project: str, actor: str
) -> tuple[str, int, bool]:
    """Keep what arrives; its digest, its size, and whether it is new. Raises ``OSError``."""
    directory = api.storage / BUNDLES
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    scratch, sha256, size = await _save(body, directory)
    try:
        _compare(sha256, announced)
        return sha256, size, await asyncio.to_thread(_keep, api, scratch, sha256, size, project, actor)
    finally:
        scratch.unlink(missing_ok=True)


async def _save(body: AsyncIterator[bytes], directory: FilePath) -> tuple[FilePath, str, int]:
    """Write the body beside where it will stay; returns its path, digest and size."""
    descriptor, name = tempfile.mkstemp(prefix=".upload-", dir=directory)
    path, digest, size = FilePath(name), hashlib.sha256(), 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            async for chunk in body:
                digest.update(chunk)
                size += len(chunk)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_flush, file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path, digest.hexdigest(), size


def _flush(file: BinaryIO) -> None:
    file.flush()  # what Python still holds is not on its way to the disk yet
    os.fsync(file.fileno())


def _compare(sha256: str, announced: str | None) -> None:
    if announced is not None and announced.lower() != sha256:
        message = "the bytes that arrived are not those that X-Content-SHA256 announced; upload it again"
        raise BadBundle(message, problems=(Problem(pointer="/header/X-Content-SHA256", message=message),))


def _keep(api: Api, scratch: FilePath, sha256: str, size: int, project: str, actor: str) -> bool:
    """Check it whole, give it its name, note it: in this order, so that a noted bundle is always there."""
    bundle.check(scratch)
    scratch.chmod(0o644)
    scratch.replace(bundle_path(api, sha256))
    with api.store.write() as session:
        is_new = bundles.ensure(session, sha256=sha256, size=size, project=project, actor=actor, now=api.now())
        if is_new:
            note_made(session, "bundle", sha256, project, project=project)
    return is_new


def bundle_path(api: Api, sha256: str) -> FilePath:
    """Where a bundle's bytes lie."""
    return api.storage / BUNDLES / f"{sha256}.zip"


def lock_in(api: Api, sha256: str) -> bytes | None:
    """The only file of a bundle that is noted; None where its bytes are gone. Raises ``BadSpec`` for several files."""
    try:
        return bundle.only_file(bundle_path(api, sha256))
    except FileNotFoundError:
        return None
    except BadBundle as error:
        hint = "a lock is uploaded as the only file of a bundle"
        problem = Problem(pointer="/environment/requirements", message=str(error), suggestion=hint)
        raise BadSpec(f"/environment/requirements: {error}; {hint}", problems=(problem,)) from error


def bundled_manifest(api: Api, sha256: str, workload: str) -> Manifest | None:
    """What a bundle says of one of its workloads. Raises ``BadSpec`` for a manifest that cannot be used,
    ``Unavailable`` while the storage cannot be read.
    """
    try:
        return _read_manifest(bundle_path(api, sha256), workload)
    except FileNotFoundError:  # whoever is to run it will say so
        return None
    except OSError as error:
        raise Unavailable(f"the code bundle cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=1000)
def _read_manifest(path: FilePath, workload: str) -> Manifest | None:
    """A bundle is named by its content, so it is read once."""
    name = place_of_manifest(workload)
    content = bundle.read_file(path, name, max_bytes=MAX_MANIFEST_BYTES)
    return None if content is None else own_manifest(content, name, workload)


def bundle_answer(api: Api, sha256: str) -> Response:
    """A bundle's bytes. Raises ``NotFound``."""
    with api.store.read() as session:
        is_known = bundles.find(session, sha256) is not None
    path = bundle_path(api, sha256)
    if not is_known or not path.is_file():
        raise NotFound(f"no bundle {sha256} was uploaded")
    return FileResponse(path, media_type="application/zip", headers={"ETag": f'"{sha256}"'})


@router.head("/code-bundles/{sha256}", operation_id="hasCodeBundle", summary="Whether a bundle is there")
@router.get(
    "/code-bundles/{sha256}",
    operation_id="getCodeBundle",
    summary="A bundle's bytes",
    response_class=FileResponse,
    responses=problems(404, 422),
)
def download(api: ApiParts, caller: Caller, sha256: Sha256, project: Project = DEFAULT_PROJECT) -> Response:
    """The very bytes that were uploaded for the project."""
    require(caller, Role.VIEWER, project)
    with api.store.read() as session:
        if not bundles.is_in(session, sha256, project):
            raise NotFound(REFUSAL)
    return bundle_answer(api, sha256)
