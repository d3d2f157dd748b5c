"""Signatures of reports: what they prove, and what breaks them."""

import base64
import json
from typing import Any

import jsonschema
import pytest

from fairlead.errors import BadInput
from fairlead.evaluation import build_report, report_bytes, report_schema
from fairlead.evaluation.signing import public_key, signed, verify
from fairlead.spec import EvaluationSpec
from fairlead.testing.evaluation import a_provenance, example_state

SEED = bytes(range(32))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return signed(build_report(example_state(), provenance=a_provenance(), evaluation=EvaluationSpec()), SEED)


def test_the_key_is_the_one_that_rfc_8032_makes_of_a_seed() -> None:
    """Test 1 of section 7.1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = base64.b64decode(public_key(seed)["public_key"])
    assert key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_a_report_is_valid_after_it_was_written_and_read(report: dict[str, Any]) -> None:
    jsonschema.validate(report, report_schema())
    read = json.loads(report_bytes(report))
    trusted = public_key(SEED)
    assert verify(read, trusted["public_key"]) == verify(read) == trusted["key_id"]
    assert verify(json.loads(json.dumps(read, indent=7))) == trusted["key_id"], "however the file is laid out"
    assert signed(read, SEED) == report, "signing again changes nothing"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("outcome",), "pass!"),
        (("groups", 0, "n"), 2001),
        (("data", "uri"), "builtin://other"),
        (("signature", "value"), base64.b64encode(bytes(64)).decode()),
    ],
)
def test_any_change_is_noticed(report: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    changed = json.loads(json.dumps(report))
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(BadInput, match="changed afterwards"):
        verify(changed)


def test_another_key_is_no_proof(report: dict[str, Any]) -> None:
    content = {name: value for name, value in report.items() if name != "signature"}
    forged = signed({**content, "outcome": "fail"}, bytes(32))
    assert verify(forged) == public_key(bytes(32))["key_id"], "unchanged since it was signed, by whomever"
    with pytest.raises(BadInput, match=r"signed with another key: [0-9a-f]{16}"):
        verify(forged, public_key(SEED)["public_key"])


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (None, "has no signature"),
        ("x", "has no signature"),
        ({"alg": "none"}, "only ed25519 is known"),
        ({"alg": "ed25519", "public_key": "AAAA", "value": "AAAA"}, "is not 32 bytes in base64"),
        ({"alg": "ed25519", "public_key": "%", "value": "AAAA"}, "is not 32 bytes in base64"),
        ({"alg": "ed25519", "public_key": "A" * 43 + "=", "value": 7}, "is not 64 bytes in base64"),
    ],
)
def test_what_is_no_signature_is_named(report: dict[str, Any], signature: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        verify({**report, "signature": signature})
