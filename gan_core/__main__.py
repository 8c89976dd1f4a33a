"""`python -m gan_core`: one local run, tracked in MLflow or written to a folder."""

import shutil
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from gan_core import cli
from gan_core.checkpoint import CheckpointFolder
from gan_core.config import STRICT, RunConfig, RunOptions, fields_of, make_config, make_record
from gan_core.data import ImageFolder, ImageSet, image_set, load_images
from gan_core.errors import UserError
from gan_core.evaluation.baselines import load_reference, quality_cache
from gan_core.live import LiveView
from gan_core.locks import lock_in, lock_tag
from gan_core.metric_names import LOCK
from gan_core.run import Job, Tracker, run
from gan_core.run_folder import CHECKPOINTS, RunFolder, check_output, writing_to
from gan_core.storage import checkpoint_folder
from gan_core.tracking import store
from gan_core.training import require_device

EXAMPLES = (
    "python -m gan_core --dataset digits --epochs 20",
    "python -m gan_core --optimizer adam --learning-rate 0.001 --name adam-fast",
    "python -m gan_core --epochs 10 --output runs/sgd   # plain files, no MLflow",
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LocalOptions(RunOptions):
    """How a run is trained in this process."""

    threads: int = Field(1, ge=1, description="CPU threads of the training; 1 or more")


def main() -> int:
    """Parse the command line and train; the exit code."""
    args = _parser().parse_args()
    config = make_config(**cli.given(args, RunConfig))
    options = make_record(LocalOptions, cli.given(args, LocalOptions), prefix="--")
    name = cli.check_name("--name", args.name or f"{config.optimizer}_z{config.z_dim}_s{config.seed}")
    require_device(config.device)
    torch.set_num_threads(options.threads)
    if isinstance(folder := image_set(config.image_key), ImageFolder):
        folder.check(config.batch_size)
    where = _check_record(args, config)  # all that can be wrong is found before anything is written
    data = load_images(config.image_key, args.data_dir)
    data.check_batch(config.batch_size)
    reference = load_reference(data, quality_cache(args.data_dir))
    begin = _begin_in_folder if args.output is not None else _begin_in_store
    with ExitStack() as lock:
        checkpoints, tracker = begin(args, name, config, data, lock)
        epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs"
        print(f"{name}: {epochs} of {len(data.images):,} images ({data.name}), record in {where}")
        with LiveView({name: config.epochs}) as view:
            outcome = run(Job(name, config, data, reference, options, checkpoints), tracker, view)
            view.end(name, *outcome)
    if args.output is not None and outcome.status == "FINISHED":
        shutil.rmtree(args.output / CHECKPOINTS)
    return cli.OK if outcome.status == "FINISHED" else cli.RUN_FAILED


def _parser() -> cli.OneLineParser:
    parser = cli.OneLineParser("python -m gan_core", __doc__, EXAMPLES)
    cli.add_fields(parser.add_argument_group("the settings"), RunConfig)
    each = parser.add_argument_group("the run")
    cli.add_run_options(each)
    cli.add_fields(each, LocalOptions, without=fields_of(RunOptions))
    record = parser.add_argument_group("the record")
    cli.add_store(record)
    cli.add_folders(record)
    record.add_argument("--name", metavar="NAME", help="name of the run (default: such as sgd_z100_s0)")
    record.add_argument(
        "--output", type=Path, metavar="DIR", help="write plain files to this folder, and nothing to MLflow"
    )
    return parser


def _check_record(args: Namespace, config: RunConfig) -> str:
    """Where the run will be recorded, in words. Raises UserError if it cannot be."""
    if args.output is not None:
        check_output(args.output, config)
        return str(args.output)
    uri = store.resolve_uri(args.tracking_uri)
    store.check_store(uri)
    cli.check_name("--experiment", args.experiment)
    return store.redact(uri)


def _begin_in_folder(
    args: Namespace, name: str, config: RunConfig, data: ImageSet, lock: ExitStack
) -> tuple[CheckpointFolder, Tracker]:
    checkpoints = CheckpointFolder(args.output / CHECKPOINTS, config, data.folder_digest)
    with writing_to(args.output):
        lock.enter_context(checkpoints.locked())
    folder = RunFolder(args.output, config, name)  # only now: another process might have been writing there
    if args.again:
        checkpoints.prune(0)
    return checkpoints, folder


def _begin_in_store(
    args: Namespace, name: str, config: RunConfig, data: ImageSet, lock: ExitStack
) -> tuple[CheckpointFolder, Tracker]:
    # MLflow takes a second to import; a run into a folder does without it.
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from gan_core.tracking.tracker import MlflowTracker

    uri = store.resolve_uri(args.tracking_uri)
    experiment_id = store.prepare_store(uri, args.experiment)
    root = checkpoint_folder(args.checkpoint_dir, store.sqlite_file(uri))
    try:
        client = MlflowClient(uri)
        store.settle_stale(client, experiment_id, root)
        found = None if args.again else store.find_cut_off(client, experiment_id, name, config)
        known = lock_in(root, found.data.tags.get(LOCK)) if found else None
        lock_file = known or f"{uuid4().hex}/lock"
        checkpoints = CheckpointFolder((root / lock_file).parent, config, data.folder_digest)
        # Before the run is in the store: there is no moment in which it lives and has no lock.
        lock.enter_context(checkpoints.locked())
        tag = lock_tag(root, lock_file)
        if found:
            run_id = found.info.run_id
            client.set_tag(run_id, LOCK, tag)
        else:
            run_id = store.create_run(client, experiment_id, name, config, {LOCK: tag})
    except MlflowException as error:
        raise UserError(f"cannot use the store {store.redact(uri)}: {store.brief(error, uri)}") from error
    except OSError as error:
        raise UserError(f"cannot keep checkpoints in {root}: {error}") from error
    return checkpoints, MlflowTracker(uri, run_id, config, data, name)


def command() -> None:
    """Run the command to the process's end; the console script gan-grid-train calls it."""
    cli.run_command("python -m gan_core", main)


if __name__ == "__main__":
    command()
