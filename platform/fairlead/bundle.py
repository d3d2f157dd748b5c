"""Code bundles: a directory of the user's code as one zip, named by its SHA-256.

``pack`` makes the same bytes from the same files. ``check`` and ``unpack`` trust nothing: one bad member refuses the
whole bundle, sizes are those of the bytes that really come out, and nothing is left behind by a refusal.
"""

import hashlib
import io
import os
import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pathspec

from fairlead.errors import BadBundle

MAX_ARCHIVE_BYTES = 50 * 2**20
MAX_ENTRIES = 10_000
MAX_UNPACKED_BYTES = 512 * 2**20
MAX_RATIO = 100
"""Unpacked bytes a byte of archive, counted over the whole bundle; below ``FREE_BYTES`` it does not matter."""
FREE_BYTES = 2**20
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1000

SKIPPED = frozenset({".git", "__pycache__", ".venv"})
"""Never packed, whatever .gitignore says. So are virtual environments of other names and ``*.pyc``."""

Archive = bytes | Path
_CHUNK = 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = b"PK\x06\x07"
_UNSOUND = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError, OSError)
"""All that ``zipfile`` raises for bytes it cannot make sense of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A packed directory."""

    content: bytes
    sha256: str
    """Of ``content``, in hex."""
    num_files: int


def pack(directory: Path) -> Bundle:
    """Pack the files below ``directory``, the same bytes for the same files whatever their times and owners.

    Left out: what ``.gitignore`` files in and below ``directory`` name, and ``SKIPPED``. Raises ``BadBundle``, with
    the path named, for a symbolic link or a device, for an empty directory, and beyond the limits of this module.
    """
    root = Path(directory).resolve()
    if not root.is_dir():
        raise BadBundle(f"{directory} is not a directory")
    files = sorted(_files_below(root, root, ()), key=lambda path: path.relative_to(root).as_posix())
    if not files:
        raise BadBundle(f"{directory} holds no file to upload (ignored files do not count)")
    if len(files) > MAX_ENTRIES:
        raise BadBundle(f"{directory} holds {len(files)} files; at most {MAX_ENTRIES} are accepted. {_ADVICE}")
    content = _archive(root, files)
    check(content)
    return Bundle(content=content, sha256=digest(content), num_files=len(files))


def pack_file(name: str, content: bytes) -> Bundle:
    """A bundle that holds one file. Raises ``BadBundle`` for a name that no bundle may hold."""
    with tempfile.TemporaryDirectory(prefix="fairlead-") as scratch:
        _check_name(name)
        Path(scratch, name).write_bytes(content)
        packed = _archive(Path(scratch), [Path(scratch, name)])
    return Bundle(content=packed, sha256=digest(packed), num_files=1)


def only_file(archive: Archive) -> bytes:
    """What the one file of a bundle holds. Raises ``BadBundle`` for a bundle of several."""
    chunks = list(_chunks(_content(archive)))
    names = {member.filename for member, _ in chunks}
    if len(names) != 1:
        raise BadBundle(f"the bundle holds {len(names)} files, and must hold one")
    return b"".join(chunk for _, chunk in chunks)


def digest(archive: Archive) -> str:
    """The bundle's name: SHA-256 of the archive, in hex."""
    return hashlib.sha256(_content(archive)).hexdigest()


def check(archive: Archive) -> None:
    """Read the whole bundle once, keeping nothing. Raises ``BadBundle`` for the first thing that is wrong."""
    for _member, chunk in _chunks(_content(archive)):
        del chunk


def unpack(archive: Archive, into: Path) -> None:
    """Unpack into the directory ``into``, which appears complete or not at all.

    If ``into`` exists the bundle was unpacked before and nothing is done. Raises ``BadBundle``.
    """
    if into.is_dir():
        return
    into.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        _write(_content(archive), scratch)
        scratch.chmod(0o755)
        _publish(scratch, into)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_file(archive: Path, name: str, *, max_bytes: int) -> bytes | None:
    """One file of a bundle that was checked before; None if it has none of that name, or one of more bytes."""
    with zipfile.ZipFile(archive) as opened:
        try:
            member = opened.getinfo(name)
        except KeyError:
            return None
        return opened.read(member) if member.file_size <= max_bytes else None


