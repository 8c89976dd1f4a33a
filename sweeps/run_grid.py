"""Train GAN settings in parallel workers until it is known which is best; every run is tracked in MLflow."""

import dataclasses
import gc
from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gan_core.cli import (
    OK,
    OneLineParser,
    add_fields,
    add_folders,
    add_run_options,
    add_store,
    given,
    run_command,
)
from gan_core.config import RunConfig, make_record, parse_value
from gan_core.data import ImageKey, image_set, load_images
from gan_core.errors import UserError
from gan_core.evaluation import PACKAGED
from gan_core.live import plain_console
from sweeps.compat import keep_keys_from_tune, let_tune_use_waiting_workers
from sweeps.grid import (
    SEEDS_OR_RACE,
    AxesWhen,
    DrawOptions,
    Grid,
    RaceOptions,
    checked,
    parse_axis,
    raced,
    read_sweep_file,
)
from sweeps.plan import Plan, WorkerOptions, describe_plan, locked, make_plan
from sweeps.ray_session import ray_session, set_ray_environment
from sweeps.search import Values

if TYPE_CHECKING:
    from sweeps.driver import Prepared

PROGRAM = "run_grid.py"
# The grid where nothing else is asked for.
DEFAULT_AXES: Mapping[str, Values] = {"optimizer": ("sgd", "adam"), "z_dim": (20, 50, 100, 200)}
# Axes that have a flag of their own, which takes their values by a space, as the parser calls it.
AXIS_FLAGS = {"optimizers": "optimizer", "z_dims": "z_dim"}
RATE = "learning_rate"  # its flag, --learning-rates, also takes a list for each optimizer
EXAMPLES = (
    "python sweeps/run_grid.py --dataset digits --epochs 20   # a first look, without a network",
    "python sweeps/run_grid.py --axis batch_size=32,64 --axis hidden_dim=64,128 --seeds 0 1 2",
    "python sweeps/run_grid.py --sweep my_sweep.toml --dry-run",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the grid, show what came of it; the exit code."""
    args = _parser().parse_args(argv)
    plan = make_plan(*checked(grid_asked_for(args)), args)
    console = plain_console()
    console.print(describe_plan(plan))
    if args.dry_run:
        from sweeps.resume import describe_state, look_up

        console.print(describe_state(look_up(plan), plan))
        return OK
    return run_sweep(plan, console)


def run_sweep(plan: Plan, console: Console) -> int:
    """Train every run of the plan and show what came of it; the exit code."""
    for key in plan.image_keys:
        image_set(key).fetch(plan.data_dir)
        if key.dataset not in PACKAGED:
            _train_classifier(plan, key)  # minutes, perhaps, which Ctrl-C ends, but not in a thread
    set_ray_environment(plan.address)
    with locked(plan), ThreadPoolExecutor(1) as beside, ExitStack() as workers:
        # Importing makes a million objects, none of them garbage: to search them takes a quarter of the time.
        gc.disable()
        # To import PyTorch and MLflow and to make a new store takes as long as Ray takes to start.
        prepared = beside.submit(_prepare, plan)
        workers.enter_context(ray_session(plan.address, plan.workers))
        ready = prepared.result()
        from sweeps.driver import conduct

        gc.freeze()
        gc.enable()
        keep_keys_from_tune()
        if plan.address is None:
            let_tune_use_waiting_workers()
            return conduct(plan, ready, workers, console)
        from sweeps.cluster import nodes_checked

        with nodes_checked(plan) as needs:
            return conduct(plan, ready, workers, console, needs)


def _train_classifier(plan: Plan, key: ImageKey) -> None:
    from gan_core.evaluation.baselines import load_reference, quality_cache
    from sweeps.resume import look_up, require_same_images

    data = load_images(key, plan.data_dir)
    require_same_images(look_up(plan), [data])
    load_reference(data, quality_cache(plan.data_dir))


def _prepare(plan: Plan) -> "Prepared":
    from sweeps.driver import prepare

    return prepare(plan)


def grid_asked_for(args: Namespace) -> Grid:
    """The grid of the command's flags, not checked yet. Raises UserError."""
    axes, axes_when = _axes_of_flags(args)
    fixed = given(args, RunConfig)
    if args.sweep is not None:
        if axes or axes_when:
            raise UserError("--sweep FILE has the axes: write them there, or leave --sweep out")
        grid = read_sweep_file(args.sweep)
        return _seeded(dataclasses.replace(grid, fixed={**grid.fixed, **fixed}), args)
    if not args.axis:
        every = {**DEFAULT_AXES, **axes}
        order = ("optimizer", RATE, "z_dim")  # of the fields in the runs' names
        axes = {name: every[name] for name in order if name in every}
    return _seeded(Grid(axes, axes_when, fixed), args)


def _seeded(grid: Grid, args: Namespace) -> Grid:
    """The grid with the seeds of the command line, or raced as that says, and drawn. Raises UserError."""
    drawn = dataclasses.asdict(grid.draw) | given(args, DrawOptions)
    grid = dataclasses.replace(grid, draw=make_record(DrawOptions, drawn, prefix="--"))
    options = given(args, RaceOptions)
    if args.seeds:
        if options:
            raise UserError(SEEDS_OR_RACE)
        return dataclasses.replace(grid, seeds=tuple(args.seeds), race=None)
    if not options:
        return grid
    before = dataclasses.asdict(grid.race) if grid.race else {}
    return raced(grid, make_record(RaceOptions, before | options, prefix="--"))


def _axes_of_flags(args: Namespace) -> tuple[dict[str, Values], list[AxesWhen]]:
    axes: dict[str, Values] = {name: tuple(its) for flag, name in AXIS_FLAGS.items() if (its := getattr(args, flag))}
    rates = args.learning_rates or []
    axes_when = _rates_by_optimizer(rates) if any("=" in rate for rate in rates) else []
    if rates and not axes_when:
        axes[RATE] = tuple(parse_value(RATE, rate) for rate in rates)
    for text in args.axis or []:
        name, values = parse_axis(text)
        if name in axes:
            raise UserError(f"{name} is given twice as an axis: give all of its values at once")
        axes[name] = values
    return axes, axes_when


def _rates_by_optimizer(words: Sequence[str]) -> list[AxesWhen]:
    """What --learning-rates was given as `sgd=0.01,0.03 adam=0.001`."""
    rates: dict[str, Values] = {}
    for word in words:
        optimizer, equals, listed = word.partition("=")
        if not equals:
            raise UserError(
                f"--learning-rates should be numbers for all optimizers, or OPTIMIZER=RATE,RATE for each: "
                f"{word!r} stands among the latter"
            )
        if optimizer in rates:
            raise UserError(f"--learning-rates has {optimizer} twice: give one list, {optimizer}=RATE,RATE")
        rates[optimizer] = tuple(parse_value(RATE, text) for text in listed.split(","))
    return [AxesWhen({"optimizer": optimizer}, {RATE: its}) for optimizer, its in rates.items()]


def _parser() -> OneLineParser:
    parser = OneLineParser(PROGRAM, __doc__, EXAMPLES)
    settings = parser.add_argument_group(
        "the settings", "What varies. Without --axis and --sweep: --optimizers × --z-dims."
    )
    settings.add_argument(
        "--optimizers", nargs="+", metavar="OPTIMIZER", help="axis: of D and of G (default: sgd adam)"
    )
    settings.add_argument(
        "--z-dims", nargs="+", type=int, metavar="DIM",
        help="axis: lengths of the noise vector z (default: 20 50 100 200)",
    )  # fmt: skip
    settings.add_argument(
        "--learning-rates", nargs="+", metavar="RATE",
        help="axis: step sizes for all optimizers, or lists such as sgd=0.03,0.1 adam=0.001 "
        "(default: none, each optimizer has its own)",
    )  # fmt: skip
    settings.add_argument(
        "--axis", action="append", metavar="FIELD=VALUE,VALUE",
        help="axis: any field of a run but seed and device; can be given several times, and then nothing else varies",
    )  # fmt: skip
    settings.add_argument(
        "--sweep", type=Path, metavar="FILE.toml", help="a sweep written down: its axes and fixed fields"
    )
    settings.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="SEED",
        help="no race: each setting is trained once with each of these (default: a race)",
    )
    add_fields(settings, DrawOptions)
    add_fields(settings, RaceOptions)
    runs = parser.add_argument_group("each run", "The same for all runs, unless the field is an axis.")
    without: Any = {*AXIS_FLAGS.values(), RATE, "seed"}
    add_fields(runs, RunConfig, without)
    add_run_options(runs)
    record = parser.add_argument_group("the record")
    record.add_argument(
        "--name", metavar="NAME",
        help="the sweep's name; a sweep of that name is resumed (default: none; one of the same settings is)",
    )  # fmt: skip
    add_store(record)
    record.add_argument(
        "--register", metavar="NAME",
        help="make the generator of least fd the newest version of this registered model (default: none)",
    )  # fmt: skip
    place = parser.add_argument_group("where it runs")
    add_fields(place, WorkerOptions)
    add_folders(place)
    place.add_argument(
        "--address", metavar="HOST:PORT", help="an existing Ray cluster to run on (default: this machine)"
    )
    place.add_argument("--dry-run", action="store_true", help="print the plan, and what is left of it to do, and stop")
    return parser


def command() -> None:
    """Run the command to the process's end; the console script gan-grid calls it."""
    run_command(PROGRAM, main)


if __name__ == "__main__":
    command()
