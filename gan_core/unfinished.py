"""Runs that were cut off: marked as what they are, and found again to go on."""

from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.entities import Run, ViewType

from gan_core.config import RunConfig
from gan_core.mlflow_client import MlflowClient
from gan_core.tracking import end_run

LOCK_TAG = "run.lock"  # a file's path below the folder of checkpoints, locked while the run or sweep is alive
PARENT_TAG = "mlflow.parentRunId"
UNFINISHED = ("SCHEDULED", "RUNNING")
GONE = "interrupted: its process is gone"


def settle_stale(client: MlflowClient, experiment_id: str, checkpoint_dir: Path, ours: str = "") -> list[str]:
    """End as KILLED every run and sweep of the experiment that a dead process left unfinished; their names.

    Whether a process is alive is told by its lock, so only runs with their checkpoints in `checkpoint_dir`
    are looked at: of others nothing is known here. `ours`: a lock that this process holds itself, so nobody
    else does.
    """
    ended = []
    for run in _unfinished(client, experiment_id):
        lock = run.data.tags.get(LOCK_TAG)
        if lock is None or not (ours == str(checkpoint_dir / lock) or is_free(checkpoint_dir / lock)):
            continue
        for child in children_of(client, experiment_id, run.info.run_id):
            if child.info.status in UNFINISHED:
                end_run(client, child.info.run_id, "KILLED", GONE)
                ended.append(child.info.run_name)
        end_run(client, run.info.run_id, "KILLED", GONE)
        ended.append(run.info.run_name)
    return ended


def find_cut_off(client: MlflowClient, experiment_id: str, name: str, config: RunConfig) -> str | None:
    """The newest run of this name and config, of no sweep, that was begun and not finished; its id."""
    for run in reversed(search(client, experiment_id, f"tags.config_hash = '{config.config_hash}'")):
        of_sweep, begun = PARENT_TAG in run.data.tags, run.data.params.get("epochs") == str(config.epochs)
        if run.info.run_name == name and begun and not of_sweep:
            return str(run.info.run_id) if run.info.status in ("KILLED", "FAILED") else None
    return None


def is_free(lock: Path) -> bool:
    """Whether the lock file is there and nobody holds it."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def children_of(client: MlflowClient, experiment_id: str, parent_id: str) -> list[Run]:
    """The runs below a parent, oldest first."""
    return search(client, experiment_id, f"tags.`{PARENT_TAG}` = '{parent_id}'")


def _unfinished(client: MlflowClient, experiment_id: str) -> list[Run]:
    return [
        run
        for status in UNFINISHED
        for run in search(client, experiment_id, f"attributes.status = '{status}'")
        if PARENT_TAG not in run.data.tags
    ]


def search(client: MlflowClient, experiment_id: str, condition: str) -> list[Run]:
    """The experiment's runs of which the condition holds, in MLflow's words; oldest first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            condition,
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found.extend(page)
        token = page.token
        if not token:
            return found
