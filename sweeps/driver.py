"""A sweep from its first run to its comparison, on a Ray that is there."""

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import ray
from mlflow.exceptions import MlflowException
from ray import tune
from ray.tune.search import Searcher
from rich.console import Console

from gan_core.checkpoint import CheckpointFolder
from gan_core.cli import OK, RUN_FAILED
from gan_core.config import EvaluationSchedule
from gan_core.data import ImageSet, load_images
from gan_core.errors import UserError
from gan_core.evaluation.baselines import Reference, load_reference, quality_cache
from gan_core.live import LiveView
from gan_core.locks import lock_tag, was_released
from gan_core.run import Outcome
from gan_core.storage import Bucket, Place
from gan_core.tracking.queries import MlflowClient, settle_stale
from gan_core.tracking.store import brief, prepare_store, redact
from sweeps.cluster import Needs
from sweeps.compat import write_view
from sweeps.plan import Plan
from sweeps.ray_session import uninterrupted
from sweeps.register import register_best, serve_command
from sweeps.report import make_report, read_sweep, write_figures
from sweeps.resume import ELSEWHERE, SweepState, describe_state, sweep_state
from sweeps.runs import Sweep, add_child, add_commit, begin_sweep, colours, settle
from sweeps.summary import show_results
from sweeps.worker import Common, ImageSetLabel, Listener, Task, run_trial

STOP_PATIENCE = 5.0  # seconds for interrupted runs to reach an epoch's end and keep a checkpoint
DISTANCE = 5.0  # seconds more where they have to hear of it through an object store


class Prepared(NamedTuple):
    """What a sweep needs beside its workers."""

    images: dict[str, ImageSet]  # by data set
    references: dict[str, Reference]  # what its scores compare with, by data set
    client: MlflowClient
    experiment_id: str
    state: SweepState
    notes: list[str]


def prepare(plan: Plan) -> Prepared:
    """Load the images and what they are scored by, make the store ready, and find out what is left to do.

    To be called with the plan's lock held. Raises UserError, also if the sweep is conducted elsewhere.
    """
    images = {name: load_images(name, plan.data_dir) for name in plan.datasets}
    references = {
        name: load_reference(name, quality_cache(plan.data_dir), plan.data_dir) for name in plan.datasets
    }
    experiment_id = prepare_store(plan.tracking_uri, plan.experiment)
    try:
        # Not before: a client makes a store that is not there by itself, and not safely.
        client = MlflowClient(plan.tracking_uri)
        gone = settle_stale(
            client, experiment_id, plan.checkpoint_dir, ours=lock_tag(plan.checkpoint_dir, plan.lock)
        )
        state = sweep_state(client, experiment_id, plan)
    except MlflowException as error:
        said = brief(error, plan.tracking_uri)
        raise UserError(f"cannot use the store {redact(plan.tracking_uri)}: {said}") from error
    if state.parent and state.unfinished():
        raise UserError(
            f"the sweep {state.parent.info.run_name!r}: {ELSEWHERE}; choose another --name, or start anew "
            "with --again"
        )
    notes = [f"{len(gone)} runs of a process that is gone were still marked as running"] if gone else []
    return Prepared(images, references, client, experiment_id, state, notes)


def conduct(
    plan: Plan, prepared: Prepared, workers: ExitStack, console: Console, needs: Needs | None = None
) -> int:
    """Train what is left of the plan, end `workers`, and show what came of it; the exit code.

    `needs`: on a cluster, what its nodes must have.
    """
    to_do = describe_state(prepared.state, plan.checkpoint_dir, every_run=False)
    console.print("\n".join([*prepared.notes, to_do]))
    try:
        sweep, done = _train_what_is_left(plan, prepared, workers, console, needs)
        _show(console, plan, prepared.client, sweep)
        if plan.model:
            done = _register(console, plan, plan.model, prepared.client, sweep) and done
    except (MlflowException, OSError) as error:
        _store_is_away(console, plan, error)
        return RUN_FAILED
    return OK if done else RUN_FAILED


