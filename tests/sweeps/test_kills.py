"""SIGKILLs of workers and of the command: at moments that a seed draws, and in the middle of writes."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient

from gan_core.config import RunConfig
from gan_core.events import EpochEnd
from gan_core.networks import load_generator
from gan_core.training import sample_epochs, train
from sweeps.comparison.compare import compare
from sweeps.comparison.records import find_sweep, read_histories, read_sweep

RUN_GRID = Path(__file__).parents[2] / "sweeps" / "run_grid.py"
SEED = 2026
GRID = (
    "--dataset", "digits", "--hidden-dim", 16, "--batch-size", 256, "--optimizers", "sgd", "adam",
    "--z-dims", 5, 7, "--seeds", 0, 1, "--evaluate-every", 0, "--checkpoint-every", 1, "--retries", 100,
    "--workers", 2, "--name", "killed",
)  # fmt: skip
RACE = (
    "--dataset", "digits", "--hidden-dim", 16, "--batch-size", 16, "--axis", "learning_rate=0.05,0.01,0.001",
    "--max-seeds", 6, "--evaluate-every", 0, "--checkpoint-every", 1, "--retries", 100, "--workers", 2,
    "--name", "killed",
)  # fmt: skip
RACE_EPOCHS = 150
RUNS = 8
WORKER_KILLS = (2, 2, 2, 2)  # before each kill of the command and its Ray, but for the first of these
LENGTH = 3  # seconds that a run trains: so long that the grid outlasts all kills
SLOW_DISK = """
import os, pathlib, shutil, time
def stop(what, file):
    wanted = pathlib.Path(__file__).with_name(what)
    try:
        wanted.rename(wanted.with_name(f".{what}"))  # of several workers one gets it
    except FileNotFoundError:
        return
    wanted.with_name(f".{what}").write_text(str(file))
    wanted.with_name(f".{what}").rename(f"{wanted}-{os.getpid()}")
    time.sleep(3600)
