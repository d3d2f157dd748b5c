"""Holds MLflow's registry against what was registered, and flags what differs. It mends nothing.

A round costs a few calls for each hundred models and twenty reports, whatever others have written there, and the
next one waits at least nine times as long. MLflow being away means: the flags stay as they are, and the time of the
last whole comparison says how old they are.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from fairlead.clock import Clock
from fairlead.errors import BadInput
from fairlead.evaluation.signing import verify
from fairlead.flags import MAX_VERSIONS, Books, Flag, FlagCode, Key, Level, Seen, compare, owners
from fairlead.settings import ControlSettings
from fairlead.store import Session, Store, experiments, flags, model_versions
from fairlead.store.model_versions import Registration
from fairlead.store.tables import ExperimentRow, RegistryFlagRow
from fairlead.tracking import server

if TYPE_CHECKING:
    from fairlead.tracking.registry import Registry

ACTOR = "verify"
FLAGGED, MENDED = "registry_flagged", "registry_mended"
REPORT = "responsible_ai/report.json"
REPORTS_A_ROUND = 20
MAX_REPORT_BYTES = 64 << 20
MAX_CLAIMS = 1_000
MAX_OTHERS = 200
"""Models of others that are told of."""
MAX_FLAGS = 2_000
"""The worst are kept, the rest are counted in the log."""
RETRY_AFTER_S = 30.0
PAUSE_AT_LEAST_S = 5.0
REST_SHARE = 9.0
"""After a round the loop rests this many times as long as the round took, and never less than ``PAUSE_AT_LEAST_S``."""
_MOST_TOLD = 20
"""Flags that one event names."""
logger = structlog.get_logger(__name__)


def connect(settings: ControlSettings) -> "Registry":
    """The registry of these settings; loading MLflow's client takes seconds, so it is done when first needed."""
    os.environ.update(server.client_environment())
    from fairlead.tracking.registry import Registry

    return Registry(settings.mlflow_url)


