from pathlib import Path

import pytest

from fairlead.agent.collecting import Collector
from fairlead.protocol import CheckpointRef, Collected, Deletion
from fairlead.run.storage import CompleteCheckpoint, commit_checkpoint, copy_checkpoint, seal_checkpoint
from fairlead.testing.ray import wait_for


def a_checkpoint(storage: Path, step: int) -> CompleteCheckpoint:
    source = storage / f".source-{step}"
    source.mkdir(parents=True)
    (source / "state.bin").write_text(f"weights of step {step}")
    copied = copy_checkpoint(source, storage / "default" / "exp-1" / "a1", step=step)
    return commit_checkpoint(copied, seal_checkpoint(copied), step=step, world_size=1)


def reference(made: CompleteCheckpoint, storage: Path) -> CheckpointRef:
    path = made.directory.relative_to(storage).as_posix()
    return CheckpointRef(step=made.step, path=path, manifest_sha256=made.manifest_sha256)


def a_deletion(storage: Path, old: CompleteCheckpoint, *keepers: CompleteCheckpoint) -> Deletion:
    found = tuple(reference(keeper, storage) for keeper in keepers)
    return Deletion(path=old.directory.relative_to(storage).as_posix(), keepers=found)


def test_a_checkpoint_goes_where_a_newer_one_verifies_and_repeating_it_does_no_harm(tmp_path: Path) -> None:
    old, new = a_checkpoint(tmp_path, 1), a_checkpoint(tmp_path, 2)
    collector, deletion = Collector(tmp_path), a_deletion(tmp_path, old, new)
    for _ in range(2):
        assert collector.collect(deletion) == Collected(path=deletion.path, is_deleted=True)
    assert not old.directory.exists()
    assert new.directory.exists()


def test_the_only_one_that_verifies_is_kept_and_the_damaged_ones_are_named(tmp_path: Path) -> None:
    old, new = a_checkpoint(tmp_path, 1), a_checkpoint(tmp_path, 2)
    (new.directory / "state.bin").write_text("weights of step 3")
    deletion = a_deletion(tmp_path, old, new)
    answer = Collector(tmp_path).collect(deletion)
    assert answer == Collected(path=deletion.path, is_deleted=False, damaged=(deletion.keepers[0].path,))
    assert old.directory.exists()


def test_a_storage_that_shows_nothing_is_no_reason_to_judge(tmp_path: Path) -> None:
    old, new = a_checkpoint(tmp_path, 1), a_checkpoint(tmp_path, 2)
    deletion = a_deletion(tmp_path, old, new)
    (tmp_path / "default").rename(tmp_path / "away")
    assert Collector(tmp_path).collect(deletion) is None


@pytest.mark.parametrize(
    "path",
    [
        "default/exp-1/a1",
        "default/exp-1/a1/ckpt-1/state.bin",
        "default/exp-1/a1/model",
        "default/../exp-1/a1/ckpt-1",
        "../default/exp-1/a1/ckpt-1",
        "/default/exp-1/a1/ckpt-1",
        "default/exp-1/a1/ckpt-1\n",
        "default/exp-1/link/ckpt-1",
        "default/linked/a1/ckpt-1",
    ],
)
def test_nothing_but_a_checkpoint_below_the_storage_is_ever_deleted(tmp_path: Path, path: str) -> None:
    storage = tmp_path / "storage"
    a_checkpoint(storage, 1)
    outside = tmp_path / "outside"
    (storage / "default" / "exp-1").rename(outside)
    (storage / "default" / "linked").symlink_to(outside)
    (storage / "default" / "exp-1").mkdir()
    good = a_checkpoint(tmp_path / "other", 7)
    good.directory.parent.rename(storage / "default" / "exp-1" / "a1")
    keeper = CheckpointRef(step=7, path="default/exp-1/a1/ckpt-7", manifest_sha256=good.manifest_sha256)
    (storage / "default" / "exp-1" / "a1" / "ckpt-1\n").mkdir()
    (storage / "default" / "exp-1" / "link").symlink_to(outside / "a1")
    before = sorted(tmp_path.rglob("*"))
    assert Collector(storage).collect(Deletion(path=path, keepers=(keeper,))) is None
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_told_again_is_done_once_and_reported_until_acknowledged(tmp_path: Path) -> None:
    old, new = a_checkpoint(tmp_path, 1), a_checkpoint(tmp_path, 2)
    deletion = a_deletion(tmp_path, old, new)
    collector = Collector(tmp_path)
    collector.start()
    collector.take((deletion,))
    collector.take((deletion,))
    done = wait_for(collector.done, within_s=30, what="the deletion")
    assert done == collector.done() == (Collected(path=deletion.path, is_deleted=True),)
    collector.acknowledge(done)
    assert collector.done() == ()
    collector.stop(10)
