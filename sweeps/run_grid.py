"""Train a grid of GAN settings in parallel workers, track every run in MLflow, and compare the cells."""

import dataclasses
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from gan_core.command_line import (
    OK,
    RUN_FAILED,
    OneLineParser,
    add_field,
    add_places,
    run_command,
)
from gan_core.config import FIELDS
from gan_core.data import ImageSet, load_images
from gan_core.errors import UserError
from gan_core.live import LiveView, plain_console
from gan_core.mlflow_client import MlflowClient
from gan_core.store import brief, prepare_store
from sweeps.grid import AXES
from sweeps.plan import Plan, describe_plan, make_plan
from sweeps.report import make_report, read_sweep, write_figures
from sweeps.runs import Sweep, add_children, begin_sweep, settle
from sweeps.summary import show_results

PROGRAM = "run_grid.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the grid, show what came of it; the exit code."""
    args = _parser().parse_args(argv)
    plan = make_plan(args)
    console = plain_console()
    console.print(describe_plan(plan))
    if args.dry_run:
        return OK
    return run_sweep(plan, console)


def run_sweep(plan: Plan, console: Console) -> int:
    """Train every run of the plan and show what came of it; the exit code."""
    data = load_images(plan.dataset, plan.data_dir)
    sweep = None
    cut_off = "FAILED"  # what a run is that no worker has ended
    reasons: dict[str, str] = {}
    try:
        with _ray(plan.address, plan.workers):
            experiment_id = prepare_store(plan.tracking_uri, plan.experiment)
            # Not before: a client makes a store that is not there by itself, and not safely.
            client = MlflowClient(plan.tracking_uri)
            sweep = begin_sweep(client, experiment_id, plan)
            run_ids = add_children(client, sweep, plan.runs)
            with LiveView({run.name: run.config.epochs for run in plan.runs}, console) as view:
                reasons = _train_all(plan, run_ids, data, view)
    except KeyboardInterrupt:
        cut_off = "KILLED"
        raise
    finally:
        with _uninterrupted():
            statuses = settle(client, sweep, cut_off, reasons) if sweep else {}
    assert sweep is not None
    records = read_sweep(client, sweep)
    write_figures(client, sweep.parent_id, records)
    show_results(console, plan.tracking_uri, client, sweep, records)
    _report(console, plan, sweep)
    return OK if set(statuses.values()) == {"FINISHED"} else RUN_FAILED


def _report(console: Console, plan: Plan, sweep: Sweep) -> None:
    """The grid has ended and is recorded: a report that cannot be made must not make it look broken."""
    try:
        page, _ = make_report(plan.tracking_uri, plan.experiment, sweep.parent_id)
        console.print(f"Report:   {page}")
    except Exception as error:
        console.print(
            f"Report:   not made ({brief(error, plan.tracking_uri)}); python sweeps/report.py makes it"
        )


def _parser() -> OneLineParser:
    parser = OneLineParser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    for flag, kind, default, text in (
        ("--optimizers", str, ["sgd", "adam"], "axis: optimizers of D and of G (default: sgd adam)"),
        ("--z-dims", int, [20, 50, 100, 200], "axis: lengths of the noise vector z (default: 20 50 100 200)"),
        ("--seeds", int, [0], "axis: seeds; a cell has one run for each (default: 0)"),
        (
            "--learning-rates",
            str,
            [],
            "axis: step sizes for all optimizers, or lists such as sgd=0.03,0.1 adam=0.001 "
            "(default: none, each optimizer has its own)",
        ),
    ):
        parser.add_argument(
            flag, nargs="+", type=kind, default=default, metavar=flag[2:-1].split("-")[-1].upper(), help=text
        )
    for name in FIELDS:
        if name not in AXES:
            add_field(parser, name)
    add_places(parser)
    parser.add_argument("--name", metavar="NAME", help="name of the sweep (default: grid-DATE-TIME)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time, a thread each (default: all cores)"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="an existing Ray cluster to run on (default: this machine)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return parser


def _train_all(plan: Plan, run_ids: dict[str, str], data: ImageSet, view: LiveView) -> dict[str, str]:
    """Train every run on Ray's workers; the reasons of those that failed, by name."""
    import ray
    from ray import tune

    from sweeps.trial import Listener, Task, run_trial

    tasks = [
        Task(run.name, dataclasses.asdict(run.config), run_ids[run.name], plan.tracking_uri)
        for run in plan.runs
    ]
    listener = Listener(view)
    # Ray keeps the array in shared memory, where every worker of a machine reads it in place.
    about = {"name": data.name, "digest": data.digest, "source": data.source}
    trainable = tune.with_parameters(run_trial, pixels=data.images.numpy(), about=about)
    if plan.runs[0].config.device == "cuda":
        # Ray shows a worker no GPU that it has not asked for. The runs of a machine share what there is.
        share = ray.cluster_resources().get("GPU", 0) / (plan.workers or len(plan.runs))
        trainable = tune.with_resources(trainable, {"cpu": 1, "gpu": min(share, 1)})
    with tempfile.TemporaryDirectory(prefix="gan-tune-") as scratch:
        tune.Tuner(
            trainable,
            param_space={"task": tune.grid_search([dataclasses.asdict(task) for task in tasks])},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=plan.workers),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[listener]),
        ).fit()
    return listener.reasons


@contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[None]:
    """Ray, quietly: started on this machine with a slot for each worker, or the cluster at `address` joined.

    What was started is ended with all its workers, however the block is left.
    """
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_USAGE_STATS_ENABLED="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",  # Ctrl-C ends the grid at once, by an exception; Tune would wait
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    )
    if address is None:
        # Whoever else is on this machine gets no say in the workers. For a cluster, its own user knows.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray  # reads these variables when it is imported

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    scratch = Path(tempfile.mkdtemp(prefix="gan-ray-", dir="/tmp"))
    try:
        if address is None:
            # "local", even where RAY_ADDRESS names a cluster: that is what --address is for.
            ray.init("local", num_cpus=workers, include_dashboard=False, _temp_dir=str(scratch), **quiet)
        else:
            try:
                ray.init(address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f"no Ray cluster answers at {address}: {error}") from error
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one that aborts the process
        yield
    finally:
        with _uninterrupted():
            ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """The end of a grid takes seconds, and a second Ctrl-C there must not leave runs that look alive."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    run_command(PROGRAM, main)
