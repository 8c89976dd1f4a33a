"""`python -m gan_core`: one local run, tracked in MLflow or written to a folder."""

from argparse import Namespace
from pathlib import Path

import torch

from gan_core.command_line import (
    OK,
    RUN_FAILED,
    OneLineParser,
    add_assessment,
    add_field,
    add_places,
    check_name,
    given_assessment,
    given_settings,
    run_command,
)
from gan_core.config import FIELDS, RunConfig, make_config
from gan_core.data import ImageSet, load_images
from gan_core.errors import UserError
from gan_core.live import LiveView
from gan_core.quality.reference import Reference, load_reference, quality_cache
from gan_core.run import Tracker, run
from gan_core.run_folder import RunFolder
from gan_core.trainer import require_device


def main() -> int:
    """Parse the command line and train; the exit code."""
    args = _parser().parse_args()
    config = make_config(**given_settings(args))
    assessment = given_assessment(args)
    name = check_name("--name", args.name or f"{config.optimizer}_z{config.z_dim}_s{config.seed}")
    require_device(config.device)
    if args.threads < 1:
        raise UserError(f"--threads should be 1 or more, got {args.threads}")
    torch.set_num_threads(args.threads)
    data, reference, tracker, where = _prepare(args, name, config)
    print(f"{name}: {config.epochs} epochs of {len(data.images):,} images ({data.name}), record in {where}")
    with LiveView({name: config.epochs}) as view:
        outcome = run(name, config, data, tracker, view.update, reference, assessment)
        view.end(name, *outcome)
    return OK if outcome.status == "FINISHED" else RUN_FAILED


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m gan_core", description=__doc__, allow_abbrev=False)
    for name in FIELDS:
        add_field(parser, name)
    add_assessment(parser)
    add_places(parser)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="CPU threads of the training; 1 or more (default: 1)",
    )
    parser.add_argument("--name", metavar="NAME", help="name of the run (default: such as sgd_z100_s0)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write plain files to this folder, and nothing to MLflow"
    )
    return parser


def _prepare(args: Namespace, name: str, config: RunConfig) -> tuple[ImageSet, Reference, Tracker, str]:
    """All that can be wrong is found before anything is written."""
    if args.output is not None:
        data, reference = _load(config.dataset, args.data_dir)
        return data, reference, RunFolder(args.output, config, name), str(args.output)

    # MLflow takes a second to import; a run into a folder does without it.
    from gan_core import store, tracking
    from gan_core.mlflow_client import MlflowClient

    uri = store.resolve_uri(args.tracking_uri)
    store.check_store(uri)
    data, reference = _load(config.dataset, args.data_dir)
    experiment_id = store.prepare_store(uri, check_name("--experiment", args.experiment))
    run_id = tracking.create_run(MlflowClient(uri), experiment_id, name, config)
    return data, reference, tracking.MlflowTracker(uri, run_id, config, data, name), store.redact(uri)


def _load(dataset: str, data_dir: Path | None) -> tuple[ImageSet, Reference]:
    return load_images(dataset, data_dir), load_reference(dataset, quality_cache(data_dir), data_dir)


if __name__ == "__main__":
    run_command("python -m gan_core", main)
