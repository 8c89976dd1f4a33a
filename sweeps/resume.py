"""What the store already has of a sweep, and so what is left to do, run by run."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from gan_core import metric_names as names
from gan_core.data import ImageSet
from gan_core.errors import UserError
from gan_core.locks import liveness
from gan_core.networks import training_cost
from gan_core.tracking.store import UNFINISHED, brief, children_of, is_new, newest, redact
from sweeps.grid import GridRun
from sweeps.plan import LENGTH, Plan, render
from sweeps.runs import KIND

ELSEWHERE = "it is running, or was cut off, on another machine or with another --checkpoint-dir"

# new: trained from its start. resume: goes on from its checkpoint. retry: trained again after a failure.
# extend: a finished run goes on to more epochs. skip: finished already.
Action = Literal["new", "resume", "retry", "extend", "skip"]


@dataclass
class Step:
    """What is to be done for one run of the grid."""

    run: GridRun
    action: Action
    run_id: str = ""  # of its MLflow run; empty: to be created
    shorter: tuple[str, ...] = ()  # ids of runs that it continues and, once it is finished, replaces


@dataclass(frozen=True)
class SweepState:
    """The sweep's parent run, if it has been begun, and a step for each run of the plan."""

    parent: Run | None
    steps: list[Step] = field(default_factory=list)
    there: Mapping[str | None, list[Run]] = field(default_factory=dict)  # the sweep's runs, by their config's hash

    def add(self, run: GridRun) -> Step:
        """A step for a run that the plan does not have: a search has chosen its setting."""
        self.steps.append(_step(run, self.there.get(run.config.config_hash, []), lengths_vary=False))
        return self.steps[-1]

    def replaced(self) -> dict[str, tuple[str, ...]]:
        """The shorter runs that each run, by id, replaces once it is finished."""
        return {step.run_id: step.shorter for step in self.steps if step.run_id}

    @property
    def unfinished(self) -> Run | None:
        """The parent, if the store has the sweep as one that is running."""
        return self.parent if self.parent and self.parent.info.status in UNFINISHED else None

    def to_do(self) -> list[Step]:
        """The steps in which something is trained or logged, seed by seed, and the longest run of a seed first.

        So the last runs are short, and workers do not wait long for one another (Graham, "Bounds on
        Multiprocessing Timing Anomalies", 1969).
        """
        seeds = list(dict.fromkeys(step.run.config.seed for step in self.steps))
        return sorted(
            (step for step in self.steps if step.action != "skip"),
            key=lambda step: (seeds.index(step.run.config.seed), -training_cost(step.run.config)),
        )

    def count(self) -> dict[Action, int]:
        """How many steps there are of each kind."""
        return dict(Counter(step.action for step in self.steps))


def look_up(plan: Plan) -> SweepState:
    """The state of a plan whose store may not be there yet. Writes nothing. Raises UserError."""
    if is_new(plan.tracking_uri):
        return _nothing_yet(plan)
    try:
        client = MlflowClient(plan.tracking_uri)
        experiment = client.get_experiment_by_name(plan.experiment)
        return sweep_state(client, experiment.experiment_id, plan) if experiment else _nothing_yet(plan)
    except MlflowException as error:
        reason = brief(error, plan.tracking_uri)
        raise UserError(f"cannot use the store {redact(plan.tracking_uri)}: {reason}") from error


def describe_state(state: SweepState, plan: Plan, every_run: bool = True, gone: int = 0) -> str:
    """What would be done: a line for all, one for each run, and one before for a sweep that looks alive.

    gone: runs that were still marked as running, of a process that is gone.
    """
    alive = ""
    if every_run and (parent := state.unfinished):
        alive = liveness(plan.checkpoint_dir, parent.data.tags.get(names.LOCK))
    steps = [step for step in state.steps if not plan.rules or step.action != "new"] if every_run else []
    return render("to_do", state=state, race=plan.rules is not None, liveness=alive, gone=gone, steps=steps)


