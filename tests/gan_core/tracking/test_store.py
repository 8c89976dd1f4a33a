"""The store's address, made ready; its runs found, created and ended; who is alive, as told by locks."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.locks import liveness, lock_tag
from gan_core.metric_names import LOCK, PARENT
from gan_core.storage import project_root
from gan_core.tracking.store import (
    check_store,
    create_run,
    find_cut_off,
    prepare_store,
    redact,
    resolve_uri,
    settle_stale,
    sqlite_file,
)

CONFIG = RunConfig(dataset="digits", epochs=3)
LOCK_FILE = "0123456789abcdef" * 2 + "/lock"


def test_the_default_is_beside_pyproject(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(None) == f"sqlite:///{project_root() / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert resolve_uri(None) == "http://localhost:5000"
    assert resolve_uri("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"


@pytest.mark.parametrize("given", ["runs.db", "sqlite:///runs.db", "./runs.db"])
def test_relative_files_are_of_the_current_folder(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(given) == f"sqlite:///{tmp_path / 'runs.db'}"
    assert sqlite_file(resolve_uri(given)) == tmp_path / "runs.db"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sqlite://", "names no file"),
        ("mlruns", "is a folder"),
        ("file:///tmp", "is a folder"),
        ("ftp://host/x", "no known kind"),
    ],
)
def test_other_kinds_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        resolve_uri(given)


def test_passwords_are_not_shown():
    assert redact("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert redact("http://host:5000") == "http://host:5000"


def test_a_store_is_made_once_with_all_that_mlflow_needs(tmp_path):
    uri = resolve_uri(str(tmp_path / "new" / "mlflow.db"))
    first = prepare_store(uri, "one")
    assert prepare_store(uri, "one") == first
    assert prepare_store(uri, "two") != first
    experiment = MlflowClient(uri).get_experiment(first)
    assert experiment.artifact_location == (tmp_path / "new" / "mlruns").as_uri()
    with closing(sqlite3.connect(tmp_path / "new" / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    left = {path.name for path in (tmp_path / "new").iterdir()}
    assert left <= {"mlflow.db", "mlflow.db-wal", "mlflow.db-shm", ".mlflow.db.lock"}


PREPARE = "import sys; from gan_core.tracking.store import prepare_store; prepare_store(sys.argv[1], 'grid')"


def test_eight_processes_at_once_make_one_store(tmp_path, at_once):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    at_once(8, "import mlflow; from gan_core.tracking.store import prepare_store", f"prepare_store({uri!r}, 'grid')")
    assert len(MlflowClient(uri).search_experiments()) == 2  # MLflow's own Default, and grid


def test_a_kill_while_the_store_is_made_leaves_none_behind(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    process = subprocess.Popen([sys.executable, "-c", PREPARE, uri])
    beside = tmp_path / ".mlflow.db.new"
    while process.poll() is None and not beside.exists():
        pass
    assert process.poll() is None, "it was made before it could be killed"
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert prepare_store(uri, "grid")
    assert not beside.exists()


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0 but no more", "songs"])
def test_a_file_that_is_not_mlflows_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "notes.db"
    if content == "songs":  # another program's database
        with closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE songs (title TEXT)")
        content, said = file.read_bytes(), "not MLflow's"
    else:
        file.write_bytes(content)
        said = "cannot be read as an MLflow database"
    with pytest.raises(UserError, match=said):
        prepare_store(f"sqlite:///{file}", "grid")
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the store"):
        check_store(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")
    with pytest.raises(UserError, match="cannot make the store"):
        prepare_store("sqlite:////proc/none/mlflow.db", "grid")


def test_a_server_that_nobody_runs_is_refused_at_once():
    with pytest.raises(UserError, match=r"cannot use the store http://me:\*\*\*@127.0.0.1:9") as refusal:
        check_store("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(refusal.value)


def test_a_deleted_experiment_is_said_to_be_deleted(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(uri).delete_experiment(prepare_store(uri, "grid"))
    with pytest.raises(UserError, match="is deleted; restore it"):
        prepare_store(uri, "grid")


def test_an_empty_file_is_as_good_as_none(tmp_path):
    (tmp_path / "mlflow.db").touch()
    assert prepare_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "grid")


@pytest.fixture
def places(tmp_path):
    (tmp_path / "checkpoints" / LOCK_FILE).parent.mkdir(parents=True)
    return tmp_path / "checkpoints"


@pytest.fixture
def make(client, experiment):
    def run(status="RUNNING", tag=None, parent=None, name="a"):
        tags = {key: value for key, value in ((LOCK, tag), (PARENT, parent)) if value is not None}
        run_id = create_run(client, experiment, name, CONFIG, tags)
        client.update_run(run_id, status=status)
        return run_id

    return run


def status(client, run_id):
    return client.get_run(run_id).info.status


@pytest.mark.parametrize("before", ["RUNNING", "SCHEDULED"])
def test_what_a_dead_process_left_is_killed_with_its_children(client, experiment, places, make, before):
    parent = make(tag=lock_tag(places, LOCK_FILE))
    child, done = make(before, parent=parent, name="child"), make("FINISHED", parent=parent)
    assert settle_stale(client, experiment, places) == ["child", "a"]
    assert [status(client, run_id) for run_id in (parent, child, done)] == ["KILLED", "KILLED", "FINISHED"]
    assert client.get_run(child).data.tags["failure_reason"] == "interrupted: its process is gone"


def test_what_a_live_process_trains_is_left_alone(client, experiment, places, make):
    tag = lock_tag(places, LOCK_FILE)
    run_id = make(tag=tag)
    with FileLock(places / LOCK_FILE):
        assert settle_stale(client, experiment, places) == []
        assert status(client, run_id) == "RUNNING"
        assert settle_stale(client, experiment, places, ours=tag) == ["a"]


def test_another_folders_runs_are_left_alone_but_a_moved_folders_are_not(client, experiment, places, make, tmp_path):
    run_id = make(tag=lock_tag(places, LOCK_FILE))
    assert settle_stale(client, experiment, tmp_path / "none") == []
    lock_tag(tmp_path / "other", LOCK_FILE)
    assert settle_stale(client, experiment, tmp_path / "other") == []
    assert status(client, run_id) == "RUNNING"
    shutil.move(places, tmp_path / "moved")
    assert settle_stale(client, experiment, tmp_path / "moved") == ["a"]


@pytest.mark.parametrize(
    "lock",
    [
        "../outside",
        "/etc/passwd",
        "",
        "x",
        "../" * 9 + "etc/passwd",
        f"{'0' * 32}/../../outside",
        "sweep-.lock",
        f"{'0' * 32}/epoch_0000001.checkpoint",
        "\x00",
        "💥",
        "sweep-0123456789abcdef.lock\n",
        "a" * 5000,
    ],
)
def test_no_tag_leads_to_another_file(client, experiment, places, make, tmp_path, lock):
    (tmp_path / "outside").write_text("mine")
    tag = lock_tag(places, lock)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix not in (".db",) and path.is_file()}
    for one in (tag, lock):
        assert liveness(places, one) == "unknown"
    run_id = make(tag=tag.replace("\x00", "\\0"))
    assert settle_stale(client, experiment, places) == []
    assert status(client, run_id) == "RUNNING"
    for path, content in files.items():
        if "mlflow.db" not in path.name:
            assert path.read_bytes() == content


def test_the_newest_of_the_same_name_and_config_is_found_if_it_has_not_finished(client, experiment, make):
    assert find_cut_off(client, experiment, "a", CONFIG) is None
    killed = make("KILLED")
    assert find_cut_off(client, experiment, "a", CONFIG).info.run_id == killed
    assert find_cut_off(client, experiment, "b", CONFIG) is None
    assert find_cut_off(client, experiment, "a", RunConfig(dataset="digits", epochs=3, seed=1)) is None
    make("KILLED", parent="a sweep")
    assert find_cut_off(client, experiment, "a", CONFIG).info.run_id == killed
    client.log_param(killed, "epochs", "4")
    assert find_cut_off(client, experiment, "a", CONFIG) is None
    client.log_param(make("FAILED"), "epochs", "abc")
    assert find_cut_off(client, experiment, "a", CONFIG) is None
    make("FINISHED")
    assert find_cut_off(client, experiment, "a", CONFIG) is None
