"""What is there of a sweep already, and so what is left to do: run by run."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from gan_core.errors import UserError
from gan_core.locks import liveness
from gan_core.optimizers import OPTIMIZERS
from gan_core.storage import Place
from gan_core.tracking.queries import (
    LOCK_TAG,
    PARENT_TAG,
    UNFINISHED,
    MlflowClient,
    children_of,
    context_tags,
    create_run,
    end_run,
    newest,
)
from gan_core.tracking.store import brief, is_new, redact
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


ELSEWHERE = "it is running, or was cut off, on another machine or with another --checkpoint-dir"
QUOTABLE = re.compile(r"[\w .,:+-]+")  # what can stand in a query of MLflow as it is

Action = Literal["new", "goes on", "tried again", "more epochs", "finished"]


@dataclass(frozen=True)
class Step:
    """What is to be done for one run of the grid."""

    run: GridRun
    action: Action
    run_id: str = ""  # of its MLflow run; empty: to be created
    shorter: tuple[str, ...] = ()  # ids of runs that it continues and, once it is finished, replaces


@dataclass(frozen=True)
class Stock:
    """The sweep's parent run, if it has been begun, and a step for each run of the plan."""

    parent: Run | None
    steps: list[Step] = field(default_factory=list)

    @property
    def sweep(self) -> Sweep | None:
        """The sweep that the parent run stands for."""
        info = self.parent.info if self.parent else None
        return Sweep(info.experiment_id, info.run_id, info.run_name) if info else None

    def unfinished(self) -> bool:
        """Whether the store has the sweep as one that is running."""
        return self.parent is not None and self.parent.info.status in UNFINISHED

    def to_do(self) -> list[Step]:
        """The steps in which something is trained or logged."""
        return [step for step in self.steps if step.action != "finished"]

    def in_turn(self) -> list[Step]:
        """The same as they are best begun: seed by seed, of a seed the longest first.

        Then short runs are the last, and workers have not long to wait for one another (Graham, "Bounds on
        Multiprocessing Timing Anomalies", 1969).
        """
        seeds = list(dict.fromkeys(step.run.config.seed for step in self.steps))

        def turn(step: Step) -> tuple[int, int, int]:
            config = step.run.config
            return seeds.index(config.seed), -OPTIMIZERS[config.optimizer].tensors, -config.z_dim

        return sorted(self.to_do(), key=turn)

    def count(self) -> str:
        """How many there are of each kind, in words."""
        kinds = [step.action for step in self.steps]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def look_up(plan: Plan) -> Stock:
    """The stock of a plan whose store may not be there; writes nothing. Raises UserError."""
    if is_new(plan.tracking_uri):
        return _nothing_yet(plan)
    try:
        client = MlflowClient(plan.tracking_uri)
        experiment = client.get_experiment_by_name(plan.experiment)
        return take_stock(client, experiment.experiment_id, plan) if experiment else _nothing_yet(plan)
    except MlflowException as error:
        said = brief(error, plan.tracking_uri)
        raise UserError(f"cannot use the store {redact(plan.tracking_uri)}: {said}") from error


def describe_stock(stock: Stock, checkpoint_dir: Place) -> str:
    """What would be done: for each run, and before that of a sweep that looks alive, a line."""
    lines = []
    if stock.parent and stock.unfinished():
        state = liveness(checkpoint_dir, stock.parent.data.tags.get(LOCK_TAG))
        known = {"alive": "it is running", "dead": "it was cut off"}
        lines.append(f"{'now':<14} {known.get(state, ELSEWHERE)}")
    lines.append(f"{'to do':<14} {stock.count()}")
    return "\n".join([*lines, *(f"  {step.run.name}  {step.action}" for step in stock.steps)])


def take_stock(client: MlflowClient, experiment_id: str, plan: Plan) -> Stock:
    """Look a plan up in the store; writes nothing. Raises UserError if its name is another sweep's."""
    parent = None if plan.again else find_sweep(client, experiment_id, plan)
    if parent is None:
        return _nothing_yet(plan)
    there: dict[str | None, list[Run]] = {}
    for child in children_of(client, experiment_id, parent.info.run_id):
        there.setdefault(child.data.tags.get("config_hash"), []).append(child)
    return Stock(parent, [_step(run, there.get(run.config.config_hash, [])) for run in plan.runs])


def find_sweep(client: MlflowClient, experiment_id: str, plan: Plan) -> Run | None:
    """The newest sweep of the plan's name; where it has none, the newest unnamed one of the same settings."""
    condition = f"tags.`{KIND_TAG}` = 'grid'"
    if not plan.named:
        condition += f" AND tags.`{UNNAMED_TAG}` = 'true' AND tags.`{KEY_TAG}` = '{plan.key}'"
    elif QUOTABLE.fullmatch(plan.name):
        condition += f" AND attributes.run_name = '{plan.name}'"
    for parent in newest(client, experiment_id, condition):
        key = parent.data.tags.get(KEY_TAG, plan.key)
        if plan.named and parent.info.run_name == plan.name and key != plan.key:
            raise UserError(
                f"there is a sweep {plan.name!r} with other settings ({key}): choose another --name, or "
                "--again"
            )
        if not plan.named or parent.info.run_name == plan.name:
            return parent
    return None


def _nothing_yet(plan: Plan) -> Stock:
    return Stock(None, [Step(run, "new") for run in plan.runs])


def _step(run: GridRun, same: Collection[Run]) -> Step:
    """A run is known by the hash of its config, which leaves out how long it is to train."""
    wanted = run.config.epochs
    lengths = {one.info.run_id: length for one in same if (length := _length(one, wanted))}
    known = [one for one in same if one.info.run_id in lengths]
    whole = (one for one in known if one.info.status == "FINISHED" and lengths[one.info.run_id] >= wanted)
    begun = (one for one in reversed(known) if lengths[one.info.run_id] == wanted)
    chosen = next(whole, None) or next(begun, None)
    run_id = chosen.info.run_id if chosen else ""
    others = [other for other, length in lengths.items() if length <= wanted and other != run_id]
    shorter = tuple(sorted(others, key=lambda other: lengths[other]))
    action: Action = "more epochs" if shorter else "new"
    if chosen:
        match chosen.info.status:
            case "FINISHED":
                action = "finished"
            case "FAILED":
                action = "tried again"
            case _ if "epochs" in chosen.data.params:
                action = "goes on"
    return Step(run, action, run_id, shorter)


def _length(run: Run, wanted: int) -> int | None:
    """How many epochs a run is to train; None for nonsense. One never begun can become any length."""
    try:
        return int(run.data.params.get("epochs", wanted))
    except ValueError:
        return None
