"""The command as a user runs it: real Ray, real SQLite, a process of its own."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image

from gan_core.architectures import NETWORKS
from gan_core.losses import OBJECTIVES
from gan_core.networks import load_generator
from gan_core.training import fixed_noise

RUN_GRID = Path(__file__).parents[2] / "sweeps" / "run_grid.py"
SMALL = ("--dataset", "digits", "--hidden-dim", 16)
LONG = (*SMALL, "--epochs", 100_000)
METRICS_AN_EPOCH, ONCE = 8, 1  # once: how near the machine's limit it trains
GIB = 2**30
QUICK_METRICS, WHOLE_METRICS = 4 + 1, 9 + 1  # scores, and the time that they took


def artifacts(uri, run_id, folder):
    return Path(MlflowClient(uri).download_artifacts(run_id, "", str(folder)))


@pytest.mark.slow
def test_a_two_by_two_grid_with_two_seeds(command, uri, rows, tmp_path):
    """Run from another folder, and counted row by row."""
    (tmp_path / "elsewhere").mkdir()
    done = command(
        RUN_GRID, *SMALL, "--optimizers", "sgd", "adam", "--z-dims", 5, 7, "--seeds", 0, 1, "--epochs", 3,
        "--evaluate-every", 2, "--name", "small", "--tracking-uri", uri, cwd=tmp_path / "elsewhere",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not list((tmp_path / "elsewhere").iterdir())

    names = {f"{optimizer}_z{z}_s{seed}" for optimizer in ("sgd", "adam") for z in (5, 7) for seed in (0, 1)}
    runs = rows("SELECT name, run_uuid, status FROM runs")
    assert {(name, status) for name, _, status in runs} == {(name, "FINISHED") for name in {*names, "small"}}
    ids = {name: run_id for name, run_id, _ in runs}
    parents = rows("SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?", ids["small"])
    assert {run_id for (run_id,) in parents} == {ids[name] for name in names}

    points = rows(
        "SELECT run_uuid, key, step, count(*) FROM metrics WHERE run_uuid != ? GROUP BY run_uuid, key, step",
        ids["small"],
    )
    assert len(points) == len(names) * (METRICS_AN_EPOCH * 3 + QUICK_METRICS + WHOLE_METRICS + ONCE)
    assert {count for *_, count in points} == {1}
    evaluated = {(run_id, step) for run_id, key, step, _ in points if key == "quality/fd"}
    assert evaluated == {(ids[name], step) for name in names for step in (2, 3)}
    assert {step for _, _, step, _ in points} == {1, 2, 3}

    client = MlflowClient(uri)
    for name in names:
        logged = client.get_run(ids[name]).data
        params = logged.params
        assert {
            "quality.classifier",
            "quality.real_baseline",
            "quality.untrained_baseline",
            "health_reason",
        } <= set(logged.tags)
        assert logged.tags["quality.n"] == "599"
        assert f"{params['optimizer']}_z{params['z_dim']}_s{params['seed']}" == name
        assert params["learning_rate"] == ("0.03" if params["optimizer"] == "sgd" else "0.0002")
        files = artifacts(uri, ids[name], tmp_path / name)
        quality = json.loads((files / "quality.json").read_text())
        assert [one["epoch"] for one in quality["evaluations"]] == [2, 3]
        images = load_generator(files / "generator.safetensors")(fixed_noise(int(params["z_dim"])))
        assert images.shape == (64, 1, 28, 28)

    parent = client.get_run(ids["small"])
    assert parent.data.tags["sweep.kind"] == "grid"
    assert parent.data.params["z_dim"] == "5 7"
    assert parent.data.params["optimizer"] == "sgd adam"
    files = artifacts(uri, ids["small"], tmp_path / "parent")
    for figure in ("losses.png", "contact_sheet.png"):
        with Image.open(files / figure) as picture:
            assert min(picture.size) > 300

    page = tmp_path / "reports" / "small" / "report.html"
    assert "sgd_z5" in page.read_text()
    assert (files / "report" / "report.html").read_text() == page.read_text()
    assert f"Report:   {page}" in done.stdout

    # The same seed and z_dim begin at the same G and D, whatever the optimizer.
    first = {name: np.load(tmp_path / name / "losses.npz")["discriminator"][0, 0] for name in names}
    assert first["sgd_z5_s0"] == first["adam_z5_s0"] != first["sgd_z5_s1"]

    out = done.stdout
    assert "8 = 4 settings × 2 seeds" in out
    assert "every 2 epochs and at the end" in out
    health = client.get_run(ids["sgd_z5_s0"]).data.tags["health"]
    assert re.search(rf"sgd_z5 +2/2 .* {health} [12]", out)
    assert f"mlflow ui --backend-store-uri {uri}" in out
    assert not re.search(r"ray|alembic|INFO|WARN|🏃", out.replace(str(tmp_path), ""), re.IGNORECASE)


@pytest.mark.slow
def test_a_broken_run_beside_good_ones(command, uri, rows, tmp_path):
    """And the command makes its store itself."""
    (tmp_path / "mlflow.db").unlink()
    done = command(
        RUN_GRID, *SMALL, "--optimizers", "sgd", "--z-dims", 5, 7, "--seeds", 0, "--learning-rates", 0.03, 1e30,
        "--epochs", 2, "--tracking-uri", uri, "--name", "half",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert dict(rows("SELECT name, status FROM runs")) == {
        "half": "FAILED",
        "sgd_lr0.03_z5_s0": "FINISHED",
        "sgd_lr0.03_z7_s0": "FINISHED",
        "sgd_lr1e+30_z5_s0": "FAILED",
        "sgd_lr1e+30_z7_s0": "FAILED",
    }
    places = [place for (place,) in rows("SELECT artifact_location FROM experiments")]
    assert len(places) == 2  # MLflow's own Default, and ours
    assert all(place.startswith((tmp_path / "mlruns").as_uri()) for place in places)
    assert rows("PRAGMA journal_mode") == [("wal",)]
    reasons = rows("SELECT name, value FROM tags JOIN runs USING (run_uuid) WHERE key = 'failure_reason'")
    assert {name for name, _ in reasons} == {"sgd_lr1e+30_z5_s0", "sgd_lr1e+30_z7_s0"}
    assert all("the loss of the" in reason for _, reason in reasons)
    (broken,) = rows("SELECT run_uuid FROM runs WHERE name = 'sgd_lr1e+30_z5_s0'")
    trace = artifacts(uri, *broken, tmp_path / "broken") / "traceback.txt"
    assert "NonFiniteLossError" in trace.read_text()
    assert "the loss of the" in done.stdout


class Started:
    """The command, running, in a process group of its own."""

    def __init__(self, *words, **options):
        self.process = subprocess.Popen(
            [sys.executable, str(RUN_GRID), *map(str, words)], start_new_session=True, text=True, **options
        )

    def wait_for(self, condition, seconds=120):
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, "it did not come to that"
            time.sleep(0.2)

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.mark.parametrize(
    "how", ["SIGINT", *(pytest.param(how, marks=pytest.mark.slow) for how in ("SIGTERM", "terminal"))]
)
def test_interrupted_in_the_middle(command, uri, rows, how, tmp_path):
    words = (
        *LONG, "--optimizers", "sgd", "--z-dims", 5, 6, 7, "--seeds", 0, "--workers", 2, "--tracking-uri", uri,
        "--checkpoint-every", 1_000_000,  # so that there is none but the interruption's
    )  # fmt: skip
    if how == "terminal":
        ours, theirs = pty.openpty()
        started = Started(*words, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=_own_terminal(theirs))
    else:
        started = Started(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        started.wait_for(lambda: len(rows("SELECT DISTINCT run_uuid FROM metrics")) == 2)
        family = started.family()
        assert any("ray" in process.name() for process in family)
        if how == "SIGTERM":
            second = command(RUN_GRID, *words)
            assert (second.returncode, len(second.stderr.splitlines())) == (2, 1)
            assert "a sweep of these settings is running already, in another process" in second.stderr
        assert not list(tmp_path.rglob("*.checkpoint"))
        if how == "terminal":
            os.write(ours, b"\x03")  # Ctrl-C reaches every process of the foreground group
        else:
            started.process.send_signal(signal.Signals[how])
        pressed = time.monotonic()
        if how == "terminal":
            said = _read_all(ours)
            started.process.wait(timeout=30)
        else:
            _, said = started.process.communicate(timeout=30)
        assert time.monotonic() - pressed < 10
    finally:
        for process in started.family() if started.process.poll() is None else []:
            process.kill()
        started.process.kill()
    assert started.process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    statuses = rows("SELECT status, count(*) FROM runs GROUP BY status")
    assert statuses == [("KILLED", 4)]  # three cells and their parent
    assert rows("SELECT count(*) FROM metrics")[0][0] >= 2 * METRICS_AN_EPOCH
    _, left = psutil.wait_procs(family, timeout=5)
    assert not left
    assert len(list(tmp_path.rglob("*.checkpoint"))) == 2
    if how == "SIGTERM":
        before = rows("SELECT * FROM runs"), rows("SELECT * FROM tags")
        shown = command(RUN_GRID, *words, "--dry-run").stdout.splitlines()
        # The longest of a seed began first.
        assert "to do          1 new, 2 resume" in shown
        assert sorted(shown[-3:]) == ["  sgd_z5_s0  new", "  sgd_z6_s0  resume", "  sgd_z7_s0  resume"]
        assert (rows("SELECT * FROM runs"), rows("SELECT * FROM tags")) == before


def _own_terminal(terminal):
    import fcntl
    import termios

    return lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _read_all(terminal):
    said = b""
    with suppress(OSError):  # the terminal closes with the last process that has it
        while chunk := os.read(terminal, 4096):
            said += chunk
            if b"interrupted" in said:
                break
    return said.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C twice", "closed terminal"])
def test_however_it_ends_no_run_is_running_after_the_next_start_of_any_command(command, uri, rows, how):
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    started = Started(
        *LONG, "--optimizers", "sgd", "--z-dims", 5, 6, 7, "--seeds", 0, "--workers", 2, "--tracking-uri", uri,
        "--name", "cut", stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=_own_terminal(theirs),
    )  # fmt: skip
    os.close(theirs)

    def trained():
        with suppress(OSError):
            os.read(ours, 1 << 16)  # nobody is to wait for a terminal that is full
        return len(rows("SELECT DISTINCT run_uuid FROM metrics")) == 2

    family = []
    try:
        started.wait_for(trained)
        family = started.family()
        if how == "closed terminal":
            os.close(ours)
        else:
            os.write(ours, b"\x03")
            time.sleep(0.3)
            os.write(ours, b"\x03")
        started.process.wait(timeout=60)
        # Ray's agents take a minute or two to notice that their Ray was killed.
        assert not psutil.wait_procs(family, timeout=300)[1]
    finally:
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        started.process.kill()
    done = command("-m", "gan_core", *SMALL, "--epochs", 1, "--name", "next", "--tracking-uri", uri)
    assert (done.returncode, done.stderr) == (0, "")
    statuses = dict(rows("SELECT name, status FROM runs"))
    assert statuses.pop("next") == "FINISHED"
    assert len(statuses) == 4
    assert set(statuses.values()) == {"KILLED"}


@pytest.mark.slow
def test_a_killed_worker_fails_its_run_and_no_other(uri, rows):
    started = Started(
        *SMALL, "--optimizers", "sgd", "--z-dims", 5, 6, 7, "--seeds", 0, "--epochs", 60, "--workers", 1,
        "--tracking-uri", uri, "--name", "killed", "--retries", 0,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    started.wait_for(lambda: rows("SELECT 1 FROM metrics LIMIT 1"))
    workers = [process for process in started.family() if "ray::ImplicitFunc" in " ".join(process.cmdline())]
    assert len(workers) == 1
    workers[0].kill()
    out, err = started.process.communicate(timeout=180)
    assert (started.process.returncode, err) == (1, "")
    statuses = dict(rows("SELECT name, status FROM runs"))
    assert statuses.pop("killed") == "FAILED"
    assert sorted(statuses.values()) == ["FAILED", "FINISHED", "FINISHED"]
    (reason,) = rows("SELECT value FROM tags WHERE key = 'failure_reason'")
    assert "its worker process died" in reason[0]
    assert "3/3 runs done" in out


def test_the_dry_run_says_the_plan_and_writes_nothing(command, tmp_path):
    done = command(
        RUN_GRID, "--dry-run", "--z-dims", 20, 20, 50, "--seeds", 0, "--tracking-uri", tmp_path / "new.db",
        "--data-dir", tmp_path / "data", "--workers", 3,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "z_dim: 20 is given 2 times and taken once",
        "4 = 4 settings × 1 seed",
        "epochs 100",
        "3, a thread each",
        "to be fetched into",
        "new.db",
        "to do          4 new",
        "  adam_z50_s0  new",
    ):
        assert part in done.stdout
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_had_stop_the_grid_before_anything_is_written(command, tmp_path):
    done = command(
        RUN_GRID,
        "--dataset",
        "mnist",
        "--tracking-uri",
        tmp_path / "new.db",
        "--data-dir",
        "/proc/none",
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot use the data folder" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_ray_that_starts_too_slowly_is_ended_and_started_again(uri, rows):
    started = Started(*SMALL, "--epochs", 1, "--seeds", 0, "--tracking-uri", uri, stderr=subprocess.PIPE)

    def raylets():
        """Those that the command has started: a child that a raylet forks has its name for a moment."""
        own = psutil.Process(started.process.pid).children()
        return {one for one in own if "raylet" in one.name()}

    try:
        started.wait_for(raylets)
        (first,) = raylets()
        first.suspend()  # it never says that it is up, and Ray gives it 30 seconds
        started.wait_for(lambda: raylets() - {first})
        assert not first.is_running()
        _, said = started.process.communicate(timeout=600)
    finally:
        for process in started.family() if started.process.poll() is None else []:
            process.kill()
        started.process.kill()
    assert started.process.returncode == 0, said
    assert said.count("Ray did not start: The current node timed out during startup") == 1
    assert "Traceback" not in said
    assert rows("SELECT status, count(*) FROM runs GROUP BY status") == [("FINISHED", 9)]


@pytest.mark.slow
@pytest.mark.skipif(psutil.virtual_memory().available < 14 * GIB, reason="needs 14 GiB of free memory")
def test_where_ray_kills_workers_for_memory_one_line_says_so_and_the_same_command_goes_on(command, uri, rows):
    words = (*SMALL, "--epochs", 600, "--optimizers", "sgd", "--z-dims", 5, 6, "--seeds", 0, "--tracking-uri", uri)
    memory = psutil.virtual_memory()
    watched = {
        "RAY_memory_monitor_refresh_ms": "100",  # which we switch off where the user has not set it
        "RAY_memory_usage_threshold": str((memory.total - memory.available + 6 * GIB) / memory.total),
    }
    started = Started(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **watched})
    try:
        started.wait_for(lambda: len(rows("SELECT DISTINCT run_uuid FROM metrics")) == 2)
        somebody_else = np.ones(8 * GIB // 8)
        _, said = started.process.communicate(timeout=120)
        assert somebody_else.all()
    finally:
        for process in started.family() if started.process.poll() is None else []:
            process.kill()
        started.process.kill()
    del somebody_else
    assert started.process.returncode == 2, said
    (line,) = [line for line in said.splitlines() if "run_grid.py:" in line]
    assert "Ray has ended the sweep: " in line
    assert "low on memory" in line
    assert "Traceback" not in said
    assert rows("SELECT status, count(*) FROM runs GROUP BY status") == [("KILLED", 3)]
    again = command(RUN_GRID, *words)
    assert again.returncode == 0, again.stderr
    assert rows("SELECT status, count(*) FROM runs GROUP BY status") == [("FINISHED", 3)]


def test_a_ray_that_does_not_start_is_one_line(command, tmp_path):
    too_little = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "1000"}  # Ray refuses to start with that
    words = ("--dataset", "digits", "--epochs", 1, "--tracking-uri", tmp_path / "new.db")
    done = command(RUN_GRID, *words, **too_little)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Ray did not start: Attempting to cap object store memory" in done.stderr


@pytest.mark.slow
def test_a_grid_on_a_folder_of_ones_own(command, uri, rows, shapes, tmp_path):
    """Its classifier is trained once; once its images have changed, the sweep is refused, and a new one is not."""
    words = (
        RUN_GRID, "--dataset", "folder:my shapes", "--image-size", 32, "--hidden-dim", 16, "--axis", "z_dim=5,7", "--seeds", 0,
        "--epochs", 2, "--tracking-uri", uri, "--data-dir", "data", "--register", "shapes",
    )  # fmt: skip
    done = command(*words)
    assert done.returncode == 0
    assert "trained a classifier for folder:" in done.stderr
    assert f"data           folder:{shapes}, 200 images of 2 classes, 32×32, in colour" in done.stdout
    assert "shapes version 1: the generator of z" in done.stdout
    inputs = rows("SELECT name, digest FROM datasets")
    assert [name for name, _ in inputs] == [f"folder:{shapes}"]
    (page,) = (tmp_path / "reports").rglob("report.html")
    assert f"folder:{shapes}" in page.read_text()
    files = artifacts(uri, rows("SELECT run_uuid FROM runs WHERE name = 'z5_s0'")[0][0], tmp_path)
    with Image.open(files / "samples" / "epoch_0002.png") as sheet:
        assert (sheet.mode, sheet.width) == ("RGB", 2 * (8 * 34 + 2))
    again = command(*words)
    assert (again.returncode, again.stderr) == (0, "")

    for file in (shapes / "dark discs").glob("1*.png"):
        file.unlink()
    refused = command(*words, "--epochs", 3)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert f"the images in folder:{shapes} have changed since z" in refused.stderr


def test_a_grid_of_every_objective_and_network(command, uri, rows, tmp_path):
    done = command(
        RUN_GRID, *SMALL, "--optimizers", "adam", "--axis", f"objective={','.join(OBJECTIVES)}",
        "--axis", f"network={','.join(NETWORKS)}", "--seeds", 0, "--epochs", 3, "--name", "all", "--tracking-uri", uri,
        "--register", "best",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    names = {f"adam_{objective}_{network}_s0" for objective in OBJECTIVES for network in NETWORKS}
    runs = rows("SELECT name, run_uuid, status FROM runs WHERE name != 'all'")
    assert {(name, status) for name, _, status in runs} == {(name, "FINISHED") for name in names}
    healthy = rows("SELECT count(*) FROM tags WHERE key = 'health' AND value NOT IN ('diverged', 'collapsed')")
    assert healthy == [(len(names),)]
    for name, run_id, _ in runs:
        (fd,) = rows("SELECT value FROM metrics WHERE run_uuid = ? AND key = 'quality/fd'", run_id)
        assert np.isfinite(fd[0])
        G = load_generator(artifacts(uri, run_id, tmp_path) / "generator.safetensors")
        assert G.network in name
        assert G(fixed_noise(100)).shape == (64, 1, 28, 28)
    assert "version 1: the generator of" in done.stdout
    report = (tmp_path / "reports" / "all" / "report.md").read_text()
    assert "objective wasserstein" in report
    assert "gradient_penalty is not an axis, and it differs by objective" in report.replace("\\", "")
