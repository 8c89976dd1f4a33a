"""Checkpoints and locks in an object store: a real S3 server, rclone's, over a folder."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import Timeout

from gan_core import locks as lease
from gan_core.checkpoint import Checkpoint, CheckpointFolder
from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.events import TrainState
from gan_core.locks import hold, is_free, liveness, lock_tag, was_released
from gan_core.storage import Bucket, place

pytestmark = pytest.mark.slow
CONFIG = RunConfig(dataset="digits", hidden_dim=8, z_dim=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its address; the bucket is `gan`, and the keys are in the environment."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    folder, key = tmp_path_factory.mktemp("s3"), secrets.token_hex(12)
    (folder / "gan").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    before = dict(os.environ)
    os.environ.update(AWS_ACCESS_KEY_ID="gan", AWS_SECRET_ACCESS_KEY=key)
    os.environ.update(AWS_ENDPOINT_URL=f"http://{address}", AWS_REGION="us-east-1")
    os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"  # rclone knows none of the newer ones
    process = subprocess.Popen(
        [rclone, "serve", "s3", "--addr", address, str(folder)],
        env={**before, "RCLONE_AUTH_KEY": f'"gan,{key}"'}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(200):
        try:
            socket.create_connection(address.split(":"), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield address
    process.kill()
    process.wait()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def bucket(server, request) -> Bucket:
    name = request.node.name.replace("[", "-").replace("]", "")
    return place(f"s3://gan/{name}")


def checkpoint(epoch):
    return Checkpoint(TrainState(epoch, {"w": torch.full((3,), float(epoch))}, {}), [])


def test_a_bucket_is_used_as_a_path_is(bucket):
    file = bucket / "a" / "b.txt"
    assert not file.exists()
    assert list((bucket / "a").glob("*")) == []
    file.write_bytes(b"there")
    (bucket / "a" / "c.txt").touch()
    (bucket / "a" / "c.text").touch()
    assert (file.name, str(file.parent), place(str(file))) == ("b.txt", str(bucket / "a"), place(str(file)))
    assert place(str(file)).read_bytes() == b"there"
    assert sorted(found.name for found in (bucket / "a").glob("*.txt")) == ["b.txt", "c.txt"]
    file.unlink()
    file.unlink(missing_ok=True)
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/path",
        "s3://",
        "http://host",
        "s3://key:secret@gan/path",
        "s3://key@gan/path",
        "s3://gan/path?secret",
    ],
)
def test_what_is_no_place_for_checkpoints_is_refused_without_its_password(uri):
    with pytest.raises(UserError) as refused:
        place(uri)
    assert "secret" not in str(refused.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_checkpoints_are_kept_and_damaged_ones_passed_over(bucket, monkeypatch):
    said = []
    folder = CheckpointFolder(bucket / ("0" * 32), CONFIG)
    assert folder.load(said.append) is None
    for epoch in (1, 2, 3):
        # No epochs are told of: what is looked at here is where the files go.
        monkeypatch.setattr("gan_core.checkpoint.encode", lambda one, _: str(one.state.epoch).encode())
        folder.save(checkpoint(epoch))
    assert sorted(file.name for file in folder.folder.glob("*.checkpoint")) == [
        "epoch_0000002.checkpoint", "epoch_0000003.checkpoint",
    ]  # fmt: skip
    assert folder.load(said.append) is None
    assert len(said) == 2
    assert all("it is not whole" in line for line in said)


def test_a_lock_is_held_by_one_and_free_when_let_go(bucket):
    lock = bucket / f"{'0' * 32}" / "lock"
    tag = lock_tag(bucket, f"{'0' * 32}/lock")
    assert is_free(lock)
    with hold(lock, patience=0):
        assert not was_released(lock)
        assert liveness(bucket, tag) == "alive"  # watched for longer than LOST: it is renewed
    assert was_released(lock)
    assert (liveness(bucket, tag), liveness(bucket / "other", tag)) == ("dead", "unknown")


HOLDER = """
import sys, time
from gan_core.locks import hold
from gan_core.storage import place
with hold(place(sys.argv[1]) / "lock", patience=0):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(bucket):
    """A process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(bucket)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_living_keep_it_and_the_dead_lose_it(bucket, holder):
    with pytest.raises(Timeout), hold(bucket / "lock", patience=0):
        pass
    holder.kill()
    began = time.monotonic()
    with hold(bucket / "lock", patience=0):
        assert lease.LOST <= time.monotonic() - began < lease.LOST + lease.RENEWED + lease.SETTLED + 10


def test_who_was_stopped_and_has_lost_it_ends(bucket, holder):
    holder.send_signal(signal.SIGSTOP)
    with hold(bucket / "lock", patience=60):
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(timeout=60) == -signal.SIGKILL
        assert "was taken over by another process" in holder.stderr.read()
        assert not is_free(bucket / "lock")


def test_of_many_that_want_it_at_once_one_gets_it(at_once, bucket, tmp_path):
    setup = (
        "import time\nfrom pathlib import Path\nfrom filelock import Timeout\n"
        "from gan_core.locks import hold\nfrom gan_core.storage import place\n"
        f"lock, won = place({str(bucket / 'lock')!r}), Path({str(tmp_path)!r})"
    )
    body = (
        "\n            try:"
        "\n                with hold(lock, patience=0):"
        "\n                    (won / str(number)).touch(); time.sleep(45)"
        "\n            except Timeout: pass"
    )
    at_once(4, setup, body)
    assert len(list(tmp_path.iterdir())) == 1
