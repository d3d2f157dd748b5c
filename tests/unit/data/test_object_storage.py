"""Data at ``s3://``, from a server of S3's protocol; what is at ``gs://`` says what it needs."""

import io
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas
import pytest
from PIL import Image

from fairlead.data import check, open_dataset
from fairlead.spec import DataSpec

SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
server._thread.join()
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A process of its own: the server's threads are not the test's."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Reached as on a cluster: by the environment alone."""
    given = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in (given | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    files = fsspec.filesystem("s3")
    if not files.exists("bucket"):
        files.mkdir("bucket")
    yield files
    fsspec.filesystem("s3").clear_instance_cache()


def frame() -> pandas.DataFrame:
    random = np.random.RandomState(0)
    return pandas.DataFrame({"x": random.rand(40), "g": ["a", "b"] * 20, "y": random.choice(["no", "yes"], 40)})


def bytes_of(table: pandas.DataFrame, ending: str) -> bytes:
    if ending == "csv":
        return table.to_csv(index=False).encode()
    content: bytes = table.to_parquet()
    return content


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "folder"])
def test_tables_in_a_bucket_are_those_on_a_disk(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, streaming: bool
) -> None:
    monkeypatch.setenv("FAIRLEAD_DATA_CACHE", str(tmp_path / "cache"))
    table = frame()
    if name == "folder":
        for part in range(2):
            bucket.pipe(f"bucket/folder/{part}.parquet", bytes_of(table.iloc[part * 20 : part * 20 + 20], "parquet"))
    else:
        bucket.pipe(f"bucket/{name}", bytes_of(table, name.partition(".")[2]))
    table.to_csv(tmp_path / "t.csv", index=False)
    given = {"target": "y", "sensitive": ["g"]}
    there = open_dataset(DataSpec.model_validate({"uri": f"s3://bucket/{name}", "streaming": streaming, **given}))
    here = open_dataset(DataSpec.model_validate({"uri": str(tmp_path / "t.csv"), **given}))
    assert there.info.digest == here.info.digest


def test_a_changed_object_is_taken_in_again(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_DATA_CACHE", str(tmp_path / "cache"))
    spec = DataSpec(uri="s3://bucket/changing.csv", target="y", streaming=True)
    digests = []
    for number in (1, 2):  # of one length: the etag tells
        bucket.pipe("bucket/changing.csv", f"x,y\n{number},a\n3,b\n4,a\n5,b\n6,a\n7,b\n8,a\n9,b\n7,a\n7,b\n".encode())
        digests.append(open_dataset(spec).info.digest)
    assert digests[0] != digests[1]


def test_pictures_in_a_bucket_have_the_classes_of_their_directories(bucket: Any) -> None:
    for place in range(20):
        content = io.BytesIO()
        Image.fromarray(np.full((4, 5), 10 * place, np.uint8)).save(content, "PNG")
        bucket.pipe(f"bucket/pictures/{'cat' if place % 2 else 'dog'}/{place:02d}.png", content.getvalue())
    dataset = open_dataset(DataSpec(uri="s3://bucket/pictures"))
    assert (dataset.info.num_rows, dataset.info.feature_shape) == (20, (1, 4, 5))
    assert dataset.info.classes == ("cat", "dog")


@pytest.mark.parametrize("uri", ["s3://bucket/nothing.csv", "s3://nowhere/t.csv"])
def test_what_is_not_in_a_bucket_is_refused(bucket: Any, uri: str) -> None:
    assert "nothing is there" in check(DataSpec(uri=uri, target="y"))[0].message


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed here")
def test_a_storage_that_is_not_installed_says_what_to_install() -> None:
    (problem,) = check(DataSpec(uri="gs://bucket/t.csv", target="y"))
    assert problem.suggestion == "install fairlead[gcs] on the nodes"
    assert "gs://bucket/t.csv" in problem.message
