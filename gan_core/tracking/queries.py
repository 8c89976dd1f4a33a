"""Runs that were cut off: marked as what they are, and found again to go on."""

import logging
import os
from collections.abc import Iterator

# Read when MLflow is imported: it sends usage data unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The tracker tries again by itself, as long as need be; a call that waits for minutes could not be ended.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# A server's client prints two lines for each run that ends, into the live view.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from functools import cache

from mlflow import MlflowClient as MlflowClient  # noqa: PLC0414 (handed on)
from mlflow.entities import Run, RunTag, ViewType
from mlflow.tracking.context.registry import resolve_tags

from gan_core.config import RunConfig
from gan_core.locks import liveness
from gan_core.storage import Place

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)
# A database's error is raised, and said by who catches it; here it is a traceback on the terminal as well.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


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


def create_run(
    client: MlflowClient, experiment_id: str, name: str, config: RunConfig, tags: dict[str, str] | None = None
) -> str:
    """A new MLflow run for `config`, not begun yet (SCHEDULED); its id."""
    every = {**context_tags(), "config_hash": config.config_hash, **(tags or {})}
    run_id = str(client.create_run(experiment_id, run_name=name, tags=every).info.run_id)
    client.update_run(run_id, status="SCHEDULED")
    return run_id


@cache
def context_tags() -> dict[str, str]:
    """MLflow's tags of who runs what, from which commit: a client does not add them by itself."""
    return dict(resolve_tags())


def end_run(client: MlflowClient, run_id: str, status: str, reason: str = "") -> None:
    """End the run as `status`, with the reason, if there is one, as its tag failure_reason."""
    if reason:
        client.log_batch(run_id, tags=[RunTag("failure_reason", reason[:5000])])
    client.set_terminated(run_id, status)
