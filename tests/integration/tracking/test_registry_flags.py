"""MLflow's registry is changed around the gates, in each way that MLflow's own client allows: flags appear and go."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from fairlead.control.verify import FLAGGED, MENDED, PAUSE_AT_LEAST_S, RETRY_AFTER_S, Verify
from fairlead.errors import StaleLeader, Unavailable
from fairlead.evaluation import report_bytes, report_sha256
from fairlead.evaluation.signing import signed
from fairlead.lifecycle import State
from fairlead.settings import ControlSettings
from fairlead.store import Store, events, experiments, flags, model_versions
from fairlead.store.tables import RegistryFlagRow
from fairlead.testing import FakeClock
from fairlead.testing.mlflow import ExportedModel, MlflowServer
from fairlead.testing.stored import an_experiment
from fairlead.tracking.documents import EXPERIMENT_ID_TAG, FLAG_TAG, RunDocument
from fairlead.tracking.recorder import Recorder
from fairlead.tracking.registry import Registry

EVERY_S = 60.0


@dataclass
class Shop:
    """A model name of its own in the session's MLflow, with what was registered under it."""

    store: Store
    clock: FakeClock
    client: MlflowClient
    recorder: Recorder
    verify: Verify
    export: Callable[..., ExportedModel]
    name: str

    def register(self, alias: str = "candidate", *, key: str | None = None) -> str:
        """One more version, as ``record`` makes it; returns its experiment."""
        key = key or uuid.uuid4().hex[:12]
        row = an_experiment(self.store, key, state=State.SUCCEEDED, name="run", project="red")
        spec = experiments.spec_of(row)
        run_id = self.recorder.ensure_run(
            RunDocument(experiment_id=key, spec=spec, spec_hash=row.spec_hash, created_at_ms=1_700_000_000_000)
        )
        report = signed({"outcome": "pass", "experiment": key}, b"s" * 32)
        sha256 = f"sha256:{report_sha256(report)}"
        self.recorder.log_files(run_id, {"responsible_ai/report.json": report_bytes(report)})
        export = self.export()
        version = self.recorder.register_model(
            run_id,
            experiment_id=key,
            model_dir=export.directory,
            document=export.document,
            name=self.name,
            alias=alias,
            tags={"rai.outcome": "pass", "rai.report_sha256": sha256},
        )
        now = self.clock.advance(1)
        with self.store.write() as session:
            known: dict[str, Any] = {"name": self.name, "version": version.version, "alias": alias}
            model_versions.insert(session, row, **known, model_id=version.model_id, run_id=run_id, now=now)
            columns = {"mlflow_run_id": run_id, "report_sha256": sha256, "report_outcome": "pass"}
            experiments.set_columns(session, key, **columns, mlflow_version=row.version)
        return key

    def round(self) -> dict[str, RegistryFlagRow]:
        """One round; the flags after it by code, without models of other tests."""
        self.clock.advance(EVERY_S)
        assert self.verify() is False
        with self.store.read() as session:
            return {row.code: row for row in flags.every(session) if row.name.startswith(self.name)}

    def tag(self, version: str, key: str = FLAG_TAG, *, name: str | None = None) -> str | None:
        found = self.client.get_model_version(name or self.name, version).tags
        return None if key not in found else str(found[key])

    def kinds(self, key: str) -> list[str]:
        with self.store.read() as session:
            return [event.kind for event in events.after(session, key, 0) if event.kind in (FLAGGED, MENDED)]


@pytest.fixture
def shop(
    store: Store,
    clock: FakeClock,
    mlflow_server: MlflowServer,
    an_export: Callable[..., ExportedModel],
    tmp_path: Path,
) -> Shop:
    settings = ControlSettings(
        database_url="sqlite://",
        storage=tmp_path,
        mlflow_url=mlflow_server.url,
        secret_key_file=tmp_path / "secret",
        registry_check_s=EVERY_S,
    )
    return Shop(
        store=store,
        clock=clock,
        client=MlflowClient(mlflow_server.url, mlflow_server.url),
        recorder=Recorder(mlflow_server.url),
        verify=Verify(store=store, clock=clock, settings=settings),
        export=an_export,
        name=f"shop-{uuid.uuid4().hex[:8]}",
    )


