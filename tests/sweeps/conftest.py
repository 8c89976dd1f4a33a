"""Made-up sweeps: as records, and written to MLflow as a grid writes them."""

import dataclasses
import io
import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from PIL import Image

from gan_core import metric_names as names
from gan_core.config import RunConfig, RunOptions
from gan_core.metric_names import SCORES
from gan_core.tracking.store import prepare_store
from sweeps.comparison.records import AbsentRun, Classifier, RunRecord, SweepRecord
from sweeps.grid import Grid
from sweeps.plan import Plan

REAL = dict(zip(SCORES, (0.1, 0.001, 9.8, 0.92, 0.94, 0.92, 0.95, 0.001, 0.995), strict=True))
UNTRAINED = dict(zip(SCORES, (50.0, 1.9, 1.0, 0.07, 0.0, 0.01, 0.0, 2.3, 0.99), strict=True))
OTHERS = dict(zip(SCORES[1:], (0.1, 6.0, 0.8, 0.6, 0.7, 0.4, 0.2, 0.9), strict=True))
CLASSIFIER = Classifier("ab" * 32, 0.9934, 10_000, REAL, UNTRAINED)
PARAMS = {
    "optimizer": "sgd adam", "z_dim": "20 50", "seed": "0 1", "dataset": "mnist", "hidden_dim": "128",
    "batch_size": "64", "epochs": "20", "device": "cpu",
}  # fmt: skip
SHORT = {"optimizer": "", "learning_rate": "lr", "z_dim": "z", "batch_size": "b", "hidden_dim": "h"}


def setting_name(values):
    return "_".join(f"{SHORT.get(axis, axis)}{value}" for axis, value in values.items())


def make_run(seed=0, fd=5.0, epochs=20, axes=None, name=None, **settings):
    """A finished run of `settings`; its fd falls to `fd`, its losses go from 4 to 2 (G) and 2 to 1 (D)."""
    given = {"optimizer": "sgd", "z_dim": 20, **settings}
    named = {"optimizer", "z_dim", *given} if axes is None else axes
    config = dataclasses.asdict(RunConfig(**given, seed=seed, epochs=epochs))
    order = [axis for axis in ("optimizer", "learning_rate", "z_dim", *given) if axis in named]
    setting = name or setting_name({axis: f"{config[axis]}" for axis in dict.fromkeys(order)})
    along = np.linspace(0, 1, epochs)
    each = range(1, epochs + 1)
    history = {
        names.LOSS_G: dict(zip(each, 4 - 2 * along, strict=True)),
        names.LOSS_D: dict(zip(each, 2 - along, strict=True)),
        names.LOSS_STD_G: dict.fromkeys(each, 0.5),
        names.LOSS_STD_D: dict.fromkeys(each, 0.3),
        names.EPOCH_SECONDS: dict.fromkeys(each, 2.0),
    }
    metrics = {metric: values[epochs] for metric, values in history.items()}
    metrics |= {names.IMAGES_PER_SECOND: 30_000, names.SCORE_REAL: 0.6, names.SCORE_FAKE: 0.4}
    if fd is not None:
        history[names.FD] = {epoch: fd * math.exp(2 * (1 - epoch / epochs)) for epoch in range(2, epochs + 1, 2)}
        metrics |= {names.FD: fd, **OTHERS}
    fields = {field: str(value) for field, value in config.items() if field != "seed"}
    run_id = f"{setting}{seed}".encode().hex()[-32:]
    health = "ok" if fd is not None else ""
    return RunRecord(f"{setting}_s{seed}", run_id, "FINISHED", setting, seed, fields, history, metrics, health)


def with_metrics(run, **metrics):
    """The run with other last values of quality scores."""
    return replace(run, metrics={**run.metrics, **{f"quality/{name}": value for name, value in metrics.items()}})


def with_losses(run, D=None, G=None, D_std=None, G_std=None):
    """The run with other courses of losses, one value per epoch."""
    given = {names.LOSS_D: D, names.LOSS_G: G, names.LOSS_STD_D: D_std, names.LOSS_STD_G: G_std}
    courses = {metric: dict(enumerate(values, 1)) for metric, values in given.items() if values is not None}
    return replace(run, history={**run.history, **courses})


