"""Overriding a gate: who may, what is written down, what becomes of the model, and what never changes."""

from datetime import timedelta
from typing import Any

import pytest

from fairlead.evaluation.signing import public_key, verify
from fairlead.lifecycle import Outcome, State
from fairlead.protocol import ResultDocument
from fairlead.secret_key import report_seed
from fairlead.store import attempts, experiments
from fairlead.testing.builders import a_model

REASON = "the gap is that of the applicants themselves, see the audit of May"


def a_gate(name: str, outcome: str) -> dict[str, Any]:
    return {
        "id": name,
        "metric": "demographic_parity_difference",
        "by": ["sex"],
        "require": "<= 0.1",
        "evidence": "upper_bound",
        "outcome": outcome,
        "why": "as measured",
    }


@pytest.fixture
def failed(bench: Any, spec: dict[str, Any]) -> str:
    """An experiment of which one gate has failed, one was undecided and one has passed; its model is withheld."""
    experiment_id, attempt_id, _ = bench.running({**spec, "register": {"name": "risk"}})
    now = bench.clock.now()
    result = ResultDocument(
        experiment_id=experiment_id,
        attempt_no=1,
        outcome=Outcome.SUCCEEDED,
        reason="",
        started_at=now,
        ended_at=now,
        model=a_model(),
    )
    gates = [a_gate("dp", "fail"), a_gate("eo", "inconclusive"), a_gate("acc", "pass")]
    columns = {
        "gates": gates,
        "report_outcome": "fail",
        "report_sha256": "sha256:" + "a" * 64,
        "registration": {"is_registered": False, "is_pending": False, "reason": "gate_failed: gates failed: dp"},
    }
    with bench.store.write() as session:
        attempts.get(session, attempt_id).result = result.model_dump(mode="json")
    bench.move(experiment_id, State.RUNNING, State.EVALUATING)
    with bench.store.write() as session:
        row = experiments.get(session, experiment_id)
        assert experiments.move_if_current(
            session, row, State.SUCCEEDED, reason="evaluated", actor="evaluate", now=now, columns=columns
        )
    return str(experiment_id)


def override(bench: Any, experiment_id: str, gate: str, **body: Any) -> Any:
    return bench.user.post(f"/v1/experiments/{experiment_id}/gates/{gate}/override", json={"reason": REASON, **body})


def test_the_model_goes_on_once_no_gate_is_left_that_withholds_it(bench: Any, failed: str) -> None:
    answer = override(bench, failed, "dp")
    assert answer.status_code == 200, answer.text
    shown = bench.user.get(f"/v1/experiments/{failed}").json()
    assert shown["report_outcome"] == "fail", "what was measured stays what is shown"
    assert [gate["outcome"] for gate in shown["gates"]] == ["fail", "inconclusive", "pass"]
    assert not shown["registration"]["is_pending"]
    assert "gate_inconclusive: gates without a conclusion: eo" in shown["registration"]["reason"]
    hints = len(bench.hints)
    assert override(bench, failed, "eo").status_code == 200
    shown = bench.user.get(f"/v1/experiments/{failed}").json()
    assert (shown["registration"]["is_pending"], shown["registration"]["name"]) == (True, "risk")
    assert len(bench.hints) > hints


def test_the_record_is_signed_and_an_event_and_an_audit_row(bench: Any, failed: str) -> None:
    until = bench.clock.now() + timedelta(days=90)
    given = override(bench, failed, "dp", expires_at=until.isoformat()).json()["override"]
    assert (given["by"], given["role"], given["outcome"], given["gate"]) == ("user", "admin", "fail", "dp")
    assert given["report_sha256"] == "sha256:" + "a" * 64
    events = bench.user.get(f"/v1/experiments/{failed}/events").json()["items"]
    (event,) = [one for one in events if one["kind"] == "gate_overridden"]
    assert REASON in event["reason"]
    key = public_key(report_seed(bench.settings.secret_key_file.read_bytes()))["public_key"]
    assert verify(event["payload"], key)
    with pytest.raises(Exception, match="changed afterwards"):
        verify({**event["payload"], "by": "somebody else"}, key)
    (row,) = bench.user.get("/v1/audit", params={"action": "eq:overrideGate"}).json()["items"]
    assert row["actor"] == "user"
    (shown,) = [gate["override"] for gate in bench.user.get(f"/v1/experiments/{failed}/gates").json()["items"][:1]]
    assert verify(shown, key), "as the API shows it, too"


def test_an_override_that_registers_nothing_has_an_audit_row_all_the_same(bench: Any, failed: str) -> None:
    with bench.store.write() as session:
        row = experiments.get(session, failed)
        row.registration = {"is_registered": True, "is_pending": False, "name": "risk", "version": "1"}
    assert override(bench, failed, "dp").status_code == 200
    assert len(bench.user.get("/v1/audit", params={"action": "eq:overrideGate"}).json()["items"]) == 1
    assert bench.user.get(f"/v1/experiments/{failed}").json()["registration"]["version"] == "1"


def test_a_second_call_changes_nothing_and_another_reason_is_refused(bench: Any, failed: str) -> None:
    first = override(bench, failed, "dp").json()
    version = bench.user.get(f"/v1/experiments/{failed}").json()["version"]
    assert override(bench, failed, "dp").json() == first
    assert bench.user.get(f"/v1/experiments/{failed}").json()["version"] == version
    answer = override(bench, failed, "dp", reason="because I say so, and loudly")
    assert (answer.status_code, "overridden already, by user" in answer.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("gate", "body", "status", "words"),
    [
        ("acc", {}, 409, "has passed"),
        ("nonesuch", {}, 404, "there are dp, eo, acc"),
        ("dp", {"reason": "because"}, 422, "at least 10 characters"),
        ("dp", {"expires_at": "2020-01-01T00:00:00Z"}, 422, "in the past"),
        ("dp", {"expires_at": "2030-01-01"}, 422, "expires_at"),
        ("dp", {"outcome": "pass"}, 422, "outcome"),
    ],
)
def test_what_is_no_override_is_refused(
    bench: Any, failed: str, gate: str, body: dict[str, Any], status: int, words: str
) -> None:
    answer = override(bench, failed, gate, **body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_gates_that_are_not_decided_cannot_be_overridden(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id = bench.submit(spec)["id"]
    answer = override(bench, experiment_id, "dp")
    assert (answer.status_code, "its gates are not decided" in answer.json()["detail"]) == (409, True)