@dataclass(frozen=True)
class Way:
    """How somebody changes the registry and how it is mended; both take the shop."""

    code: str
    change: Callable[[Shop], Any]
    mend: Callable[[Shop], Any]
    hangs_on: str | None = "1"
    """The version that carries the tag meanwhile."""


def _retag(key: str, value: str) -> Callable[[Shop], Any]:
    return lambda shop: shop.client.set_model_version_tag(shop.name, "1", key, value)


def _restore(key: str) -> Callable[[Shop], Any]:
    def mend(shop: Shop) -> None:
        with shop.store.read() as session:
            (one,) = model_versions.registrations(session)
        value = {"rai.outcome": one.report_outcome, "rai.report_sha256": one.report_sha256}[key]
        shop.client.set_model_version_tag(shop.name, "1", key, value)

    return mend


def _stranger(shop: Shop) -> None:
    run_id = shop.client.get_model_version(shop.name, "1").run_id
    tags = shop.client.get_model_version(shop.name, "1").tags
    shop.client.create_model_version(shop.name, "s3://elsewhere/model", run_id, tags, await_creation_for=0)


def _write_report(content: bytes) -> Callable[[Shop], Any]:
    def write(shop: Shop) -> None:
        run_id = shop.client.get_model_version(shop.name, "1").run_id
        assert run_id is not None
        shop.recorder.log_files(run_id, {"responsible_ai/report.json": content})

    return write


def _true_report(shop: Shop) -> None:
    with shop.store.read() as session:
        (one,) = model_versions.registrations(session)
    _write_report(report_bytes(signed({"outcome": "pass", "experiment": one.experiment_id}, b"s" * 32)))(shop)


def _book(outcome: str) -> Callable[[Shop], Any]:
    """Somebody changes our own database, and the tag with it."""

    def write(shop: Shop) -> None:
        with shop.store.write() as session:
            (one,) = model_versions.registrations(session)
            experiments.set_columns(session, one.experiment_id, report_outcome=outcome)
        shop.client.set_model_version_tag(shop.name, "1", "rai.outcome", outcome)

    return write


WAYS = {
    "a tag is changed": Way("hash_mismatch", _retag("rai.report_sha256", "sha256:0"), _restore("rai.report_sha256")),
    "a tag is taken away": Way(
        "hash_mismatch",
        lambda shop: shop.client.delete_model_version_tag(shop.name, "1", "rai.report_sha256"),
        _restore("rai.report_sha256"),
    ),
    "an outcome is changed": Way("outcome_mismatch", _retag("rai.outcome", "fail"), _restore("rai.outcome")),
    "a version is made by hand": Way(
        "unregistered_version",
        _stranger,
        lambda shop: shop.client.delete_model_version(shop.name, "2"),
        hangs_on="2",
    ),
    "an alias is taken away": Way(
        "alias_moved",
        lambda shop: shop.client.delete_registered_model_alias(shop.name, "candidate"),
        lambda shop: shop.client.set_registered_model_alias(shop.name, "candidate", "1"),
        hangs_on=None,
    ),
    "a report is changed": Way("report_changed", _write_report(b'{"outcome": "pass"}'), _true_report),
    "the books are changed": Way("not_passed", _book("fail"), _book("pass")),
}


