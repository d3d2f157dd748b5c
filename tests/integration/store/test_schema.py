import math
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import StatementError

import fairlead.store
from fairlead.errors import Unavailable
from fairlead.rights import Role
from fairlead.spec import spec_hash
from fairlead.store import (
    Store,
    bundles,
    check_revision,
    clusters,
    exclusions,
    experiments,
    migrate,
    model_versions,
    open_store,
    projects,
    schema_revision,
    tokens,
)
from fairlead.store.schema import downgrade
from fairlead.store.tables import BundleRow, ExperimentRow, Table
from fairlead.testing import FakeClock
from fairlead.testing.stored import an_attempt, an_experiment

VERSIONS = Path(fairlead.store.__file__).parent / "migrations" / "versions"
HEAD = max(path.name for path in VERSIONS.glob("[0-9]*.py"))[:4]


@pytest.fixture
def empty(empty_url: str) -> Any:
    store = open_store(empty_url)
    yield store
    store.close()


def tables(store: Store) -> set[str]:
    return set(inspect(store.engine).get_table_names()) - {"fairlead_schema"}


def difference(store: Store) -> list[Any]:
    with store.engine.connect() as connection:
        options = {"version_table": "fairlead_schema", "compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Table.metadata))


def test_migrations_lead_to_the_tables_and_back_and_there_again(empty: Store) -> None:
    for _ in range(2):
        migrate(empty)
        check_revision(empty)
        assert difference(empty) == []
        assert tables(empty) == set(Table.metadata.tables)
        downgrade(empty, "base")
        assert tables(empty) == set()
        assert schema_revision(empty) is None


def test_migrating_twice_changes_nothing_and_keeps_the_rows(store: Store) -> None:
    an_experiment(store)
    migrate(store)
    with store.read() as session:
        assert experiments.get(session, "exp-1").version == 1


def test_a_database_with_rows_goes_back_to_the_release_before_and_forth(store: Store) -> None:
    an_attempt(store, "of-default")
    an_experiment(store, "of-other", project="other", policy={"max_runtime_s": 77})
    downgrade(store, "0004")
    migrate(store)
    with store.read() as session:
        assert experiments.get(session, "of-other").max_runtime_s == 77
        assert [row.name for row in projects.every(session)] == ["default", "other"]
        assert projects.held(session) == {"default": projects.Held(workers=1, cpus=1, experiments=1)}


def test_nodes_that_were_taken_in_again_are_not_excluded_by_the_release_before(store: Store, clock: FakeClock) -> None:
    with store.write() as session:
        clusters.ensure(session, "local")
        for node in ("n1", "n2"):
            exclusions.exclude(session, "local", node, reason="it burns", by="ada", now=clock.now())
        assert exclusions.readmit(session, "local", "n2", now=clock.now())
    downgrade(store, "0006")
    with store.engine.connect() as connection:
        assert connection.scalars(text("SELECT node_id FROM exclusion")).all() == ["n1"]
    migrate(store)
    with store.read() as session:
        assert exclusions.by_cluster(session) == {"local": frozenset({"n1"})}
        assert [row.created_by for row in exclusions.on(session, "local")] == ["settle"]


def test_names_under_which_models_are_registered_are_known_of_what_the_release_before_stored(store: Store) -> None:
    an_experiment(store, "of-risk", register={"name": "risk"})
    an_experiment(store, "of-nothing")
    downgrade(store, "0008")
    migrate(store)
    with store.read() as session:
        names = [experiments.get(session, key).register_name for key in ("of-risk", "of-nothing")]
    assert names == ["risk", None]


def test_what_could_be_done_before_there_were_members_still_can(store: Store, clock: FakeClock) -> None:
    used, unused = "a" * 64, "b" * 64
    an_experiment(store, "of-other", project="other", workload="mine:train", code=f"sha256:{used}")
    callers = {}
    with store.write() as session:
        for kind, cluster in (("user", None), ("agent", "local")):
            key, callers[kind] = tokens.new_token()
            digest = tokens.hash_token(callers[kind])
            tokens.ensure(session, token_id=key, sha256=digest, kind=kind, name="me", cluster=cluster, now=clock.now())
        for sha256 in (used, unused):
            session.add(BundleRow(sha256=sha256, size=1, created_by="me", created_at=clock.now()))
    downgrade(store, "0005")
    migrate(store)
    with store.read() as session:
        rights = {kind: tokens.authenticate(session, token, now=clock.now()).rights for kind, token in callers.items()}
        assert (rights["user"].everywhere, rights["agent"].everywhere) == (Role.ADMIN, None)
        belongs = [(sha, project) for sha in (used, unused) for project in ("default", "other")]
        assert [bundles.is_in(session, *one) for one in belongs] == [True, True, True, False]


def test_an_empty_database_is_refused_with_the_cure(empty: Store) -> None:
    with pytest.raises(Unavailable, match=r"schema None.*fairlead.store migrate"):
        check_revision(empty)


@pytest.mark.parametrize("ask", [check_revision, migrate])
def test_a_database_of_a_newer_release_is_left_alone_with_advice(store: Store, ask: Callable[[Store], None]) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE fairlead_schema SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="schema 9999 of a newer release"):
        ask(store)
    assert schema_revision(store) == "9999"


