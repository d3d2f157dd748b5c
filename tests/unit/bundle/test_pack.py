"""A directory becomes the same archive again and again, without what git would leave out."""

import io
import os
import zipfile
from pathlib import Path

import pytest

from fairlead import bundle
from fairlead.errors import BadBundle


def names(packed: bundle.Bundle) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        return archive.namelist()


def a_project(root: Path) -> Path:
    (root / "sub" / "deep").mkdir(parents=True)
    for name in ("train.py", "data.csv", "sub/model.py", "sub/keep.log", "sub/drop.log", "sub/deep/x.tmp", "a.log"):
        (root / name).write_text(f"content of {name}")
    return root


def test_the_same_files_make_the_same_bytes_whatever_their_times(tmp_path: Path) -> None:
    first, second = a_project(tmp_path / "one"), a_project(tmp_path / "two")
    os.utime(first / "train.py", (1, 1))
    (second / "train.py").chmod(0o755)
    assert bundle.pack(first) == bundle.pack(second)


def test_a_changed_byte_makes_another_name(tmp_path: Path) -> None:
    root = a_project(tmp_path / "one")
    before = bundle.pack(root).sha256
    (root / "train.py").write_text("other")
    assert bundle.pack(root).sha256 != before


def test_gitignore_counts_at_every_level_and_the_nearer_one_wins(tmp_path: Path) -> None:
    root = a_project(tmp_path / "one")
    (root / ".gitignore").write_text("*.log\n/data.csv\n")
    (root / "sub" / ".gitignore").write_text("!keep.log\n*.tmp\n")
    assert names(bundle.pack(root)) == [".gitignore", "sub/.gitignore", "sub/keep.log", "sub/model.py", "train.py"]


def test_a_file_below_an_ignored_directory_cannot_come_back(tmp_path: Path) -> None:
    root = a_project(tmp_path / "one")
    (root / ".gitignore").write_text("sub/\n!sub/model.py\n")
    assert "sub/model.py" not in names(bundle.pack(root))


@pytest.mark.parametrize(
    "name", [".git/config", "__pycache__/a.py", ".venv/bin/x", "sub/__pycache__/b.py", "env/lib/x", "a.pyc"]
)
def test_caches_and_environments_are_left_out(tmp_path: Path, name: str) -> None:
    root = a_project(tmp_path / "one")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("x")
    if name.startswith("env/"):
        (root / "env" / "pyvenv.cfg").write_text("")
    assert not [
        found for found in names(bundle.pack(root)) if found.startswith(name.split("/")[0] + "/") and "sub" not in name
    ]
    assert name not in names(bundle.pack(root))


def test_a_symbolic_link_is_refused_by_name(tmp_path: Path) -> None:
    root = a_project(tmp_path / "one")
    (root / "sub" / "link.py").symlink_to("/etc/hostname")
    with pytest.raises(BadBundle, match=r"sub/link\.py is a symbolic link"):
        bundle.pack(root)


def test_an_ignored_symbolic_link_does_no_harm(tmp_path: Path) -> None:
    root = a_project(tmp_path / "one")
    (root / "link.log").symlink_to("/etc/hostname")
    (root / ".gitignore").write_text("*.log\n")
    assert "link.log" not in names(bundle.pack(root))


def test_a_pipe_is_refused_by_name(tmp_path: Path) -> None:
    root = a_project(tmp_path / "one")
    os.mkfifo(root / "pipe")
    with pytest.raises(BadBundle, match="pipe is neither a file nor a directory"):
        bundle.pack(root)


def test_a_directory_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    with pytest.raises(BadBundle, match="no file to upload"):
        bundle.pack(tmp_path)


def test_what_is_too_large_names_the_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_ARCHIVE_BYTES", 1000)
    (tmp_path / "weights.bin").write_bytes(os.urandom(5000))
    with pytest.raises(BadBundle, match=r"weights\.bin \(5000 bytes\).*\.gitignore"):
        bundle.pack(tmp_path)


def test_what_was_packed_unpacks_to_the_same_files(tmp_path: Path) -> None:
    root = a_project(tmp_path / "one")
    (root / "empty.txt").write_text("")
    packed = bundle.pack(root)
    bundle.unpack(packed.content, tmp_path / "cache" / packed.sha256)
    unpacked = {
        p.relative_to(tmp_path / "cache" / packed.sha256): p.read_text()
        for p in (tmp_path / "cache" / packed.sha256).rglob("*")
        if p.is_file()
    }
    assert unpacked == {p.relative_to(root): p.read_text() for p in root.rglob("*") if p.is_file()}