# ---- packing --------------------------------------------------------------------------------------------------------

_ADVICE = "Name what the training does not need in a .gitignore file."
_Ignore = tuple[tuple[Path, pathspec.GitIgnoreSpec], ...]


def _files_below(directory: Path, root: Path, ignore: _Ignore) -> Iterator[Path]:
    """Regular files that are not ignored; a directory that is ignored is not entered, as in git."""
    ignore = (*ignore, *_ignore_file(directory))
    for entry in os.scandir(directory):
        path = Path(entry.path)
        is_directory = entry.is_dir(follow_symlinks=False)
        if _is_skipped(path, is_directory) or _is_ignored(path, is_directory, ignore):
            continue
        if is_directory:
            yield from _files_below(path, root, ignore)
        else:
            yield _regular(entry, path.relative_to(root))


def _ignore_file(directory: Path) -> _Ignore:
    path = directory / ".gitignore"
    if path.is_symlink() or not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return ((directory, pathspec.GitIgnoreSpec.from_lines(lines)),)


def _is_skipped(path: Path, is_directory: bool) -> bool:
    if is_directory:
        return path.name in SKIPPED or (path / "pyvenv.cfg").is_file()
    return path.name in SKIPPED or path.suffix == ".pyc"


def _is_ignored(path: Path, is_directory: bool, ignore: _Ignore) -> bool:
    """The nearest .gitignore that has an opinion decides."""
    for base, patterns in reversed(ignore):
        relative = path.relative_to(base).as_posix() + ("/" if is_directory else "")
        verdict = patterns.check_file(relative).include
        if verdict is not None:
            return verdict
    return False


def _regular(entry: os.DirEntry[str], relative: Path) -> Path:
    if entry.is_symlink():
        raise BadBundle(f"{relative} is a symbolic link; replace it with the file itself, or list it in .gitignore")
    if not entry.is_file(follow_symlinks=False):
        raise BadBundle(f"{relative} is neither a file nor a directory; list it in .gitignore")
    return Path(entry.path)


def _archive(root: Path, files: list[Path]) -> bytes:
    total = sum(path.stat().st_size for path in files)
    if total > MAX_UNPACKED_BYTES:
        raise BadBundle(f"the files have {total} bytes; at most {MAX_UNPACKED_BYTES} are accepted. {_largest(files)}")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", allowZip64=False) as archive:
        for path in files:
            _add(archive, path, path.relative_to(root).as_posix())
            if target.tell() > MAX_ARCHIVE_BYTES:
                raise BadBundle(f"the bundle is larger than {MAX_ARCHIVE_BYTES} bytes. {_largest(files)}")
    return target.getvalue()


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    _check_name(name)
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    with path.open("rb") as source, archive.open(info, "w") as member:
        shutil.copyfileobj(source, member, _CHUNK)


def _largest(files: list[Path]) -> str:
    top = sorted(files, key=lambda path: -path.stat().st_size)[:3]
    names = ", ".join(f"{path.name} ({path.stat().st_size} bytes)" for path in top)
    return f"The largest: {names}. {_ADVICE}"


# ---- checking and unpacking -----------------------------------------------------------------------------------------


def _content(archive: Archive) -> bytes:
    size = len(archive) if isinstance(archive, bytes) else archive.stat().st_size
    if size > MAX_ARCHIVE_BYTES:
        raise BadBundle(f"the bundle has {size} bytes; at most {MAX_ARCHIVE_BYTES} are accepted")
    return archive if isinstance(archive, bytes) else archive.read_bytes()


def _write(content: bytes, scratch: Path) -> None:
    current: tuple[str, BinaryIO] | None = None
    try:
        for member, chunk in _chunks(content):
            if current is None or current[0] != member.filename:
                if current is not None:
                    current[1].close()
                current = (member.filename, _create(scratch / member.filename))
            current[1].write(chunk)
    finally:
        if current is not None:
            current[1].close()


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _publish(scratch: Path, into: Path) -> None:
    try:
        scratch.rename(into)
    except OSError:  # another process was faster: the name is the content's, so its result is ours
        if not into.is_dir():
            raise


