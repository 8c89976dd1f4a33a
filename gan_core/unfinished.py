"""Runs that were cut off: marked as what they are, and found again to go on."""

from collections.abc import Iterator

from mlflow.entities import Run, ViewType

from gan_core.config import RunConfig
from gan_core.locks import liveness
from gan_core.mlflow_client import MlflowClient
from gan_core.place import Place
from gan_core.tracking import end_run

LOCK_TAG = "run.lock"  # of a run or sweep: FOLDER/LOCK, which its process holds as long as it lives
PARENT_TAG = "mlflow.parentRunId"
UNFINISHED = ("SCHEDULED", "RUNNING")
GONE = "interrupted: its process is gone"


def settle_stale(
    client: MlflowClient, experiment_id: str, checkpoint_dir: Place, ours: str = ""
) -> list[str]:
    """End as KILLED every run and sweep of the experiment that a dead process left unfinished; their names.

    Whether a process is alive is told by its lock, so only runs with their checkpoints in `checkpoint_dir`
    are judged: of others nothing is known here. `ours`: the tag of a lock that this process holds itself.
    """
    ended = []
    for run in _unfinished(client, experiment_id):
        tag = run.data.tags.get(LOCK_TAG)
        if tag != ours and liveness(checkpoint_dir, tag) != "dead":
            continue
        for child in children_of(client, experiment_id, run.info.run_id):
            if child.info.status in UNFINISHED:
                end_run(client, child.info.run_id, "KILLED", GONE)
                ended.append(child.info.run_name)
        end_run(client, run.info.run_id, "KILLED", GONE)
        ended.append(run.info.run_name)
    return ended


def find_cut_off(client: MlflowClient, experiment_id: str, name: str, config: RunConfig) -> Run | None:
    """The newest run of this name and config, of no sweep, if it has not finished."""
    for run in newest(client, experiment_id, f"tags.config_hash = '{config.config_hash}'"):
        # One that has no params yet was never begun, and can become any length.
        as_long = run.data.params.get("epochs", str(config.epochs)) == str(config.epochs)
        if run.info.run_name == name and as_long and PARENT_TAG not in run.data.tags:
            return run if run.info.status in ("KILLED", "FAILED") else None
    return None


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
    return list(_search(client, experiment_id, condition, "ASC", 1000))


def newest(client: MlflowClient, experiment_id: str, condition: str) -> Iterator[Run]:
    """The same, newest first, and no more of them are read than are asked for."""
    return _search(client, experiment_id, condition, "DESC", 50)


def _search(
    client: MlflowClient, experiment_id: str, condition: str, order: str, page_size: int
) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            condition,
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=page_size,
            order_by=[f"attributes.start_time {order}"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return
