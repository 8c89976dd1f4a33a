"""What a cluster that cannot train is told, before anything is trained; and what an outsider gets from it."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


@pytest.fixture
def refused(cluster, grid):
    """Ask for a grid that is to be refused: the one line that is said; the store stays as it was."""

    def ask(*more, **variables):
        before = cluster.sql("SELECT run_uuid, status FROM runs ORDER BY 1")
        done = cluster.run_on("head", *grid("refused", *more), PYTHONPATH=str(cluster.ROOT), **variables)
        assert done.returncode == 2, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert cluster.sql("SELECT run_uuid, status FROM runs ORDER BY 1") == before
        return done.stderr

    return ask


def test_a_checkpoint_folder_that_nodes_do_not_share(cluster, refused):
    said = refused("--checkpoint-dir", cluster.OWN / "checkpoints")
    for name in ("one", "two"):
        assert f"node {cluster.ADDRESSES[name]}: {cluster.OWN}/checkpoints, where checkpoints are kept" in said
    assert "is not the same folder there: name one that all nodes share, or a URI" in said


def test_nodes_with_another_version_and_without_a_way_to_the_store(cluster, refused, tmp_path):
    # As if another MLflow were installed there: what the node says of itself is read from such a folder.
    about = tmp_path / "mlflow-3.16.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow\nVersion: 3.16.0\n")
    try:
        cluster.start_ray("three", PYTHONPATH=str(tmp_path))
        said = refused()
        assert "1 of 3 nodes cannot train, so nothing was" in said
        assert f"node {cluster.ADDRESSES['three']}: mlflow 3.16.0 is installed, the sweep's machine has" in said
        cluster.kill_machine("three")
        no_way = [
            "ip",
            "-n",
            f"{cluster.PREFIX}three",
            "route",
            "add",
            "unreachable",
            cluster.ADDRESSES["store"],
        ]
        subprocess.run(no_way, check=True)
        cluster.start_ray("three")
        said = refused()
        assert f"node {cluster.ADDRESSES['three']}: cannot use the store {cluster.MLFLOW}" in said
    finally:
        cluster.remove_machine("three")
        cluster.make_machine("three")


def test_a_cluster_without_slots(cluster, refused):
    try:
        for name in ("one", "two"):
            cluster.kill_machine(name)
        cluster.wait_for_nodes(1)
        said = refused()
    finally:
        for name in ("one", "two"):
            cluster.start_ray(name)
    assert f"the Ray cluster at {cluster.RAY} has no training slots: no node with a CPU" in said


@pytest.mark.parametrize(
    "variables",
    [{"RAY_AUTH_TOKEN_PATH": "wrong"}, {"RAY_AUTH_MODE": "disabled"}],
    ids=["another token", "none"],
)
def test_who_has_not_the_token_is_refused(cluster, refused, tmp_path, variables):
    (tmp_path / "wrong").write_text("0" * 32)
    if "RAY_AUTH_TOKEN_PATH" in variables:
        variables = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    said = refused(**variables)
    assert f"cannot use the Ray cluster at {cluster.RAY}" in said
    assert "token" in said.lower()


def test_with_logins_a_grid_logs_in_and_an_outsider_does_not(cluster, begin, grid, tmp_path):
    cluster.start_mlflow(5001, logins=True)
    server = cluster.MLFLOW.replace("5000", "5001")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=60)
    scratch = cluster.FOLDER / "scratch"
    scratch.mkdir()
    words = grid("secret", "--z-dims", 5, "--seeds", 0, uri=server, epochs=60)
    driver = begin(words, PYTHONPATH=str(cluster.ROOT), TMPDIR=str(scratch))
    secrets = [
        cluster.passwords()["mlflow"],
        cluster.passwords()["s3"],
        (cluster.FOLDER / "ray_token").read_text(),
    ]
    # Where the cluster's own user keeps them, and the servers' own.
    known = {cluster.FOLDER / name for name in ("passwords.json", "logins.ini", "ray_token")}
    looked = 0
    while driver.poll() is None:
        for folder in (
            scratch,
            cluster.FOLDER / "shared",
            *(cluster.FOLDER / name for name in ("head", "one", "two")),
        ):
            assert not _files_with(folder, secrets) - known
        looked += any(files for *_, files in os.walk(scratch))
        time.sleep(0.3)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert looked
    everything = cluster.sql("SELECT value FROM tags UNION SELECT value FROM params")
    assert not [value for value in everything for secret in secrets if secret in str(value)]
    assert not [secret for secret in secrets if secret in said]


def _files_with(folder, secrets):
    words = [word for secret in secrets for word in ("-e", secret)]
    found = subprocess.run(["grep", "-rlaF", *words, str(folder)], capture_output=True, text=True, check=False)
    return set(map(Path, found.stdout.split("\n"))) - {Path()}