def _train_what_is_left(
    plan: Plan, prepared: Prepared, workers: ExitStack, console: Console, needs: Needs | None
) -> tuple[Sweep, bool]:
    """The sweep, and whether all runs of the plan are FINISHED. Raises MlflowException."""
    client, state = prepared.client, prepared.state
    to_do = state.to_do()
    run_ids = {step.run.name: step.run_id for step in state.steps if step.run_id}
    if state.parent and state.sweep and not to_do:
        # All that it lacks may be its own end, if it was cut off right before.
        if state.parent.info.status != "FINISHED" or any(step.shorter for step in state.steps):
            settle(client, state.sweep, "KILLED", {}, _replaced(state, run_ids))
        return state.sweep, True
    sweep = begin_sweep(
        client, prepared.experiment_id, plan, lock_tag(plan.checkpoint_dir, plan.lock), state.sweep
    )
    write_view(client, sweep.experiment_id, sweep.parent_id, grouped=len(plan.grid.seeds) > 1)
    cut_off = "FAILED"  # what a run is that no worker has ended
    outcomes: dict[str, Outcome] = {}
    statuses: dict[str, str] = {}
    try:
        run_ids |= _begin_runs(plan, client, sweep, state)
        with (
            LiveView({step.run.name: step.run.config.epochs for step in to_do}, console) as view,
            _stopping(plan, [run_ids[step.run.name] for step in to_do]),
        ):
            _train_all(plan, run_ids, prepared, Listener(view, outcomes), needs)
    except KeyboardInterrupt:
        cut_off = "KILLED"
        raise
    finally:
        with uninterrupted():
            workers.close()
            reasons = {run_ids[name]: outcome.reason for name, outcome in outcomes.items()}
            try:
                statuses = settle(client, sweep, cut_off, reasons, _replaced(state, run_ids))
            except MlflowException as error:
                if cut_off != "KILLED":
                    raise
                _store_is_away(console, plan, error)
    return sweep, {statuses[run_ids[step.run.name]] for step in state.steps} == {"FINISHED"}


def _replaced(state: SweepState, run_ids: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The shorter runs that each run, by id, replaces once it is finished."""
    return {run_ids[step.run.name]: step.shorter for step in state.steps if step.run.name in run_ids}


def _begin_runs(plan: Plan, client: MlflowClient, sweep: Sweep, state: SweepState) -> dict[str, str]:
    """An MLflow run for each run that is to be trained; their ids, by name."""
    colour = colours(step.run.setting for step in state.steps)
    run_ids = {}
    for step in state.to_do():
        if step.run_id:
            add_commit(client, step.run_id)
        run_id = step.run_id or add_child(client, sweep, step.run, colour[step.run.setting.name])
        if step.shorter:
            longest = plan.checkpoint_dir / step.shorter[-1]
            CheckpointFolder(plan.checkpoint_dir / run_id, step.run.config).take_over(longest)
        run_ids[step.run.name] = run_id
    return run_ids


@contextmanager
def _stopping(plan: Plan, run_ids: Iterable[str]) -> Iterator[None]:
    """Left by Ctrl-C, the runs are asked to keep a checkpoint and stop, and given some seconds for it."""
    stop_file = _stop_file(plan)
    stop_file.unlink(missing_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        stop_file.touch()
        distant = isinstance(stop_file, Bucket)
        until = time.monotonic() + STOP_PATIENCE + DISTANCE * distant
        locks = [plan.checkpoint_dir / run_id / "lock" for run_id in run_ids]
        while time.monotonic() < until and not all(map(was_released, locks)):
            time.sleep(0.1)
        raise
    finally:
        stop_file.unlink(missing_ok=True)


def _stop_file(plan: Plan) -> Place:
    return plan.checkpoint_dir / plan.lock.replace(".lock", ".stop")


def _train_all(
    plan: Plan, run_ids: dict[str, str], prepared: Prepared, listener: Listener, needs: Needs | None
) -> None:
    """Train the runs on Ray's workers."""
    tasks = [
        Task(
            name=step.run.name,
            config=dataclasses.asdict(step.run.config),
            run_id=run_ids[step.run.name],
            checkpoints=str(plan.checkpoint_dir / run_ids[step.run.name]),
            checkpoint_every=plan.options.checkpoint_every,
            stop_file=str(_stop_file(plan)),
        )
        for step in prepared.state.longest_first()
    ]
    common = Common(
        {name: ImageSetLabel(data.digest, data.source) for name, data in prepared.images.items()},
        prepared.references,
        EvaluationSchedule(plan.options.evaluate_every, plan.options.stop_dead),
        plan.tracking_uri,
        needs,
    )
    # Ray keeps the arrays in shared memory, where every worker of a machine reads them in place.
    pixels = {name: data.images.numpy() for name, data in prepared.images.items()}
    trainable = tune.with_parameters(run_trial, pixels=pixels, common=common)
    if plan.device == "cuda":
        # Ray shows a worker no GPU that it has not asked for. The runs of a machine share what there is.
        share = ray.cluster_resources().get("GPU", 0) / (plan.workers or len(plan.runs))
        trainable = tune.with_resources(trainable, {"cpu": 1, "gpu": min(share, 1)})
    with tempfile.TemporaryDirectory(prefix="gan-tune-") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=InOrder({"task": dataclasses.asdict(task)} for task in tasks),
                num_samples=len(tasks),
                reuse_actors=True,
                max_concurrent_trials=plan.workers,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                callbacks=[listener],
                failure_config=tune.FailureConfig(max_failures=plan.retries),
            ),
        ).fit()


