"""SIGKILLs at moments that a seed draws: of workers, of the command, of single runs. Nothing may be lost."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from gan_core.generator_file import load_generator
from gan_core.mlflow_client import MlflowClient

pytestmark = pytest.mark.slow
RUN_GRID = Path(__file__).parents[2] / "sweeps" / "run_grid.py"
SEED = 2026
EPOCHS = 250
# Workers to kill before each kill of the command; "5 5 5 5" is what docs/durability.md tells of.
KILLS = [int(count) for count in os.environ.get("KILLS", "4 4").split()]
GRID = (
    "--dataset", "digits", "--hidden-dim", 16, "--optimizers", "sgd", "adam", "--z-dims", 5, 7,
    "--seeds", 0, 1, "--epochs", EPOCHS, "--evaluate-every", 0, "--checkpoint-every", 1, "--retries", 100,
    "--workers", 2, "--name", "killed",
)  # fmt: skip
RUNS = 8
POINTS = EPOCHS * 8 + 10  # of a run

UNBROKEN = """
from pathlib import Path
import numpy as np, torch
from gan_core.config import RunConfig
from gan_core.data import load_images
from gan_core.events import EpochEnd
from gan_core.trainer import train
torch.set_num_threads(1)
images = load_images("digits").images
cells = [(optimizer, z, seed) for optimizer in ("sgd", "adam") for z in (5, 7) for seed in (0, 1)]
def train_all(number):
    for optimizer, z, seed in cells[number::2]:
        config = RunConfig(
            dataset="digits", hidden_dim=16, epochs={epochs}, optimizer=optimizer, z_dim=z, seed=seed
        )
        events = list(train(config, images))
        losses = np.stack([event.generator_losses for event in events if isinstance(event, EpochEnd)])
        whole = losses, events[-1].generator.state_dict()
        torch.save(whole, Path({folder!r}) / f"{{optimizer}}_z{{z}}_s{{seed}}")
"""


class Driver:
    """The command, running, and who belongs to it."""

    def __init__(self, uri):
        self.process = subprocess.Popen(
            [sys.executable, str(RUN_GRID), *map(str, GRID), "--tracking-uri", uri],
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.started = time.monotonic()

    def family(self):
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self):
        found = []
        for process in self.family():
            try:
                if "ray::ImplicitFunc" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, alone=False):
        """SIGKILL it, with all that it has started unless `alone`; those who are left."""
        family = self.family()
        self.process.kill()
        for process in [] if alone else family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        self.process.stdout.close()
        return family


def until(condition, driver, seconds=240):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert driver.process.poll() is None, driver.process.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)
    return found


@pytest.fixture
def start(uri):
    """Start the command; at the test's end, whatever that is, nothing of it is left."""
    drivers = []

    def begin():
        drivers.append(Driver(uri))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.kill()


def test_a_grid_killed_again_and_again_loses_and_doubles_nothing(at_once, uri, start, rows, tmp_path):
    chance = random.Random(SEED)
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    at_once(2, UNBROKEN.format(epochs=EPOCHS, folder=str(unbroken)), "train_all(number)")
    (tmp_path / "mlflow.db").unlink()
    began = time.monotonic()

    def say(what):
        print(f"{time.monotonic() - began:6.1f} s  {what}")

    driver = start()
    until((tmp_path / ".mlflow.db.new").exists, driver)
    time.sleep(chance.uniform(0, 0.5))
    driver.kill()
    say(f"the command, while the store was made ({(tmp_path / 'mlflow.db').exists() = })")
    for number, kills in enumerate(KILLS, 1):
        driver = start()
        for _ in range(kills):
            until(driver.workers, driver)
            time.sleep(chance.uniform(0, 1))
            worker = chance.choice(until(driver.workers, driver))
            worker.kill()
            say(f"a worker: {worker.pid}")
        until(driver.workers, driver)
        time.sleep(chance.uniform(0, 1.5))
        assert driver.process.poll() is None
        alone = number == len(KILLS)
        family = driver.kill(alone)
        say(f"the command{'' if alone else ' and its Ray'}: {counts(rows)}")
    driver = start()  # while the last one's Ray may still be there
    said, _ = driver.process.communicate(timeout=300)
    say(f"done: {driver.process.returncode}")
    print(said)
    assert driver.process.returncode == 0
    assert not psutil.wait_procs(family, timeout=10)[1]

    assert rows("SELECT status, count(*) FROM runs GROUP BY status") == [("FINISHED", RUNS + 1)]
    points = rows(
        "SELECT name, count(*), count(DISTINCT key || step) FROM metrics JOIN runs USING (run_uuid) "
        "GROUP BY name"
    )
    assert [(every, different) for _, every, different in points] == [(POINTS, POINTS)] * RUNS
    client = MlflowClient(uri)
    for name, run_id in rows("SELECT name, run_uuid FROM runs WHERE name != 'killed'"):
        losses, weights = torch.load(unbroken / name, weights_only=False)
        folder = Path(client.download_artifacts(run_id, "", str(tmp_path / f"of_{name}")))
        ours = load_generator(folder / "generator.safetensors").state_dict()
        assert all(torch.equal(ours[key], weights[key]) for key in weights)
        with np.load(folder / "losses.npz") as arrays:
            assert np.array_equal(arrays["generator"], losses)
        steps = [path.name.split("+")[2] for path in (folder / "images").glob("*.png")]
        assert sorted(map(int, steps)) == [0, 1, 2, 5, *range(EPOCHS // 10, EPOCHS + 1, EPOCHS // 10)]
    assert rows("SELECT 1 FROM tags WHERE key = 'failure_reason'") == []
    assert rows("PRAGMA integrity_check") == [("ok",)]


def counts(rows):
    return dict(rows("SELECT status, count(*) FROM runs GROUP BY status"))
