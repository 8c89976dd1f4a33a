"""A store in a file moves into a server's PostgreSQL, by the commands of docs/cluster.md as they stand."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]
ROOT = Path(__file__).parents[2]
RUN_GRID = ROOT / "sweeps" / "run_grid.py"
SMALL = (
    "--dataset",
    "digits",
    "--hidden-dim",
    16,
    "--optimizers",
    "sgd",
    "--z-dims",
    5,
    7,
    "--seeds",
    0,
    "--epochs",
    3,
)


def everything(client, folder):
    """Of each run of the store: what is known of it, every point of it, the content of its files."""
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            run_id = run.info.run_id
            points = {
                key: [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, key)]
                for key in run.data.metrics
            }
            place = Path(client.download_artifacts(run_id, "", str(folder / run_id)))
            files = {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}
            info = run.info.run_name, run.info.status, run.info.start_time, run.info.end_time
            found[run_id] = info, run.data.params, run.data.tags, points, files
    return found


def test_a_store_moves_and_its_sweep_goes_on(cluster, command, tmp_path):
    if not all(map(shutil.which, ("pgloader", "sqlite3", "psql"))):
        pytest.skip("pgloader, sqlite3 or psql is not there: apt-get install pgloader sqlite3 postgresql-client")
    done = command(
        RUN_GRID,
        *SMALL,
        "--name",
        "moving",
        "--register",
        "digit",
        "--tracking-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
    )
    assert done.returncode == 0, done.stderr
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    before = everything(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), tmp_path / "before")
    assert len(before) == 3

    with cluster.mlflow_on(5002, "moved"):  # makes the tables
        pass
    words = re.search(r"<!-- moving -->\n```bash\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)[1]
    where = {
        "old": str(tmp_path), "artifacts": str(cluster.FOLDER / "artifacts"),
        "new": cluster.sql_uri("moved").replace("+psycopg", ""),
    }  # fmt: skip
    moved = cluster.run_on("store", "bash", "-euc", words, **where)
    assert moved.returncode == 0, moved.stdout + moved.stderr
    shutil.rmtree(tmp_path / "mlruns")

    with cluster.mlflow_on(5002, "moved") as server:
        client = MlflowClient(server)
        assert everything(client, tmp_path / "after") == before
        (version,) = client.search_model_versions("name = 'digit'")
        assert client.get_model_version_download_uri("digit", version.version)
        more = cluster.run_on(
            "head", cluster.sys.executable, RUN_GRID, *SMALL, "--name", "moving", "--epochs", 4,
            "--checkpoint-dir", tmp_path / "checkpoints", "--tracking-uri", server, PYTHONPATH=str(ROOT),
        )  # fmt: skip
        assert more.returncode == 0, more.stdout + more.stderr
        assert "2 extend" in more.stdout
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
            assert database.execute("SELECT count(*) FROM runs").fetchone() == (3,)  # nothing was written there
