"""What MLflow's registry says, held against what was registered: one case for each way in which it may differ."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from fairlead.flags import MAX_VERSIONS, Books, Flag, FlagCode, Level, Seen, compare
from fairlead.store.model_versions import Registration
from fairlead.tracking.documents import VersionSeen

SHA, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def registered(version: str = "1", **changes: Any) -> Registration:
    plain: dict[str, Any] = {
        "experiment_id": f"e{version}",
        "project": "red",
        "name": "risk",
        "version": version,
        "alias": "candidate",
        "model_id": f"m-{version}",
        "run_id": f"r{version}",
        "report_sha256": SHA,
        "report_outcome": "pass",
    }
    return Registration(**{**plain, **changes})


def seen_version(version: str = "1", *, without: str | None = None, **changes: Any) -> VersionSeen:
    tags = {"rai.report_sha256": SHA, "rai.outcome": "pass", "fairlead.experiment_id": f"e{version}"}
    plain: dict[str, Any] = {
        "name": "risk",
        "version": version,
        "source": f"models:/m-{version}",
        "run_id": f"r{version}",
        "tags": {**{name: value for name, value in tags.items() if name != without}, **changes.pop("tags", {})},
    }
    return VersionSeen(**{**plain, **changes})


def books(*registrations: Registration, **changes: Any) -> Books:
    settled = frozenset(one.experiment_id for one in registrations)
    return Books(registrations=registrations, **{"settled": settled, **changes})


def seen(*versions: VersionSeen, **changes: Any) -> Seen:
    newest = max((int(one.version) for one in versions), default=None)
    aliases = {"risk": {"candidate": str(newest)}} if newest else {}
    return Seen(**{"aliases": aliases, "versions": {one.key: one for one in versions}, **changes})


def codes(found: Iterable[Flag]) -> list[FlagCode]:
    return [flag.code for flag in found]


def test_a_registry_as_it_was_registered_has_no_flags() -> None:
    assert compare(books(registered("1"), registered("2")), seen(seen_version("1"), seen_version("2"))) == ()


FAIL, UNSURE = ({"id": "dp", "outcome": outcome} for outcome in ("fail", "inconclusive"))


@pytest.mark.parametrize(
    ("ours", "theirs", "code", "says"),
    [
        ({}, {"tags": {"rai.report_sha256": OTHER}}, FlagCode.HASH_MISMATCH, f"says that its report is '{OTHER}'"),
        ({}, {"without": "rai.report_sha256"}, FlagCode.HASH_MISMATCH, "names no report"),
        ({}, {"tags": {"rai.report_sha256": ""}}, FlagCode.HASH_MISMATCH, "names no report"),
        ({}, {"without": "rai.outcome"}, FlagCode.OUTCOME_MISMATCH, "names no outcome"),
        ({}, {"tags": {"rai.outcome": "fail"}}, FlagCode.OUTCOME_MISMATCH, "claims the outcome 'fail'"),
        ({}, {"source": "models:/m-9"}, FlagCode.VERSION_REPLACED, "made of 'models:/m-9'"),
        ({}, {"run_id": None}, FlagCode.VERSION_REPLACED, "by run 'unknown'"),
        ({"model_id": None, "run_id": None}, {"source": "s3://x", "run_id": "r9"}, None, ""),
        (
            {"report_outcome": "fail", "gates": [FAIL]},
            {"tags": {"rai.outcome": "fail"}},
            FlagCode.NOT_PASSED,
            "is fail, which nobody has overridden",
        ),
        (
            {"report_outcome": "fail", "gates": []},
            {"tags": {"rai.outcome": "fail"}},
            FlagCode.NOT_PASSED,
            "is fail, which nobody has overridden",
        ),
        (
            {"report_outcome": "fail", "gates": [{**FAIL, "override": {"by": "ada"}}]},
            {"tags": {"rai.outcome": "fail"}},
            None,
            "",
        ),
        (
            {"report_outcome": "inconclusive", "gates": [UNSURE]},
            {"tags": {"rai.outcome": "inconclusive"}},
            FlagCode.NOT_PASSED,
            "is inconclusive",
        ),
        (
            {"report_outcome": "inconclusive", "gates": [UNSURE], "on_inconclusive": "warn"},
            {"tags": {"rai.outcome": "inconclusive"}},
            None,
            "",
        ),
    ],
)
def test_a_version_of_ours_is_compared(
    ours: dict[str, Any], theirs: dict[str, Any], code: FlagCode | None, says: str
) -> None:
    found = compare(books(registered(**ours)), seen(seen_version(**theirs)))
    assert codes(found) == ([] if code is None else [code])
    for flag in found:
        assert says in flag.message
        assert (flag.name, flag.version, flag.project, flag.experiment_id) == ("risk", "1", "red", "e1")
        assert flag.code.level is Level.ERROR
        assert flag.advice


def test_an_outcome_that_is_unknown_does_not_stand() -> None:
    found = compare(books(registered(report_outcome=None)), seen(seen_version()))
    assert codes(found) == [FlagCode.NOT_PASSED, FlagCode.OUTCOME_MISMATCH]


def test_what_is_wrong_with_a_report_is_told_as_it_was_found() -> None:
    broken = {("risk", "1"): "responsible_ai/report.json is gone"}
    (flag,) = compare(books(registered()), seen(seen_version(), broken_reports=broken))
    assert (flag.code, flag.message) == (FlagCode.REPORT_CHANGED, "responsible_ai/report.json is gone")


def test_a_version_that_nobody_registered_is_named_with_the_aliases_that_point_at_it() -> None:
    aliases = {"risk": {"candidate": "1", "live": "2", "best\x1b[31m": "2"}}
    (flag,) = compare(books(registered()), seen(seen_version(), seen_version("2"), aliases=aliases))
    assert (flag.code, flag.version, flag.project, flag.experiment_id) == ("unregistered_version", "2", "red", None)
    assert flag.message.endswith("'best\\x1b[31m', 'live' points at it"), "no letter of a stranger reaches a terminal"


def test_a_version_that_is_gone_is_told_and_no_more() -> None:
    (flag,) = compare(books(registered("1"), registered("2")), seen(seen_version("2")))
    assert (flag.code, flag.version, flag.code.level) == (FlagCode.VERSION_DELETED, "1", Level.NOTICE)


def test_a_number_that_a_new_registry_used_again_belongs_to_the_newest() -> None:
    before = registered(experiment_id="old", model_id="m-old", run_id="r-old")
    (flag,) = compare(books(before, registered()), seen(seen_version()))
    assert (flag.code, flag.experiment_id) == (FlagCode.VERSION_DELETED, "old")


@pytest.mark.parametrize(
    ("at", "code"), [("2", None), ("1", FlagCode.ALIAS_MOVED), (None, FlagCode.ALIAS_MOVED), ("9", None)]
)
def test_an_alias_belongs_to_the_newest_version_that_was_given_it(at: str | None, code: FlagCode | None) -> None:
    aliases = {"risk": {} if at is None else {"candidate": at, "by-hand": "1"}}
    found = compare(
        books(registered("1"), registered("2"), registered("10", alias="other")),
        seen(seen_version("1"), seen_version("2"), seen_version("10"), aliases=aliases | {}),
    )
    found = tuple(flag for flag in found if flag.alias != "other")
    assert codes(found) == ([] if code is None else [code]), "one that points at nothing was deleted a moment ago"
    for flag in found:
        assert (flag.version, flag.alias, flag.code.level) == (at or "", "candidate", Level.WARNING)
        assert "Fairlead pointed it at version 2 (experiment e2)" in flag.message


def test_an_alias_of_a_deleted_version_belongs_to_the_one_before() -> None:
    ours = books(registered("1"), registered("2"))
    assert codes(compare(ours, seen(seen_version("1")))) == [FlagCode.VERSION_DELETED]
    gone = compare(ours, seen(seen_version("1"), aliases={"risk": {}}))
    assert codes(gone) == [FlagCode.ALIAS_MOVED, FlagCode.VERSION_DELETED]
    assert "version 1 (experiment e1)" in gone[0].message


def test_what_is_being_registered_is_left_alone() -> None:
    late = registered("2")
    before = books(registered("1"), pending=frozenset({"e2"}))
    meanwhile = books(registered("1"), late, settled=frozenset({"e1"}))
    for ours in (before, meanwhile):
        assert compare(ours, seen(seen_version("1"), seen_version("2"))) == ()
    assert compare(meanwhile, seen(seen_version("1"))) == (), "it was registered after MLflow was read"


def test_a_model_of_too_many_versions_is_said_not_to_be_compared() -> None:
    found = compare(books(registered()), seen(aliases={"risk": {"candidate": "7"}}, unread=frozenset({"risk"})))
    assert codes(found) == [FlagCode.NOT_COMPARED]
    assert f"{MAX_VERSIONS:,}" in found[0].message


@pytest.mark.parametrize(
    ("changes", "is_true"),
    [
        ({"source": "models:/risk/1"}, True),
        ({}, True),
        ({"run_id": "r9"}, False),
        ({"source": "models:/m-9"}, False),
        ({"tags": {"rai.report_sha256": OTHER}}, False),
        ({"tags": {"rai.outcome": "fail"}}, False),
        ({"tags": {"fairlead.experiment_id": "e9"}}, False),
        ({"without": "fairlead.experiment_id"}, False),
    ],
)
def test_a_copy_of_a_version_may_say_what_it_is_a_copy_of(changes: dict[str, Any], is_true: bool) -> None:
    copy = seen_version(name="shop-window", **changes)
    found = compare(books(registered()), seen(seen_version(), claims=(copy,)))
    assert codes(found) == ([] if is_true else [FlagCode.FALSE_CLAIM])


def test_models_of_others_are_told_last_and_belong_to_nobody() -> None:
    found = compare(books(registered()), seen(seen_version(without="rai.outcome"), others=("b\n", "a")))
    assert codes(found) == [FlagCode.OUTCOME_MISMATCH, FlagCode.UNKNOWN_MODEL, FlagCode.UNKNOWN_MODEL]
    assert [flag.project for flag in found] == ["red", None, None]
    assert "\n" not in found[2].message


def test_a_flag_is_the_same_while_its_words_change() -> None:
    (flag,) = compare(books(registered()), seen(seen_version(without="rai.outcome")))
    assert replace(flag, message="others").key == flag.key
