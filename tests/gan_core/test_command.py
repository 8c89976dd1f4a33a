"""`python -m gan_core` as a user runs it, and what an import of the library brings along."""

import csv
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from gan_core.__main__ import main
from gan_core.checkpoint import Checkpoint, CheckpointFolder
from gan_core.config import RunConfig
from gan_core.evaluation import train_classifier
from gan_core.events import EpochEnd, TrainState
from gan_core.networks import load_generator
from gan_core.training import train

ROOT = Path(__file__).parent.parent.parent
ONE_RUN = ("-m", "gan_core", "--dataset", "digits", "--hidden-dim", 16)


@pytest.mark.parametrize(
    ("imported", "brings", "without"),
    [
        ("gan_core.compat", "numpy", {"torch", "ray", "mlflow", "matplotlib", "rich"}),
        ("gan_core.__main__", "torch", {"ray", "mlflow"}),
        # All that is checked first is checked without what takes seconds to import.
        ("sweeps.run_grid", "rich", {"torch", "ray", "mlflow", "matplotlib"}),
    ],
)
def test_an_import_brings_nothing_that_is_not_needed(command, imported, brings, without):
    done = command("-c", f"import sys, {imported}; print(*sys.modules)", PYTHONPATH=str(ROOT))
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert brings in modules
    assert not modules & without


TRAIN_ALL = """
import sys, torch
from gan_core.config import RunConfig
from gan_core.optimizers import OPTIMIZERS
import gan_core.run, gan_core.tracking.tracker
for name in OPTIMIZERS:
    list(gan_core.run.train(RunConfig(optimizer=name, epochs=1), torch.zeros(64, 1, 28, 28, dtype=torch.uint8)))
print(*sys.modules)
"""


def test_a_worker_brings_neither_the_terminal_nor_pytorchs_compiler(command):
    done = command("-c", TRAIN_ALL)
    assert (done.returncode, done.stderr) == (0, "")
    modules = done.stdout.split()
    assert "gan_core.run" in modules
    assert not {"rich", "gan_core.cli", "torch._dynamo"} & set(modules)


