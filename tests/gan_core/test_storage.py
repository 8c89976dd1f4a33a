"""Both kinds of storage: a folder, and an object store (a real S3 server, rclone's)."""

import os
import pickle
import stat
import time

import pytest

from gan_core import storage as module
from gan_core.errors import UserError
from gan_core.storage import checkpoint_folder, storage_path, write_whole
from tests.servers import free_port


def test_paths_read_write_and_list_alike(storage):
    folder = storage / "a"
    assert not folder.exists()
    assert list(folder.glob("*")) == []
    file = folder / "b.txt"
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_whole(file, b"before")
    write_whole(file, b"there")
    for name in ("c.txt", "c.text", ".hidden.txt.1"):
        write_whole(folder / name, b"")
    write_whole(folder / "d.txt" / "deep.txt", b"deep")
    assert folder.exists()
    assert file.read_bytes() == b"there"
    assert (folder / "c.txt").read_bytes() == b""
    assert {found.name for found in folder.glob("*.txt")} >= {"b.txt", "c.txt"}
    assert {found.name for found in folder.glob("[bc].t*xt")} == {"b.txt", "c.txt", "c.text"}
    assert [found.read_bytes() for found in folder.glob(".*.txt.*")] == [b""]
    assert next(folder.glob("b*")) == file
    like = storage.parent / "yx" / "a"  # matches the folder's name, were that a pattern
    write_whole(like / "b.txt", b"another's")
    file.unlink()
    assert not file.exists()
    assert (like / "b.txt").read_bytes() == b"another's"
    file.unlink(missing_ok=True)


def test_a_path_is_written_as_text_and_read_again(storage):
    file = storage / "a" / "b.txt"
    assert storage_path(str(file)) == file
    assert pickle.loads(pickle.dumps(file)) == file
    assert (file.name, file.parent, str(file)) == ("b.txt", storage / "a", f"{storage}/a/b.txt")


def test_what_another_process_writes_is_seen(storage, command):
    assert list(storage.glob("*")) == []
    code = "import sys; from gan_core.storage import *; write_whole(storage_path(sys.argv[1]), b'new')"
    assert command("-c", code, storage / "file").returncode == 0
    assert [file.read_bytes() for file in storage.glob("*")] == [b"new"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "file", b"whole")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "file", "no bytes")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "file" / "below", b"")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"whole")]
    mask = os.umask(0o022)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_store_that_is_away_is_no_damage(bucket, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    file = bucket / "file"
    write_whole(file, b"there")
    there = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    file.fs.clear_instance_cache()
    away = storage_path(str(file))
    with pytest.raises(RuntimeError, match="cannot be read"):
        away.read_bytes()
    for request in (
        lambda: away.write_bytes(b"x"), lambda: list(away.parent.glob("*")), away.exists, away.unlink,
    ):  # fmt: skip
        with pytest.raises(OSError, match="Could not connect"):
            request()
    monkeypatch.setenv("AWS_ENDPOINT_URL", there)
    file.fs.clear_instance_cache()
    assert storage_path(str(file)).read_bytes() == b"there"


def test_a_read_is_repeated_until_the_store_is_back(bucket, monkeypatch):
    write_whole(bucket / "file", b"there")
    file, failures = bucket / "file", iter([OSError("away"), ValueError("its library's own error")])
    read = file.fs.cat_file

    def fail_twice(*words, **options):
        for error in failures:
            raise error
        return read(*words, **options)

    monkeypatch.setattr(file.fs, "cat_file", fail_twice)
    assert file.read_bytes() == b"there"


def test_a_wrong_key_is_said_at_once(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    bucket.fs.clear_instance_cache()
    began = time.monotonic()
    with pytest.raises(PermissionError):
        storage_path(str(bucket / "file")).write_bytes(b"")
    assert time.monotonic() - began < 20
    bucket.fs.clear_instance_cache()


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/path",
        "s3://",
        "http://host",
        "s3://key:secret@gan/path",
        "s3://key@gan/path",
        "s3://gan/path?secret",
        "s3://gan/path#secret",
    ],
)
def test_what_is_no_storage_is_refused_without_its_password(uri):
    with pytest.raises(UserError) as refused:
        storage_path(uri)
    assert "secret" not in str(refused.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_a_package_that_is_missing_is_named():
    with pytest.raises(UserError, match="pip install gcsfs"):
        storage_path("gs://bucket/path")


def test_folders_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage_path("a/b") == tmp_path / "a" / "b"
    assert storage_path("~/b") == tmp_path / "home" / "b"
    assert storage_path(f"file://{tmp_path}/b") == tmp_path / "b"
    with pytest.raises(UserError, match="there is no home folder for ~nobody-of-this-name"):
        storage_path("~nobody-of-this-name/b")


def test_checkpoints_lie_beside_an_sqlite_store(tmp_path, monkeypatch):
    assert checkpoint_folder(None, tmp_path / "mlflow.db") == tmp_path / "checkpoints"
    assert checkpoint_folder(str(tmp_path / "mine"), tmp_path / "mlflow.db") == tmp_path / "mine"
    assert checkpoint_folder(None, None) == module.project_root() / "checkpoints"
