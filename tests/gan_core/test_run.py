"""A run that is cut off and resumed leaves the record that an unbroken one leaves; how else a run ends."""

import csv
import io
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from gan_core.checkpoint import CheckpointFolder
from gan_core.config import RunConfig, RunOptions
from gan_core.data import ImageSet
from gan_core.errors import TrackingError, UserError
from gan_core.machine import kind_of_machine
from gan_core.run import SNAPSHOT_INTERVAL, TRACEBACK_LINES, Job, run
from gan_core.run_folder import RunFolder

CONFIG = RunConfig(dataset="digits", optimizer="adam", z_dim=5, hidden_dim=8, epochs=6, batch_size=32)
TIMES = ("time/epoch_seconds", "time/images_per_second", "time/evaluation_seconds", "time/floor_ratio")


@pytest.fixture
def small(digits):
    return ImageSet("digits", digits.images[:200], "0123abcd", "a test")


@pytest.fixture
def job(tmp_path, small, digits_reference):
    def make(config=CONFIG, every=1):
        folder = CheckpointFolder(tmp_path / "checkpoints", config)
        return Job("a", config, small, digits_reference, RunOptions(evaluate_every=2, checkpoint_every=every), folder)

    return make


@pytest.fixture
def record(client, rows, tmp_path):
    """What the store has of a run, but for times: its points, and its files."""

    def read(run_id):
        points = rows("SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY 1, 2", run_id)
        folder = Path(client.download_artifacts(run_id, "", str(tmp_path / run_id)))
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return points, files

    return read


