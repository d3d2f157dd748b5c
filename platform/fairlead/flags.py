"""Stage 5, afterwards: does MLflow's registry still say what was registered through the gates?

MLflow asks nobody who he is, so whoever reaches it may make a version, move an alias or change a tag. A *flag* is one
thing there that differs from the books, with what to do next. ``compare`` is pure; ``control.verify`` looks and writes.

A model under whose name nothing was ever registered here is somebody else's business: teams share one MLflow and
register by hand what no gate is meant for. It is a *notice* and nothing more, unless one of its versions claims a
report that does not stand behind it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fairlead.registry import outcome_of
from fairlead.store.model_versions import Registration
from fairlead.tracking.documents import EXPERIMENT_ID_TAG, OUTCOME_TAG, REPORT_TAG, VersionSeen

MAX_VERSIONS = 5_000
"""Versions of one model that are compared; a model of Fairlead's that has more is flagged as ``not_compared``."""
_MOST_SHOWN = 80
Key = tuple[str, str]
"""Name of a model, and number of a version."""


class FlagCode(StrEnum):
    """What differs."""

    UNREGISTERED_VERSION = "unregistered_version"
    VERSION_REPLACED = "version_replaced"
    HASH_MISMATCH = "hash_mismatch"
    OUTCOME_MISMATCH = "outcome_mismatch"
    REPORT_CHANGED = "report_changed"
    NOT_PASSED = "not_passed"
    FALSE_CLAIM = "false_claim"
    ALIAS_MOVED = "alias_moved"
    NOT_COMPARED = "not_compared"
    VERSION_DELETED = "version_deleted"
    UNKNOWN_MODEL = "unknown_model"

    @property
    def level(self) -> "Level":
        """How bad it is."""
        return _LEVELS.get(self, Level.ERROR)


class Level(StrEnum):
    """How bad a flag is, worst first."""

    ERROR = "error"
    """What the registry says cannot be believed."""
    WARNING = "warning"
    """It may be meant so: somebody should say."""
    NOTICE = "notice"
    """Told, and no alarm."""