@dataclass(kw_only=True, slots=True)
class Verify:
    """A tick does nothing until a round is due: after ``registry_check_s``, or once something new is registered."""

    store: Store
    clock: Clock
    settings: ControlSettings
    connect: Callable[[ControlSettings], "Registry"] = connect
    require_lead: Callable[[], None] = lambda: None
    """Raises ``StaleLeader`` once another process leads: asked before whatever is written to MLflow."""
    _registry: "Registry | None" = None
    _not_before_s: float = 0.0
    _due_s: float = 0.0
    _newest: str | None = None
    _read_at_s: dict[Key, float] = field(default_factory=dict)
    """When this process last read the report of each version."""

    def __call__(self) -> bool:
        began_s = self.clock.monotonic_s()
        with self.store.read() as session:
            newest = model_versions.newest(session)
        is_due = began_s >= self._due_s or newest != self._newest
        if newest is None or not is_due or began_s < self._not_before_s:
            return False
        self._not_before_s = self._due_s = began_s + RETRY_AFTER_S  # unless the round comes to its end
        self._compare()
        ended_s = self.clock.monotonic_s()
        self._newest = newest
        self._not_before_s = ended_s + max(PAUSE_AT_LEAST_S, REST_SHARE * (ended_s - began_s))
        self._due_s = max(self._not_before_s, ended_s + self.settings.registry_check_s)
        return False

    @property
    def registry(self) -> "Registry":
        """The connection, made once."""
        if self._registry is None:
            self._registry = self.connect(self.settings)
        return self._registry

    def _compare(self) -> None:
        """What is read before and after the look at MLflow tells what was registered meanwhile from what is missing."""
        with self.store.read() as session:
            names, settled = model_versions.names(session), model_versions.experiment_ids(session)
        seen = self._look(names)
        with self.store.read() as session:
            registrations, pending = model_versions.registrations(session), model_versions.pending(session)
            stored = flags.every(session)
        books = Books(
            registrations=tuple(one for one in registrations if one.name in set(names)),
            settled=settled,
            pending=frozenset(pending),
        )
        seen = _without(seen, {one.name for one in registrations} | set(pending.values()))
        seen = replace(seen, broken_reports=self._broken_reports(seen, books, stored))
        found = compare(books, seen)
        if len(found) > MAX_FLAGS:
            logger.warning("there are more flags than are kept", found=len(found), kept=MAX_FLAGS)
        self._write(found[:MAX_FLAGS], stored, books, num_versions=len(seen.versions))
        self._hang_tags(found, seen)

    # ---- looking ----------------------------------------------------------------------------------------------------

    def _look(self, names: list[str]) -> Seen:
        """Aliases first: whatever one points at is then among the versions, unless it was deleted in between."""
        aliases = self.registry.aliases(names)
        versions, unread = self.registry.versions(names, most=MAX_VERSIONS)
        self.require_lead()
        return Seen(
            aliases=aliases,
            versions={one.key: one for one in versions},
            unread=unread,
            claims=tuple(self.registry.claims(without=names, most=MAX_CLAIMS)),
            others=tuple(self.registry.others(without=names, most=MAX_OTHERS)),
        )

    def _broken_reports(self, seen: Seen, books: Books, stored: Iterable[RegistryFlagRow]) -> dict[Key, str]:
        """Reports of what an alias points at are read in turns; between two readings the last one counts."""
        broken = {(row.name, row.version): row.message for row in stored if row.code == FlagCode.REPORT_CHANGED}
        wanted = {(name, at) for name, found in seen.aliases.items() for at in found.values()} | broken.keys()
        there = [one for one in books.registrations if one.key in wanted and one.key in seen.versions]
        ready = [one for one in there if one.report_run_id is not None]
        self._read_at_s = {one.key: self._read_at_s[one.key] for one in there if one.key in self._read_at_s}
        for one in sorted(ready, key=lambda one: self._read_at_s.get(one.key, float("-inf")))[:REPORTS_A_ROUND]:
            self.require_lead()
            why = self._fault_of(one)
            self._read_at_s[one.key] = self.clock.monotonic_s()
            broken.pop(one.key, None)
            if why is not None:
                broken[one.key] = why
        return broken

    def _fault_of(self, one: Registration) -> str | None:
        """What is wrong with the report that MLflow shows for a version; None where nothing is."""
        assert one.report_run_id is not None, "asked by the caller"
        where = f"{REPORT} in run {one.report_run_id} of version {one.version} of {one.name}"
        try:
            content = self.registry.artifact(one.report_run_id, REPORT, max_bytes=MAX_REPORT_BYTES)
            if content is None:
                return f"{where} is gone"
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if digest != one.report_sha256:
                return f"{where} has {digest}, and was registered with {one.report_sha256}"
            report = json.loads(content)
            if "signature" in report:  # the first reports had none
                verify(report)
        except (BadInput, ValueError) as error:
            return f"{where} does not hold: {error}"
        return None

    # ---- writing ----------------------------------------------------------------------------------------------------

    def _write(
        self, found: Iterable[Flag], stored: Iterable[RegistryFlagRow], books: Books, *, num_versions: int
    ) -> None:
        """Flags, the events that tell of them, and when everything was compared, in one transaction."""
        now, before = self.clock.now(), {flags.key_of(row): row for row in stored}
        rows = [_row(flag, before.get(flag.key), now) for flag in found]
        changed = [row for row in rows if _differs(row, before.get(flags.key_of(row)))]
        new = [row for row in rows if flags.key_of(row) not in before]
        left = {flags.key_of(row) for row in rows}
        gone = [row for key, row in before.items() if key not in left]
        owner = {name: one.experiment_id for name, one in owners(books).items()}
        with self.store.write() as session:
            flags.replace(session, changed, gone=[row for row in flags.every(session) if flags.key_of(row) not in left])
            for kind, told in ((FLAGGED, new), (MENDED, gone)):
                self._tell(session, kind, told, owner)
            flags.note_checked(session, versions=num_versions, now=now)
        for row in new:
            if FlagCode(row.code).level is Level.NOTICE:
                continue
            logger.warning(
                "MLflow's registry differs", code=row.code, model=row.name, version=row.version, reason=row.message
            )
        for row in gone:
            logger.info("MLflow's registry is mended", code=row.code, model=row.name, version=row.version)

    def _tell(self, session: Session, kind: str, rows: list[RegistryFlagRow], owner: Mapping[str, str]) -> None:
        """One event for each experiment that is concerned: its own version's, or else the newest of the model's."""
        heard = [(row.experiment_id or owner.get(row.name), row) for row in rows]
        known = sorted(((key, row) for key, row in heard if key is not None), key=lambda one: one[0])
        for experiment_id, told in groupby(known, key=lambda one: one[0]):
            of_one = [row for _, row in told]
            more = f"; and {len(of_one) - 1} more" if len(of_one) > 1 else ""
            experiments.note(
                session,
                experiment_id,
                kind=kind,
                actor=ACTOR,
                now=self.clock.now(),
                reason=f"{'' if kind == FLAGGED else 'mended: '}{of_one[0].message}{more}",
                payload={"number": len(of_one), "flags": [_told(row) for row in of_one[:_MOST_TOLD]]},
                # MLflow need not hear of it: what is known to be written there would be written again, flaw or no flaw.
                columns={"mlflow_version": ExperimentRow.mlflow_version + 1},
            )

    def _hang_tags(self, found: Iterable[Flag], seen: Seen) -> None:
        """What is wrong with each version of our models: only our own tag, and only where it says something else."""
        texts: dict[Key, str] = {}
        for flag in found:
            key = (flag.name, flag.version)
            texts[key] = "; ".join(filter(None, (texts.get(key), flag.message)))
        for version in seen.versions.values():
            self.require_lead()
            self.registry.flag(version, texts.get(version.key))


def _row(flag: Flag, before: RegistryFlagRow | None, now: datetime) -> RegistryFlagRow:
    return RegistryFlagRow(
        name=flag.name,
        version=flag.version,
        alias=flag.alias,
        code=flag.code,
        project=flag.project,
        experiment_id=flag.experiment_id,
        message=flag.message,
        advice=flag.advice,
        first_seen_at=before.first_seen_at if before else now,
    )


def _differs(row: RegistryFlagRow, before: RegistryFlagRow | None) -> bool:
    told = ("project", "experiment_id", "message", "advice")
    return before is None or any(getattr(row, name) != getattr(before, name) for name in told)


def _told(row: RegistryFlagRow) -> dict[str, str]:
    return {"code": row.code, "model": row.name, "version": row.version, "alias": row.alias, "message": row.message}


def _without(seen: Seen, known: set[str]) -> Seen:
    """Without models that became Fairlead's own while it looked."""
    claims = tuple(one for one in seen.claims if one.name not in known)
    return replace(seen, claims=claims, others=tuple(name for name in seen.others if name not in known))
