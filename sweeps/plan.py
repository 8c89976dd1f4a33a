"""What a sweep will do: all of it decided and checked before any of it is done."""

import argparse
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from gan_core.command_line import check_name, given_settings
from gan_core.data import where_images_are
from gan_core.errors import UserError
from gan_core.store import check_store, redact, resolve_uri
from gan_core.trainer import require_device
from sweeps.grid import Grid, GridRun, grid_runs, make_grid, parse_rates


@dataclass(frozen=True)
class Plan:
    """A sweep before it begins."""

    name: str
    experiment: str
    grid: Grid
    runs: list[GridRun]
    notes: list[str]  # what the user should know of how the grid was understood
    dataset: str
    data_dir: Path | None
    tracking_uri: str  # absolute
    workers: int | None  # runs at a time; None: as many as the cluster has room for
    address: str | None  # of a Ray cluster; None: this machine


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan that the command's arguments ask for. Writes nothing; raises UserError for what cannot be."""
    grid, notes = make_grid(args.optimizers, args.z_dims, args.seeds, parse_rates(args.learning_rates))
    runs = grid_runs(grid, **given_settings(args))
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers should be 1 or more, got {args.workers}")
    workers = args.workers
    if args.address is None:
        workers = min(workers or len(os.sched_getaffinity(0)), len(runs))
        require_device(runs[0].config.device)
    else:
        _check_cluster(args.address)
    uri = resolve_uri(args.tracking_uri)
    check_store(uri)
    return Plan(
        name=check_name("--name", args.name or time.strftime("grid-%Y%m%d-%H%M%S")),
        experiment=check_name("--experiment", args.experiment),
        grid=grid,
        runs=runs,
        notes=notes,
        dataset=runs[0].config.dataset,
        data_dir=args.data_dir,
        tracking_uri=uri,
        workers=workers,
        address=args.address,
    )


def _check_cluster(address: str) -> None:
    """Raise UserError if nobody listens at HOST:PORT. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address should be HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from error


def describe_plan(plan: Plan) -> str:
    """The plan in words, a line each: what, how long, how many at a time, from where, to where."""
    grid, config = plan.grid, plan.runs[0].config
    cells, seeds = len(grid.cells()), len(grid.seeds)
    rates = {"learning rate": grid.rates_in_words()} if grid.learning_rates else {}
    lines = {
        "sweep": f"{plan.name}, in experiment {plan.experiment}",
        "optimizer": _listed(grid.optimizers),
        **rates,
        "z_dim": _listed(grid.z_dims),
        "seed": _listed(grid.seeds),
        "runs": f"{len(plan.runs)} = {cells} cell{'s' * (cells != 1)} × {seeds} seed{'s' * (seeds != 1)}",
        "each run": f"{config.epochs} epoch{'s' * (config.epochs != 1)} in batches of {config.batch_size}, "
        f"hidden layers of {config.hidden_dim}",
        "workers": f"{plan.workers or 'as many as the cluster has room for'}, a thread each"
        + (f", on the Ray cluster at {plan.address}" if plan.address else ""),
        "data": f"{plan.dataset}, {where_images_are(plan.dataset, plan.data_dir)}",
        "store": redact(plan.tracking_uri),
    }
    return "\n".join([*plan.notes, *(f"{what:<14} {words}" for what, words in lines.items())])


def _listed(values: tuple[object, ...]) -> str:
    return " ".join(map(str, values))
