"""The store goes away in the middle of a sweep: a server killed, SQLite locked, a full disk.

The slow ones take minutes, most of it waiting, so two of them run at a time; more would keep each other from starting.
"""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import psutil
import pytest
import torch

from gan_core.config import RunConfig
from gan_core.data import load_images
from gan_core.errors import UserError
from gan_core.events import EpochEnd
from gan_core.tracking.store import prepare_store
from gan_core.training import train
from sweeps.report import report_folder

RUN_GRID = Path(__file__).parents[2] / "sweeps" / "run_grid.py"
OUTAGE = 60.0  # seconds
HIDDEN = 256
RUNS = 2
GRID, RACE = ("--seeds", 0), ("--max-seeds", 2)
METRICS_AN_EPOCH, OTHER_METRICS = 8, 11  # at the end, and one at the first epoch
METRICS_AT_A_RUNG = 5


def takes_minutes(test):
    """A slow test, run by the process that has the others' `cases`."""
    return pytest.mark.slow(pytest.mark.xdist_group("outages")(test))


class Sweep:
    """The command, running, its output in a file."""

    def __init__(self, uri, folder, epochs, checkpoint_every=50, seeds=GRID):
        self.epochs = epochs
        self.raced = seeds == RACE
        self.runs = RUNS * 2 if self.raced else RUNS
        self.database = folder / "mlflow.db"
        self.name = f"test-outage-{folder.name}"
        self.output = folder.parent / f"said-{time.monotonic()}"  # the folder's disk may be full
        words = (
            "--dataset", "digits", "--hidden-dim", HIDDEN, "--optimizers", "adam", "--z-dims", 5, 7, *seeds,
            "--epochs", epochs, "--evaluate-every", 0, "--checkpoint-every", checkpoint_every, "--workers", RUNS,
            "--tracking-uri", uri, "--checkpoint-dir", folder / "checkpoints", "--name", self.name,
        )  # fmt: skip
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(RUN_GRID), *map(str, words)], stdout=file, stderr=subprocess.STDOUT
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in family(self.process.pid):
            with suppress(psutil.Error):
                process.kill()
        self.process.kill()
        self.process.wait()

    @property
    def said(self):
        return self.output.read_text()

    def rows(self, query):
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(query).fetchall()

    def logged(self):
        """The last epoch in the store, of the run that is furthest; 0 if it has none."""
        return self.rows("SELECT max(step) FROM metrics WHERE key = 'loss/generator'")[0][0] or 0

    def points(self):
        return set(self.rows("SELECT run_uuid, key, step, value FROM metrics"))

    def wait_for(self, condition, seconds=600):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.1)
        return found

    def end(self):
        """Its exit code."""
        return self.process.wait(timeout=600)

    def is_whole(self):
        statuses = self.rows("SELECT status, count(*) FROM runs GROUP BY status")
        points = self.rows(
            "SELECT count(*), count(DISTINCT key || step) FROM metrics WHERE run_uuid IN "
            "(SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId') GROUP BY run_uuid"
        )
        expected = self.epochs * METRICS_AN_EPOCH + OTHER_METRICS + METRICS_AT_A_RUNG * self.raced
        assert statuses == [("FINISHED", self.runs + 1)], self.said
        assert points == [(expected, expected)] * self.runs
        assert self.rows("SELECT 1 FROM tags WHERE key = 'failure_reason'") == []
        return True


