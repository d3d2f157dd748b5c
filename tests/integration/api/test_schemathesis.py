"""Schemathesis sends what the OpenAPI document allows, and what it does not, to every operation on both databases.

No answer may be a 5xx, and each must be as the document says: status, media type, headers and body.
"""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fairlead.testing.people import a_token, id_of
from fairlead_api.access import kind_for

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
EXAMPLES = 8
"""For each operation, mode and database: about 1,700 requests, half a minute for all."""
EXAMPLES_AT_NIGHT = 250


@schemathesis.serializer("application/zip")
def as_bytes(_: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


def sweep(bench: Any, spec: dict[str, Any], examples: int) -> tuple[Counter[int], list[str]]:
    """Call every operation ``examples`` times in each mode; the answers by status, and what the checks find."""
    experiment_id, attempt_id, attempt = bench.running(spec)
    spare = a_token(bench.store, "spare", now=bench.clock.now())
    asked = {"url": "https://hooks.example.com/x"}
    webhook = bench.user.post("/v1/webhooks", json=asked, headers={"Idempotency-Key": "w"}).json()["id"]
    callers = {"user": bench.user.headers, "agent": bench.agent.headers}
    tokens = {**{kind: found["authorization"] for kind, found in callers.items()}, "attempt": attempt["Authorization"]}
    known = {
        "experiment_id": experiment_id,
        "attempt_id": attempt_id,
        "attempt_no": 1,
        "token_id": id_of(spare),
        "member": "spare",
        "webhook_id": webhook,
    }
    names = {"/v1/projects": "default", "/v1/clusters": "local", "/v1/workloads": "tabular_mlp"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", bench.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    answers: Counter[int] = Counter()
    found = []
    stopping = bench.app.state.api.stopping
    for operation in operations:
        stopping.set()  # streams and long polls then end at once
        if operation.path == "/readyz":
            stopping.clear()  # which says rightly 503 then
        kind = kind_for(operation.path)
        name = next((value for path, value in names.items() if operation.path.startswith(path)), "x")
        headers = {"Authorization": tokens[kind]} if kind else {}
        for mode in MODES:
            try:
                call(operation.as_strategy(generation_mode=mode), headers, {**known, "name": name}, examples, answers)
            except Unsatisfiable:
                assert mode is schemathesis.GenerationMode.NEGATIVE, "it takes nothing that could be wrong"
            except Exception as failure:  # all of them are worth knowing at once
                found.append(f"{operation.label}: {type(failure).__name__}: {failure}")
    return answers, found


def call(
    cases: st.SearchStrategy[Any],
    headers: dict[str, str],
    known: dict[str, Any],
    examples: int,
    answers: Counter[int],
) -> None:
    """Call one operation, half of the times about what is there. Raises what the checks find."""

    @settings(
        max_examples=examples,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=cases, is_known=st.booleans())
    def act(case: Any, is_known: bool) -> None:
        if is_known and case.path_parameters:
            case.path_parameters = {key: known.get(key, value) for key, value in case.path_parameters.items()}
        answers[case.call_and_validate(headers=headers, checks=CHECKS).status_code] += 1

    act()


@pytest.mark.by_day("postgresql")  # the stricter one
def test_no_request_that_the_document_allows_breaks_the_server_or_the_document(
    bench: Any, spec: dict[str, Any]
) -> None:
    answers, found = sweep(bench, spec, EXAMPLES)
    assert not found, "\n\n".join(found)
    assert min(answers[200], answers[404], answers[422]) > 50, "it hardly got in"


@pytest.mark.nightly  # twenty times as many requests: minutes
def test_no_request_of_a_long_night_breaks_the_server_or_the_document(bench: Any, spec: dict[str, Any]) -> None:
    _, found = sweep(bench, spec, EXAMPLES_AT_NIGHT)
    assert not found, "\n\n".join(found)