def _chunks(content: bytes) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    """Every file of a sound bundle, piece by piece; an empty file gives one empty piece."""
    _check_frame(content)
    limit = min(MAX_UNPACKED_BYTES, max(FREE_BYTES, MAX_RATIO * len(content)))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_members(members)
            for member in members:
                if not member.is_dir():
                    for chunk in _read(archive, member, limit):
                        limit -= len(chunk)
                        yield member, chunk
    except _UNSOUND as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's trouble, not the bundle's
        raise BadBundle(f"this is not a sound zip archive: {error}") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> Iterator[bytes]:
    with archive.open(member) as source:
        yield b""
        while chunk := source.read(_CHUNK):
            limit -= len(chunk)
            if limit < 0:
                raise BadBundle(
                    f"{member.filename!r} unpacks to too much: a bundle may have {MAX_UNPACKED_BYTES} bytes in all "
                    f"and {MAX_RATIO} times its packed size"
                )
            yield chunk


def _check_frame(content: bytes) -> None:
    """The directory ends the file, is as long as it says and of bearable size: before anything is parsed."""
    if len(content) < _END.size or content[-_END.size :][:4] != b"PK\x05\x06":
        raise BadBundle("this is not a zip archive (or it is cut off, or carries a comment)")
    _, _, _, _, entries, size, offset, comment = _END.unpack(content[-_END.size :])
    if content[-_END.size - 20 :][:4] == _ZIP64_LOCATOR:
        raise BadBundle("a bundle of this size needs no zip64 records")
    if comment or offset + size != len(content) - _END.size:
        raise BadBundle("the archive carries data beside its members")
    if entries > MAX_ENTRIES or size > MAX_ENTRIES * (MAX_PATH_BYTES + 100):
        raise BadBundle(f"the bundle lists {entries} entries; at most {MAX_ENTRIES} are accepted")


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if not 0 < len(members) <= MAX_ENTRIES:
        raise BadBundle(f"a bundle has 1 to {MAX_ENTRIES} entries, not {len(members)}")
    for member in members:
        _check_name(member.orig_filename)
        if member.filename != member.orig_filename:
            raise BadBundle(f"{member.orig_filename!r} calls itself {member.filename!r} elsewhere")
        _check_kind(member)
    _check_overlap(members)
    _check_collisions([member.orig_filename for member in members])


def _check_name(name: str) -> None:
    """A relative path of plain parts, the same on every file system."""
    parts = name.removesuffix("/").split("/")
    if not name.isprintable() or "\\" in name:
        raise BadBundle(f"{name!r}: control characters and backslashes are refused in names")
    if name.startswith("/") or (len(parts[0]) > 1 and parts[0][1] == ":"):
        raise BadBundle(f"{name!r} is an absolute path")
    if any(part in ("", ".", "..") for part in parts):
        raise BadBundle(f"{name!r} has an empty, '.' or '..' part")
    if len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise BadBundle(f"{name[:60]!r}... is too long: {MAX_PATH_BYTES} bytes a path, {MAX_NAME_BYTES} a part")


def _check_kind(member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise BadBundle(f"{member.filename!r} is a symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadBundle(f"{member.filename!r} is neither a file nor a directory")
    if member.is_dir() and member.file_size:
        raise BadBundle(f"{member.filename!r} is a directory with content")
    if member.flag_bits & 0x1 or member.flag_bits & 0x40:
        raise BadBundle(f"{member.filename!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadBundle(f"{member.filename!r} is compressed with method {member.compress_type}; use deflate")


def _check_overlap(members: list[zipfile.ZipInfo]) -> None:
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise BadBundle(f"{member.filename!r} shares its bytes with another member")
        end = member.header_offset + member.compress_size


def _check_collisions(names: list[str]) -> None:
    """No two members, and no file and directory, are one on a file system that ignores case."""
    seen: dict[str, str] = {}
    for name in names:
        key = _folded(name.removesuffix("/"))
        if key in seen:
            raise BadBundle(f"{name!r} and {seen[key]!r} are one name where case does not count")
        seen[key] = name
    for name in names:
        for parent in PurePosixPath(name).parents:
            taken = seen.setdefault(_folded(str(parent)), f"{parent}/")
            if taken != f"{parent}/":
                raise BadBundle(f"{name!r} lies below {taken!r}, which is a file or differs in case")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
