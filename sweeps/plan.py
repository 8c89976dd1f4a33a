"""What a sweep will do: all of it decided and checked before any of it is done."""

import argparse
import dataclasses
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from gan_core.cli import check_name, given_assessment, given_settings
from gan_core.config import EvaluationSchedule
from gan_core.errors import UserError
from gan_core.image_files import where_images_are
from gan_core.locks import hold, lock_tag
from gan_core.storage import Place
from gan_core.tracking.store import check_store, checkpoint_dir, redact, resolve_uri
from sweeps.grid import AXES, Grid, GridRun, grid_runs, make_grid, parse_rates


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
    assessment: EvaluationSchedule
    named: bool  # by the user
    again: bool  # whatever has been trained before
    checkpoint_dir: Place  # absolute; has a folder for each run
    checkpoint_every: int  # epochs
    retries: int  # of a run whose worker died
    model: str | None = None  # registered model that the best generator becomes a version of

    @property
    def key(self) -> str:
        """What all runs of a sweep have in common, and its axes leave alone; `epochs` may be raised."""
        common = dataclasses.asdict(self.runs[0].config)
        for name in (*AXES, "epochs"):
            del common[name]
        return json.dumps(common, sort_keys=True)

    @property
    def lock(self) -> str:
        """The file, in `checkpoint_dir`, that whoever conducts the sweep holds."""
        identity = f"{redact(self.tracking_uri)} {self.experiment} {self.name if self.named else self.key}"
        return f"sweep-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.lock"


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan that the command's arguments ask for. Writes nothing; raises UserError for what cannot be."""
    grid, notes = make_grid(args.optimizers, args.z_dims, args.seeds, parse_rates(args.learning_rates))
    runs = grid_runs(grid, **given_settings(args))
    assessment = given_assessment(args)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers should be 1 or more, got {args.workers}")
    workers = args.workers
    if args.address is None:
        workers = min(workers or len(os.sched_getaffinity(0)), len(runs))
        if runs[0].config.device != "cpu":
            from gan_core.training import require_device

            require_device(runs[0].config.device)
    else:
        _check_cluster(args.address)
    for flag, least in (("checkpoint_every", 1), ("retries", 0)):
        if getattr(args, flag) < least:
            what = flag.replace("_", "-")
            raise UserError(f"--{what} should be {least} or more, got {getattr(args, flag)}")
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
        assessment=assessment,
        named=args.name is not None,
        again=args.again,
        checkpoint_dir=checkpoint_dir(args.checkpoint_dir, uri),
        checkpoint_every=args.checkpoint_every,
        retries=args.retries,
        model=_check_model_name(args.register),
    )


@contextmanager
def locked(plan: Plan) -> Iterator[None]:
    """Be the one process that conducts the sweep; at its end, however it ends, the lock is free again.

    Raises UserError if another process has it.
    """
    lock = ExitStack()
    try:
        lock_tag(plan.checkpoint_dir, plan.lock)
        # Not at once: another command may just be asking whether anybody holds it.
        lock.enter_context(hold(plan.checkpoint_dir / plan.lock, patience=1))
    except Timeout as error:
        what = f"the sweep {plan.name!r}" if plan.named else "a sweep of these settings"
        raise UserError(
            f"{what} is running already, in another process: wait for it, or choose another --name"
        ) from error
    except OSError as error:
        raise UserError(f"cannot keep checkpoints in {plan.checkpoint_dir}: {error}") from error
    with lock:
        yield


def _check_model_name(name: str | None) -> str | None:
    """The name, if it can stand in `models:/NAME/VERSION`, a shell and a query as it is; else UserError."""
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", name):
        raise UserError(
            "--register should be 1 to 200 letters, digits, '.', '_' or '-', not '.' or '-' in front, "
            f"got {name[:60]!r}"
        )
    return name


def _check_cluster(address: str) -> None:
    """Raise UserError if nobody listens at HOST:PORT. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address should be HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError, ValueError) as error:  # the last: no port, or no name of a host
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
        "quality": str(plan.assessment),
        "workers": f"{plan.workers or 'as many as the cluster has room for'}, a thread each"
        + (f", on the Ray cluster at {plan.address}" if plan.address else ""),
        "data": f"{plan.dataset}, {where_images_are(plan.dataset, plan.data_dir)}",
        "store": redact(plan.tracking_uri),
        "checkpoints": f"every {plan.checkpoint_every} epochs, in {plan.checkpoint_dir}",
        **({"model": f"{plan.model}, a version of it the best generator"} if plan.model else {}),
    }
    return "\n".join([*plan.notes, *(f"{what:<14} {words}" for what, words in lines.items())])


def _listed(values: tuple[object, ...]) -> str:
    return " ".join(map(str, values))
