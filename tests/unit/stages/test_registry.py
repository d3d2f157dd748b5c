"""Registration: only through gates."""

import pytest

from fairlead.registry import Promoted, Withheld, WithheldReason, champion_of, outcome_of, promote
from fairlead.spec import RegisterSpec

REGISTER = RegisterSpec(name="risk")


@pytest.mark.parametrize(
    ("outcome", "on_inconclusive", "reason"),
    [
        ("pass", "block", None),
        ("fail", "block", WithheldReason.GATE_FAILED),
        ("fail", "warn", WithheldReason.GATE_FAILED),
        ("inconclusive", "block", WithheldReason.GATE_INCONCLUSIVE),
        ("inconclusive", "warn", None),
        (None, "block", WithheldReason.NO_REPORT),
    ],
)
def test_the_report_decides(outcome: str | None, on_inconclusive: str, reason: WithheldReason | None) -> None:
    decision = promote(
        report_outcome=outcome,
        undecided_gates=("dp",),
        on_inconclusive=on_inconclusive,
        register=REGISTER,
        has_model=True,
    )
    if reason is None:
        assert decision == Promoted(name="risk", alias="candidate")
    else:
        assert isinstance(decision, Withheld)
        assert decision.reason is reason


def test_gates_that_are_overridden_withhold_nothing() -> None:
    failed, undecided, passed = ({"id": name, "outcome": name} for name in ("fail", "inconclusive", "pass"))
    word = {"by": "somebody"}
    assert outcome_of([failed, undecided, passed]) == "fail"
    assert outcome_of([{**failed, "override": word}, undecided, passed]) == "inconclusive"
    assert outcome_of([{**failed, "override": word}, {**undecided, "override": word}, passed]) == "pass"
    assert outcome_of([{**undecided, "override": None}, passed]) == "inconclusive"
    assert outcome_of([]) == "pass"


def test_without_a_wish_or_a_model_nothing_is_registered() -> None:
    common = {"report_outcome": "pass", "undecided_gates": (), "on_inconclusive": "block"}
    not_asked = promote(**common, register=None, has_model=True)  # type: ignore[arg-type]  # a plain table
    no_model = promote(**common, register=REGISTER, has_model=False)  # type: ignore[arg-type]  # a plain table
    assert isinstance(not_asked, Withheld)
    assert not_asked.reason is WithheldReason.NOT_ASKED
    assert isinstance(no_model, Withheld)
    assert no_model.reason is WithheldReason.NO_MODEL


def _registered(version: str, *, alias: str = "candidate", name: str = "risk") -> dict[str, object]:
    return {"is_registered": True, "is_pending": False, "name": name, "version": version, "alias": alias}


PENDING = {"is_registered": False, "is_pending": True, "name": "risk", "alias": "candidate"}
WITHHELD = {"is_registered": False, "is_pending": False, "reason": "gate_failed: gates failed: dp"}


@pytest.mark.parametrize(
    ("decided", "champion", "version"),
    [
        ({}, None, None),
        ({"a": WITHHELD, "b": {}}, None, None),
        ({"a": _registered("1", alias="live"), "b": _registered("1", name="other")}, None, None),
        ({"a": _registered("10"), "b": _registered("9"), "c": WITHHELD}, "a", "10"),
        ({"a": _registered("2"), "b": _registered("3", alias="live")}, "a", "2"),
        ({"a": PENDING, "b": _registered("9")}, "a", None),
        ({"a": _registered("9"), "b": PENDING, "c": PENDING}, "c", None),
    ],
)
def test_the_champion_is_the_newest_of_its_name_and_alias(
    decided: dict[str, dict[str, object]], champion: str | None, version: str | None
) -> None:
    found = champion_of(decided, REGISTER)
    assert (found.experiment if found else None) == champion
    assert found is None or (found.name, found.alias, found.version) == ("risk", "candidate", version)
