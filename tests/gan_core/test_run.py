"""A run that is cut off and goes on leaves the record that an unbroken one leaves."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from gan_core.checkpoint import CheckpointFolder
from gan_core.config import RunConfig, RunOptions
from gan_core.data import ImageSet
from gan_core.errors import UserError
from gan_core.run import SNAPSHOT_INTERVAL, Job, run
from gan_core.run_folder import RunFolder
from gan_core.tracking.queries import MlflowClient, create_run
from gan_core.tracking.store import prepare_store
from gan_core.tracking.tracker import MlflowTracker

CONFIG = RunConfig(dataset="digits", optimizer="adam", z_dim=5, hidden_dim=8, epochs=6, batch_size=32)
TIMES = ("time/epoch_seconds", "time/images_per_second", "time/evaluation_seconds")


@pytest.fixture
def small(digits):
    return ImageSet("digits", digits.images[:200], "0123abcd", "a test")


@pytest.fixture
def job(tmp_path, small, digits_reference):
    def make(config=CONFIG, every=1):
        folder = CheckpointFolder(tmp_path / "checkpoints", config)
        return Job(
            "a", config, small, digits_reference, RunOptions(evaluate_every=2, checkpoint_every=every), folder
        )

    return make


@pytest.fixture
def experiment(uri):
    return prepare_store(uri, "grid")


@pytest.fixture
def record(uri, rows, tmp_path):
    """What the store has of a run, but for times: its points, and its files."""

    def read(run_id):
        points = rows("SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY 1, 2", run_id)
        folder = Path(MlflowClient(uri).download_artifacts(run_id, "", str(tmp_path / run_id)))
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        return points, files

    return read


def same_weights(one, other):
    """Whether two files hold the same weights, to the bit. The order of their metadata is by chance."""
    one, other = load(one), load(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def untimed(points):
    return [point for point in points if point[0] not in TIMES]


@pytest.fixture
def unbroken(uri, experiment, small, digits_reference, watcher, record):
    run_id = create_run(MlflowClient(uri), experiment, "a", CONFIG)
    whole = Job("a", CONFIG, small, digits_reference, RunOptions(evaluate_every=2))
    assert run(whole, MlflowTracker(uri, run_id, CONFIG, small, "a"), watcher()).status == "FINISHED"
    return record(run_id)


def cut_at(epoch, error=KeyboardInterrupt):
    """Long enough in an epoch that a snapshot is due after it; cut off in the next one."""

    def on_epoch(progress):
        if progress.epoch == epoch:
            time.sleep(SNAPSHOT_INTERVAL)
        if progress.epoch == epoch + 1:
            raise error

    return on_epoch


@pytest.mark.parametrize("epochs", [[0], [2], [5], [2, 4]])
def test_a_run_goes_on_as_if_unbroken(uri, experiment, small, job, watcher, record, unbroken, epochs):
    run_id = create_run(MlflowClient(uri), experiment, "a", CONFIG)
    for epoch in epochs:
        with pytest.raises(KeyboardInterrupt):
            run(job(), MlflowTracker(uri, run_id, CONFIG, small, "a"), watcher(cut_at(epoch)))
        assert MlflowClient(uri).get_run(run_id).info.status == "KILLED"
    last = watcher()
    assert run(job(), MlflowTracker(uri, run_id, CONFIG, small, "a"), last).status == "FINISHED"
    assert last.said == ([f"goes on after epoch {epochs[-1]}"] if epochs[-1] else [])
    assert [progress.epoch for progress in last.seen] == list(range(epochs[-1] + 1, 7))

    logged = MlflowClient(uri).get_run(run_id)
    assert logged.info.status == "FINISHED"
    assert "failure_reason" not in logged.data.tags
    points, files = record(run_id)
    expected, whole = unbroken
    assert untimed(points) == untimed(expected)
    assert [point[:2] for point in points] == [point[:2] for point in expected]
    assert same_weights(files["generator.safetensors"], whole["generator.safetensors"])
    for name in whole:
        if name.startswith("samples/") or name == "config.json":
            assert files[name] == whole[name]
    arrays = [_arrays(one) for one in (files, whole)]
    for name in ("discriminator", "generator"):
        assert arrays[0][name].shape == (6, 7)  # epochs × iterations
        assert np.array_equal(arrays[0][name], arrays[1][name])
    assert _slides(files) == _slides(whole)
    assert len(_slides(files)) == len(set(_slides(files)))


def _arrays(files):
    with np.load(io.BytesIO(files["losses.npz"])) as arrays:
        return dict(arrays)


def _slides(files):
    return sorted((name.split("+")[2], name.split(".")[-1]) for name in files if name.startswith("images/"))


def test_a_finished_run_asked_for_more_epochs_goes_on_from_its_last(
    uri, experiment, small, job, watcher, record, unbroken
):
    shorter = RunConfig(dataset="digits", optimizer="adam", z_dim=5, hidden_dim=8, epochs=3, batch_size=32)
    first = create_run(MlflowClient(uri), experiment, "a", shorter)
    assert run(job(shorter), MlflowTracker(uri, first, shorter, small, "a"), watcher()).status == "FINISHED"
    run_id = create_run(MlflowClient(uri), experiment, "a", CONFIG)
    last = watcher()
    assert run(job(), MlflowTracker(uri, run_id, CONFIG, small, "a"), last).status == "FINISHED"
    assert [progress.epoch for progress in last.seen] == [4, 5, 6]
    points, files = record(run_id)
    assert same_weights(files["generator.safetensors"], unbroken[1]["generator.safetensors"])
    losses = [point for point in points if point[0].startswith("loss/")]
    assert losses == [point for point in unbroken[0] if point[0].startswith("loss/")]


def test_a_damaged_checkpoint_costs_epochs_and_nothing_else(job, small, tmp_path, watcher):
    whole = RunFolder(tmp_path / "whole", CONFIG, "a")
    run(Job(*_but_checkpoints(job())), whole, watcher())
    for epoch in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run(job(), RunFolder(tmp_path / "out", CONFIG, "a"), watcher(cut_at(epoch)))
    newest = max((tmp_path / "checkpoints").glob("*.checkpoint"))
    newest.write_bytes(newest.read_bytes()[:-100])
    last = watcher()
    assert run(job(), RunFolder(tmp_path / "out", CONFIG, "a"), last).status == "FINISHED"
    assert "epoch_0000004.checkpoint cannot be used (it is not whole)" in last.said[0]
    assert last.said[1] == "goes on after epoch 2"
    weights = [(tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "out")]
    assert same_weights(*weights)


def _but_checkpoints(job):
    return job.name, job.config, job.data, job.reference, job.options


def test_a_checkpoint_of_another_config_fails_the_run_by_name(uri, experiment, small, job, watcher, tmp_path):
    run(job(), RunFolder(tmp_path / "out", CONFIG, "a"), watcher())
    other = RunConfig(dataset="digits", optimizer="adam", z_dim=9, hidden_dim=8, epochs=6, batch_size=32)
    run_id = create_run(MlflowClient(uri), experiment, "a", other)
    with pytest.raises(UserError, match="is of another config"):
        run(job(other), MlflowTracker(uri, run_id, other, small, "a"), watcher())
    logged = MlflowClient(uri).get_run(run_id)
    assert logged.info.status == "FAILED"
    assert "is of another config" in logged.data.tags["failure_reason"]


def test_a_failed_run_tried_again_loses_its_reason(uri, experiment, small, job, watcher):
    run_id = create_run(MlflowClient(uri), experiment, "a", CONFIG)
    outcome = run(
        job(), MlflowTracker(uri, run_id, CONFIG, small, "a"), watcher(cut_at(2, MemoryError("no")))
    )
    assert outcome.status == "FAILED"
    assert MlflowClient(uri).get_run(run_id).data.tags["failure_reason"] == "MemoryError: no"
    last = watcher()
    assert run(job(), MlflowTracker(uri, run_id, CONFIG, small, "a"), last).status == "FINISHED"
    assert last.said == ["goes on after epoch 2"]
    assert "failure_reason" not in MlflowClient(uri).get_run(run_id).data.tags


def test_the_slider_is_as_mlflow_itself_would_have_it(uri, experiment, small, job, watcher, record):
    """Its files are written one by one here; should MLflow change their names, this tells."""
    from PIL import Image

    client = MlflowClient(uri)
    theirs = create_run(client, experiment, "theirs", CONFIG)
    client.log_image(
        theirs, Image.new("L", (300, 300)), key="samples", step=4, timestamp=1000, synchronous=True
    )
    ours = create_run(client, experiment, "ours", CONFIG)
    run(job(), MlflowTracker(uri, ours, CONFIG, small, "a"), watcher())

    def form(name):
        parts = name.split("+")
        return parts[0], parts[1], parts[3], len(parts[5].split(".")[0]), tuple(parts[6:]), name[-4:]

    of_ours = {form(name) for name in record(ours)[1] if name.startswith("images/")}
    assert of_ours == {form(name) for name in record(theirs)[1] if name.startswith("images/")}
    tags = [client.get_run(run_id).data.tags["mlflow.loggedImages"] for run_id in (ours, theirs)]
    assert tags[0] == tags[1]


def test_a_slide_cut_off_between_its_two_files_is_made_whole(uri, experiment, small, job, watcher, record):
    run_id = create_run(MlflowClient(uri), experiment, "a", CONFIG)
    with pytest.raises(KeyboardInterrupt):
        run(job(), MlflowTracker(uri, run_id, CONFIG, small, "a"), watcher(cut_at(2)))
    root = Path(MlflowClient(uri).get_run(run_id).info.artifact_uri.removeprefix("file://"))
    (slide,) = root.glob("images/samples+step+1+*.webp")
    slide.unlink()
    assert run(job(), MlflowTracker(uri, run_id, CONFIG, small, "a"), watcher()).status == "FINISHED"
    assert len(list(root.glob("images/samples+step+1+*"))) == 2
    assert slide.exists()
