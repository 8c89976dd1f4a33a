"""The MLflow runs of a sweep: one parent, one child for each cell and seed, and no status that lies."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex
from mlflow.entities import Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from gan_core.mlflow_client import MlflowClient
from gan_core.tracking import context_tags, create_run, end_run
from gan_core.unfinished import LOCK_TAG, PARENT_TAG, UNFINISHED, children_of
from sweeps.grid import AXES, Cell, GridRun
from sweeps.plan import Plan

KIND_TAG = "sweep.kind"
KEY_TAG = "sweep.key"  # what all its runs have in common
UNNAMED_TAG = "sweep.unnamed"
NOW = "now."  # before the name of a parent's param: its value since the sweep has grown
CELL_TAG = "sweep.cell"
COLOUR_TAG = "mlflow.runColor"
COMMITS_TAG = "code.commits"  # of a run that more than one commit of the code has trained: all, in order
COLOURS = [colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]  # strong ones first
OWN_RATES = "each optimizer's own"  # the parent's param learning_rates where they are no axis


class Sweep(NamedTuple):
    """A sweep in the store, known by its parent run."""

    experiment_id: str
    parent_id: str
    name: str


def begin_sweep(
    client: MlflowClient, experiment_id: str, plan: Plan, lock: str, found: Sweep | None
) -> Sweep:
    """The parent run, RUNNING: the one found, or a new one with what all runs have in common as params.

    The axes are params of a new one; params cannot change, so tags tell them where a sweep has grown. `lock`:
    the tag of the lock that is held while the sweep is alive.
    """
    grid, common = plan.grid, dataclasses.asdict(plan.runs[0].config)
    axes = {
        "optimizers": _listed(grid.optimizers),
        "z_dims": _listed(grid.z_dims),
        "seeds": _listed(grid.seeds),
        "learning_rates": grid.rates_in_words() or OWN_RATES,
        "epochs": str(common["epochs"]),
    }
    if found:
        before = client.get_run(found.parent_id).data.params
        grown = [RunTag(f"{NOW}{name}", value) for name, value in axes.items() if before.get(name) != value]
        client.log_batch(found.parent_id, tags=[*grown, RunTag(LOCK_TAG, lock)])
        client.update_run(found.parent_id, status="RUNNING")
        return found
    tags = {**context_tags(), KIND_TAG: "grid", KEY_TAG: plan.key, LOCK_TAG: lock}
    if not plan.named:
        tags[UNNAMED_TAG] = "true"
    parent = client.create_run(experiment_id, run_name=plan.name, tags=tags)
    sweep = Sweep(experiment_id, parent.info.run_id, plan.name)
    params = {**{name: str(value) for name, value in common.items() if name not in AXES}, **axes}
    client.log_batch(sweep.parent_id, params=[Param(key, value) for key, value in params.items()])
    return sweep


def add_child(client: MlflowClient, sweep: Sweep, run: GridRun, colour: str) -> str:
    """A child for the run, SCHEDULED; its id."""
    tags = {PARENT_TAG: sweep.parent_id, CELL_TAG: str(run.cell), COLOUR_TAG: colour}
    return create_run(client, sweep.experiment_id, run.name, run.config, tags)


def take_up(client: MlflowClient, run_id: str) -> None:
    """Keep which commit of the code trains a run that is there already: it may be another than before."""
    now = context_tags().get(MLFLOW_GIT_COMMIT)
    run = client.get_run(run_id)
    before = commits(run.data.tags)
    if not now or now in before:
        return
    if "epochs" in run.data.params:
        client.set_tag(run_id, COMMITS_TAG, " ".join([*before, now]))
    else:  # none of it has been trained yet
        client.set_tag(run_id, MLFLOW_GIT_COMMIT, now)


def commits(tags: Mapping[str, str]) -> list[str]:
    """Of the code that has trained a run, by its tags, in order; empty where it is not known."""
    return (tags.get(COMMITS_TAG) or tags.get(MLFLOW_GIT_COMMIT, "")).split()


def colours(cells: Iterable[Cell]) -> dict[Cell, str]:
    """One colour a cell in the UI, as hex digits."""
    once = dict.fromkeys(cells)
    return {cell: to_hex(COLOURS[place % len(COLOURS)]) for place, cell in enumerate(once)}


def children(client: MlflowClient, sweep: Sweep) -> list[Run]:
    """The children of a sweep, oldest first."""
    return children_of(client, sweep.experiment_id, sweep.parent_id)


def settle(
    client: MlflowClient,
    sweep: Sweep,
    cut_off: str,
    reasons: Mapping[str, str],
    replaced: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """End the children that no worker has ended as `cut_off`, then the parent; each child's status, by id.

    To be called when no worker is left: a run is then FINISHED or FAILED by its own word, or was cut off.
    `reasons`: what is known of the runs that died, by id. `replaced`: the shorter runs that go when the
    longer one, by whose id they are given, is FINISHED: all that they have, it has too.
    """
    statuses = {}
    for run in children(client, sweep):
        run_id, status = run.info.run_id, run.info.status
        if status in UNFINISHED:
            status = cut_off
            reason = reasons.get(run_id, "interrupted" if cut_off == "KILLED" else "its worker died")
            end_run(client, run_id, status, reason)
        statuses[run_id] = status
    for run_id, shorter in replaced.items():
        for one in shorter if statuses.get(run_id) == "FINISHED" else ():
            client.delete_run(one)
            statuses.pop(one, None)
    ended = set(statuses.values())
    whole = "FINISHED" if ended == {"FINISHED"} else "KILLED" if "KILLED" in ended else "FAILED"
    if "failure_reason" in client.get_run(sweep.parent_id).data.tags:
        client.delete_tag(sweep.parent_id, "failure_reason")  # of a process before this one
    end_run(client, sweep.parent_id, whole)
    return statuses


def _listed(axis: Iterable[object]) -> str:
    return " ".join(map(str, axis))