@pytest.mark.by_day("sqlite")
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_what_is_changed_is_flagged_until_it_is_mended(shop: Shop, way: Way) -> None:
    key = shop.register()
    assert shop.round() == {}
    way.change(shop)
    (flag,) = shop.round().values()
    assert (flag.code, flag.project) == (way.code, "red")
    if way.hangs_on is not None:
        assert shop.tag(way.hangs_on) == flag.message
    first_seen_at = flag.first_seen_at
    assert shop.round()[way.code].first_seen_at == first_seen_at
    assert shop.kinds(key) == [FLAGGED], "told once"
    way.mend(shop)
    assert shop.round() == {}
    assert shop.tag("1") is None
    assert shop.kinds(key) == [FLAGGED, MENDED]
    with shop.store.read() as session:
        row = experiments.get(session, key)
    assert row.mlflow_version == row.version, "nothing is written to MLflow once more because of it"


def test_a_version_that_was_deleted_is_told_for_good(shop: Shop) -> None:
    shop.register()
    shop.register()
    assert shop.round() == {}
    shop.client.delete_model_version(shop.name, "2")
    assert set(shop.round()) == {"version_deleted", "alias_moved"}
    shop.client.set_registered_model_alias(shop.name, "candidate", "1")
    assert set(shop.round()) == {"version_deleted"}


def test_a_model_that_was_made_anew_under_the_same_number_is_another(shop: Shop) -> None:
    shop.register()
    version = shop.client.get_model_version(shop.name, "1")
    shop.client.delete_registered_model(shop.name)
    assert set(shop.round()) == {"version_deleted"}
    shop.client.create_registered_model(shop.name)
    shop.client.create_model_version(
        shop.name, "s3://elsewhere/model", version.run_id, version.tags, await_creation_for=0
    )
    shop.client.set_registered_model_alias(shop.name, "candidate", "1")
    assert set(shop.round()) == {"version_replaced"}


def test_a_version_that_somebody_made_with_the_tag_of_ours_before_is_flagged_and_not_registered(shop: Shop) -> None:
    key = uuid.uuid4().hex[:12]
    shop.client.create_registered_model(shop.name)
    shop.client.create_model_version(shop.name, "s3://elsewhere/model", tags={EXPERIMENT_ID_TAG: key})
    shop.register(key=key)
    found = shop.round()
    assert {code: flag.version for code, flag in found.items()} == {"unregistered_version": "1"}
    assert shop.client.get_model_version_by_alias(shop.name, "candidate").version == "2"


def test_an_alias_on_another_version_of_ours_is_flagged_there(shop: Shop) -> None:
    shop.register()
    newest = shop.register()
    shop.client.set_registered_model_alias(shop.name, "candidate", "1")
    flag = shop.round()["alias_moved"]
    assert (flag.version, flag.alias, shop.kinds(newest)) == ("1", "candidate", [FLAGGED])
    assert shop.tag("1") == flag.message
    shop.register()  # the next registration moves the alias
    assert shop.round() == {}
    assert shop.tag("1") is None


def test_models_of_others_are_noticed_and_their_copies_of_ours_are_not_false(shop: Shop) -> None:
    shop.register()
    other = f"{shop.name}-hand"
    shop.client.copy_model_version(f"models:/{shop.name}/1", other)
    assert {code: row.project for code, row in shop.round().items()} == {"unknown_model": None}
    shop.client.set_model_version_tag(other, "1", "rai.report_sha256", "sha256:0")
    assert set(shop.round()) == {"unknown_model", "false_claim"}
    assert shop.tag("1", name=other) is None, "a model of others is theirs"
    shop.client.delete_model_version_tag(other, "1", "rai.report_sha256")
    assert set(shop.round()) == {"unknown_model"}
    shop.client.delete_registered_model(other)
    assert shop.round() == {}


def test_only_our_own_tag_is_touched(shop: Shop) -> None:
    shop.register()
    shop.client.set_model_version_tag(shop.name, "1", "team", "ours")
    shop.client.set_model_version_tag(shop.name, "1", "rai.outcome", "fail")
    before = shop.client.get_model_version(shop.name, "1").tags
    shop.round()
    assert {**before, FLAG_TAG: shop.tag("1")} == shop.client.get_model_version(shop.name, "1").tags