def _store_is_away(console: Console, plan: Plan, error: Exception) -> None:
    said = brief(error, plan.tracking_uri)
    what = "it cannot be written" if isinstance(error, OSError) else "the store does not take it"
    console.print(
        f"the record is not complete: {what} ({said}). What was trained is kept in {plan.checkpoint_dir}: "
        "the same command logs it, once that is mended"
    )


def _show(console: Console, plan: Plan, client: MlflowClient, sweep: Sweep) -> None:
    last_sheet = min(run.config.epochs for run in plan.runs)
    write_view(client, sweep.experiment_id, sweep.parent_id, len(plan.grid.seeds) > 1, last_sheet)
    records = read_sweep(client, sweep)
    write_figures(client, sweep.parent_id, records)
    show_results(console, plan.tracking_uri, client, sweep, records)
    try:
        page, _ = make_report(plan.tracking_uri, plan.experiment, sweep.parent_id)
        console.print(f"Report:   {page}")
    except Exception as error:
        # The grid has ended and is recorded: a report that cannot be made must not make it look broken.
        console.print(
            f"Report:   not made ({brief(error, plan.tracking_uri)}); python sweeps/report.py makes it"
        )


def _register(console: Console, plan: Plan, name: str, client: MlflowClient, sweep: Sweep) -> bool:
    """Register the best generator, and say which it is; whether that went well."""
    try:
        registered = register_best(client, sweep, name)
    except Exception as error:
        console.print(f"Model:    not registered ({brief(error, plan.tracking_uri)})")
        return False
    console.print(f"Model:    {registered}")
    console.print(f"          {serve_command(plan.tracking_uri, registered)} serves it")
    return True


class InOrder(Searcher):
    """Suggests the configs in their order: as many trials are to be asked for.

    Tune's own grid search copies the whole grid for each trial that it makes of it: the time for n runs grows
    with n².
    """

    def __init__(self, configs: Iterable[dict[str, Any]]) -> None:
        """`configs`: one for each trial, asked for one by one."""
        super().__init__()
        self._configs = iter(configs)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves it so as to restore an experiment, which is not how a sweep goes on."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The config of the next trial; None if there is no more."""
        return next(self._configs, None)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing is learnt from it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""
