"""A sweep from its first run to its comparison, on a Ray that is there."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from rich.console import Console

from gan_core.checkpoint import CheckpointFolder
from gan_core.cli import OK, RUN_FAILED
from gan_core.data import ImageKey, ImageSet, load_images
from gan_core.errors import UserError
from gan_core.evaluation.baselines import Reference, load_reference, quality_cache
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
from sweeps.runs import add_child, begin_sweep, colours, drop, settle, take_up
from sweeps.trials import AsAsked, Listener, stop_file, stopping, train_all
from sweeps.worker import Common, Trial


class Prepared(NamedTuple):
    """What a sweep needs beside its workers."""

    images: dict[ImageKey, ImageSet]
    references: dict[ImageKey, Reference]  # what scores of such images compare with
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
    references = {key: load_reference(data, quality_cache(plan.data_dir)) for key, data in images.items()}
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
    if state.parent and state.unfinished():
        raise UserError(
            f"the sweep {state.parent.info.run_name!r}: {ELSEWHERE}; choose another --name, or start anew with --again"
        )
    return Prepared(images, references, client, experiment_id, state, len(gone))


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
    to_do = state.longest_first()
    run_ids = {step.run.name: step.run_id for step in state.steps if step.run_id}
    if state.parent and not to_do and not plan.rules:
        # All that it lacks may be its own end, if it was cut off right before.
        if state.parent.info.status != "FINISHED" or any(step.shorter for step in state.steps):
            settle(client, state.parent, "KILLED", {}, _replaced(state, run_ids))
        return state.parent, True
    parent = begin_sweep(client, prepared.experiment_id, plan, lock_tag(plan.checkpoint_dir, plan.lock), state.parent)
    write_view(client, prepared.experiment_id, parent.info.run_id, grouped=len(plan.grid.seeds) > 1)
    cut_off = "FAILED"  # what a run is that no worker has ended
    listener: Listener | None = None
    racing: Racing | None = None
    statuses: dict[str, str] = {}
    try:
        # Ray keeps the arrays in shared memory, where every worker of a machine reads them in place.
        pixels = {name: data.images.numpy() for name, data in prepared.images.items()}
        begin = _beginner(plan, client, parent, state, run_ids)
        lengths = {} if plan.rules else {step.run.name: step.run.config.epochs for step in to_do}
        with LiveView(lengths, console) as view, stopping(plan, run_ids.values()):
            trials, racing = _trials(plan, prepared, parent, view, begin)
            listener = Listener(view, racing.ended if racing else None)
            train_all(plan, trials, pixels, _common(plan, prepared, needs), listener)
        if racing and racing.lost:
            raise racing.lost
    except (KeyboardInterrupt, UserError):  # a person has ended it, or Ray: no run is to blame
        cut_off = "KILLED"
        raise
    finally:
        with uninterrupted():
            workers.close()
            outcomes = listener.outcomes if listener else {}
            reasons = {run_ids[name]: end.reason for name, end in outcomes.items() if end.status != "PAUSED"}
            try:
                if racing and racing.over():
                    drop(client, parent, racing.reasons(), plan.runs[0].config.epochs)
                statuses = settle(client, parent, cut_off, reasons, _replaced(state, run_ids))
                if racing and not racing.decided and set(statuses.values()) <= {"FINISHED"}:
                    end_run(client, parent.info.run_id, cut_off)  # all that was begun is whole, the race is not
            except MlflowException as error:
                if cut_off != "KILLED":
                    raise
                _print(console, "incomplete", plan, error)
    wanted = racing.run_names if racing else [step.run.name for step in state.steps]
    mine = [run_ids[name] for name in wanted if name in run_ids]
    whole = {statuses[run_id] for run_id in mine} == {"FINISHED"}
    return parent, whole and (racing.decided if racing else len(mine) == len(wanted))


def _trials(
    plan: Plan, prepared: Prepared, parent: Run, view: LiveView, begin: Callable[..., Trial]
) -> tuple[AsAsked, Racing | None]:
    """What is handed out to the workers, and the race that decides on it; None for a fixed grid."""
    state = prepared.state
    if plan.rules is None:
        runs = iter([begin(step.run) for step in state.longest_first()])
        return AsAsked(partial(next, runs, None), lambda: True, len(state.to_do())), None
    for step in state.steps[: len(plan.grid.settings())]:
        if not step.run_id:
            begin(step.run)  # so that the record has every setting from the start
    racing = Racing(plan, prepared.client, parent, view, begin)
    return AsAsked(racing.next, racing.over, plan.rules.most_trials(plan.grid.wanted)), racing


def _common(plan: Plan, prepared: Prepared, needs: Needs | None) -> Common:
    return Common(
        images={name: data.without_pixels() for name, data in prepared.images.items()},
        references=prepared.references,
        options=plan.options,
        checkpoint_dir=str(plan.checkpoint_dir),
        stop_file=str(stop_file(plan)),
        tracking_uri=plan.tracking_uri,
        needs=needs,
        rungs=plan.rules.rungs if plan.rules else (),
    )


def _replaced(state: SweepState, run_ids: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The shorter runs that each run, by id, replaces once it is finished."""
    return {run_ids[step.run.name]: step.shorter for step in state.steps if step.run.name in run_ids}


def _beginner(
    plan: Plan, client: MlflowClient, parent: Run, state: SweepState, run_ids: dict[str, str]
) -> Callable[..., Trial]:
    """What gives a run that is to be trained an MLflow run, kept in `run_ids`, and makes it a trial."""
    colour = colours(plan.grid.settings())
    steps = {step.run.name: step for step in state.steps}
    begun: set[str] = set()

    def begin(run: GridRun, until: int | None = None) -> Trial:
        step = steps.get(run.name) or state.step_of(run)
        if run.name not in begun:
            begun.add(run.name)
            if run.name not in steps:  # a search has chosen it
                state.steps.append(step)
                colour.update(colours([each.run.setting for each in state.steps]))
            if step.run_id:
                take_up(client, step.run_id)
            run_ids[run.name] = step.run_id or add_child(client, parent, run, colour[run.setting.name])
            if step.shorter:
                longest = plan.checkpoint_dir / step.shorter[-1]
                CheckpointFolder(plan.checkpoint_dir / run_ids[run.name], run.config).take_over(longest)
        return Trial(run.name, dataclasses.asdict(run.config), run_ids[run.name], until)

    return begin


def _show(console: Console, plan: Plan, client: MlflowClient, parent: Run) -> None:
    experiment_id, parent_id = parent.info.experiment_id, parent.info.run_id
    last_sheet = min(run.config.epochs for run in plan.runs)
    write_view(client, experiment_id, parent_id, len(plan.grid.seeds) > 1, last_sheet)
    from sweeps.comparison.compare import compare  # not before training
    from sweeps.comparison.page import write_overview
    from sweeps.comparison.records import read_sweep
    from sweeps.comparison.render import print_summary

    comparison = compare(read_sweep(client, client.get_run(parent_id)))
    write_overview(client, comparison)
    server = redact(plan.tracking_uri) if plan.tracking_uri.startswith("http") else "http://127.0.0.1:5000"
    address = view_address(server.rstrip("/"), experiment_id, parent_id)
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
