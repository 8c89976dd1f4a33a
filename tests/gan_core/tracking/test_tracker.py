import dataclasses
import json
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.entities import Metric

from gan_core.config import RunConfig, RunOptions
from gan_core.data import ImageSet
from gan_core.errors import TrackingError
from gan_core.evaluation.scores import SCORES
from gan_core.events import EpochEnd
from gan_core.networks import load_generator
from gan_core.run import Job, Outcome
from gan_core.tracking.tracker import MlflowTracker

CONFIG = RunConfig(dataset="digits", optimizer="adam", z_dim=5, hidden_dim=8, epochs=6, batch_size=32)
METRICS = {
    "loss/discriminator", "loss/generator", "loss_std/discriminator", "loss_std/generator",
    "score/real", "score/fake", "time/epoch_seconds", "time/images_per_second",
}  # fmt: skip
AT_THE_END = {*SCORES, "time/evaluation_seconds"}
POINTS = 6 * len(METRICS) + len(AT_THE_END) + 1  # of a whole run of CONFIG


@pytest.fixture
def small(digits):
    return ImageSet("digits", digits.images[:100], "0123abcd", "a test")


@pytest.fixture
def job(small, digits_reference):
    return Job("adam_z5_s0", CONFIG, small, digits_reference, RunOptions())


def test_a_run_is_wholly_in_the_store(client, rows, new_run, job, track, watcher, tmp_path):
    run_id, observer = new_run(CONFIG), watcher()
    outcome = track(job, run_id, observer)
    logged = client.get_run(run_id)
    assert outcome == Outcome("FINISHED", health=logged.data.tags["health"])
    assert (logged.info.run_name, logged.info.status) == ("a", "FINISHED")
    params = {name: str(value) for name, value in dataclasses.asdict(CONFIG).items()}
    assert logged.data.params == params
    assert logged.data.tags["config_hash"] == CONFIG.config_hash
    assert logged.data.tags["mlflow.user"]

    points = rows("SELECT key, step FROM metrics WHERE run_uuid = ?", run_id)
    assert sorted(points) == sorted(
        [(metric, epoch) for metric in METRICS for epoch in range(1, 7)]
        + [(metric, 6) for metric in AT_THE_END]
        + [("time/floor_ratio", 1)]
    )
    history = client.get_metric_history(run_id, "loss/generator")
    assert [point.value for point in sorted(history, key=lambda point: point.step)] == [
        pytest.approx(progress.generator_loss) for progress in observer.seen
    ]

    (data,) = logged.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "0123abcd")
    assert json.loads(data.dataset.profile) == {"images": 100, "shape": [1, 28, 28]}

    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    with np.load(folder / "losses.npz") as losses:
        assert losses["generator"].shape == losses["discriminator"].shape == (6, 4)
    sheets = [f"epoch_{epoch:04d}.png" for epoch in (0, 1, 2, 3, 4, 5, 6)]
    assert sorted(path.name for path in (folder / "samples").iterdir()) == sheets
    steps = sorted(int(path.name.split("+")[2]) for path in (folder / "images").glob("samples+step+*.png"))
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    assert load_generator(folder / "generator.safetensors")(torch.zeros(2, 5)).shape == (2, 1, 28, 28)
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_is_killed_and_keeps_what_was_logged(rows, new_run, job, track, watcher):
    def interrupt(progress):
        if progress.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(job, new_run(CONFIG), watcher(interrupt))
    assert rows("SELECT status FROM runs") == [("KILLED",)]
    assert rows("SELECT count(*) FROM metrics") == [(3 * len(METRICS) + 1,)]


def test_a_locked_store_is_waited_for(uri, rows, new_run, job, track):
    run_id = new_run(CONFIG)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(3, other.rollback).start()
        started = time.monotonic()
        outcome = track(job, run_id)
        assert time.monotonic() - started >= 2.5
    assert outcome.status == "FINISHED"
    assert rows("SELECT count(*) FROM metrics") == [(POINTS,)]


def test_a_store_that_refuses_is_a_failed_run_that_says_so(uri, client, small, new_run, job, track):
    run_id = new_run(CONFIG)
    client.delete_run(run_id)
    outcome = track(job, run_id)
    assert outcome.status == "FAILED"
    assert "logging to the store failed" in outcome.reason
    with pytest.raises(TrackingError):
        MlflowTracker(uri, run_id, CONFIG, small, "a").close("FINISHED")


def test_the_same_batch_written_twice_is_in_the_store_once(client, rows, new_run):
    """What makes it safe to try again after an error that came when the write was done already."""
    run_id = new_run(CONFIG)
    for _ in range(2):
        client.log_batch(run_id, metrics=[Metric("loss", 0.5, 1000, 1), Metric("loss", 0.4, 1001, 2)])
    assert rows("SELECT count(*) FROM metrics") == [(2,)]


LOG = """
import time
import numpy as np
from gan_core.config import RunConfig
from gan_core.data import load_images
from gan_core.events import EpochEnd
from mlflow.entities import Metric
from gan_core.tracking.tracker import MlflowTracker
from mlflow import MlflowClient
from gan_core.tracking.store import create_run
config, data = RunConfig(dataset="digits"), load_images("digits")
one = np.full(4, 0.5, np.float32)
def log(number):
    run_id = create_run(MlflowClient({uri!r}), {experiment!r}, str(number), config)
    tracker = MlflowTracker({uri!r}, run_id, config, data, str(number))
    for epoch in range(1, {epochs} + 1):
        end = EpochEnd(epoch, number * one, epoch * one, one, one, 1797, 0.1)
        tracker.log(end, time.time_ns() // 1_000_000)
        time.sleep(0.05)
    tracker.close("FINISHED")
"""


@pytest.mark.slow
def test_32_processes_log_to_one_store_and_every_row_is_there(uri, experiment, rows, at_once):
    at_once(32, LOG.format(uri=uri, experiment=experiment, epochs=100), "log(number)")
    assert rows("SELECT status, count(*) FROM runs GROUP BY status") == [("FINISHED", 32)]
    points = rows("SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE key LIKE 'loss/%'")
    expected = {
        (str(number), key, epoch, value)
        for number in range(32)
        for epoch in range(1, 101)
        for key, value in (("loss/discriminator", number / 2), ("loss/generator", epoch / 2))
    }
    assert len(points) == len(expected)
    assert set(points) == expected
    assert rows("SELECT count(*) FROM metrics") == [(32 * 100 * len(METRICS),)]


def test_metrics_of_many_quick_epochs_go_in_few_writes(uri, rows, new_run, small):
    """An epoch of a small image set is shorter than a write; the training must not wait."""
    tracker = MlflowTracker(uri, new_run(CONFIG), CONFIG, small, "a")
    one = np.ones(1, np.float32)
    started = time.monotonic()
    for epoch in range(1, 1001):
        tracker.log(EpochEnd(epoch, one, one, one, one, 1, 1.0), epoch)
    assert time.monotonic() - started < 1
    tracker.close("FINISHED")
    assert rows("SELECT count(*), max(step) FROM metrics") == [(1000 * len(METRICS), 1000)]
