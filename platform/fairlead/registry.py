"""Stage 5: may the model be registered, and under which name? Promotion only through gates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fairlead.spec import RegisterSpec


class WithheldReason(StrEnum):
    """Why no version is registered."""

    NOT_ASKED = "not_asked"
    GATE_FAILED = "gate_failed"
    GATE_INCONCLUSIVE = "gate_inconclusive"
    NO_REPORT = "no_report"
    NO_MODEL = "no_model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    """Register a version and point the alias at it."""

    name: str
    alias: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Withheld:
    """Register nothing."""

    reason: WithheldReason
    detail: str


def outcome_of(gates: Iterable[Mapping[str, Any]]) -> str:
    """The outcome for promotion of gates as the report has them, but for those that somebody has overridden.

    ``fail`` if one fails, else ``inconclusive`` if one is, else ``pass``. What is shown stays the report's own.
    """
    left = {gate["outcome"] for gate in gates if not gate.get("override")}
    return next((outcome for outcome in ("fail", "inconclusive") if outcome in left), "pass")


def promote(
    *,
    report_outcome: str | None,
    undecided_gates: tuple[str, ...],
    on_inconclusive: str,
    register: RegisterSpec | None,
    has_model: bool,
) -> Promoted | Withheld:
    """Decide from the report's outcome (``pass``, ``fail``, ``inconclusive``; None without a report)."""
    if register is None:
        return Withheld(reason=WithheldReason.NOT_ASKED, detail="the spec asks for no registration")
    if not has_model:
        detail = "the workload exported no model: call context.export"
        return Withheld(reason=WithheldReason.NO_MODEL, detail=detail)
    if report_outcome is None:
        return Withheld(reason=WithheldReason.NO_REPORT, detail="nothing was evaluated")
    named = ", ".join(undecided_gates)
    if report_outcome == "fail":
        return Withheld(reason=WithheldReason.GATE_FAILED, detail=f"gates failed: {named}")
    if report_outcome == "inconclusive" and on_inconclusive == "block":
        return Withheld(reason=WithheldReason.GATE_INCONCLUSIVE, detail=f"gates without a conclusion: {named}")
    return Promoted(name=register.name, alias=register.alias)


@dataclass(frozen=True, kw_only=True, slots=True)
class Incumbent:
    """The present champion: whose model has a name and an alias."""

    experiment: str
    name: str
    alias: str
    version: str | None
    """None: it is decided, and MLflow has not given it one yet."""


def champion_of(decided: Mapping[str, Mapping[str, Any]], register: RegisterSpec) -> Incumbent | None:
    """Whose model a new one under ``register`` would take the place of: the newest version with that name and alias.

    ``decided``: ``registration`` by experiment, the last changed one last. One that only waits for MLflow counts as
    newer than all that have a version: it is decided, and of two that end together the second must meet the first.
    """
    known = [
        (bool(one.get("is_pending")), int(one.get("version") or 0), place, experiment)
        for place, (experiment, one) in enumerate(decided.items())
        if (one.get("is_registered") or one.get("is_pending"))
        and (one.get("name"), one.get("alias")) == (register.name, register.alias)
    ]
    if not known:
        return None
    is_pending, version, _, experiment = max(known)
    return Incumbent(
        experiment=experiment,
        name=register.name,
        alias=register.alias,
        version=None if is_pending else str(version),
    )
