"""A sweep from its first run to its comparison, on a Ray that is there."""

import dataclasses
import tempfile
from contextlib import ExitStack
from typing import NamedTuple

import ray
from ray import tune
from rich.console import Console

from gan_core.command_line import OK, RUN_FAILED
from gan_core.data import ImageSet, load_images
from gan_core.live import LiveView
from gan_core.mlflow_client import MlflowClient
from gan_core.quality.reference import Reference, load_reference, quality_cache
from gan_core.store import prepare_store
from sweeps.plan import Plan
from sweeps.ray_session import uninterrupted
from sweeps.report import read_sweep, write_figures
from sweeps.runs import add_children, begin_sweep, settle
from sweeps.summary import show_results
from sweeps.trial import Listener, Task, run_trial


class Prepared(NamedTuple):
    """What a sweep needs beside its workers."""

    data: ImageSet
    reference: Reference
    client: MlflowClient
    experiment_id: str


def prepare(plan: Plan) -> Prepared:
    """Load the images and what they are scored by, and make the store ready. Raises UserError."""
    data = load_images(plan.dataset, plan.data_dir)
    reference = load_reference(plan.dataset, quality_cache(plan.data_dir), plan.data_dir)
    experiment_id = prepare_store(plan.tracking_uri, plan.experiment)
    # Not before: a client makes a store that is not there by itself, and not safely.
    return Prepared(data, reference, MlflowClient(plan.tracking_uri), experiment_id)


def conduct(plan: Plan, prepared: Prepared, workers: ExitStack, console: Console) -> int:
    """Train every run of the plan, end `workers`, and show what came of it; the exit code."""
    client = prepared.client
    sweep = None
    cut_off = "FAILED"  # what a run is that no worker has ended
    reasons: dict[str, str] = {}
    try:
        sweep = begin_sweep(client, prepared.experiment_id, plan)
        run_ids = add_children(client, sweep, plan.runs)
        with LiveView({run.name: run.config.epochs for run in plan.runs}, console) as view:
            reasons = _train_all(plan, run_ids, prepared, view)
    except KeyboardInterrupt:
        cut_off = "KILLED"
        raise
    finally:
        with uninterrupted():
            workers.close()
            statuses = settle(client, sweep, cut_off, reasons) if sweep else {}
    records = read_sweep(client, sweep)
    write_figures(client, sweep.parent_id, records)
    show_results(console, plan.tracking_uri, client, sweep, records)
    return OK if set(statuses.values()) == {"FINISHED"} else RUN_FAILED


def _train_all(plan: Plan, run_ids: dict[str, str], prepared: Prepared, view: LiveView) -> dict[str, str]:
    """Train every run on Ray's workers; the reasons of those that failed, by name."""
    tasks = [
        Task(run.name, dataclasses.asdict(run.config), run_ids[run.name], plan.tracking_uri)
        for run in plan.runs
    ]
    listener = Listener(view)
    # Ray keeps the array in shared memory, where every worker of a machine reads it in place.
    data = prepared.data
    about = {"name": data.name, "digest": data.digest, "source": data.source}
    trainable = tune.with_parameters(
        run_trial,
        pixels=data.images.numpy(),
        about=about,
        reference=prepared.reference,
        assessment=plan.assessment,
    )
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
