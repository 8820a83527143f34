"""Shards in S3, as moto's server plays it on this machine: found, streamed, refused in one line where they are not."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unlabeled import pretrain
from unlabeled.check import UserError
from unlabeled.data.streaming import addresses
from unlabeled.evaluation import embed_shards
from unlabeled.run import CHECKPOINT, read_checkpoint

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

pytestmark = pytest.mark.usefixtures("small_networks")

LENGTHS = [25, 18, 21]
FAST: dict[str, Any] = {
    **{"batch_size": 16, "epochs": 2, "encoder": "conv4", "image_size": 8, "quiet": True, "stream": True},
    **{"projection_dim": 8, "workers": 1},
}
SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
input()
server.stop()
"""
"""In a process of its own, since it patches the libraries that ask it."""


def tar_of(shard: int, rows: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for row in range(rows):
            pixels = np.random.default_rng([shard, row]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(content := io.BytesIO(), "png")
            member = tarfile.TarInfo(f"{row:04}.png")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
    return stream.getvalue()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a server with the bucket `pictures`, of which `train/` holds shards."""
    words = [sys.executable, "-W", "ignore", "-c", SERVER]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        address = server.stdout.readline().strip()
        store = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=address, skip_instance_cache=True)
        store.mkdir("pictures")
        for shard, rows in enumerate(LENGTHS):
            store.pipe(f"pictures/train/part-{shard}.tar", tar_of(shard, rows))
        yield address
        server.stdin.write("\n")
        server.stdin.flush()


@pytest.fixture(autouse=True)
def environment(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user sets; requests are tried again without waiting."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(addresses, "WAIT", 0.001)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_training_from_a_bucket_is_that_from_the_files(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for shard, rows in enumerate(LENGTHS):
        (tmp_path / "files" / f"part-{shard}.tar").write_bytes(tar_of(shard, rows))
    states = []
    for name, source in (("there", "s3://pictures/train/"), ("here", str(tmp_path / "files"))):
        run = pretrain("simclr", source, out=tmp_path / name, **FAST)
        groups, _ = read_checkpoint(run.path / CHECKPOINT)
        states.append({key: value.numpy().tobytes() for key, value in groups["method"].items()})
    assert states[0] == states[1]


def test_features_of_a_bucket_are_written_by_shard(tmp_path: Path) -> None:
    run = pretrain("simclr", "s3://pictures/train/", out=tmp_path / "run", **FAST)
    written = embed_shards(run, "s3://pictures/train/*.tar", out=tmp_path / "out", stream=True, workers=1)
    assert written[:3] == (3, 3, sum(LENGTHS))
    table = pd.read_parquet(tmp_path / "out" / "shard-00001.parquet")
    assert table["path"].tolist()[:2] == [f"s3://pictures/train/part-1.tar/000{row}.png" for row in range(2)]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://nothing/train/", r"^s3://nothing/train/ is in a bucket that does not exist$"),
        ("s3://nothing/a.tar", r"^s3://nothing/a.tar is in a bucket that does not exist$"),
        ("s3://pictures/empty/", r"^s3://pictures/empty/ does not exist$"),
        ("s3://pictures/train/part-{0..9}.tar", r"^s3://pictures/train/part-3.tar does not exist$"),
    ],
)
def test_what_is_not_there_is_one_line(source: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        pretrain("simclr", source, out=tmp_path / "run", **FAST)


def test_credentials_that_nobody_knows_are_one_line(endpoint: str, tmp_path: Path) -> None:
    def check_credentials(requests: str) -> None:
        address = f"{endpoint}/moto-api/reset-auth"
        urlopen(Request(address, requests.encode(), {"Content-Type": "text/plain"})).close()

    check_credentials("0")  # from the first request on
    try:
        with pytest.raises(UserError, match=r"^s3://pictures/train/ may not be read: .*Access Key") as told:
            pretrain("simclr", "s3://pictures/train/", out=tmp_path / "run", **FAST)
    finally:
        check_credentials("inf")
    assert "\n" not in str(told.value)


def test_credentials_that_are_missing_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match=r"^s3://pictures/train/ may not be read: .*credentials"):
        pretrain("simclr", "s3://pictures/train/", out=tmp_path / "run", **FAST)
