"""Train a grid of GAN settings in parallel workers, track every run in MLflow, and compare the cells."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rich.console import Console

from gan_core.cli import (
    OK,
    OneLineParser,
    add_assessment,
    add_checkpoints,
    add_field,
    add_places,
    nothing_but_imports,
    run_command,
)
from gan_core.config import FIELDS
from gan_core.evaluation import has_classifier
from gan_core.image_files import fetch_images
from gan_core.live import plain_console
from sweeps.cluster import ray_session, set_ray_environment
from sweeps.compat import keep_keys_from_tune, let_tune_use_waiting_workers
from sweeps.grid import AXES
from sweeps.plan import Plan, describe_plan, locked, make_plan

if TYPE_CHECKING:
    from sweeps.driver import Prepared

PROGRAM = "run_grid.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the grid, show what came of it; the exit code."""
    args = _parser().parse_args(argv)
    plan = make_plan(args)
    console = plain_console()
    console.print(describe_plan(plan))
    if args.dry_run:
        from sweeps.resume import describe_stock, look_up

        console.print(describe_stock(look_up(plan), plan.checkpoint_dir))
        return OK
    return run_sweep(plan, console)


def run_sweep(plan: Plan, console: Console) -> int:
    """Train every run of the plan and show what came of it; the exit code."""
    fetch_images(plan.dataset, plan.data_dir)
    if not has_classifier(plan.dataset):
        _train_classifier(plan)  # minutes, perhaps, which Ctrl-C ends here and not in a thread
    set_ray_environment(plan.address)
    with locked(plan), ThreadPoolExecutor(1) as beside, ExitStack() as workers:
        with nothing_but_imports():
            # To import PyTorch and MLflow and to make a new store takes as long as Ray takes to start.
            prepared = beside.submit(_prepare, plan)
            workers.enter_context(ray_session(plan.address, plan.workers))
            ready = prepared.result()
            from sweeps.driver import conduct

        keep_keys_from_tune()
        if plan.address is None:
            let_tune_use_waiting_workers()
            return conduct(plan, ready, workers, console)
        from sweeps.cluster import checked

        with checked(plan) as needs:
            return conduct(plan, ready, workers, console, needs)


def _train_classifier(plan: Plan) -> None:
    from gan_core.evaluation.baselines import load_reference, quality_cache

    load_reference(plan.dataset, quality_cache(plan.data_dir), plan.data_dir)


def _prepare(plan: Plan) -> "Prepared":
    from sweeps.driver import prepare

    return prepare(plan)


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
    add_assessment(parser)
    add_checkpoints(parser)
    add_places(parser)
    parser.add_argument(
        "--name", metavar="NAME",
        help="name of the sweep, which goes on if there is one (default: the unnamed one of these settings)",
    )  # fmt: skip
    parser.add_argument(
        "--retries", type=int, default=2, metavar="N", help="of a run whose worker died (default: 2)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time, a thread each (default: all cores)"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="an existing Ray cluster to run on (default: this machine)"
    )
    parser.add_argument(
        "--register", metavar="NAME",
        help="make the generator of least fd the newest version of this registered model (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and what is left of it to do, and stop"
    )
    return parser


def command() -> None:
    """Run the command to the process's end; the console script gan-grid calls it."""
    run_command(PROGRAM, main)


if __name__ == "__main__":
    command()