def write_halves(file, content, what, name):
    file.write(content[: len(content) // 2])
    file.flush()
    stop(what, name)
    file.write(content[len(content) // 2 :])
write_bytes, copy = pathlib.Path.write_bytes, shutil.copyfileobj
def slow_write_bytes(path, content):
    if ".checkpoint." not in path.name:
        return write_bytes(path, content)
    with path.open("wb") as file:
        write_halves(file, content, "checkpoint", path)
def slow_copy(source, target, *length, **lengths):
    try:
        name = os.readlink(f"/proc/self/fd/{target.fileno()}")
    except (OSError, AttributeError):
        name = ""
    if ".artifact.uploading." not in name:
        return copy(source, target, *length, **lengths)
    write_halves(target, source.read(), "artifact", name)
pathlib.Path.write_bytes, shutil.copyfileobj = slow_write_bytes, slow_copy
"""

UNBROKEN = """
from pathlib import Path
import numpy as np, torch
from gan_core.config import RunConfig
from gan_core.data import load_images
from gan_core.events import EpochEnd
from gan_core.training import train
torch.set_num_threads(1)
images = load_images("digits").images
cells = [(optimizer, z, seed) for optimizer in ("sgd", "adam") for z in (5, 7) for seed in (0, 1)]
def train_all(number):
    for optimizer, z, seed in cells[number::2]:
        config = RunConfig(
            dataset="digits", hidden_dim=16, batch_size=256, epochs={epochs}, optimizer=optimizer, z_dim=z,
            seed=seed,
        )
        events = list(train(config, images))
        losses = np.stack([event.generator_losses for event in events if isinstance(event, EpochEnd)])
        whole = losses, events[-1].generator.state_dict()
        torch.save(whole, Path({folder!r}) / f"{{optimizer}}_z{{z}}_s{{seed}}")
"""


class Driver:
    """The command, running, and who belongs to it."""

    def __init__(self, uri, epochs, words=GRID):
        self.process = subprocess.Popen(
            [sys.executable, str(RUN_GRID), *map(str, words), "--epochs", str(epochs), "--tracking-uri", uri],
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def family(self):
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self):
        """Those that have a run."""
        found = []
        for process in self.family():
            try:
                if "ray::ImplicitFunc" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill_a_worker(self, chance):
        """SIGKILL one that has a run, at a moment that is drawn; the seconds until then.

        A worker that has just ended its run, or is gone, is not counted: another one is taken.
        """
        while True:
            until(self.workers, self)
            time.sleep(wait := chance.uniform(0, 1.5))
            with suppress(IndexError, psutil.NoSuchProcess):
                chance.choice(self.workers()).kill()
                return wait

    def kill(self, alone=False):
        """SIGKILL it, with all that it has started unless `alone`; those who are left."""
        family = self.family()
        scratch = {found for process in family for found in re.findall(r"/tmp/gan-ray-\w+", _words(process))}
        self.process.kill()
        for process in [] if alone else family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        self.process.stdout.close()
        psutil.wait_procs(family, timeout=10)
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)
        return [process for process in family if process.is_running()]


def _words(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def until(condition, driver, seconds=1200):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert driver.process.poll() is None, driver.process.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)
    return found


@pytest.fixture
def slow_disk(tmp_path, monkeypatch):
    """A folder: a file named `checkpoint` or `artifact` there stops the next such write in its middle."""
    folder = tmp_path / "slow_disk"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder


def kill_in_a_write(driver, what, slow_disk):
    """SIGKILL the worker that is the next to write such a file, once half of it is on disk."""
    (slow_disk / what).touch()
    (stopped,) = until(lambda: list(slow_disk.glob(f"{what}-*")), driver)
    half = Path(stopped.read_text())
    worker = psutil.Process(int(stopped.name.removeprefix(f"{what}-")))
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    assert half.stat().st_size > 0
    return half


@pytest.fixture
def epochs(request, digits):
    """How many a run has: as many as take LENGTH here, or the seconds that a test gives."""
    config = RunConfig(dataset="digits", hidden_dim=16, batch_size=256, optimizer="adam", z_dim=7, epochs=50)
    second = min(one.seconds for one in train(config, digits.images) if isinstance(one, EpochEnd))
    return max(100, round(getattr(request, "param", LENGTH) / second))


@pytest.fixture
def start(uri, epochs):
    """Start the command; at the test's end, whatever that is, nothing of it is left."""
    drivers = []

    def begin(store=uri, words=GRID, length=epochs):
        drivers.append(Driver(store, length, words))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.kill()


@pytest.fixture
def unbroken(at_once, epochs, tmp_path):
    """Losses and weights of each run as training alone gives them, by name."""
    folder = tmp_path / "unbroken"
    folder.mkdir()
    at_once(2, UNBROKEN.format(epochs=epochs, folder=str(folder)), "train_all(number)")
    return {path.name: torch.load(path, weights_only=False) for path in folder.iterdir()}


@pytest.fixture
def say():
    began = time.monotonic()
    return lambda what: print(f"{time.monotonic() - began:6.1f} s  {what}")


def counts(rows):
    return dict(rows("SELECT status, count(*) FROM runs GROUP BY status"))


@pytest.mark.parametrize("epochs", [1], indirect=True)
def test_a_grid_killed_in_a_write_loses_and_doubles_nothing(unbroken, epochs, uri, slow_disk, start, rows, tmp_path):
    """The slow test does this twenty times over."""
    driver = start()
    until(driver.workers, driver)
    kill_in_a_write(driver, "checkpoint", slow_disk)
    until(driver.workers, driver)
    assert not driver.kill()
    assert counts(rows).get("FINISHED", 0) < RUNS, "there was nothing left to lose"
    driver = start()
    said, _ = driver.process.communicate(timeout=1200)
    assert driver.process.returncode == 0, said
    _check_whole(unbroken, epochs, uri, rows, tmp_path)


@pytest.mark.slow
def test_a_grid_killed_again_and_again_loses_and_doubles_nothing(
    unbroken, epochs, uri, slow_disk, start, rows, say, tmp_path
):
    chance = random.Random(SEED)
    _kill_while_the_store_is_made(start(), tmp_path, chance)
    say("the command and its Ray, while it made the store")
    in_writes = ["checkpoint", "artifact"]
    for number, kills in enumerate((*WORKER_KILLS, 0)):
        driver = start()
        for _ in range(kills):
            if in_writes:
                until(driver.workers, driver)  # the command itself writes artifacts, before there are any
                half = kill_in_a_write(driver, in_writes.pop(), slow_disk)
                say(f"a worker, half-way through {half.relative_to(tmp_path)}")
                continue
            say(f"a worker, after {driver.kill_a_worker(chance):.3f} s")
        until(driver.workers, driver)
        time.sleep(wait := chance.uniform(0, 1.5))
        assert driver.process.poll() is None
        alone = number == len(WORKER_KILLS)
        left = driver.kill(alone)
        assert alone or not left
        say(f"the command{' alone' if alone else ' and its Ray'}, after {wait:.3f} s: {counts(rows)}")
    assert counts(rows).get("FINISHED", 0) < RUNS, "there was nothing left to lose"

    driver = start()
    said, _ = driver.process.communicate(timeout=1200)
    say(f"done: {driver.process.returncode}")
    print(said)
    assert driver.process.returncode == 0
    # Ray's agents notice in a minute or two that their Ray is dead.
    assert not psutil.wait_procs(left, timeout=300)[1]
    _check_whole(unbroken, epochs, uri, rows, tmp_path)


@pytest.mark.slow
def test_a_race_killed_again_and_again_gives_the_same_answer_and_the_same_rows(uri, start, rows, say, tmp_path):
    whole = f"sqlite:///{tmp_path / 'whole' / 'mlflow.db'}"
    said, _ = (driver := start(whole, RACE, RACE_EPOCHS)).process.communicate(timeout=1200)
    assert driver.process.returncode == 0, said
    chance = random.Random(SEED)
    for _ in range(5):
        driver = start(words=RACE, length=RACE_EPOCHS)
        for _ in range(4):
            driver.kill_a_worker(chance)
        until(driver.workers, driver)
        time.sleep(chance.uniform(0, 1.5))
        assert not driver.kill()
        say(f"4 workers and the command with its Ray: {counts(rows)}")
    assert "answer.check" not in dict(rows("SELECT key, value FROM tags")), "there was nothing left to lose"
    said, _ = (driver := start(words=RACE, length=RACE_EPOCHS)).process.communicate(timeout=1200)
    assert driver.process.returncode == 0, said
    assert _race(uri) == _race(whole)


def _race(uri):
    """The answer's tags, and all points, but for times, of every run that the race has asked for."""
    client = MlflowClient(uri)
    record = read_sweep(client, find_sweep(client, "gan-grid", "killed")[0])
    race = compare(record).race
    assert not race.asked
    tags = client.get_run(record.run_id).data.tags
    runs = {}
    for run in record.runs:
        if (run.setting, run.seed) in race.reached:
            history = read_histories(client, [run.run_id], list(client.get_run(run.run_id).data.metrics))
            points = {metric: curve for (_, metric), curve in history.items() if not metric.startswith("time/")}
            runs[run.name] = run.status, run.dropped, run.health, points
    assert len(runs) == len(race.reached)
    return {key: value for key, value in tags.items() if key.startswith("answer")}, runs


def _kill_while_the_store_is_made(driver, folder, chance):
    (folder / "mlflow.db").unlink(missing_ok=True)
    until((folder / ".mlflow.db.new").exists, driver)
    time.sleep(chance.uniform(0, 0.3))
    driver.kill()
    assert (folder / ".mlflow.db.new").exists()
    assert not (folder / "mlflow.db").exists()


def _check_whole(unbroken, epochs, uri, rows, folder):
    every = epochs * 8 + 11
    assert rows("SELECT status, count(*) FROM runs GROUP BY status") == [("FINISHED", RUNS + 1)]
    points = rows(
        "SELECT name, count(*), count(DISTINCT key || step) FROM metrics JOIN runs USING (run_uuid) "
        "WHERE name != 'killed' GROUP BY name"
    )
    assert [counted for _, *counted in points] == [[every, every]] * RUNS
    client = MlflowClient(uri)
    for name, run_id in rows("SELECT name, run_uuid FROM runs WHERE name != 'killed'"):
        losses, weights = unbroken[name]
        files = Path(client.download_artifacts(run_id, "", str(folder / f"of_{name}")))
        ours = load_generator(files / "generator.safetensors").state_dict()
        assert all(torch.equal(ours[key], weights[key]) for key in weights)
        with np.load(files / "losses.npz") as arrays:
            assert np.array_equal(arrays["generator"], losses)
        steps = [path.name.split("+")[2] for path in (files / "images").glob("*.png")]
        assert sorted(map(int, steps)) == sorted({0} | sample_epochs(epochs))
    assert rows("SELECT 1 FROM tags WHERE key = 'failure_reason'") == []
    assert rows("PRAGMA integrity_check") == [("ok",)]