def command(action: str, url: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fairlead.store", action],
        env={**os.environ, "FAIRLEAD_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_servers_that_migrate_at_once_take_turns(empty_url: str) -> None:
    for process in [command("migrate", empty_url) for _ in range(2)]:
        assert ended(process) == (0, f"the database has schema {HEAD}\n", "")


def test_the_command_checks_and_migrates(empty_url: str) -> None:
    code, out, err = ended(command("check", empty_url))
    assert (code, out) == (1, "")
    assert err.endswith("run `python -m fairlead.store migrate` first\n")
    assert "Traceback" not in err
    for action in ("migrate", "check"):
        assert ended(command(action, empty_url)) == (0, f"the database has schema {HEAD}\n", "")


def test_the_command_says_when_the_database_does_not_answer() -> None:
    code, _, err = ended(command("migrate", "postgresql+psycopg://nobody@/nothing?host=/nowhere"))
    assert code == 1
    assert err.startswith("the database does not answer")


# ---- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 29, 2, 30, tzinfo=UTC),
        datetime(2026, 1, 1, 5, 45, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-11))),
    ],
)
def test_a_time_comes_back_as_the_same_moment_in_utc(store: Store, moment: datetime) -> None:
    row = an_experiment(store)
    with store.write() as session:
        experiments.set_columns(session, row.id, due_at=moment)
    with store.read() as session:
        found = experiments.get(session, row.id).due_at
        assert found == moment
        assert found is not None
        assert found.tzinfo is UTC
        earlier = select(func.count()).select_from(ExperimentRow).where(ExperimentRow.due_at < moment)
        assert session.scalar(earlier) == 0
        later = select(func.count()).select_from(ExperimentRow)
        assert session.scalar(later.where(ExperimentRow.due_at < moment + timedelta(microseconds=1))) == 1


def test_a_time_without_a_zone_is_refused(store: Store) -> None:
    row = an_experiment(store)
    with store.write() as session, pytest.raises(StatementError, match="without a zone"):
        experiments.set_columns(session, row.id, due_at=datetime(2026, 1, 1))


@pytest.mark.parametrize(
    "value", ["NaN", "ü😀\u2028", "'; drop table experiment; --", 2**53 + 1, 1e308, None, [[]], {}]
)
def test_json_values_come_back_as_they_went_in(store: Store, value: Any) -> None:
    row = an_experiment(store)
    with store.write() as session:
        experiments.set_columns(session, row.id, metrics={"value": value})
    with store.read() as session:
        assert experiments.get(session, row.id).metrics == {"value": value}


def test_documents_keep_the_order_of_their_keys(store: Store) -> None:
    row = an_experiment(store, params={"zeta": 1, "alpha": 2.0, "b": 1e20})
    with store.read() as session:
        found = experiments.get(session, row.id)
        assert list(found.spec["params"].items()) == [("zeta", 1), ("alpha", 2.0), ("b", 1e20)]
        assert spec_hash(experiments.spec_of(found)) == found.spec_hash


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_json_is_refused_on_every_database(store: Store, value: float) -> None:
    row = an_experiment(store)
    with store.write() as session, pytest.raises((StatementError, ValueError), match="not JSON compliant"):
        experiments.set_columns(session, row.id, metrics={"value": value})


def test_what_was_registered_before_versions_had_a_table_is_in_it(store: Store, clock: FakeClock) -> None:
    told = {"is_registered": True, "name": "risk", "version": "3", "alias": "candidate"}
    an_experiment(store, "of-red", project="red")
    an_experiment(store, "of-none")
    downgrade(store, "0009")
    with store.write() as session:
        experiments.note(session, "of-red", kind="registered", actor="record", now=clock.advance(9), payload=told)
    migrate(store)
    with store.read() as session:
        (one,) = model_versions.registrations(session)
        ((row, _),) = model_versions.page(session, limit=5)
    assert (one.experiment_id, one.project, one.key, one.alias) == ("of-red", "red", ("risk", "3"), "candidate")
    assert (one.model_id, one.run_id, row.registered_at) == (None, None, clock.now())