def sweep_state(client: MlflowClient, experiment_id: str, plan: Plan) -> SweepState:
    """The state of a plan in the store. Writes nothing. Raises UserError if its name is another sweep's."""
    parent = None if plan.again else find_sweep(client, experiment_id, plan)
    if parent is None:
        return _nothing_yet(plan)
    there: dict[str | None, list[Run]] = {}
    for child in children_of(client, experiment_id, parent.info.run_id):
        there.setdefault(child.data.tags.get(names.CONFIG_HASH), []).append(child)
    lengths_vary = LENGTH in plan.grid.fields()
    steps = [_step(run, there.get(run.config.config_hash, []), lengths_vary) for run in plan.runs]
    return SweepState(parent, steps, there)


def require_same_images(state: SweepState, images: Collection[ImageSet]) -> None:
    """Raise UserError if a run of the sweep was trained on other images of a folder than are in it now."""
    now = {(data.name, tuple(data.images.shape[1:])): data.digest for data in images if data.folder_digest}
    for run in (run for runs in state.there.values() for run in runs):
        for dataset in (entry.dataset for entry in (run.inputs.dataset_inputs if run.inputs else ())):
            its = dataset.name, tuple(json.loads(dataset.profile or "{}").get("shape", ()))
            if now.get(its, dataset.digest) != dataset.digest:
                raise UserError(
                    f"the images in {dataset.name} have changed since {run.info.run_name} of this sweep was trained on "
                    "them: put the earlier ones back, choose another --name, or start anew with --again"
                )


def find_sweep(client: MlflowClient, experiment_id: str, plan: Plan) -> Run | None:
    """The newest sweep of the plan's name; where it has none, the newest unnamed one of the same settings."""
    condition = f"tags.`{names.SWEEP_KIND}` = '{KIND}'"
    if plan.named:
        where, wanted = "attributes.run_name", plan.name
    else:
        condition += f" AND tags.`{names.SWEEP_UNNAMED}` = 'true'"
        where, wanted = f"tags.`{names.SWEEP_KEY}`", plan.key
    if not set("'\\") & set(wanted):  # a name, also that of a folder, can have what cannot stand in a query
        condition += f" AND {where} = '{wanted}'"
    for parent in newest(client, experiment_id, condition):
        if wanted != (parent.info.run_name if plan.named else parent.data.tags.get(names.SWEEP_KEY)):
            continue
        if parent.data.tags.get(names.SWEEP_FORMAT) != names.FORMAT_VERSION:
            raise UserError(
                f"the sweep {parent.info.run_name!r} was recorded by another version of this program, in "
                "another format: choose another --name, or start anew with --again"
            )
        key = parent.data.tags.get(names.SWEEP_KEY, plan.key)
        if key != plan.key:
            raise UserError(
                f"there is a sweep {plan.name!r} with other settings ({key}): choose another --name, or "
                "start anew with --again"
            )
        return parent
    return None


def _nothing_yet(plan: Plan) -> SweepState:
    return SweepState(None, [Step(run, "new") for run in plan.runs])


def _step(run: GridRun, same: Collection[Run], lengths_vary: bool) -> Step:
    """A run is known by the hash of its config, which leaves out how long it is to train.

    lengths_vary: the length is an axis, and a shorter run is another run, not the beginning of a longer one.
    """
    if lengths_vary:
        same = [one for one in same if one.info.run_name == run.name]
    wanted = run.config.epochs
    known = [(length, one) for one in same if (length := _length(one, wanted))]
    whole = [one for length, one in known if length >= wanted and _finished(one)]
    begun = [one for length, one in reversed(known) if length == wanted]
    chosen = next(iter(whole + begun), None)
    by_length = sorted(known, key=lambda each: each[0])
    shorter = tuple(one.info.run_id for length, one in by_length if length <= wanted and one is not chosen)
    action: Action = "extend" if shorter else "new"
    if chosen:
        match chosen.info.status:
            case "FINISHED" if _finished(chosen):
                action = "skip"
            case "FAILED":
                action = "retry"
            case _ if LENGTH in chosen.data.params:
                action = "resume"
    return Step(run, action, chosen.info.run_id if chosen else "", shorter)


def _finished(run: Run) -> bool:
    """Whether it was trained to its end, and not dropped on the way."""
    return run.info.status == "FINISHED" and names.DROPPED not in run.data.tags


def _length(run: Run, wanted: int) -> int | None:
    """How many epochs a run is to train; None for nonsense. One that never began can become any length."""
    try:
        return int(run.data.params.get(LENGTH, wanted))
    except ValueError:
        return None
