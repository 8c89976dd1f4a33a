"""A sweep from its first run to its comparison, on a Ray that is there."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from rich.console import Console

from gan_core.checkpoint import CheckpointFolder
from gan_core.cli import OK, RUN_FAILED
from gan_core.data import ImageKey, load_images
from gan_core.errors import UserError
from gan_core.evaluation.baselines import load_reference, quality_cache
from gan_core.live import LiveView
from gan_core.locks import lock_tag
from gan_core.tracking.store import brief, end_run, prepare_store, redact, settle_stale
from sweeps.cluster import Needs
from sweeps.compat import view_address, write_view
from sweeps.grid import GridRun
from sweeps.plan import Plan, render
from sweeps.racing import Racing
from sweeps.ray_session import uninterrupted
from sweeps.register import register_best, serve_command
from sweeps.report import publish_report
from sweeps.resume import ELSEWHERE, SweepState, describe_state, require_same_images, sweep_state
from sweeps.runs import add_child, begin_sweep, colour, drop, settle, take_up
from sweeps.trials import AsAsked, Listener, stop_file, stopping, train_all
from sweeps.worker import Common, Trial


class Prepared(NamedTuple):
    """What a sweep needs beside its workers."""

    # Ray keeps the arrays in shared memory, where every worker of a machine reads them in place.
    pixels: dict[ImageKey, NDArray[np.uint8]]  # as of `run_trial`
    common: Common  # but for the cluster's needs
    client: MlflowClient
    experiment_id: str
    state: SweepState
    gone: int  # runs that were still marked as running, of a process that is gone


def prepare(plan: Plan) -> Prepared:
    """Load the images and what they are scored by, make the store ready, and find out what is left to do.

    To be called with the plan's lock held. Raises UserError, also if the sweep is conducted elsewhere.
    """
    images = {key: load_images(key, plan.data_dir) for key in plan.image_keys}
    for run in plan.runs:
        images[run.config.image_key].check_batch(run.config.batch_size)
    pixels = {key: data.images.numpy() for key, data in images.items()}
    common = Common(
        images={key: data.without_pixels() for key, data in images.items()},
        references={key: load_reference(data, quality_cache(plan.data_dir)) for key, data in images.items()},
        options=plan.options,
        checkpoint_dir=str(plan.checkpoint_dir),
        stop_file=str(stop_file(plan)),
        tracking_uri=plan.tracking_uri,
        rungs=plan.rules.rungs if plan.rules else (),
    )
    experiment_id = prepare_store(plan.tracking_uri, plan.experiment)
    try:
        # Not before: a client makes a store that is not there by itself, and not safely.
        client = MlflowClient(plan.tracking_uri)
        gone = settle_stale(client, experiment_id, plan.checkpoint_dir, ours=lock_tag(plan.checkpoint_dir, plan.lock))
        state = sweep_state(client, experiment_id, plan)
    except MlflowException as error:
        said = brief(error, plan.tracking_uri)
        raise UserError(f"cannot use the store {redact(plan.tracking_uri)}: {said}") from error
    require_same_images(state, images.values())
    if parent := state.unfinished:
        raise UserError(
            f"the sweep {parent.info.run_name!r}: {ELSEWHERE}; choose another --name, or start anew with --again"
        )
    return Prepared(pixels, common, client, experiment_id, state, len(gone))


def conduct(plan: Plan, prepared: Prepared, workers: ExitStack, console: Console, needs: Needs | None = None) -> int:
    """Train what is left of the plan, end `workers`, and show what came of it; the exit code.

    `needs`: on a cluster, what its nodes must have.
    """
    console.print(describe_state(prepared.state, plan, every_run=False, gone=prepared.gone))
    try:
        parent, done = _train_what_is_left(plan, prepared, workers, console, needs)
        _show(console, plan, prepared.client, parent)
        if plan.model:
            done = _register(console, plan, plan.model, prepared.client, parent) and done
    except (MlflowException, OSError) as error:
        _print(console, "incomplete", plan, error)
        return RUN_FAILED
    return OK if done else RUN_FAILED


def _train_what_is_left(
    plan: Plan, prepared: Prepared, workers: ExitStack, console: Console, needs: Needs | None
) -> tuple[Run, bool]:
    """The parent run, and whether all runs of the plan are FINISHED. Raises MlflowException."""
    client, state = prepared.client, prepared.state
    to_do = state.to_do()
    if state.parent and not to_do and not plan.rules:
        # All that it lacks may be its own end, if it was cut off right before.
        if state.parent.info.status != "FINISHED" or any(step.shorter for step in state.steps):
            settle(client, state.parent, "KILLED", {}, state.replaced())
        return state.parent, True
    view = LiveView({} if plan.rules else {step.run.name: step.run.config.epochs for step in to_do}, console)
    listener = Listener(view)
    racing: Racing | None = None
    parent = begin_sweep(client, prepared.experiment_id, plan, lock_tag(plan.checkpoint_dir, plan.lock), state.parent)
    write_view(client, parent, grouped=len(plan.grid.seeds) > 1)
    cut_off = "FAILED"  # what a run is that no worker has ended
    try:
        begin = _beginner(plan, client, parent, state)
        with view, stopping(plan, state.steps):
            if plan.rules:
                racing = _race(plan, prepared, parent, view, begin)
                listener.ended = racing.ended
                trials = AsAsked(racing.trials(), plan.rules.most_trials(plan.grid.wanted))
            else:
                trials = AsAsked(iter([begin(step.run) for step in to_do]), len(to_do))
            common = dataclasses.replace(prepared.common, needs=needs)
            train_all(plan, trials, prepared.pixels, common, listener)
        if racing and racing.lost:
            raise racing.lost
    except (KeyboardInterrupt, UserError):  # a person has ended it, or Ray: no run is to blame
        cut_off = "KILLED"
        raise
    finally:
        with uninterrupted():
            workers.close()
            try:
                if racing and racing.over():
                    drop(client, parent, racing.reasons(), plan.runs[0].config.epochs)
                statuses = settle(client, parent, cut_off, listener.reasons, state.replaced())
                if racing and not racing.decided and set(statuses.values()) <= {"FINISHED"}:
                    end_run(client, parent.info.run_id, cut_off)  # all that was begun is whole, the race is not
            except MlflowException as error:
                if cut_off != "KILLED":
                    raise
                _print(console, "incomplete", plan, error)
    mine = {statuses[step.run_id] for step in state.steps if step.run_id}
    all_begun = racing.decided if racing else all(step.run_id for step in state.steps)
    return parent, all_begun and mine == {"FINISHED"}


def _race(plan: Plan, prepared: Prepared, parent: Run, view: LiveView, begin: Callable[..., Trial]) -> Racing:
    for step in prepared.state.steps[: len(plan.grid.settings())]:
        if not step.run_id:
            begin(step.run)  # so that the record has every setting from the start
    return Racing(plan, prepared.client, parent, view, begin)


def _beginner(plan: Plan, client: MlflowClient, parent: Run, state: SweepState) -> Callable[..., Trial]:
    """What gives a run that is to be trained an MLflow run, kept in its step, and makes it a trial."""
    places = {setting.name: place for place, setting in enumerate(plan.grid.settings())}
    steps = {step.run.name: step for step in state.steps}
    begun: set[str] = set()

    def begin(run: GridRun, until: int | None = None) -> Trial:
        if run.name not in steps:  # a search has chosen it
            steps[run.name] = state.add(run)
        step = steps[run.name]
        if run.name not in begun:
            if step.run_id:
                take_up(client, step.run_id)
            else:
                place = places.setdefault(run.setting.name, len(places))
                step.run_id = add_child(client, parent, run, colour(place))
            if step.shorter:
                longest = plan.checkpoint_dir / step.shorter[-1]
                CheckpointFolder(plan.checkpoint_dir / step.run_id, run.config).take_over(longest)
            begun.add(run.name)  # not before: what the store did not take is tried again
        return Trial(run.name, dataclasses.asdict(run.config), step.run_id, until)

    return begin


def _show(console: Console, plan: Plan, client: MlflowClient, parent: Run) -> None:
    last_sheet = min(run.config.epochs for run in plan.runs)
    write_view(client, parent, len(plan.grid.seeds) > 1, last_sheet)
    from sweeps.comparison.compare import compare  # not before training
    from sweeps.comparison.page import write_overview
    from sweeps.comparison.records import read_sweep
    from sweeps.comparison.render import print_summary

    comparison = compare(read_sweep(client, client.get_run(parent.info.run_id)))
    write_overview(client, comparison)
    server = redact(plan.tracking_uri) if plan.tracking_uri.startswith("http") else "http://127.0.0.1:5000"
    address = view_address(server.rstrip("/"), parent.info.experiment_id, parent.info.run_id)
    print_summary(console, comparison, address, plan.tracking_uri)
    try:
        _print(console, "report", plan, page=publish_report(client, plan.tracking_uri, comparison))
    except Exception as error:
        # The grid has ended and is recorded: a report that cannot be made must not make it look broken.
        _print(console, "report", plan, error)


def _register(console: Console, plan: Plan, name: str, client: MlflowClient, parent: Run) -> bool:
    """Register the best generator, and say which it is; whether that went well."""
    try:
        registered = register_best(client, parent, name)
    except Exception as error:
        _print(console, "model", plan, error)
        return False
    _print(console, "model", plan, model=registered, serve=serve_command(plan.tracking_uri, registered))
    return True


def _print(console: Console, what: str, plan: Plan, error: Exception | None = None, **values: object) -> None:
    """What has ended, or why it has not; `what`: its part of the template."""
    said = brief(error, plan.tracking_uri) if error else ""
    unwritten = isinstance(error, OSError)
    console.print(render("end", what=what, plan=plan, error=said, unwritten=unwritten, **values))
