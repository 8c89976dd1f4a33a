"""A sweep decided and checked before any of it is done."""

import dataclasses
import hashlib
import json
import os
import re
import socket
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import Field
from pydantic.dataclasses import dataclass

from gan_core.cli import check_name, given
from gan_core.config import FIELDS, FIRST_FIELDS, OFF, STRICT, RunOptions, make_record
from gan_core.data import ImageFolder, ImageKey, image_set
from gan_core.errors import UserError
from gan_core.locks import hold, lock_tag
from gan_core.storage import StoragePath, checkpoint_folder
from gan_core.tracking.store import check_store, redact, resolve_uri, sqlite_file
from sweeps.grid import SEED, Grid, GridRun, RaceOptions, raced, text_of
from sweeps.race import Rules, bounds
from sweeps.search import batch_of

LENGTH = "epochs"  # how far a run goes: a sweep in which it is raised is still the same sweep


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkerOptions:
    """How many runs are trained at a time, and how often one is tried again."""

    workers: int | None = Field(None, ge=1, description="runs at a time, one thread each (default: all cores)")
    retries: int = Field(2, ge=0, description="how often a run whose worker died is retried")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep before it begins."""

    name: str
    named: bool  # by the user
    again: bool  # whatever has been trained before
    experiment: str
    grid: Grid
    runs: list[GridRun]
    notes: list[str]  # what the user should know of how the grid was understood
    options: RunOptions
    tracking_uri: str  # absolute
    checkpoint_dir: StoragePath  # absolute; has a folder for each run
    workers: int | None  # runs at a time; None: as many as the cluster has room for
    retries: int = 2  # of a run whose worker died
    data_dir: Path | None = None
    address: str | None = None  # of a Ray cluster; None: this machine
    model: str | None = None  # registered model that the best generator becomes a version of

    @property
    def image_keys(self) -> list[ImageKey]:
        """The image sets of its runs, each once."""
        return list(dict.fromkeys(run.config.image_key for run in self.runs))

    @property
    def device(self) -> str:
        """Where its runs train."""
        return self.runs[0].config.device

    @property
    def rules(self) -> Rules | None:
        """Of a race; None for a fixed grid."""
        if (race := self.grid.race) is None:
            return None
        search = self.grid.search
        epochs = self.runs[0].config.epochs
        return Rules(epochs, race.until, race.margin, race.max_seeds, bool(search), batch_of(search))

    def common(self) -> dict[str, Any]:
        """What all its runs have in common, by field; without a default that follows from other fields."""
        config = dataclasses.asdict(self.runs[0].config)
        varied = {*self.grid.fields(), SEED}
        return {
            name: value
            for name, value in config.items()
            if name not in varied and (name in self.grid.fixed or not FIELDS[name].default_factory)
        }

    @property
    def key(self) -> str:
        """What tells sweeps apart: what their runs have in common. Axes may grow and epochs be raised."""
        told = {
            name: value
            for name, value in self.common().items()
            if name != LENGTH and (name in FIRST_FIELDS or value != FIELDS[name].default)  # as in `config_hash`
        }
        return json.dumps(told, sort_keys=True)

    @property
    def lock(self) -> str:
        """The file, in `checkpoint_dir`, that whoever conducts the sweep holds."""
        identity = f"{redact(self.tracking_uri)} {self.experiment} {self.name if self.named else self.key}"
        return f"sweep-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.lock"


def make_plan(grid: Grid, notes: list[str], args: Namespace) -> Plan:
    """The plan for a grid, with what else the command's arguments say.

    Writes nothing. Raises UserError for what cannot be.
    """
    why_none = _why_no_race(grid)
    if grid.race and why_none:
        raise UserError(f"a race cannot be run: {why_none}. --seeds 0 1 2 trains these settings without one")
    if not grid.race and not grid.seeds:
        grid = dataclasses.replace(grid, seeds=(0,)) if why_none else raced(grid, make_record(RaceOptions, {}))
        notes = [*notes, f"one seed of each, and no race: {why_none}"] if why_none else notes
    runs = grid.runs()
    for key in dict.fromkeys(run.config.image_key for run in runs):
        if isinstance(folder := image_set(key), ImageFolder):
            folder.check(max(run.config.batch_size for run in runs if run.config.image_key == key))
    options = make_record(RunOptions, given(args, RunOptions), prefix="--")
    of_workers = make_record(WorkerOptions, given(args, WorkerOptions), prefix="--")
    workers = of_workers.workers
    if args.address is None:
        workers = min(workers or len(os.sched_getaffinity(0)), len(runs))
        if runs[0].config.device != "cpu":
            from gan_core.training import require_device

            require_device(runs[0].config.device)
    else:
        _check_cluster(args.address)
    uri = resolve_uri(args.tracking_uri)
    check_store(uri)
    return Plan(
        name=check_name("--name", args.name or time.strftime("grid-%Y%m%d-%H%M%S")),
        named=args.name is not None,
        again=args.again,
        experiment=check_name("--experiment", args.experiment),
        grid=grid,
        runs=runs,
        notes=notes,
        options=options,
        tracking_uri=uri,
        checkpoint_dir=checkpoint_folder(args.checkpoint_dir, sqlite_file(uri)),
        workers=workers,
        retries=of_workers.retries,
        data_dir=args.data_dir,
        address=args.address,
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


def describe_plan(plan: Plan) -> str:
    """The plan in words, a line each: what, how long, how many at a time, from where, to where."""
    settings, rules = plan.grid.wanted, plan.rules
    return render(
        "plan",
        plan=plan,
        settings=settings,
        rules=rules,
        bounds=bounds(settings, rules) if rules else (),
        common={name: value for name, value in plan.common().items() if name != "dataset" and str(value) not in OFF},
        images={key: image_set(key).where(plan.data_dir) for key in plan.image_keys},
        store=redact(plan.tracking_uri),
    )


def render(template: str, **values: Any) -> str:
    """The text of a template of this command, without its last line's end: all its sentences stand there."""
    environment = Environment(
        loader=PackageLoader("sweeps", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": text_of, "number": "{:.3g}".format}
    return environment.get_template(f"{template}.txt.j2").render(values).rstrip("\n")


def _check_model_name(name: str | None) -> str | None:
    """The name, if it can stand in `models:/NAME/VERSION`, a shell and a query as it is; else UserError."""
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", name):
        raise UserError(
            "--register should be 1 to 200 letters, digits, '.', '_' or '-', not '.' or '-' in front, "
            f"got {name[:60]!r}"
        )
    return name


def _why_no_race(grid: Grid) -> str:
    """Why the grid's settings cannot race each other; empty if they can."""
    first = dataclasses.replace(grid, seeds=()).runs()
    if len(first) < 2:
        return "there is one setting only"
    if LENGTH in grid.fields():
        return f"{LENGTH} is an axis, and settings are compared after the same epochs"
    if len({run.config.image_key for run in first}) > 1:
        varied = next(name for name in ImageKey._fields if name in grid.fields())
        return f"{varied} is an axis, and distances to different images cannot be compared"
    return ""


def _check_cluster(address: str) -> None:
    """Raise UserError if nobody listens at HOST:PORT. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address should be HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError, ValueError) as error:  # the last: no port, or no name of a host
        raise UserError(f"no Ray cluster answers at {address}: {error}") from error
