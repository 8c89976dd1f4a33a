"""What is there of a sweep already, and so what is left to do: run by run."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from gan_core.errors import UserError
from gan_core.locks import liveness
from gan_core.mlflow_client import MlflowClient
from gan_core.optimizers import OPTIMIZERS
from gan_core.place import Place
from gan_core.store import brief, is_new, redact
from gan_core.unfinished import LOCK_TAG, UNFINISHED, children_of, newest
from sweeps.grid import GridRun
from sweeps.plan import Plan
from sweeps.runs import KEY_TAG, KIND_TAG, UNNAMED_TAG, Sweep

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
