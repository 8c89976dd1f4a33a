"""Who is alive, as told by locks; and that nobody's tag leads anywhere else."""

import shutil

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from gan_core.config import RunConfig
from gan_core.locks import liveness, lock_tag
from gan_core.metric_names import LOCK, PARENT
from gan_core.tracking.store import create_run, find_cut_off, prepare_store, settle_stale

CONFIG = RunConfig(dataset="digits", epochs=3)
LOCK_FILE = "0123456789abcdef" * 2 + "/lock"


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture
def experiment(uri):
    return prepare_store(uri, "grid")


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