def same_weights(one, other):
    """Whether two files hold the same weights, to the bit. The order of their metadata is by chance."""
    one, other = load(one), load(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def untimed(points):
    return [point for point in points if point[0] not in TIMES]


@pytest.fixture
def unbroken(new_run, track, small, digits_reference, record):
    run_id = new_run(CONFIG)
    whole = Job("a", CONFIG, small, digits_reference, RunOptions(evaluate_every=2))
    assert track(whole, run_id).status == "FINISHED"
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
def test_a_run_goes_on_as_if_unbroken(client, new_run, track, job, watcher, record, unbroken, epochs):
    run_id = new_run(CONFIG)
    for epoch in epochs:
        with pytest.raises(KeyboardInterrupt):
            track(job(), run_id, watcher(cut_at(epoch)))
        assert client.get_run(run_id).info.status == "KILLED"
    last = watcher()
    assert track(job(), run_id, last).status == "FINISHED"
    assert last.said == ([f"goes on after epoch {epochs[-1]}"] if epochs[-1] else [])
    assert [progress.epoch for progress in last.seen] == list(range(epochs[-1] + 1, 7))

    logged = client.get_run(run_id)
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


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_run_that_goes_on_on_another_kind_of_machine_says_so_once_and_is_tagged(
    client, new_run, track, job, watcher, rows, monkeypatch, restarts
):
    run_id, here = new_run(CONFIG), kind_of_machine()
    monkeypatch.setattr("gan_core.run.kind_of_machine", lambda: "another kind")
    with pytest.raises(KeyboardInterrupt):
        track(job(), run_id, watcher(cut_at(2)))
    assert client.get_run(run_id).data.tags["machine.kinds"] == "another kind"
    monkeypatch.undo()
    said = []
    for restart in range(1, restarts):
        cut = watcher(cut_at(2 + restart))
        with pytest.raises(KeyboardInterrupt):
            track(job(), run_id, cut)
        said += cut.said
    last = watcher()
    assert track(job(), run_id, last).status == "FINISHED"
    said = [text for text in [*said, *last.said] if "machine" in text]
    assert said == [f"now trains on another kind of machine ({here}; before: another kind)"]
    assert client.get_run(run_id).data.tags["machine.kinds"] == f"another kind; {here}"
    paces = rows("SELECT step FROM metrics WHERE key = 'time/floor_ratio' ORDER BY step")
    assert paces == [(1,), (3,)]  # one for each kind of machine


@pytest.mark.parametrize("stops", [[3], [1, 2, 3, 5]])
def test_a_run_that_pauses_goes_on_as_if_unbroken(client, new_run, track, job, watcher, record, unbroken, stops):
    run_id = new_run(CONFIG)
    for until in stops:
        seen = watcher()
        assert track(replace(job(), until=until, rungs=(3,)), run_id, seen).status == "PAUSED"
        assert client.get_run(run_id).info.status == "SCHEDULED"
        assert [progress.epochs for progress in seen.seen] == [until] * len(seen.seen)
        assert seen.said == []
        steps = {point.step for point in client.get_metric_history(run_id, "quality/fd")}
        assert steps == {epoch for epoch in (2, 3, 4) if epoch <= until}
    # Asked for less than it has reached already: nothing is trained.
    assert track(replace(job(), until=1), run_id, seen := watcher()).status == "PAUSED"
    assert seen.seen == []
    assert track(replace(job(), rungs=(3,)), run_id).status == "FINISHED"
    points, files = record(run_id)
    expected, whole = unbroken
    assert [point for point in untimed(points) if point[:2] not in AT_RUNG] == untimed(expected)
    assert len(points) == len({point[:2] for point in points})
    assert same_weights(files["generator.safetensors"], whole["generator.safetensors"])


AT_RUNG = [(f"quality/{name}", 3) for name in ("fd", "is", "class_kl", "confidence")]


def _arrays(files):
    with np.load(io.BytesIO(files["losses.npz"])) as arrays:
        return dict(arrays)


def _slides(files):
    return sorted((name.split("+")[2], name.split(".")[-1]) for name in files if name.startswith("images/"))


def test_a_finished_run_asked_for_more_epochs_goes_on_from_its_last(new_run, track, job, watcher, record, unbroken):
    shorter = RunConfig(dataset="digits", optimizer="adam", z_dim=5, hidden_dim=8, epochs=3, batch_size=32)
    first = new_run(shorter)
    assert track(job(shorter), first).status == "FINISHED"
    run_id = new_run(CONFIG)
    last = watcher()
    assert track(job(), run_id, last).status == "FINISHED"
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


def test_a_checkpoint_of_another_config_fails_the_run_by_name(client, new_run, track, job, watcher, tmp_path):
    run(job(), RunFolder(tmp_path / "out", CONFIG, "a"), watcher())
    other = RunConfig(dataset="digits", optimizer="adam", z_dim=9, hidden_dim=8, epochs=6, batch_size=32)
    run_id = new_run(other)
    with pytest.raises(UserError, match="is of another config"):
        track(job(other), run_id, watcher())
    logged = client.get_run(run_id)
    assert logged.info.status == "FAILED"
    assert "is of another config" in logged.data.tags["failure_reason"]


def test_a_failed_run_tried_again_loses_its_reason(client, new_run, track, job, watcher):
    run_id = new_run(CONFIG)
    outcome = track(job(), run_id, watcher(cut_at(2, MemoryError("no"))))
    assert outcome.status == "FAILED"
    assert client.get_run(run_id).data.tags["failure_reason"] == "MemoryError: no"
    last = watcher()
    assert track(job(), run_id, last).status == "FINISHED"
    assert last.said == ["goes on after epoch 2"]
    assert "failure_reason" not in client.get_run(run_id).data.tags


def test_a_slide_cut_off_between_its_two_files_is_made_whole(client, new_run, track, job, watcher):
    run_id = new_run(CONFIG)
    with pytest.raises(KeyboardInterrupt):
        track(job(), run_id, watcher(cut_at(2)))
    root = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    (slide,) = root.glob("images/samples+step+1+*.webp")
    slide.unlink()
    assert track(job(), run_id).status == "FINISHED"
    assert len(list(root.glob("images/samples+step+1+*"))) == 2
    assert slide.exists()


class Clock:
    """Time as a test would have it."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    perf_counter = staticmethod(time.perf_counter)
    time_ns = staticmethod(time.time_ns)


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr("gan_core.run.time", found)
    return found


@pytest.mark.parametrize(
    ("between", "every", "saved"),
    [
        (SNAPSHOT_INTERVAL, 1, [1, 2, 3, 4, 5, 6]),
        (SNAPSHOT_INTERVAL, 2, [2, 4, 6]),
        (SNAPSHOT_INTERVAL, 4, [4, 6]),
        (SNAPSHOT_INTERVAL, 10, [6]),  # the last always is
        (SNAPSHOT_INTERVAL / 2, 1, [2, 4, 6]),  # no snapshot after every other epoch
        (SNAPSHOT_INTERVAL / 2, 3, [4, 6]),
        (SNAPSHOT_INTERVAL * 0.99, 1, [2, 4, 6]),
        (0, 1, [6]),
    ],
)
def test_checkpoints_are_written_when_due(job, watcher, tmp_path, clock, between, every, saved):
    def passes(_):
        clock.now += between

    written = []

    class Folder(RunFolder):
        """Looks at the newest checkpoint after each event."""

        def log(self, event, at=0):
            super().log(event, at)
            newest = max(tmp_path.glob("checkpoints/*.checkpoint"), default=None)
            if newest and (epoch := int(newest.stem.removeprefix("epoch_"))) not in written:
                written.append(epoch)

    # An epoch's time passes before its Reached: the observer hears of its end in between.
    outcome = run(job(every=every), Folder(tmp_path / "out", CONFIG, "a"), watcher(passes))
    assert outcome.status == "FINISHED"
    assert written == saved
    assert [path.name for path in tmp_path.glob("checkpoints/*.checkpoint")] == ["epoch_0000006.checkpoint"]


def test_a_run_that_is_asked_to_stop_keeps_its_last_snapshot(job, watcher, tmp_path, clock):
    def passes(progress):
        clock.now += SNAPSHOT_INTERVAL * (progress.epoch <= 2)

    last = watcher(passes, stop_after=3)
    outcome = run(job(every=10), RunFolder(tmp_path / "out", CONFIG, "a"), last)
    assert outcome == ("KILLED", "interrupted", "")
    assert [progress.epoch for progress in last.seen] == [1, 2, 3]
    assert [path.name for path in tmp_path.glob("checkpoints/*.checkpoint")] == ["epoch_0000002.checkpoint"]
    assert json.loads((tmp_path / "out" / "status.json").read_text()) == {
        "status": "KILLED", "failure_reason": "interrupted",
    }  # fmt: skip
    again = watcher()
    assert run(job(), RunFolder(tmp_path / "out", CONFIG, "a"), again).status == "FINISHED"
    assert [progress.epoch for progress in again.seen] == [3, 4, 5, 6]
    assert {progress.resumed for progress in again.seen} == {2}


def test_what_is_replayed_has_the_time_that_it_had(job, watcher, tmp_path):
    times = []

    class Folder(RunFolder):
        def log(self, event, at=0):
            super().log(event, at)
            times.append((type(event).__name__, at))

    with pytest.raises(KeyboardInterrupt):
        run(job(), Folder(tmp_path / "out", CONFIG, "a"), watcher(cut_at(3)))
    before, first = time.time() * 1000, times.copy()
    times.clear()
    run(job(), Folder(tmp_path / "out", CONFIG, "a"), watcher())
    replayed = times[: [name for name, _ in times].index("Reached")]
    assert replayed == [pair for pair in first if pair[0] != "Reached"][: len(replayed)]
    assert [name for name, _ in replayed].count("EpochEnd") == 3
    assert replayed[-1][0] == "EpochEnd"
    assert all(before - 60_000 < at <= before for _, at in replayed)
    assert all(at > before for _, at in times[len(replayed) :])


def test_an_observer_sees_the_epochs_metrics(job, watcher, tmp_path):
    last = watcher()
    run(job(), RunFolder(tmp_path / "out", CONFIG, "a"), last)
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [vars(progress) for progress in last.seen] == [
        {
            "run": "a", "epoch": int(row["epoch"]), "epochs": 6,
            "discriminator_loss": float(row["loss/discriminator"]),
            "generator_loss": float(row["loss/generator"]),
            "images_per_second": float(row["time/images_per_second"]),
            "resumed": 0, "behind": 0.0,
        }
        for row in rows
    ]  # fmt: skip


class Refusing(RunFolder):
    """A record that cannot be completed, or that takes nothing from an event on."""

    def __init__(self, *args, close=None, log=None):
        super().__init__(*args)
        self._closing, self._logging, self.closed = close, log, []

    def log(self, event, at=0):
        if self._logging:
            raise self._logging
        super().log(event, at)

    def close(self, status, reason="", trace=""):
        self.closed.append((status, reason, trace))
        if self._closing:
            raise self._closing
        super().close(status, reason, trace)


@pytest.mark.parametrize("error", [TrackingError("the store is away"), OSError("the disk is full")])
def test_a_record_that_cannot_be_completed_is_unlogged_and_keeps_its_checkpoints(job, watcher, tmp_path, clock, error):
    def passes(_):
        clock.now += SNAPSHOT_INTERVAL

    record = Refusing(tmp_path / "out", CONFIG, "a", close=error)
    outcome = run(job(), record, watcher(passes))
    assert (outcome.status, outcome.reason) == ("UNLOGGED", str(error))
    assert outcome.health
    assert record.closed == [("FINISHED", "", "")]
    assert len(list(tmp_path.glob("checkpoints/*.checkpoint"))) == 2


def test_a_failed_run_whose_record_cannot_be_completed_says_both(job, watcher, tmp_path):
    record = Refusing(tmp_path / "out", CONFIG, "a", close=OSError("the disk is full"))
    outcome = run(job(), record, watcher(cut_at(0, MemoryError("no"))))
    assert outcome == ("UNLOGGED", "MemoryError: no; the disk is full", "")


def test_a_store_that_refuses_a_run_for_what_it_is_fails_it(job, watcher, tmp_path):
    record = Refusing(tmp_path / "out", CONFIG, "a", log=TrackingError("not like this"))
    assert run(job(), record, watcher()) == ("FAILED", "not like this", "")
    assert record.closed == [("FAILED", "", "")]


def test_a_broken_run_keeps_the_end_of_its_traceback(job, watcher, tmp_path):
    def one(depth):
        if depth == 0:
            raise ValueError("deep")
        other(depth - 1)

    def other(depth):
        one(depth)

    outcome = run(job(), RunFolder(tmp_path / "out", CONFIG, "a"), watcher(lambda _: one(50)))
    assert outcome == ("FAILED", "ValueError: deep", "")
    lines = (tmp_path / "out" / "traceback.txt").read_text().splitlines()
    assert len(lines) == TRACEBACK_LINES == 40
    assert lines[-1] == "ValueError: deep"


def test_an_interruption_is_closed_as_one_though_nothing_can_be_written(job, watcher, tmp_path, clock):
    def passes(progress):
        clock.now += SNAPSHOT_INTERVAL
        if progress.epoch == 2:
            shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
            (tmp_path / "checkpoints").write_text("in the way")
            raise KeyboardInterrupt

    record = Refusing(tmp_path / "out", CONFIG, "a", close=OSError("the disk is full"))
    with pytest.raises(KeyboardInterrupt):
        run(job(every=10), record, watcher(passes))
    assert record.closed == [("KILLED", "interrupted", "")]