def test_a_registration_brings_the_next_round_forward(shop: Shop) -> None:
    shop.register()
    shop.round()
    shop.client.set_model_version_tag(shop.name, "1", "rai.outcome", "fail")
    shop.clock.advance(PAUSE_AT_LEAST_S)
    shop.verify()
    with shop.store.read() as session:
        assert not [row for row in flags.every(session) if row.name == shop.name], "no round is due yet"
    shop.register()
    shop.verify()
    with shop.store.read() as session:
        found = flags.every(session)
    assert "outcome_mismatch" in {row.code for row in found if row.name == shop.name}


@pytest.mark.by_day("postgresql")
def test_an_outage_of_mlflow_leaves_the_flags_and_their_age_as_they_are(
    shop: Shop, mlflow_server: MlflowServer
) -> None:
    shop.register()
    shop.client.set_model_version_tag(shop.name, "1", "rai.outcome", "fail")
    assert set(shop.round()) == {"outcome_mismatch"}
    with shop.store.read() as session:
        before = flags.checked(session)
    assert before is not None
    mlflow_server.stop()
    try:
        shop.clock.advance(EVERY_S)
        with pytest.raises(Unavailable):
            shop.verify()
        assert shop.verify() is False, "it is not asked again at once"
        with shop.store.read() as session:
            assert set(flags.count_by_code(session)) >= {"outcome_mismatch"}
            assert flags.checked(session).checked_at == before.checked_at  # type: ignore[union-attr]
    finally:
        mlflow_server.start()
    shop.clock.advance(RETRY_AFTER_S)
    assert set(shop.round()) == {"outcome_mismatch"}


def test_nothing_is_asked_of_mlflow_before_something_was_registered(shop: Shop) -> None:
    shop.verify.connect = lambda _: pytest.fail("it was asked")
    shop.clock.advance(EVERY_S)
    assert shop.verify() is False


def test_who_no_longer_leads_hangs_no_tag(shop: Shop) -> None:
    shop.register()
    shop.client.set_model_version_tag(shop.name, "1", "rai.outcome", "fail")

    def refuse() -> None:
        raise StaleLeader("another leads")

    shop.verify.require_lead = refuse
    shop.clock.advance(EVERY_S)
    with pytest.raises(StaleLeader):
        shop.verify()
    assert shop.tag("1") is None


def test_reports_are_read_in_turns(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.control.verify.REPORTS_A_ROUND", 1)
    for alias in ("one", "two", "three"):
        shop.register(alias)
    shop.round()
    runs = [shop.client.get_model_version(shop.name, version).run_id for version in ("1", "2", "3")]
    for run_id in runs:
        assert run_id is not None
        shop.recorder.log_files(run_id, {"responsible_ai/report.json": b"{}"})
    told = []
    for _ in runs:
        shop.round()
        with shop.store.read() as session:
            told.append(flags.count_by_code(session).get("report_changed", 0))
    assert told == [1, 2, 3], "one more a round, and what was found before stays"


def test_many_versions_are_read_in_portions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.tracking.registry.VERSIONS_A_CALL", 2)
    for _ in range(2):
        shop.register()
    for _ in range(3):
        _stranger(shop)
    registry = Registry(shop.verify.settings.mlflow_url)
    found, large = registry.versions([shop.name], most=5)
    assert ([one.version for one in found], large) == (["1", "2", "3", "4", "5"], frozenset())
    assert registry.versions([shop.name], most=4) == ([], frozenset({shop.name}))


def test_a_file_that_is_larger_than_a_report_is_not_fetched(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.control.verify.MAX_REPORT_BYTES", 100)
    shop.register()
    assert "bytes, which no report has" in shop.round()["report_changed"].message


def test_a_report_that_is_no_json_any_more_is_flagged_by_its_digest(shop: Shop) -> None:
    shop.register()
    _write_report(json.dumps({"outcome": "pass"}).encode()[:-1])(shop)
    assert "was registered with sha256:" in shop.round()["report_changed"].message