def test_a_run_into_a_folder_leaves_mlflow_alone(command, tmp_path):
    done = command(*ONE_RUN, "--z-dim", 7, "--epochs", 2, "--output", "here", MLFLOW_TRACKING_URI="sqlite:///no.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    ending = json.loads((tmp_path / "here" / "status.json").read_text())
    quality = json.loads((tmp_path / "here" / "quality.json").read_text())
    assert ending["status"] == "FINISHED"
    assert ending["health"] == quality["health"]
    assert f"sgd_z7_s0 FINISHED ({ending['health']}) · epoch 2/2" in done.stdout
    assert [one["epoch"] for one in quality["evaluations"]] == [2]
    assert (tmp_path / "here" / "samples" / "epoch_0002.png").exists()


def test_a_broken_run_says_why_and_exits_with_1(command, tmp_path):
    done = command(*ONE_RUN, "--learning-rate", "1e30", "--epochs", 2, "--output", "here")
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAILED" in done.stdout
    assert "the loss of the" in done.stdout
    assert "NonFiniteLossError" in (tmp_path / "here" / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--z-dim", "0"], "z_dim should be greater than or equal to 1, got 0"),
        (["--evaluate-every", "-1"], "--evaluate-every should be greater than or equal to 0, got -1"),
        (["--threads", "0"], "--threads should be greater than or equal to 1, got 0"),
        (["--optimizer", "sdg"], "optimizer should be one of sgd, adam, adamw, rmsprop, got 'sdg'"),
        (["--zdim", "3"], "unrecognized arguments: --zdim 3 (see --help)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, words, said):
    done = command("-m", "gan_core", *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"python -m gan_core: {said}\n")
    assert not list(tmp_path.iterdir())


CUT = RunConfig(dataset="digits", optimizer="adam", z_dim=7, hidden_dim=16, epochs=400)
TO_BE_CUT = (
    *ONE_RUN, "--optimizer", "adam", "--z-dim", 7, "--epochs", 400, "--evaluate-every", 0,
    "--checkpoint-every", 1,
)  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(digits):
    """Its losses, and the weights of its G."""
    torch.set_num_threads(1)
    events = list(train(CUT, digits.images))
    losses = np.stack([event.generator_losses for event in events if isinstance(event, EpochEnd)])
    return losses, events[-1].generator.state_dict()


@pytest.fixture
def interrupted(tmp_path):
    """Start a run, send it the signal once it has a checkpoint, and say how it ended."""

    def run(how, *words):
        process = subprocess.Popen(
            [sys.executable, *map(str, (*TO_BE_CUT, *words))],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until = time.monotonic() + 100
        while not list(tmp_path.rglob("*.checkpoint")):
            assert time.monotonic() < until
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(how)
        pressed = time.monotonic()
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - pressed < 10
        return process.returncode, said

    return run


def check_whole(folder, unbroken):
    losses, weights = unbroken
    with np.load(folder / "losses.npz") as arrays:
        assert np.array_equal(arrays["generator"], losses)
    ours = load_generator(folder / "generator.safetensors").state_dict()
    assert all(torch.equal(ours[name], weights[name]) for name in weights)
    with (folder / "metrics.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, 401))


@pytest.mark.slow
def test_an_interrupted_run_is_killed_and_the_same_command_goes_on(command, interrupted, unbroken, uri, rows, tmp_path):
    where = ("--tracking-uri", uri)
    assert interrupted(signal.SIGINT, *where) == (130, "python -m gan_core: interrupted\n")
    ((run_id, status),) = rows("SELECT run_uuid, status FROM runs")
    assert status == "KILLED"
    done = command(*TO_BE_CUT, *where)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"adam_z7_s0: goes on after epoch \d+", done.stdout)
    assert rows("SELECT run_uuid, name, status FROM runs") == [(run_id, "adam_z7_s0", "FINISHED")]
    points = rows("SELECT key, step, count(*) FROM metrics GROUP BY key, step")
    assert len(points) == 400 * 8 + 11
    assert {count for *_, count in points} == {1}
    assert rows("SELECT count(*) FROM inputs") == [(1,)]
    client = MlflowClient(uri)
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path / "artifacts")))
    check_whole(folder, unbroken)
    steps = [path.name.split("+")[2] for path in (folder / "images").glob("*.png")]
    assert sorted(map(int, steps)) == [0, 1, 2, 5, *range(40, 401, 40)]


@pytest.mark.slow
def test_an_interrupted_run_into_a_folder_goes_on_as_well(command, interrupted, unbroken, tmp_path):
    where = ("--output", "here")
    assert interrupted(signal.SIGTERM, *where) == (130, "python -m gan_core: interrupted\n")
    assert json.loads((tmp_path / "here" / "status.json").read_text())["status"] == "KILLED"
    other = command(*TO_BE_CUT, "--seed", 1, *where)
    assert other.returncode == 2
    assert "the output folder here is not empty" in other.stderr
    done = command(*TO_BE_CUT, *where)
    assert (done.returncode, done.stderr) == (0, "")
    assert "goes on after epoch" in done.stdout
    check_whole(tmp_path / "here", unbroken)
    assert not (tmp_path / "here" / "checkpoint").exists()
    again = command(*TO_BE_CUT, *where)
    assert (again.returncode, again.stdout) == (2, "")
    assert "the output folder here is not empty" in again.stderr


def test_a_checkpoint_of_another_config_is_one_line_and_exit_code_2(command, tmp_path):
    folder = CheckpointFolder(tmp_path / "here" / "checkpoint", CUT)
    folder.save(Checkpoint(TrainState(0, {"w": torch.zeros(1)}, {}), []))
    done = command(*TO_BE_CUT, "--seed", 1, "--output", "here")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "epoch_0000000.checkpoint is of another config" in done.stderr


def test_what_a_kill_at_the_beginning_leaves_is_no_obstacle(command, tmp_path):
    (tmp_path / "here" / "checkpoint").mkdir(parents=True)
    (tmp_path / "here" / "checkpoint" / "lock").touch()
    (tmp_path / "here" / ".config.json.123").write_text("{")
    done = command(*ONE_RUN, "--epochs", 1, "--output", "here")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_of_mathematics_is_a_name(command, tmp_path):
    done = command(*ONE_RUN, "--epochs", 1, "--name", "a$b^$ $\\frac{$ 💥", "--output", "here")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "here" / "losses.png").exists()


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (28, 3), (32, 1), (32, 3)])
def test_a_folder_of_ones_own_images(tmp_path, shapes, monkeypatch, capsys, size, channels):
    short = dataclasses.replace(train_classifier.RECIPE, least_steps=30)
    monkeypatch.setattr(train_classifier, "RECIPE", short)  # the classifier's would take a minute
    monkeypatch.chdir(shapes.parent)
    words = ["--dataset", f"folder:{shapes.name}", "--image-size", size, "--channels", channels, "--epochs", 2]
    monkeypatch.setattr("sys.argv", ["gan-grid-train", *map(str, words), "--output", "here", "--data-dir", "data"])
    assert main() == 0
    said = capsys.readouterr()
    assert f"images (folder:{shapes}), record in here" in said.out
    assert "test images right" in said.err
    assert load_generator(tmp_path / "here" / "generator.safetensors")(torch.zeros(5, 100)).shape[1:] == (
        channels,
        size,
        size,
    )
    with Image.open(tmp_path / "here" / "samples" / "epoch_0002.png") as sheet:
        assert (sheet.mode, sheet.width) == ("L" if channels == 1 else "RGB", 2 * (8 * (size + 2) + 2))
    assert len(json.loads((tmp_path / "here" / "quality.json").read_text())["evaluations"][-1]["class_shares"]) == 2


@pytest.mark.parametrize(
    "words", [("--dataset", "folder:nowhere"), ("--dataset", "folder:my shapes", "--batch-size", 201)]
)
def test_a_folder_that_cannot_be_trained_on_is_refused_before_any_work(command, tmp_path, shapes, words):
    done = command("-m", "gan_core", *words, "--output", "here", "--data-dir", "data")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["my shapes"]