_LEVELS = {
    FlagCode.ALIAS_MOVED: Level.WARNING,
    FlagCode.NOT_COMPARED: Level.WARNING,
    FlagCode.VERSION_DELETED: Level.NOTICE,
    FlagCode.UNKNOWN_MODEL: Level.NOTICE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One difference. ``version`` and ``alias`` are empty where it is about the model."""

    code: FlagCode
    name: str
    version: str = ""
    alias: str = ""
    project: str | None = None
    """Whose model it is; None where Fairlead never registered one of that name."""
    experiment_id: str | None = None
    """The experiment that registered the version, or set the alias, where one did."""
    message: str
    advice: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is about: a flag of the same key is the same flag."""
        return self.name, self.version, self.alias, self.code


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """What the database says."""

    registrations: tuple[Registration, ...]
    """Oldest first."""
    settled: frozenset[str] = frozenset()
    """Experiments that were registered before MLflow was looked at: what is missing of them is missing."""
    pending: frozenset[str] = frozenset()
    """Experiments whose model is being registered: MLflow may be ahead of the books."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What MLflow says."""

    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Version by alias, of each model under whose name something was registered, as far as it is there."""
    versions: Mapping[Key, VersionSeen] = field(default_factory=dict)
    """Versions of those models, read after the aliases."""
    unread: frozenset[str] = frozenset()
    """Those of the models that have more than ``MAX_VERSIONS``."""
    claims: tuple[VersionSeen, ...] = ()
    """Versions of other models that carry the tag of a report."""
    others: tuple[str, ...] = ()
    """Models under whose name nothing was ever registered."""
    broken_reports: Mapping[Key, str] = field(default_factory=dict)
    """What is wrong with the report among the artifacts of a version's run, where something is."""


def compare(books: Books, seen: Seen) -> tuple[Flag, ...]:
    """Everything that differs, worst first and then by name. What is being registered at this moment is left alone."""
    found = [*_registered(books, seen), *_unregistered(books, seen), *_moved_aliases(books, seen)]
    found += [*_false_claims(books, seen), *_models(books, seen)]
    levels = list(Level)
    return tuple(sorted(found, key=lambda flag: (levels.index(flag.code.level), flag.key)))


def owners(books: Books) -> dict[str, Registration]:
    """The newest registration under each name: whose experiment hears of what belongs to none."""
    return {one.name: one for one in books.registrations}


def _by_key(books: Books) -> dict[Key, Registration]:
    """A registry that was lost and begun anew counts from 1 again: the newest holds the number."""
    return {one.key: one for one in books.registrations}


# ---- what was registered --------------------------------------------------------------------------------------------


def _registered(books: Books, seen: Seen) -> Iterator[Flag]:
    holders = _by_key(books)
    for one in books.registrations:
        if one.name in seen.unread:
            continue
        version = seen.versions.get(one.key)
        if version is None or holders[one.key] is not one:
            if one.experiment_id in books.settled:
                yield _deleted(one)
        elif not _is_the_same(one, version):
            yield _replaced(one, version)
        else:
            yield from _differences(one, version, seen.broken_reports.get(one.key))


def _is_the_same(one: Registration, version: VersionSeen) -> bool:
    """Whether it is made of the model that was registered; what an older release has not noted is not compared."""
    is_model = one.model_id is None or version.source == f"models:/{one.model_id}"
    return is_model and (one.run_id is None or version.run_id == one.run_id)


def _differences(one: Registration, version: VersionSeen, broken: str | None) -> Iterator[Flag]:
    what = f"version {one.version} of {one.name}"
    tags = version.tags
    if tags.get(REPORT_TAG) != one.report_sha256:
        told = f"says that its report is {shown(tags[REPORT_TAG])}" if tags.get(REPORT_TAG) else "names no report"
        yield _of(
            one,
            FlagCode.HASH_MISMATCH,
            message=f"{what} {told}; experiment {one.experiment_id} registered it with {one.report_sha256}",
            advice=f"Set its tag {REPORT_TAG} to {one.report_sha256} again, and find out who changed it.",
        )
    if tags.get(OUTCOME_TAG) != one.report_outcome:
        told = f"claims the outcome {shown(tags[OUTCOME_TAG])}" if tags.get(OUTCOME_TAG) else "names no outcome"
        yield _of(
            one,
            FlagCode.OUTCOME_MISMATCH,
            message=f"{what} {told}; the report of experiment {one.experiment_id} says {one.report_outcome}",
            advice=f"Set its tag {OUTCOME_TAG} to {one.report_outcome} again, and find out who changed it.",
        )
    if broken is not None:
        yield _of(
            one,
            FlagCode.REPORT_CHANGED,
            message=broken,
            advice=f"Believe no report in that run. 'fairlead report {one.experiment_id} --json' has the true "
            "one: put it back as responsible_ai/report.json, and find out who changed it.",
        )
    if not _may_stand(one):
        yield _of(
            one,
            FlagCode.NOT_PASSED,
            message=f"{what} is registered, but the outcome of experiment {one.experiment_id} is "
            f"{one.report_outcome or 'unknown'}, which nobody has overridden",
            advice=f"Fairlead never registers such a one: its database was changed. Take the alias {one.alias} away, "
            "and compare with a backup and 'fairlead audit'.",
        )


def _may_stand(one: Registration) -> bool:
    if one.report_outcome in (None, "pass"):
        return one.report_outcome == "pass"
    outcome = outcome_of(one.gates or ({"outcome": one.report_outcome},))
    return outcome == "pass" or (outcome == "inconclusive" and one.on_inconclusive != "block")


def _deleted(one: Registration) -> Flag:
    return _of(
        one,
        FlagCode.VERSION_DELETED,
        message=f"version {one.version} of {one.name} is no longer in MLflow: it was deleted, or the model renamed",
        advice="Nothing, if it was meant. Else submit the spec again: a number is never used twice.",
    )


def _replaced(one: Registration, version: VersionSeen) -> Flag:
    return _of(
        one,
        FlagCode.VERSION_REPLACED,
        message=f"version {one.version} of {one.name} is another model than experiment {one.experiment_id} registered: "
        f"it is made of {shown(version.source)}, by run {shown(version.run_id or 'unknown')}",
        advice="Do not use it. Delete it, submit the spec again, and find out who made the model anew.",
    )


def _of(one: Registration, code: FlagCode, **told: Any) -> Flag:
    about = {"name": one.name, "version": one.version, "project": one.project, "experiment_id": one.experiment_id}
    return Flag(code=code, **{**about, **told})


# ---- what was not ---------------------------------------------------------------------------------------------------


def _unregistered(books: Books, seen: Seen) -> Iterator[Flag]:
    holders, owner = _by_key(books), owners(books)
    for key, version in seen.versions.items():
        if key in holders or version.name in seen.unread or _is_being_made(books, version):
            continue
        pointing = sorted(alias for alias, at in seen.aliases.get(version.name, {}).items() if at == version.version)
        aliases = f"; {', '.join(shown(alias) for alias in pointing)} points at it" if pointing else ""
        yield Flag(
            code=FlagCode.UNREGISTERED_VERSION,
            name=version.name,
            version=version.version,
            project=owner[version.name].project,
            message=f"version {version.version} of {version.name} was registered around the gates: no experiment of "
            f"Fairlead's made it{aliases}",
            advice=f"Do not use it. Find out who made it (run {shown(version.run_id or 'unknown')}), then delete it; "
            "a model comes here by a spec with the key register.",
        )


def _is_being_made(books: Books, version: VersionSeen) -> bool:
    return version.tags.get(EXPERIMENT_ID_TAG) in books.pending


def _false_claims(books: Books, seen: Seen) -> Iterator[Flag]:
    """A version that was copied to another model keeps run and tags, and is what they say; others are not."""
    by_experiment = {one.experiment_id: one for one in books.registrations}
    for version in seen.claims:
        one = by_experiment.get(version.tags.get(EXPERIMENT_ID_TAG, ""))
        if one is not None and _is_copy(one, version):
            continue
        yield Flag(
            code=FlagCode.FALSE_CLAIM,
            name=version.name,
            version=version.version,
            project=one.project if one else None,
            message=f"version {version.version} of {shown(version.name)} claims report "
            f"{shown(version.tags.get(REPORT_TAG, ''))}, which is not that of its run",
            advice="Do not use it for what the report says. Take the tag away, and find out who set it.",
        )


def _is_copy(one: Registration, version: VersionSeen) -> bool:
    told = version.tags.get(REPORT_TAG), version.tags.get(OUTCOME_TAG)
    sources = {f"models:/{one.name}/{one.version}", f"models:/{one.model_id}"}
    is_of_run = one.run_id is None or version.run_id == one.run_id
    return told == (one.report_sha256, one.report_outcome) and is_of_run and version.source in sources


# ---- aliases and models ---------------------------------------------------------------------------------------------


def _moved_aliases(books: Books, seen: Seen) -> Iterator[Flag]:
    holders = _by_key(books)
    for (name, alias), one in _pointed_at(books, seen).items():
        at = seen.aliases.get(name, {}).get(alias)
        if at == one.version:
            continue
        holder, version = holders.get((name, at or "")), seen.versions.get((name, at or ""))
        if at is not None and (version is None or _is_being_made(books, version)):
            continue  # it was deleted between two looks, or is being registered
        if holder is not None and holder.experiment_id not in books.settled:
            continue
        where = "is gone" if at is None else f"points at version {at}"
        yield _of(
            one,
            FlagCode.ALIAS_MOVED,
            alias=alias,
            version=at or "",
            message=f"alias {alias} of {name} {where}; Fairlead pointed it at version {one.version} "
            f"(experiment {one.experiment_id})",
            advice=f"Point it at version {one.version} again. If it was moved on purpose, say so to whoever is on "
            "call: the flag stays until the next registration moves the alias.",
        )


def _pointed_at(books: Books, seen: Seen) -> dict[tuple[str, str], Registration]:
    """Where Fairlead left each alias: at the newest of its versions that are still there."""
    found: dict[tuple[str, str], Registration] = {}
    for one in books.registrations:
        is_there = one.key in seen.versions and one.name not in seen.unread
        if not is_there or one.experiment_id not in books.settled:
            continue
        before = found.get((one.name, one.alias))
        if before is None or int(one.version) >= int(before.version):
            found[one.name, one.alias] = one
    return found


def _models(books: Books, seen: Seen) -> Iterator[Flag]:
    owner = owners(books)
    for name in sorted(seen.unread):
        yield Flag(
            code=FlagCode.NOT_COMPARED,
            name=name,
            project=owner[name].project,
            message=f"{name} has more than {MAX_VERSIONS:,} versions: they are not compared",
            advice="Delete the versions that nobody needs, first those that no experiment of Fairlead's registered.",
        )
    for name in sorted(seen.others):
        yield Flag(
            code=FlagCode.UNKNOWN_MODEL,
            name=name,
            message=f"model {shown(name)} was registered in MLflow by hand: Fairlead knows nothing of it",
            advice="Nothing, if its team means it so. No gate and no report stands behind it.",
        )


def shown(text: str) -> str:
    """A text that anybody may have written, fit for a line: quoted, without control characters, cut."""
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…")
