"""`python -m gan_core` as a user runs it, and what an import of the library brings along."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ONE_RUN = ("-m", "gan_core", "--dataset", "digits", "--hidden-dim", 16)


def test_the_library_brings_neither_ray_nor_mlflow(command):
    done = command("-c", "import sys, gan_core, gan_core.__main__; print(*sys.modules)")
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in modules
    assert not modules & {"ray", "mlflow"}


def test_all_that_is_checked_first_is_checked_without_what_takes_seconds_to_import(command):
    done = command("-c", "import sys, sweeps.run_grid; print(*sys.modules)", PYTHONPATH=str(ROOT))
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert "sweeps" in modules
    assert not modules & {"torch", "ray", "mlflow", "matplotlib"}


@pytest.mark.slow
def test_a_run_is_tracked_by_default(command, uri, rows):
    done = command(*ONE_RUN, "--optimizer", "adam", "--z-dim", 7, "--epochs", 3, "--tracking-uri", uri)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows("SELECT name, status FROM runs") == [("adam_z7_s0", "FINISHED")]
    assert rows("SELECT count(*) FROM metrics") == [(3 * 8 + 10,)]
    (health,) = rows("SELECT value FROM tags WHERE key = 'health'")
    assert f"adam_z7_s0 FINISHED ({health[0]}) · epoch 3/3" in done.stdout


def test_a_run_into_a_folder_leaves_mlflow_alone(command, tmp_path):
    done = command(
        *ONE_RUN, "--z-dim", 7, "--epochs", 2, "--output", "here", MLFLOW_TRACKING_URI="sqlite:///no.db"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    ending = json.loads((tmp_path / "here" / "status.json").read_text())
    quality = json.loads((tmp_path / "here" / "quality.json").read_text())
    assert ending["status"] == "FINISHED"
    assert ending["health"] == quality["health"]
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
        (["--evaluate-every", "-1"], "--evaluate-every should be 0 or more, got -1"),
        (["--threads", "0"], "--threads should be 1 or more, got 0"),
        (["--optimizer", "sdg"], "optimizer should be one of sgd, adam, adamw, rmsprop, got 'sdg'"),
        (["--zdim", "3"], "unrecognized arguments: --zdim 3 (see --help)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, words, said):
    done = command("-m", "gan_core", *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"python -m gan_core: {said}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_killed(uri, rows, how):
    words = [*ONE_RUN, "--epochs", "1000000", "--tracking-uri", uri]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    until = time.monotonic() + 100
    while not rows("SELECT 1 FROM metrics LIMIT 1"):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(how)
    pressed = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - pressed < 10
    assert (process.returncode, said) == (130, "python -m gan_core: interrupted\n")
    assert rows("SELECT status FROM runs") == [("KILLED",)]
