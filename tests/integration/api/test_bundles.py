import hashlib
import io
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fairlead import bundle

ZIP = {"Content-Type": "application/zip"}


@pytest.fixture
def packed(tmp_path: Path) -> bundle.Bundle:
    directory = tmp_path / "code"
    directory.mkdir()
    (directory / "mine.py").write_text("def train(params, context):\n    pass\n")
    return bundle.pack(directory)


def linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def test_a_bundle_is_kept_once_under_its_digest(bench: Any, packed: bundle.Bundle) -> None:
    address = f"/v1/code-bundles/{packed.sha256}"
    assert bench.user.head(address).status_code == 404
    headers = {**ZIP, "X-Content-SHA256": packed.sha256}
    answers = [bench.user.post("/v1/code-bundles", content=packed.content, headers=headers) for _ in range(2)]
    assert [(a.status_code, a.json()["is_new"], a.json()["sha256"]) for a in answers] == [
        (201, True, packed.sha256),
        (200, False, packed.sha256),
    ]
    assert bench.user.head(address).status_code == 200
    assert bench.user.get(address).content == packed.content
    (kept,) = (bench.settings.storage / "bundles").iterdir()
    assert kept.name == f"{packed.sha256}.zip"


def test_parallel_uploads_of_one_bundle_agree(bench: Any, packed: bundle.Bundle) -> None:
    def post(_: int) -> Any:
        return bench.user.post("/v1/code-bundles", content=packed.content, headers=ZIP)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]


@pytest.mark.parametrize(("content", "name"), [(linked(), "link"), (b"PK\x03\x04 no", None), (b"", None)])
def test_an_unsound_bundle_leaves_nothing(small_bench: Any, content: bytes, name: str | None) -> None:
    answer = small_bench.user.post("/v1/code-bundles", content=content, headers=ZIP)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_bundle")
    assert list((small_bench.settings.storage / "bundles").iterdir()) == []
    digest = hashlib.sha256(content).hexdigest()
    assert small_bench.user.head(f"/v1/code-bundles/{digest}").status_code == 404


def test_bytes_that_changed_on_the_way_are_refused(small_bench: Any, packed: bundle.Bundle) -> None:
    headers = {**ZIP, "X-Content-SHA256": "0" * 64}
    answer = small_bench.user.post("/v1/code-bundles", content=packed.content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_bundle")


def test_only_zips_are_taken(small_bench: Any, packed: bundle.Bundle) -> None:
    headers = {"Content-Type": "application/x-tar"}
    assert small_bench.user.post("/v1/code-bundles", content=packed.content, headers=headers).status_code == 415


def test_an_attempt_gets_its_own_bundle_and_no_other(bench: Any, spec: dict[str, Any], packed: bundle.Bundle) -> None:
    mine = {**spec, "workload": "mine:train", "params": {}, "code": f"sha256:{packed.sha256}"}
    answer = bench.user.post("/v1/experiments", json=mine, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/code")
    bench.user.post("/v1/code-bundles", content=packed.content, headers=ZIP)
    _, _, headers = bench.running(mine)
    assert bench.nobody.get(f"/internal/v1/code-bundles/{packed.sha256}", headers=headers).content == packed.content
    assert bench.nobody.get(f"/internal/v1/code-bundles/{'b' * 64}", headers=headers).status_code == 404


LOCK = f"einops==0.8.1 --hash=sha256:{'a' * 64}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(LOCK, ""), ("einops\n", "line 1: einops is not pinned to one version with == (given: no version)")],
)
def test_a_lock_is_read_at_the_door(bench: Any, spec: dict[str, Any], content: str, message: str) -> None:
    lock = bundle.pack_file("requirements.lock", content.encode())
    asked = {**spec, "environment": {"requirements": f"sha256:{lock.sha256}"}}
    unknown = bench.user.post("/v1/plan", json=asked).json()
    assert unknown["problems"][0]["message"] == "this lock was never uploaded"
    bench.user.post("/v1/code-bundles", content=lock.content, headers=ZIP)
    answer = bench.user.post("/v1/experiments", json=asked, headers={"Idempotency-Key": "k"})
    problems = answer.json().get("errors", [])
    assert (answer.status_code, [each["message"] for each in problems]) == ((422, [message]) if message else (201, []))
    assert all(each["pointer"] == "/environment/requirements" for each in problems)


def test_a_bundle_of_several_files_is_no_lock(bench: Any, spec: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.py", "requirements.lock"):
        (tmp_path / name).write_text(LOCK)
    packed = bundle.pack(tmp_path)
    bench.user.post("/v1/code-bundles", content=packed.content, headers=ZIP)
    asked = {**spec, "environment": {"requirements": f"sha256:{packed.sha256}"}}
    answer = bench.user.post("/v1/experiments", json=asked, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/environment/requirements")


def test_an_attempt_gets_its_own_lock(bench: Any, spec: dict[str, Any]) -> None:
    lock = bundle.pack_file("requirements.lock", LOCK.encode())
    bench.user.post("/v1/code-bundles", content=lock.content, headers=ZIP)
    _, _, headers = bench.running({**spec, "environment": {"requirements": f"sha256:{lock.sha256}"}})
    assert bench.nobody.get(f"/internal/v1/code-bundles/{lock.sha256}", headers=headers).content == lock.content
