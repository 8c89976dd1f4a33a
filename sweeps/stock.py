"""What is there of a sweep already, and so what is left to do: run by run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from mlflow.entities import Run

from gan_core.errors import UserError
from gan_core.mlflow_client import MlflowClient
from gan_core.unfinished import children_of, search
from sweeps.grid import GridRun
from sweeps.plan import Plan
from sweeps.runs import KEY_TAG, KIND_TAG, UNNAMED_TAG, Sweep

Action = Literal["new", "goes on", "tried again", "more epochs", "finished"]


@dataclass(frozen=True)
class Step:
    """What is to be done for one run of the grid."""

    run: GridRun
    action: Action
    run_id: str = ""  # of its MLflow run; empty: to be created
    longer_than: str = ""  # id of the shorter run that it continues


@dataclass(frozen=True)
class Stock:
    """The sweep, if it has been begun, and a step for each run of the plan."""

    sweep: Sweep | None
    steps: list[Step] = field(default_factory=list)

    def to_do(self) -> list[Step]:
        """The steps in which something is trained or logged."""
        return [step for step in self.steps if step.action != "finished"]

    def count(self) -> str:
        """How many there are of each kind, in words."""
        kinds = [step.action for step in self.steps]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def take_stock(client: MlflowClient, experiment_id: str, plan: Plan) -> Stock:
    """Look a plan up in the store. Raises UserError if its name is another kind of sweep's."""
    sweep = None if plan.again else find_sweep(client, experiment_id, plan)
    there = children_of(client, experiment_id, sweep.parent_id) if sweep else []
    return Stock(sweep, [_step(run, there) for run in plan.runs])


def find_sweep(client: MlflowClient, experiment_id: str, plan: Plan) -> Sweep | None:
    """The newest sweep of the plan's name; where it has none, the newest unnamed one of the same settings."""
    for parent in reversed(search(client, experiment_id, f"tags.`{KIND_TAG}` = 'grid'")):
        tags, name = parent.data.tags, parent.info.run_name
        key = tags.get(KEY_TAG, plan.key)
        if plan.named and name == plan.name and key != plan.key:
            raise UserError(
                f"there is a sweep {name!r} with other settings ({key}): choose another --name, or --again"
            )
        if name == plan.name if plan.named else (UNNAMED_TAG in tags and key == plan.key):
            return Sweep(experiment_id, parent.info.run_id, name)
    return None


def _step(run: GridRun, there: Iterable[Run]) -> Step:
    """A run is known by the hash of its config, which leaves out how long it is to train."""
    same = [one for one in there if one.data.tags.get("config_hash") == run.config.config_hash]
    wanted = run.config.epochs
    # A run that was never begun has no params yet, and can become any length.
    lengths = {one.info.run_id: int(one.data.params.get("epochs", wanted)) for one in same}
    for one in same:
        if one.info.status == "FINISHED" and lengths[one.info.run_id] >= wanted:
            return Step(run, "finished", one.info.run_id)
    for one in reversed(same):
        if lengths[one.info.run_id] == wanted:
            begun = "epochs" in one.data.params
            action: Action = "tried again" if one.info.status == "FAILED" else "goes on" if begun else "new"
            return Step(run, action, one.info.run_id)
    shorter = [one for one in same if lengths[one.info.run_id] < wanted]
    if shorter:
        longest = max(shorter, key=lambda one: lengths[one.info.run_id])
        return Step(run, "more epochs", longer_than=longest.info.run_id)
    return Step(run, "new")
