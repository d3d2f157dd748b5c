"""Files of an attempt, complete or absent: each appears by a rename after its bytes have reached the disk.

A checkpoint is complete when its directory has the final name and holds a manifest; it is usable when every size and
digest in the manifest holds. For plain file systems that all nodes see under one path.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fairlead.failpoints import failpoint
from fairlead.protocol import MANIFEST_FILE, CheckpointManifest, CheckpointRef, FileEntry

_CHUNK = 4 * 1024 * 1024
_PREFIX = "ckpt-"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompleteCheckpoint:
    """A checkpoint directory that has its final name and a readable manifest."""

    step: int
    directory: Path
    manifest_sha256: str
    score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A checkpoint that cannot be used, and why."""

    path: str
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Newest:
    """The newest checkpoint that verifies, if any, and those before it that did not."""

    checkpoint: CompleteCheckpoint | None
    rejected: tuple[Rejected, ...] = ()


def fsync_directory(directory: Path) -> None:
    """Make renames and new names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> str:
    """Write ``content`` under a temporary name, flush it to disk and rename it; returns its sha256 in hex."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        failpoint("storage.renaming")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return hashlib.sha256(content).hexdigest()


def create_exclusively(path: Path, content: bytes) -> bool:
    """Create ``path`` with ``content``; False if somebody else already has."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fsync_directory(path.parent)
    return True


def describe_file(path: Path, *, root: Path) -> FileEntry:
    """Size and digest of ``path``, named relative to ``root``."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(path=path.relative_to(root).as_posix(), size=size, sha256=digest.hexdigest())


def files_below(directory: Path) -> Iterator[Path]:
    """Every regular file below ``directory``, in order of name; links are not followed."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def checkpoint_directory(attempt: Path, step: int) -> Path:
    """The final place of a checkpoint."""
    return attempt / f"{_PREFIX}{step}"


def shared_checkpoint(attempt: Path, *, step: int, generation: int) -> Path:
    """Make, and find again, the place where all ranks of a group write their parts of a checkpoint.

    A name of its own for each group: a rank of one that was given up may still be writing.
    """
    place = attempt / f"{_PREFIX}{step}.tmp-shared-{generation}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def copy_checkpoint(source: Path, attempt: Path, *, step: int) -> Path:
    """Copy the files of ``source`` beside their final place; returns the temporary directory, to be sealed.

    A ``shared_checkpoint`` of that step is there already, and is taken as it is. Raises ``OSError`` and leaves nothing.
    """
    if source.parent == attempt and source.name.startswith(f"{_PREFIX}{step}.tmp-shared-"):
        return source
    temporary = attempt / f"{_PREFIX}{step}.tmp-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        for path in files_below(source):
            target = temporary / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return temporary


def seal_checkpoint(temporary: Path) -> tuple[FileEntry, ...]:
    """Flush a copy to disk and describe its files, for ``commit_checkpoint``. Raises ``OSError`` and leaves nothing."""
    try:
        return tuple(_seal(path, temporary) for path in files_below(temporary))
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _seal(path: Path, temporary: Path) -> FileEntry:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return describe_file(path, root=temporary)


def commit_checkpoint(
    temporary: Path, entries: Sequence[FileEntry], *, step: int, world_size: int, score: float | None = None
) -> CompleteCheckpoint:
    """Write the manifest and give the directory its final name. A complete one of that step is kept instead.

    Raises ``OSError``; the checkpoints before it stay as they were.
    """
    final = checkpoint_directory(temporary.parent, step)
    manifest = CheckpointManifest(step=step, world_size=world_size, files=tuple(entries), score=score)
    sha256 = write_atomically(temporary / MANIFEST_FILE, manifest.model_dump_json(indent=1).encode())
    failpoint("runner.manifest")
    if final.exists():
        if (kept := read_checkpoint(final)) is not None and problem_with(final) is None:
            shutil.rmtree(temporary, ignore_errors=True)
            return kept
        final.rename(final.with_name(f"{final.name}.rejected-{uuid.uuid4().hex}"))
    temporary.rename(final)
    fsync_directory(final.parent)
    failpoint("runner.checkpoint")
    return CompleteCheckpoint(step=step, directory=final, manifest_sha256=sha256, score=score)


def read_checkpoint(directory: Path) -> CompleteCheckpoint | None:
    """The checkpoint in ``directory`` if its manifest can be read; its files are not looked at."""
    try:
        content = (directory / MANIFEST_FILE).read_bytes()
        manifest = CheckpointManifest.model_validate_json(content)
    except (OSError, ValidationError):
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    return CompleteCheckpoint(step=manifest.step, directory=directory, manifest_sha256=sha256, score=manifest.score)


def complete_checkpoints(attempt: Path) -> tuple[CompleteCheckpoint, ...]:
    """The complete checkpoints of an attempt, newest first."""
    if not attempt.is_dir():
        return ()
    names = (path for path in attempt.iterdir() if path.name.removeprefix(_PREFIX).isdigit())
    found = [checkpoint for path in names if (checkpoint := read_checkpoint(path)) is not None]
    return tuple(sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True))


def borrow_checkpoint(directory: Path, place: Path) -> Path:
    """Have the files of a checkpoint at ``place`` as well, whatever becomes of it; links where the storage has them.

    Raises ``FileNotFoundError`` where it is deleted meanwhile, ``OSError``.
    """
    shutil.rmtree(place, ignore_errors=True)
    for path in files_below(directory):
        target = place / path.relative_to(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(path, target)
    if (problem := problem_with(place)) is not None:
        raise FileNotFoundError(f"{directory} went away meanwhile: {problem}")
    return place


def delete_checkpoint(directory: Path) -> None:
    """The manifest first: from then on it is no checkpoint for anyone, however far the rest gets."""
    if directory.is_dir():
        (directory / MANIFEST_FILE).unlink(missing_ok=True)
        fsync_directory(directory)
        shutil.rmtree(directory)


def unfinished_checkpoints(attempt: Path) -> tuple[Path, ...]:
    """Directories that never got their final name; worth nothing once the attempt's workers are gone."""
    return tuple(attempt.glob(f"{_PREFIX}*.tmp-*"))


