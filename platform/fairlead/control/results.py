"""Files that a result speaks of, each held against its size and digest before anything is made of it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fairlead.protocol import FileEntry
from fairlead.store.tables import AttemptRow


class EvaluationBroken(Exception):
    """What a result left cannot be used; a human must look."""


def content_of(storage: Path, attempt: AttemptRow, file: FileEntry) -> bytes:
    """The bytes of ``file``. Raises ``EvaluationBroken`` where it is another than the result speaks of, ``OSError``."""
    path = _located(storage, attempt, file)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise EvaluationBroken(f"{path.name} is not the file the result speaks of")
    return content


@contextmanager
def opened(storage: Path, attempt: AttemptRow, file: FileEntry) -> Iterator[BinaryIO]:
    """``file`` open at its beginning, however large it is. Raises as ``content_of`` does."""
    path = _located(storage, attempt, file)
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
            raise EvaluationBroken(f"{path.name} is not the file the result speaks of")
        stream.seek(0)
        yield stream


def _located(storage: Path, attempt: AttemptRow, file: FileEntry) -> Path:
    root = (storage / attempt.storage_path).resolve()
    path = (root / file.path).resolve()
    if not path.is_relative_to(root):
        raise EvaluationBroken("the result names a file outside its attempt")
    if path.stat().st_size != file.size:
        raise EvaluationBroken(f"{path.name} is not the file the result speaks of")
    return path
