"""The MLflow runs of a sweep: one parent, one child per setting and seed, and no status that lies."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex
from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag

from gan_core import metric_names as names
from gan_core.compat import GIT_COMMIT_TAG, context_tags
from gan_core.tracking.store import UNFINISHED, children_of, create_run, end_run
from sweeps.grid import SEED, Grid, GridRun, sweep_text, text_of
from sweeps.plan import LENGTH, Plan
from sweeps.search import Range

KIND = "grid"
COLOURS = [colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]  # strong ones first


def begin_sweep(client: MlflowClient, experiment_id: str, plan: Plan, lock: str, found: Run | None) -> Run:
    """The parent run, RUNNING: the one found, or a new one.

    Its params are the axes and what all runs have in common. Params cannot change, so a tag `now.PARAM` has
    the present value where a sweep has grown. `lock`: the tag of the lock that is held while the sweep lives.
    """
    params = {name: text_of(value) for name, value in plan.common().items()} | _axes_as_params(plan.grid)
    tags = {names.LOCK: lock, names.SWEEP_AXES: " ".join(plan.grid.fields())}
    if plan.grid.search:
        tags[names.SWEEP_SEARCH] = plan.grid.search
    if found:
        before = found.data.params
        tags |= {f"{names.SWEEP_NOW}{name}": value for name, value in params.items() if before.get(name) != value}
        client.log_batch(found.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        for tag in found.data.tags:
            # A fixed grid has no answer. A race that goes on tells it anew, but perhaps not all of it.
            if tag.startswith(names.ANSWER) and (not plan.rules or tag in (names.ANSWER_CHECK, names.ANSWER_LEADS)):
                client.delete_tag(found.info.run_id, tag)
        client.update_run(found.info.run_id, status="RUNNING")
        parent = found
    else:
        tags |= {**context_tags(), names.SWEEP_KIND: KIND, names.SWEEP_FORMAT: names.FORMAT_VERSION}
        tags |= {names.SWEEP_KEY: plan.key, **({} if plan.named else {names.SWEEP_UNNAMED: "true"})}
        parent = client.create_run(experiment_id, run_name=plan.name, tags=tags)
        client.log_batch(parent.info.run_id, params=[Param(name, value) for name, value in params.items()])
    client.log_text(parent.info.run_id, sweep_text(plan.grid), names.SWEEP_FILE)
    return parent


def _axes_as_params(grid: Grid) -> dict[str, str]:
    """Every value of each axis and of the seed, by a space."""
    values: dict[str, list[Any]] = {name: [] for name in grid.fields()}
    for _, axes in grid.parts:
        for name, its in axes.items():
            values[name] += [its] if isinstance(its, Range) else its
    values[SEED] = list(grid.seeds)
    return {name: " ".join(map(text_of, dict.fromkeys(each))) for name, each in values.items()}


def add_child(client: MlflowClient, parent: Run, run: GridRun, colour: str) -> str:
    """A child for the run, SCHEDULED; its id."""
    tags = {names.PARENT: parent.info.run_id, names.SETTING: run.setting.name, names.RUN_COLOUR: colour}
    return create_run(client, parent.info.experiment_id, run.name, run.config, tags)


def take_up(client: MlflowClient, run_id: str) -> None:
    """A run goes on: if it was dropped, it is no more; which commit of the code resumes it is kept."""
    now = context_tags().get(GIT_COMMIT_TAG)
    run = client.get_run(run_id)
    if names.DROPPED in run.data.tags:
        client.delete_tag(run_id, names.DROPPED)
    before = commits(run.data.tags)
    if not now or now in before:
        return
    if LENGTH in run.data.params:
        client.set_tag(run_id, names.COMMITS, " ".join([*before, now]))
    else:  # none of it has been trained yet
        client.set_tag(run_id, GIT_COMMIT_TAG, now)


def commits(tags: Mapping[str, str]) -> list[str]:
    """The commits of the code that has trained a run, by its tags, in order; empty where it is not known."""
    return (tags.get(names.COMMITS) or tags.get(GIT_COMMIT_TAG, "")).split()


def colour(place: int) -> str:
    """The colour of the setting at this place among all, as the UI wants it: hex digits."""
    return to_hex(COLOURS[place % len(COLOURS)])


def drop(client: MlflowClient, parent: Run, reasons: Mapping[str, str], epochs: int) -> None:
    """End the children that wait or were cut off and need not go on; reasons: why not, by name, which becomes a tag.

    So are those that have fewer epochs than are asked for now: they do not count any more.
    """
    for run in children_of(client, parent.info.experiment_id, parent.info.run_id):
        waits = run.info.status in ("SCHEDULED", "KILLED")
        short = run.info.status == "FINISHED" and int(run.data.params.get(LENGTH, epochs)) < epochs
        if (waits or short) and run.info.run_name in reasons:
            client.set_tag(run.info.run_id, names.DROPPED, reasons[run.info.run_name])
            if names.FAILURE_REASON in run.data.tags:
                client.delete_tag(run.info.run_id, names.FAILURE_REASON)
            end_run(client, run.info.run_id, "FINISHED")


def settle(
    client: MlflowClient,
    parent: Run,
    cut_off: str,
    reasons: Mapping[str, str],
    replaced: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """End the children that no worker has ended as `cut_off`, then the parent; each child's status, by id.

    To be called when no worker is left: a run is then FINISHED or FAILED by its own word, or was cut off.
    `reasons`: what is known of the runs that died, by id. `replaced`: the shorter runs that are deleted when
    the longer one, by whose id they are given, is FINISHED: all that they have, it has too.
    """
    statuses = {}
    for run in children_of(client, parent.info.experiment_id, parent.info.run_id):
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
    if names.FAILURE_REASON in client.get_run(parent.info.run_id).data.tags:
        client.delete_tag(parent.info.run_id, names.FAILURE_REASON)  # of a process before this one
    end_run(client, parent.info.run_id, whole)
    return statuses
