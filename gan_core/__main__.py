"""`python -m gan_core`: one local run, tracked in MLflow or written to a folder."""

import shutil
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from gan_core.checkpoint import CheckpointFolder
from gan_core.cli import (
    OK,
    RUN_FAILED,
    OneLineParser,
    add_checkpoint_dir,
    add_data_dir,
    add_fields,
    add_run_options,
    add_store,
    check_name,
    given,
    run_command,
)
from gan_core.config import (
    STRICT,
    RunConfig,
    RunOptions,
    fields_of,
    make_config,
    make_record,
)
from gan_core.data import ImageSet, load_images
from gan_core.errors import UserError
from gan_core.evaluation.baselines import Reference, load_reference, quality_cache
from gan_core.events import Progress
from gan_core.live import LiveView
from gan_core.run import Job, Tracker, run
from gan_core.run_folder import CHECKPOINTS, RunFolder, check_output
from gan_core.training import require_device

EXAMPLES = (
    "python -m gan_core --dataset digits --epochs 20",
    "python -m gan_core --optimizer adam --learning-rate 0.001 --name adam-fast",
    "python -m gan_core --epochs 10 --output runs/sgd   # plain files, no MLflow",
)


def main() -> int:
    """Parse the command line and train; the exit code."""
    args = _parser().parse_args()
    config = make_config(**given(args, RunConfig))
    options = make_record(LocalOptions, given(args, LocalOptions), prefix="--")
    name = check_name("--name", args.name or f"{config.optimizer}_z{config.z_dim}_s{config.seed}")
    require_device(config.device)
    torch.set_num_threads(options.threads)
    prepare = _into_folder if args.output is not None else _into_store
    with ExitStack() as lock:
        job, tracker, where = prepare(args, options, name, config, lock)
        data = job.data
        print(f"{name}: {config.epochs} epochs of {len(data.images):,} images ({data.name}), record in {where}")
        with LiveView({name: config.epochs}) as view:
            outcome = run(job, tracker, _Watcher(name, view))
            view.end(name, *outcome)
    if args.output is not None and outcome.status == "FINISHED":
        shutil.rmtree(args.output / CHECKPOINTS)
    return OK if outcome.status == "FINISHED" else RUN_FAILED


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LocalOptions(RunOptions):
    """How a run is trained in this process."""

    threads: int = Field(1, ge=1, description="CPU threads of the training; 1 or more")


class _Watcher:
    """Shows a run to the person who started it."""

    def __init__(self, name: str, view: LiveView) -> None:
        self._name = name
        self._view = view

    def update(self, progress: Progress) -> None:
        self._view.update(progress)

    def say(self, text: str) -> None:
        self._view.say(self._name, text)

    def should_stop(self) -> bool:
        """Never: Ctrl-C comes as an exception."""
        return False


def _parser() -> OneLineParser:
    parser = OneLineParser("python -m gan_core", __doc__, EXAMPLES)
    add_fields(parser.add_argument_group("the settings"), RunConfig)
    each = parser.add_argument_group("the run")
    add_run_options(each)
    add_fields(each, LocalOptions, without=fields_of(RunOptions))
    record = parser.add_argument_group("the record")
    add_store(record)
    add_data_dir(record)
    add_checkpoint_dir(record)
    record.add_argument("--name", metavar="NAME", help="name of the run (default: such as sgd_z100_s0)")
    record.add_argument(
        "--output", type=Path, metavar="DIR", help="write plain files to this folder, and nothing to MLflow"
    )
    return parser


def _into_folder(
    args: Namespace, options: RunOptions, name: str, config: RunConfig, lock: ExitStack
) -> tuple[Job, Tracker, str]:
    """All that can be wrong is found before anything is written."""
    data, reference = _load(args, config)
    check_output(args.output, config)
    checkpoints = CheckpointFolder(args.output / CHECKPOINTS, config)
    try:
        lock.enter_context(checkpoints.locked())
    except OSError as error:
        raise UserError(f"cannot write to the output folder {args.output}: {error}") from error
    folder = RunFolder(args.output, config, name)  # only now: another process might have been writing there
    if args.again:
        checkpoints.prune(0)
    return _job(options, name, data, reference, checkpoints), folder, str(args.output)


def _into_store(
    args: Namespace, options: RunOptions, name: str, config: RunConfig, lock: ExitStack
) -> tuple[Job, Tracker, str]:
    # MLflow takes a second to import; a run into a folder does without it.
    from mlflow.exceptions import MlflowException

    from gan_core import locks
    from gan_core.metric_names import LOCK
    from gan_core.storage import checkpoint_folder
    from gan_core.tracking import queries, store, tracker
    from gan_core.tracking.queries import MlflowClient

    uri = store.resolve_uri(args.tracking_uri)
    store.check_store(uri)
    experiment = check_name("--experiment", args.experiment)
    data, reference = _load(args, config)
    experiment_id = store.prepare_store(uri, experiment)
    root = checkpoint_folder(args.checkpoint_dir, store.sqlite_file(uri))
    try:
        client = MlflowClient(uri)
        queries.settle_stale(client, experiment_id, root)
        found = None if args.again else queries.find_cut_off(client, experiment_id, name, config)
        known = locks.lock_in(root, found.data.tags.get(LOCK)) if found else None
        lock_file = known or f"{uuid4().hex}/lock"
        checkpoints = CheckpointFolder((root / lock_file).parent, config)
        # Before the run is in the store: there is no moment in which it lives and has no lock.
        lock.enter_context(checkpoints.locked())
        tag = locks.lock_tag(root, lock_file)
        if found:
            run_id = found.info.run_id
            client.set_tag(run_id, LOCK, tag)
        else:
            run_id = queries.create_run(client, experiment_id, name, config, {LOCK: tag})
    except MlflowException as error:
        raise UserError(f"cannot use the store {store.redact(uri)}: {store.brief(error, uri)}") from error
    except OSError as error:
        raise UserError(f"cannot keep checkpoints in {root}: {error}") from error
    job = _job(options, name, data, reference, checkpoints)
    return job, tracker.MlflowTracker(uri, run_id, config, data, name), store.redact(uri)


def _job(options: RunOptions, name: str, data: ImageSet, reference: Reference, checkpoints: CheckpointFolder) -> Job:
    return Job(name, checkpoints.config, data, reference, options, checkpoints)


def _load(args: Namespace, config: RunConfig) -> tuple[ImageSet, Reference]:
    data = load_images(config.dataset, args.data_dir)
    return data, load_reference(config.dataset, quality_cache(args.data_dir), args.data_dir)


def command() -> None:
    """Run the command to the process's end; the console script gan-grid-train calls it."""
    run_command("python -m gan_core", main)


if __name__ == "__main__":
    command()
