"""Made-up sweeps: records as the store would give them."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gan_core.evaluation.scores import SCORES
from gan_core.optimizers import OPTIMIZERS
from sweeps.comparison.records import AbsentRun, Classifier, RunRecord, SweepRecord

REAL_BASELINE = dict(zip(SCORES, (0.1, 0.001, 9.8, 0.92, 0.94, 0.92, 0.95, 0.001, 0.995), strict=True))
UNTRAINED_BASELINE = dict(zip(SCORES, (50.0, 1.9, 1.0, 0.07, 0.0, 0.01, 0.0, 2.3, 0.99), strict=True))
JUDGE = Classifier("ab" * 32, 0.9934, 10_000, REAL_BASELINE, UNTRAINED_BASELINE)
PARAMS = {
    "optimizers": "sgd adam", "z_dims": "20 50", "seeds": "0 1", "learning_rates": "each optimizer's own",
    "dataset": "mnist", "hidden_dim": "128", "batch_size": "64", "epochs": "20", "device": "cpu",
}  # fmt: skip


def make_run(optimizer="sgd", z=20, seed=0, fd=5.0, rate=None, epochs=20, **changes):
    """A finished run: its fd falls to `fd`, its losses go from 4 to 2 (G) and 1 (D)."""
    rate_name = "" if rate is None else f"_lr{rate:g}"
    rate = rate or OPTIMIZERS[optimizer].learning_rate
    along = np.linspace(0, 1, epochs)
    history = {
        "loss/generator": list(4 - 2 * along),
        "loss/discriminator": list(2 - along),
        "loss_std/generator": [0.5] * epochs,
        "loss_std/discriminator": [0.3] * epochs,
        "time/epoch_seconds": [2.0] * epochs,
    }
    steps = {metric: list(range(1, epochs + 1)) for metric in history}
    metrics = {metric: values[-1] for metric, values in history.items()} | {"time/images_per_second": 30_000}
    if fd is not None:
        at = list(range(2, epochs + 1, 2))
        history["quality/fd"] = list(fd * np.exp(2 * (1 - np.array(at) / epochs)))
        steps["quality/fd"] = at
        others = dict(zip(SCORES[1:], (0.1, 6.0, 0.8, 0.6, 0.7, 0.4, 0.2, 0.9), strict=True))
        metrics |= {"quality/fd": fd, **others}
    cell = f"{optimizer}{rate_name}_z{z}"
    run = RunRecord(
        f"{cell}_s{seed}", f"{cell}{seed}".encode().hex()[:32], "FINISHED", cell, optimizer, rate, z, seed,
        history, "ok" if fd is not None else "", "", "", steps, metrics,
    )  # fmt: skip
    return replace(run, **changes)


def with_metrics(run, **metrics):
    """The run with other last values of quality scores."""
    return replace(
        run, metrics={**run.metrics, **{f"quality/{name}": value for name, value in metrics.items()}}
    )


def with_losses(run, D=None, G=None, D_std=None, G_std=None):
    """The run with other courses of losses."""
    given = {
        "loss/discriminator": D, "loss/generator": G,
        "loss_std/discriminator": D_std, "loss_std/generator": G_std,
    }  # fmt: skip
    return replace(run, history={**run.history, **{name: v for name, v in given.items() if v is not None}})


def make_sweep(runs, absent=(), **changes):
    """A finished sweep of these runs."""
    runs = list(runs)
    measured = any("quality/fd" in run.metrics for run in runs)
    record = SweepRecord(
        "a sweep", "f" * 32, "gan-grid", "FINISHED", 1_700_000_000.0, 1_700_003_600.0, PARAMS, "", runs,
        [AbsentRun(*each) for each in absent], [JUDGE] if measured else [],
    )  # fmt: skip
    return replace(record, **changes)


def cells(fds, seeds=5, spread=0.05, **settings):
    """Runs of cells by their mean fd, (optimizer, z) → fd; the seeds differ by noise of their own."""
    chance = np.random.default_rng(0)
    return [
        make_run(optimizer, z, seed, fd * math.exp(spread * chance.standard_normal()), **settings)
        for (optimizer, z), fd in fds.items()
        for seed in range(seeds)
    ]


@pytest.fixture
def made_up():
    """What makes records up, and the classifier that they have."""
    return SimpleNamespace(
        run=make_run, sweep=make_sweep, cells=cells, with_metrics=with_metrics, with_losses=with_losses,
        classifier=JUDGE, params=PARAMS,
    )  # fmt: skip
