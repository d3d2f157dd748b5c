"""A hostile archive is refused as a whole and leaves nothing behind."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import bundle
from fairlead.errors import BadBundle

Member = tuple[str, bytes, dict[str, int]]


def an_archive(*members: Member | str, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for member in members:
            is_plain = isinstance(member, str)
            name, content, attributes = (member, b"" if member.endswith("/") else b"x", {}) if is_plain else member
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return target.getvalue()


def of_kind(kind: int) -> bytes:
    return an_archive("good.py", ("bad", b"/etc/passwd", {"external_attr": (kind | 0o777) << 16}))


def renamed(old: str, new: str) -> bytes:
    """An archive whose member name is changed in the bytes, past every check of the writer."""
    assert len(old) == len(new)
    return an_archive("good.py", old).replace(old.encode(), new.encode())


def encrypted() -> bytes:
    content = bytearray(an_archive("good.py", "secret.py"))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(signature) + place] |= 1
    return bytes(content)


def overlapping() -> bytes:
    """Two directory entries that point at one member's bytes."""
    content = an_archive("aaaa.py", "bbbb.py")
    start = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", start + 4)
    entry = bytearray(content[second : content.index(b"PK\x05\x06")])
    struct.pack_into("<L", entry, 42, 0)
    return content[:second] + bytes(entry) + content[content.index(b"PK\x05\x06") :]


def cut() -> bytes:
    return an_archive("good.py")[:-5]


def prefixed() -> bytes:
    return b"#!/bin/sh\n" + an_archive("good.py")


def damaged() -> bytes:
    content = bytearray(an_archive(("good.py", b"some text that is long enough", {}), compression=zipfile.ZIP_STORED))
    content[45] ^= 0xFF
    return bytes(content)


def with_comment() -> bytes:
    target = io.BytesIO(an_archive("good.py"))
    with zipfile.ZipFile(target, "a") as archive:
        archive.comment = b"hello"
    return target.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "symbolic link": lambda: of_kind(stat.S_IFLNK),
    "character device": lambda: of_kind(stat.S_IFCHR),
    "block device": lambda: of_kind(stat.S_IFBLK),
    "pipe": lambda: of_kind(stat.S_IFIFO),
    "socket": lambda: of_kind(stat.S_IFSOCK),
    "absolute": lambda: an_archive("good.py", "/etc/cron.d/x"),
    "drive letter": lambda: an_archive("good.py", "C:/windows"),
    "parent": lambda: an_archive("good.py", "../outside.py"),
    "parent inside": lambda: an_archive("good.py", "a/../../outside.py"),
    "dot": lambda: an_archive("good.py", "./a.py"),
    "empty part": lambda: an_archive("good.py", "a//b.py"),
    "backslash": lambda: an_archive("good.py", "..\\outside.py"),
    "nul": lambda: renamed("badname.py", "bad\0me.py\0"),
    "newline": lambda: an_archive("good.py", "a\nb.py"),
    "case collision": lambda: an_archive("model.py", "Model.py"),
    "case collision of directories": lambda: an_archive("Model/a.py", "model/b.py"),
    "collision by normal form": lambda: an_archive("caf\u00e9.py", "cafe\u0301.py"),
    "duplicate": lambda: renamed("twin.py", "good.py"),
    "file and directory": lambda: an_archive("a", "a/b.py"),
    "long part": lambda: an_archive("good.py", "a" * 300),
    "long path": lambda: an_archive("good.py", "/".join(["abcdefghi"] * 150)),
    "encrypted": encrypted,
    "overlapping": overlapping,
    "cut off": cut,
    "data before": prefixed,
    "data after": lambda: an_archive("good.py") + b"more",
    "comment": with_comment,
    "damaged": damaged,
    "bzip2": lambda: an_archive("good.py", compression=zipfile.ZIP_BZIP2),
    "bomb": lambda: an_archive(("zeros", bytes(20 * 2**20), {})),
    "many small bombs": lambda: an_archive(*[(f"zeros{i}", bytes(2**20), {}) for i in range(20)]),
    "not a zip": lambda: b"hello",
    "empty": lambda: b"",
    "no members": lambda: an_archive(),
}


@pytest.mark.parametrize("build", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_bundle_is_refused_whole(build: Callable[[], bytes], tmp_path: Path) -> None:
    archive = build()
    with pytest.raises(BadBundle):
        bundle.check(archive)
    with pytest.raises(BadBundle):
        bundle.unpack(archive, tmp_path / "cache" / "into")
    assert list(tmp_path.rglob("*")) == [tmp_path / "cache"]


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_ENTRIES", 3)
    bundle.check(an_archive("a", "b", "c"))
    with pytest.raises(BadBundle, match="4 entries"):
        bundle.check(an_archive("a", "b", "c", "d"))


def test_too_many_bytes_are_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_ARCHIVE_BYTES", 100)
    path = tmp_path / "a.zip"
    path.write_bytes(an_archive("a", "b"))
    with pytest.raises(BadBundle, match="at most 100"):
        bundle.check(path)


def test_sizes_that_lie_do_not_help() -> None:
    content = bytearray(an_archive(("zeros", bytes(20 * 2**20), {})))
    struct.pack_into("<L", content, content.rindex(b"PK\x01\x02") + 24, 10)
    with pytest.raises(BadBundle):
        bundle.check(bytes(content))


def test_unpacking_twice_changes_nothing(tmp_path: Path) -> None:
    archive = an_archive("a.py", "sub/", "sub/b.py")
    for _ in range(2):
        bundle.unpack(archive, tmp_path / "into")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.py", "b.py", "into", "sub"]


def test_an_archive_in_an_archive_stays_a_file(tmp_path: Path) -> None:
    inner = an_archive(("zeros", bytes(5 * 2**20), {}))
    bundle.unpack(an_archive(("inner.zip", inner, {})), tmp_path / "into")
    assert (tmp_path / "into" / "inner.zip").read_bytes() == inner


@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_any_changed_byte_is_refused_or_harmless(place: int, value: int) -> None:
    content = bytearray(an_archive("a.py", ("sub/b.py", b"0123456789" * 10, {})))
    content[place % len(content)] = value
    try:
        bundle.check(bytes(content))
    except BadBundle:
        return
