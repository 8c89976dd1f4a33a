import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from mlflow import MlflowClient

from gan_core.errors import UserError
from gan_core.storage import project_root
from gan_core.tracking.store import check_store, prepare_store, redact, resolve_uri, sqlite_file


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
    at_once(
        8,
        "import mlflow; from gan_core.tracking.store import prepare_store",
        f"prepare_store({uri!r}, 'grid')",
    )
    assert len(MlflowClient(uri).search_experiments()) == 2  # MLflow's own Default, and grid


def test_a_kill_while_the_store_is_made_leaves_none_behind(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    process = subprocess.Popen([sys.executable, "-c", PREPARE, uri])
    beside = tmp_path / ".mlflow.db.new"
    while process.poll() is None and not (beside.exists() and beside.stat().st_size > 50_000):
        pass
    assert process.poll() is None, "it was made before it could be killed"
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert prepare_store(uri, "grid")
    assert not beside.exists()


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0 but no more"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "notes.db"
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as an MLflow database"):
        prepare_store(f"sqlite:///{file}", "grid")
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "songs.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
        database.commit()
    content = file.read_bytes()
    with pytest.raises(UserError, match="not MLflow's"):
        prepare_store(f"sqlite:///{file}", "grid")
    assert file.read_bytes() == content


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