def make_sweep(runs, absent=(), axes=("optimizer", "z_dim"), **changes):
    """A finished sweep of these runs."""
    runs = list(runs)
    measured = any(names.FD in run.metrics for run in runs)
    record = SweepRecord(
        "a sweep", "f" * 32, "gan-grid", "/nowhere", "FINISHED", 1_700_000_000.0, 1_700_003_600.0, PARAMS, axes,
        runs, [AbsentRun(*each) for each in absent], [CLASSIFIER] if measured else [],
    )  # fmt: skip
    return replace(record, **changes)


def settings(fds, seeds=5, spread=0.05, **common):
    """Runs of settings by their mean fd, (optimizer, z_dim) → fd; the seeds differ by noise of their own."""
    chance = np.random.default_rng(0)
    return [
        make_run(seed, fd * math.exp(spread * chance.standard_normal()), optimizer=optimizer, z_dim=z, **common)
        for (optimizer, z), fd in fds.items()
        for seed in range(seeds)
    ]


@pytest.fixture(scope="session")
def made_up():
    """What makes records up, and the classifier that they have."""
    return SimpleNamespace(
        run=make_run, sweep=make_sweep, settings=settings, with_metrics=with_metrics, with_losses=with_losses,
        classifier=CLASSIFIER, params=PARAMS, sheet=sample_sheet,
    )  # fmt: skip


def sample_sheet(shade=0):
    """A PNG of a sample sheet's size, one shade and noise."""
    chance = np.random.default_rng(shade)
    pixels = np.clip(chance.normal(shade, 25, (241, 241)), 0, 255).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).resize((482, 482), Image.Resampling.NEAREST).save(png, format="png")
    return png.getvalue()


def write_sweep(uri, folder, name="a sweep", axes=None, seeds=(0, 1, 2), fd=None, experiment="gan-grid", **fixed):
    """A sweep in MLflow as a grid writes it, every run finished; the parent's run id.

    axes: field → values, or a list of settings, field → value. fd(setting, seed) → the last Fréchet distance.
    """
    axes = axes or {"optimizer": ["sgd", "adam"], "z_dim": [20]}
    fixed = {"dataset": "digits", **({} if "epochs" in axes else {"epochs": 4}), **fixed}
    if isinstance(axes, dict):
        fields, points = (
            list(axes),
            [dict(zip(axes, each, strict=True)) for each in itertools.product(*axes.values())],
        )
    else:
        fields, points = list(dict.fromkeys(field for each in axes for field in each)), axes
    fd = fd or (lambda values, seed: (5.0 if values.get("optimizer") != "adam" else 25.0) * (1 + 0.03 * seed))
    experiment_id = prepare_store(uri, experiment)
    client = MlflowClient(uri)
    folder.mkdir(exist_ok=True)
    tags = {
        names.SWEEP_KIND: "grid",
        names.SWEEP_FORMAT: names.FORMAT_VERSION,
        names.SWEEP_AXES: " ".join(fields),
    }
    parent = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    first = dataclasses.asdict(RunConfig(**points[0], **fixed))
    params = {field: str(value) for field, value in first.items()}
    del params["learning_rate"]
    for field in fields:
        params[field] = " ".join(dict.fromkeys(str(each[field]) for each in points if field in each))
    params["seed"] = " ".join(map(str, seeds))
    client.log_batch(parent, params=[Param(key, value) for key, value in params.items()])
    (folder / names.SWEEP_FILE).write_text("".join(f"{key} = '{value}'\n" for key, value in params.items()))
    client.log_artifact(parent, str(folder / names.SWEEP_FILE))
    for seed in seeds:
        for place, values in enumerate(points):
            config = RunConfig(**values, **fixed, seed=seed)
            _write_run(client, experiment_id, parent, values, config, fd(values, seed), folder, 30 + 5 * place)
    client.set_terminated(parent, "FINISHED")
    return parent


