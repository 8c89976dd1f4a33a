"""Runs in MLflow: found, created, ended; and those marked as ended whose process is gone."""

import os
from collections.abc import Iterator
from functools import cache

# Read when MLflow is imported: it sends usage data unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The tracker repeats failed requests itself. A request that MLflow repeats for minutes could not be ended.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# The client of a server prints two lines for each run that ends, into the live view.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient as MlflowClient  # noqa: PLC0414 (handed on)
from mlflow.entities import Run, RunTag, ViewType

from gan_core import compat
from gan_core.config import RunConfig
from gan_core.locks import liveness
from gan_core.metric_names import CONFIG_HASH, FAILURE_REASON, LOCK, PARENT
from gan_core.storage import StoragePath

compat.quiet_mlflow()

UNFINISHED = ("SCHEDULED", "RUNNING")
GONE = "interrupted: its process is gone"


def settle_stale(client: MlflowClient, experiment_id: str, checkpoint_dir: StoragePath, ours: str = "") -> list[str]:
    """Mark as KILLED every unfinished run and sweep of the experiment whose process is dead; their names.

    A process is alive if it holds its lock. Runs whose locks lie outside `checkpoint_dir` are left as they
    are. `ours`: the tag of a lock that this process itself holds; what it has left unfinished is ended too.
    """
    ended = []
    for run in _unfinished(client, experiment_id):
        tag = run.data.tags.get(LOCK)
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
    """The newest run of this name and config, outside sweeps; None if it has finished or does not exist."""
    for run in newest(client, experiment_id, f"tags.{CONFIG_HASH} = '{config.config_hash}'"):
        # A run that has no params has not begun: its number of epochs is still open.
        as_long = run.data.params.get("epochs", str(config.epochs)) == str(config.epochs)
        if run.info.run_name == name and as_long and PARENT not in run.data.tags:
            return run if run.info.status in ("KILLED", "FAILED") else None
    return None


def children_of(client: MlflowClient, experiment_id: str, parent_id: str) -> list[Run]:
    """The child runs of a parent, oldest first."""
    return search(client, experiment_id, f"tags.`{PARENT}` = '{parent_id}'")


def _unfinished(client: MlflowClient, experiment_id: str) -> list[Run]:
    return [
        run
        for status in UNFINISHED
        for run in search(client, experiment_id, f"attributes.status = '{status}'")
        if PARENT not in run.data.tags
    ]


def search(client: MlflowClient, experiment_id: str, condition: str) -> list[Run]:
    """The experiment's runs that fulfil the condition, a filter of MLflow's search; oldest first."""
    return list(_search(client, experiment_id, condition, "ASC", 1000))


def newest(client: MlflowClient, experiment_id: str, condition: str) -> Iterator[Run]:
    """The same, newest first, read as they are asked for."""
    return _search(client, experiment_id, condition, "DESC", 50)


def _search(client: MlflowClient, experiment_id: str, condition: str, order: str, page_size: int) -> Iterator[Run]:
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
    """Create an MLflow run for `config`, with status SCHEDULED; its id."""
    every = {**context_tags(), CONFIG_HASH: config.config_hash, **(tags or {})}
    run_id = str(client.create_run(experiment_id, run_name=name, tags=every).info.run_id)
    client.update_run(run_id, status="SCHEDULED")
    return run_id


@cache
def context_tags() -> dict[str, str]:
    """MLflow's tags of who runs what, from which commit; looked up once."""
    return compat.context_tags()


def end_run(client: MlflowClient, run_id: str, status: str, reason: str = "") -> None:
    """End the run with a status, and with the reason, if there is one, as a tag."""
    if reason:
        client.log_batch(run_id, tags=[RunTag(FAILURE_REASON, reason[:5000])])
    client.set_terminated(run_id, status)