def problem_with(directory: Path, *, manifest_sha256: str | None = None) -> str | None:
    """Why the checkpoint in ``directory`` cannot be trusted: its manifest, or the size or digest of a file."""
    try:
        content = (directory / MANIFEST_FILE).read_bytes()
        manifest = CheckpointManifest.model_validate_json(content)
        if manifest_sha256 not in (None, hashlib.sha256(content).hexdigest()):
            return "the manifest is not the one that was committed"
        for entry in manifest.files:
            if describe_file(directory / entry.path, root=directory) != entry:
                return f"{entry.path} differs from the manifest in size or digest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValidationError) as error:
        return f"it cannot be read: {error}"
    return None


def newest_verified(attempt: Path, resume: Sequence[CheckpointRef], *, storage: Path) -> Newest:
    """The newest usable checkpoint: of this attempt, else among ``resume`` (newest first)."""
    own = [(found.directory, found.manifest_sha256) for found in complete_checkpoints(attempt)]
    earlier = [(storage / reference.path, reference.manifest_sha256) for reference in resume]
    rejected: list[Rejected] = []
    for directory, sha256 in [*own, *earlier]:
        problem = problem_with(directory, manifest_sha256=sha256)
        checkpoint = read_checkpoint(directory)
        if problem is None and checkpoint is not None:
            return Newest(checkpoint=checkpoint, rejected=tuple(rejected))
        rejected.append(Rejected(path=relative_name(directory, storage), problem=problem or "unreadable"))
    return Newest(checkpoint=None, rejected=tuple(rejected))


def relative_name(path: Path, storage: Path) -> str:
    """``path`` as it is named below the shared storage."""
    with contextlib.suppress(ValueError):
        return path.relative_to(storage).as_posix()
    return path.name
