import re
from typing import Any

import pytest

from fairlead.protocol import PROTOCOL
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead_api.openapi import EXAMPLE_SPEC


@pytest.fixture
def document(small_bench: Any) -> dict[str, Any]:
    return dict(small_bench.nobody.get("/openapi.json").json())


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()]


def test_every_operation_has_a_name_a_tag_and_its_errors(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names) > 30
    for path, method, operation in operations(document):
        assert operation["tags"], path
        assert operation["summary"], path
        if path.startswith(("/v1", "/internal")):
            assert operation["security"] == [{"token": []}], path
            assert "application/problem+json" in operation["responses"]["401"]["content"], (path, method)


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    named = set(re.findall(r"#/components/schemas/([A-Za-z0-9_.-]+)", str(document)))
    assert named <= set(schemas)
    assert "HTTPValidationError" not in str(document)
    assert {"ExperimentSpec", "LaunchDocument", "Batch", "ProblemDocument"} <= named


def test_the_example_is_a_spec_that_is_admitted(small_bench: Any, document: dict[str, Any]) -> None:
    body = document["paths"]["/v1/experiments"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == EXAMPLE_SPEC
    from_mapping(ExperimentSpec, body["example"])
    assert small_bench.submit(body["example"])["state"] == "accepted"


def test_the_page_loads_nothing_from_elsewhere(small_bench: Any) -> None:
    page = small_bench.nobody.get("/docs")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert all(address.startswith("/docs/") for address in addresses)
    assert "<script>" not in page.text
    for address in addresses:
        assert small_bench.nobody.get(address).status_code == 200
    assert "unsafe" not in re.findall(r"script-src [^;]*", page.headers["content-security-policy"])[0]


def test_version_and_health(small_bench: Any) -> None:
    version = small_bench.user.get("/v1/version").json()
    assert (version["protocol"], version["schema_revision"] > "") == (PROTOCOL, True)
    assert small_bench.nobody.get("/healthz").text == "ok\n"
    assert small_bench.nobody.get("/startupz").text == "started\n"
    assert small_bench.nobody.get("/readyz").text == "ready\n"