def _write_run(client, experiment_id, parent, values, config, fd, folder, shade):
    setting = setting_name(values)
    tags = {"mlflow.parentRunId": parent, names.SETTING: setting}
    run_id = client.create_run(experiment_id, run_name=f"{setting}_s{config.seed}", tags=tags).info.run_id
    epochs = config.epochs
    each = (names.LOSS_D, names.LOSS_G, names.LOSS_STD_D, names.LOSS_STD_G, names.EPOCH_SECONDS,
            names.IMAGES_PER_SECOND, names.SCORE_REAL, names.SCORE_FAKE)  # fmt: skip
    level = (1 + config.seed / 20) * (0.5 + shade / 60)
    points = [
        Metric(name, level * (1 + epoch / epochs + 0.1 * (name == names.LOSS_G)), 1000, epoch)
        for epoch in range(1, epochs + 1)
        for name in each
    ]
    kept = sorted({*range(2, epochs + 1, max(1, epochs // 10)), epochs})
    points += [Metric(names.FD, fd * math.exp(2 - 2 * epoch / epochs), 1000, epoch) for epoch in kept]
    points += [Metric(name, value, 1000, epochs) for name, value in OTHERS.items()]
    points.append(Metric(names.LOSS_G, 99.0, 500, 1))  # an earlier try of epoch 1, before the run was resumed
    classifier = {
        names.CLASSIFIER: "ab" * 32, names.CLASSIFIER_ACCURACY: "0.98", names.EVALUATION_IMAGES: "599",
        names.REAL_BASELINE: json.dumps(REAL), names.UNTRAINED_BASELINE: json.dumps(UNTRAINED),
        names.HEALTH: "ok", names.HEALTH_REASON: "fine",
    }  # fmt: skip
    client.log_batch(
        run_id,
        metrics=points,
        params=[Param(name, str(value)) for name, value in dataclasses.asdict(config).items()],
        tags=[RunTag(key, value) for key, value in classifier.items()],
    )
    (folder / names.SAMPLES).mkdir(exist_ok=True)
    for epoch in (0, 1, epochs):
        (folder / names.sheet_name(epoch)).write_bytes(sample_sheet(shade + epoch))
        client.log_artifact(run_id, str(folder / names.sheet_name(epoch)), names.SAMPLES)
    losses = np.linspace(6, 1, epochs * 5, dtype=np.float32).reshape(epochs, 5)
    np.savez(folder / names.LOSSES_ARRAYS, discriminator=losses - 1, generator=losses)
    client.log_artifact(run_id, str(folder / names.LOSSES_ARRAYS))
    client.set_terminated(run_id, "FINISHED")


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture
def experiment(uri):
    return prepare_store(uri, "grid")


@pytest.fixture
def plan(uri, tmp_path):
    """Makes the plan of a small sweep of the digits, called small, in the test's own store."""

    def make(optimizers=("sgd", "adam"), z_dims=(5,), hidden_dim=8, epochs=5, dataset="digits", **changes):
        grid = Grid(
            {"optimizer": tuple(optimizers), "z_dim": tuple(z_dims)},
            fixed={"dataset": dataset, "hidden_dim": hidden_dim, "epochs": epochs},
        )
        plan = Plan(
            name="small", named=True, again=False, experiment="grid", grid=grid, runs=grid.runs(), notes=[],
            options=RunOptions(evaluate_every=0, checkpoint_every=1), tracking_uri=uri,
            checkpoint_dir=tmp_path / "checkpoints", workers=1, retries=0,
        )  # fmt: skip
        return replace(plan, **changes)

    return make


@pytest.fixture(scope="session")
def store_client(empty_store):
    """The client of a store that has none of the made-up runs: what is shown is from the records alone."""
    return MlflowClient(f"sqlite:///{empty_store}")


@pytest.fixture
def write(uri, tmp_path):
    """Write a sweep to the test's own store: see write_sweep."""
    return lambda *words, **given: write_sweep(uri, tmp_path / "files", *words, **given)
