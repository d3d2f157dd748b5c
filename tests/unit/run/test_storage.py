from pathlib import Path

import pytest

from fairlead.protocol import MANIFEST_FILE, CheckpointRef
from fairlead.run.storage import (
    CompleteCheckpoint,
    commit_checkpoint,
    complete_checkpoints,
    copy_checkpoint,
    create_exclusively,
    newest_verified,
    problem_with,
    seal_checkpoint,
    shared_checkpoint,
    unfinished_checkpoints,
    write_atomically,
)


def a_checkpoint(attempt: Path, step: int, content: str = "weights") -> CompleteCheckpoint:
    source = attempt.parent / f"source-{step}"
    (source / "deep").mkdir(parents=True, exist_ok=True)
    (source / "deep" / "state.bin").write_text(f"{content} of step {step}")
    attempt.mkdir(exist_ok=True)
    temporary = copy_checkpoint(source, attempt, step=step)
    return commit_checkpoint(temporary, seal_checkpoint(temporary), step=step, world_size=2)


def reference(checkpoint: CompleteCheckpoint, storage: Path) -> CheckpointRef:
    path = checkpoint.directory.relative_to(storage).as_posix()
    return CheckpointRef(step=checkpoint.step, path=path, manifest_sha256=checkpoint.manifest_sha256)


def test_what_all_ranks_wrote_is_sealed_where_it_lies_and_an_old_group_writes_elsewhere(
    tmp_path: Path,
) -> None:
    attempt = tmp_path / "a1"
    old = shared_checkpoint(attempt, step=4, generation=1)
    for rank in range(2):
        place = shared_checkpoint(attempt, step=4, generation=2)
        (place / f"__{rank}_0.distcp").write_text(f"part of rank {rank}")
    (place / ".metadata").write_text("what ties them together")
    copied = copy_checkpoint(place, attempt, step=4)
    assert copied == place != old
    made = commit_checkpoint(copied, seal_checkpoint(copied), step=4, world_size=2)
    assert problem_with(made.directory) is None
    parts = {".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert {path.name for path in made.directory.iterdir()} == {*parts, MANIFEST_FILE}
    assert unfinished_checkpoints(attempt) == (old,), "what was never reported is found and deleted"


def test_a_committed_checkpoint_verifies_and_leaves_no_temporary_directory(tmp_path: Path) -> None:
    attempt = tmp_path / "a1"
    made = a_checkpoint(attempt, 7)
    assert problem_with(made.directory, manifest_sha256=made.manifest_sha256) is None
    assert [path.name for path in attempt.iterdir()] == ["ckpt-7"]
    assert (made.directory / "deep" / "state.bin").read_text() == "weights of step 7"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: (path / "deep" / "state.bin").write_text("weights of step 8"), "differs from the manifest"),
        (lambda path: (path / "deep" / "state.bin").write_text("w"), "differs from the manifest"),
        (lambda path: (path / "deep" / "state.bin").unlink(), "state.bin is missing"),
        (lambda path: (path / MANIFEST_FILE).write_text("{}"), "it cannot be read"),
        (lambda path: (path / MANIFEST_FILE).unlink(), "MANIFEST.json is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_its_problem(tmp_path: Path, damage, problem: str) -> None:  # type: ignore[no-untyped-def]
    made = a_checkpoint(tmp_path / "a1", 7)
    damage(made.directory)
    found = problem_with(made.directory)
    assert found is not None
    assert problem in found


def test_the_newest_checkpoint_that_verifies_is_taken_and_the_others_are_reported(tmp_path: Path) -> None:
    first, attempt = tmp_path / "a1", tmp_path / "a2"
    earlier = a_checkpoint(first, 3)
    for step in (5, 6):
        a_checkpoint(attempt, step)
    (attempt / "ckpt-6" / "deep" / "state.bin").write_text("cut")
    newest = newest_verified(attempt, (reference(earlier, tmp_path),), storage=tmp_path)
    assert newest.checkpoint is not None
    assert newest.checkpoint.step == 5
    assert [rejected.path for rejected in newest.rejected] == ["a2/ckpt-6"]


def test_a_checkpoint_whose_manifest_is_not_the_committed_one_is_not_resumed_from(tmp_path: Path) -> None:
    made = a_checkpoint(tmp_path / "a1", 3)
    other = reference(made, tmp_path).amended(manifest_sha256="0" * 64)
    newest = newest_verified(tmp_path / "a2", (other,), storage=tmp_path)
    assert newest.checkpoint is None
    assert newest.rejected[0].problem == "the manifest is not the one that was committed"


def test_an_unfinished_checkpoint_does_not_count(tmp_path: Path) -> None:
    attempt = tmp_path / "a1"
    a_checkpoint(attempt, 1)
    (attempt / "ckpt-2.tmp-abc").mkdir()
    (attempt / "ckpt-3").mkdir()
    assert [checkpoint.step for checkpoint in complete_checkpoints(attempt)] == [1]


def test_committing_a_step_again_keeps_the_good_one_and_replaces_the_damaged(tmp_path: Path) -> None:
    attempt = tmp_path / "a1"
    first = a_checkpoint(attempt, 4)
    assert a_checkpoint(attempt, 4, content="other").manifest_sha256 == first.manifest_sha256
    (first.directory / "deep" / "state.bin").write_text("damaged")
    assert a_checkpoint(attempt, 4, content="other").manifest_sha256 != first.manifest_sha256
    assert problem_with(first.directory) is None


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_atomically(tmp_path / "result.json", b"one")
    write_atomically(tmp_path / "result.json", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_bytes() == b"two"


def test_only_the_first_creates_a_file_exclusively(tmp_path: Path) -> None:
    assert create_exclusively(tmp_path / "BEGUN", b"first")
    assert not create_exclusively(tmp_path / "BEGUN", b"second")
    assert (tmp_path / "BEGUN").read_bytes() == b"first"
