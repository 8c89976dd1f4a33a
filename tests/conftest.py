import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from gan_core.data import ImageSet, load_images
from gan_core.evaluation.baselines import Reference, load_reference
from gan_core.tracking.store import prepare_store

ROOT = Path(__file__).parent.parent

# A shell starts its background jobs with SIGINT ignored, and so would be every command that is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it

# The same examples each time: a check fails for what was changed, not by chance. New ones: --hypothesis-profile=default
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# As docs/server.md has it: a server's eight processes for MLflow's jobs, which nothing here uses, take half a minute
# of a core to start.
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"


# The tests that take longest, longest first: begun last, one of them would be left alone at the end.
LONGEST = ("test_kills", "test_outages", "test_run_grid", "test_wheel", "test_prdc", "test_compat")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="the slow tests too")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not config.option.all and "slow" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return load_images("digits")


@pytest.fixture(scope="session")
def digits_reference(tmp_path_factory) -> Reference:
    torch.set_num_threads(1)  # set up before any test: more threads would add up in another order
    return load_reference(load_images("digits"), tmp_path_factory.mktemp("quality"))


@pytest.fixture
def shapes(tmp_path):
    """A folder of images: 100 bright squares and 100 dark discs in colours, 40×30."""
    chance = np.random.default_rng(0)
    down, right = np.mgrid[:30, :40]
    for name, bright in ("bright squares", True), ("dark discs", False):
        (tmp_path / "my shapes" / name).mkdir(parents=True)
        for number in range(100):
            y, x, reach = chance.integers((10, 15, 5), (20, 25, 9))
            inside = (
                (abs(down - y) < reach) & (abs(right - x) < reach)
                if bright
                else (down - y) ** 2 + (right - x) ** 2 < reach**2
            )
            pixels = np.zeros((30, 40, 3), np.uint8)
            pixels[inside] = chance.integers(150, 255, 3) if bright else chance.integers(20, 120, 3)
            Image.fromarray(pixels).save(tmp_path / "my shapes" / name / f"{number}.png")
    return tmp_path / "my shapes"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_store(f"sqlite:///{file}", "Default")
    return file


@pytest.fixture
def uri(tmp_path, empty_store):
    """A store of the test's own. MLflow takes seconds to make one, so it is a copy."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def rows(uri):
    """Ask the test's store in SQL."""

    def ask(query, *values):
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
            return database.execute(query, values).fetchall()

    return ask


@pytest.fixture
def command(tmp_path):
    """Run one of the project's commands in a folder of the test's own; the finished process."""

    def run(*words, cwd=tmp_path, timeout=300, **environment):
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


FORKS = """
import os, sys, traceback
{setup}
children = []
for number in range({count}):
    child = os.fork()
    if not child:
        try:
            {body}
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.fixture
def at_once(command):
    """Run a statement in many processes at once, after the setup that they share; each must succeed.

    The statement can use `number`, 0 up to the count.
    """

    def run(count, setup, body):
        done = command("-c", FORKS.format(count=count, setup=setup, body=body))
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    return run


class Watcher:
    """Watches a run, and keeps what it was told."""

    def __init__(self, on_epoch=lambda progress: None, stop_after=None):
        self.on_epoch, self.stop_after = on_epoch, stop_after
        self.seen, self.said = [], []

    def update(self, progress):
        self.seen.append(progress)
        self.on_epoch(progress)

    def say(self, run, text):
        self.said.append(text)

    def should_stop(self):
        return bool(self.seen) and self.seen[-1].epoch == self.stop_after


@pytest.fixture
def watcher():
    """The class of what watches a run in a test."""
    return Watcher
