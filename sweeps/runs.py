"""The MLflow runs of a sweep: one parent, one child for each cell and seed, and no status that lies."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex
from mlflow.entities import Param, Run, ViewType

from gan_core.mlflow_client import MlflowClient
from gan_core.tracking import context_tags, create_run, end_run
from sweeps.grid import AXES, Cell, GridRun
from sweeps.plan import Plan

PARENT_TAG = "mlflow.parentRunId"
CELL_TAG, KIND_TAG = "sweep.cell", "sweep.kind"
COLOUR_TAG = "mlflow.runColor"
COLOURS = [colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]  # strong ones first
OWN_RATES = "each optimizer's own"  # the parent's param learning_rates where they are no axis
UNFINISHED = ("SCHEDULED", "RUNNING")


class Sweep(NamedTuple):
    """A sweep in the store, known by its parent run."""

    experiment_id: str
    parent_id: str
    name: str


def begin_sweep(client: MlflowClient, experiment_id: str, plan: Plan) -> Sweep:
    """The parent run, RUNNING, with the axes and what all runs have in common as params."""
    tags = {**context_tags(), KIND_TAG: "grid"}
    parent = client.create_run(experiment_id, run_name=plan.name, tags=tags)
    sweep = Sweep(experiment_id, parent.info.run_id, plan.name)
    grid, common = plan.grid, dataclasses.asdict(plan.runs[0].config)
    params = {
        "optimizers": _listed(grid.optimizers),
        "z_dims": _listed(grid.z_dims),
        "seeds": _listed(grid.seeds),
        "learning_rates": grid.rates_in_words() or OWN_RATES,
        **{name: str(value) for name, value in common.items() if name not in AXES},
    }
    client.log_batch(sweep.parent_id, params=[Param(key, value) for key, value in params.items()])
    return sweep


def add_children(client: MlflowClient, sweep: Sweep, runs: Iterable[GridRun]) -> dict[str, str]:
    """A child for each run, SCHEDULED, with one colour a cell in the UI; their ids, by the run's name."""
    colours: dict[Cell, str] = {}
    run_ids = {}
    for run in runs:
        colour = colours.setdefault(run.cell, to_hex(COLOURS[len(colours) % len(COLOURS)]))
        tags = {PARENT_TAG: sweep.parent_id, CELL_TAG: str(run.cell), COLOUR_TAG: colour}
        run_ids[run.name] = create_run(client, sweep.experiment_id, run.name, run.config, tags)
    return run_ids


def children(client: MlflowClient, sweep: Sweep) -> list[Run]:
    """The children of a sweep, oldest first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [sweep.experiment_id],
            f"tags.`{PARENT_TAG}` = '{sweep.parent_id}'",
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found.extend(page)
        token = page.token
        if not token:
            return found


def settle(client: MlflowClient, sweep: Sweep, cut_off: str, reasons: dict[str, str]) -> dict[str, str]:
    """End the children that no worker has ended as `cut_off`, then the parent; each child's status, by name.

    To be called when no worker is left: a run is then FINISHED or FAILED by its own word, or was cut off.
    `reasons`: what is known of the runs that died, by name.
    """
    statuses = {}
    for run in children(client, sweep):
        name, status = run.info.run_name, run.info.status
        if status in UNFINISHED:
            status = cut_off
            reason = reasons.get(name, "interrupted" if cut_off == "KILLED" else "its worker died")
            end_run(client, run.info.run_id, status, reason)
        statuses[name] = status
    ended = set(statuses.values())
    whole = "FINISHED" if ended == {"FINISHED"} else "KILLED" if "KILLED" in ended else "FAILED"
    end_run(client, sweep.parent_id, whole)
    return statuses


def _listed(axis: Iterable[object]) -> str:
    return " ".join(map(str, axis))