def family(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Server:
    """A tracking server on SQLite, at a port that it keeps."""

    def __init__(self, folder, empty_store):
        self.folder = folder
        shutil.copy(empty_store, folder / "mlflow.db")
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                    "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
                    "--artifacts-destination", str(self.folder / "artifacts"),
                ],
                start_new_session=True, stdout=log, stderr=log,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            )  # fmt: skip
        end = time.monotonic() + 120
        while True:
            with suppress(OSError), urlopen(f"{self.uri}/health", timeout=5):
                return
            assert time.monotonic() < end, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def stop(self):
        """SIGKILL, to all of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def cases(tmp_path_factory, empty_store):
    """What came of each outage, by its name; raised where it is asked for, if it went wrong."""
    load_images("digits")
    second = 1 / _seconds_of_an_epoch()  # epochs
    with ThreadPoolExecutor(max_workers=2) as pool, ExitStack() as reports:
        begun = {}
        for case, seconds in ((_server_killed, 20), (_locked, 20), (_server_gone, 5), (_disk_full, 5)):
            folder = tmp_path_factory.mktemp(case.__name__.strip("_"))
            reports.callback(shutil.rmtree, report_folder("http://x", f"test-outage-{folder.name}"), ignore_errors=True)
            begun[case] = pool.submit(case, folder, empty_store, round(seconds * second))
        yield lambda case: begun[case].result()


def _seconds_of_an_epoch():
    torch.set_num_threads(1)
    config = RunConfig(dataset="digits", optimizer="adam", z_dim=7, hidden_dim=HIDDEN, epochs=30)
    events = train(config, load_images("digits").images)
    return min(event.seconds for event in events if isinstance(event, EpochEnd))


def _server_killed(folder, empty_store, epochs):
    with Server(folder, empty_store) as server, Sweep(server.uri, folder, epochs) as sweep:
        return _away(sweep, server.stop, server.start)


def _locked(folder, empty_store, epochs):
    """In a race, which trains another seed of both settings once it has the scores of the first ones."""
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with _other_user(folder) as other, Sweep(uri, folder, epochs, seeds=RACE) as sweep:
        return _away(sweep, lambda: other.execute("BEGIN EXCLUSIVE"), lambda: other.execute("ROLLBACK"))


def _other_user(folder):
    return closing(sqlite3.connect(folder / "mlflow.db", timeout=60, isolation_level=None))


def _away(sweep, go, come_back):
    """Let the store go away as soon as something is logged, and come back after OUTAGE."""
    sweep.wait_for(sweep.logged)
    go()
    began, logged, before = time.monotonic(), sweep.logged(), len(sweep.said)
    late = r"epoch (\d+)/.*logging is .* behind"
    behind = sweep.wait_for(lambda: re.search(late, sweep.said[before:]))
    time.sleep(max(0, began + OUTAGE - time.monotonic()))
    away, untouched = time.monotonic() - began, sweep.logged() == logged
    come_back()
    code = sweep.end()
    return SimpleNamespace(
        sweep=sweep, code=code, said=sweep.said, away=away, untouched=untouched, logged=logged,
        epoch=int(behind[1]), whole=sweep.is_whole(),
    )  # fmt: skip


def _server_gone(folder, empty_store, epochs):
    with Server(folder, empty_store) as server:
        with Sweep(server.uri, folder, epochs) as first:
            first.wait_for(first.logged)
            server.stop()
            logged, code = first.logged(), first.end()
        server.start()
        restarted = time.time() * 1000
        with Sweep(server.uri, folder, epochs) as second:
            again = second.end()
            return SimpleNamespace(
                code=code, said=first.said, logged=logged, epochs=epochs, again=again,
                said_again=second.said, whole=second.is_whole(),
                trained_again=second.rows(
                    "SELECT count(*) FROM metrics WHERE key = 'time/epoch_seconds' "
                    f"AND timestamp > {restarted}"
                ),
            )  # fmt: skip


@contextmanager
def _small_disk(folder, megabytes):
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"NOT TESTED: a full disk. A tmpfs cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(file):
    """To the last byte."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def _disk_full(folder, empty_store, epochs):
    with _small_disk(folder / "new", 1) as disk:
        _fill(disk / "filler")
        with pytest.raises(UserError) as no_store:
            prepare_store(f"sqlite:///{disk / 'mlflow.db'}", "grid")
    with _small_disk(folder / "disk", 64) as disk:
        shutil.copy(empty_store, disk / "mlflow.db")
        uri = f"sqlite:///{disk / 'mlflow.db'}"
        with Sweep(uri, disk, epochs) as first:
            first.wait_for(first.logged)
            before = first.points()
            _fill(disk / "filler")
            code, said = first.end(), first.said
        intact = first.rows("PRAGMA integrity_check")
        kept = before <= first.points()
        (disk / "filler").unlink()
        with Sweep(uri, disk, epochs) as second:
            return SimpleNamespace(
                no_store=str(no_store.value), code=code, said=said, intact=intact, kept=kept,
                again=second.end(), whole=second.is_whole(),
            )  # fmt: skip


def test_some_seconds_without_the_store_lose_nothing_and_nothing_waits(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri, epochs = f"sqlite:///{tmp_path / 'mlflow.db'}", round(15 / _seconds_of_an_epoch())

    def kept():
        return max((file.name for file in tmp_path.rglob("epoch_*.checkpoint")), default="")

    with _other_user(tmp_path) as other, Sweep(uri, tmp_path, epochs, checkpoint_every=1) as sweep:
        sweep.wait_for(sweep.logged)
        other.execute("BEGIN EXCLUSIVE")
        logged, before = sweep.logged(), kept()
        sweep.wait_for(lambda: kept() > before)  # trained meanwhile
        time.sleep(6)  # more than from one write to the next
        assert sweep.logged() == logged  # it was away indeed
        other.execute("ROLLBACK")
        assert sweep.end() == 0
        assert sweep.is_whole()
    assert "Traceback" not in sweep.said


@takes_minutes
@pytest.mark.parametrize("case", [_server_killed, _locked])
def test_a_minute_without_the_store_loses_nothing_and_nothing_waits(cases, case):
    found = cases(case)
    assert (found.code, found.whole) == (0, True)
    assert found.away >= OUTAGE
    assert found.untouched  # it was away indeed
    assert found.epoch > found.logged  # trained meanwhile
    assert "Traceback" not in found.said


@takes_minutes
def test_a_server_that_is_gone_is_said_and_the_same_command_logs_without_training(cases):
    found = cases(_server_gone)
    assert found.code == 1
    assert found.said.count("the record is not complete") == 1
    assert "Traceback" not in found.said
    assert f"epoch {found.epochs}/{found.epochs}" in found.said
    assert found.logged < found.epochs
    assert (found.again, found.whole) == (0, True)
    assert found.said_again.count(f"goes on after epoch {found.epochs}") == RUNS
    assert found.trained_again == [(0,)]


@takes_minutes
def test_a_full_disk_is_said_and_what_was_logged_is_there(cases):
    found = cases(_disk_full)
    assert found.no_store.startswith("cannot make the store ")
    assert "\n" not in found.no_store
    assert found.code == 1
    assert found.said.count("the record is not complete") == 1
    assert "Traceback" not in found.said
    assert found.intact == [("ok",)]
    assert found.kept
    assert (found.again, found.whole) == (0, True)
