"""A race as a user runs it: real Ray, real SQLite; what it records, how it goes on, what it leaves when cut off."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from sweeps.comparison.compare import compare
from sweeps.comparison.records import find_sweep, read_sweep

RUN_GRID = Path(__file__).parents[2] / "sweeps" / "run_grid.py"
WORDS = (
    "--dataset", "digits", "--hidden-dim", 16, "--batch-size", 16, "--epochs", 20, "--evaluate-every", 0,
    "--name", "raced",
)  # fmt: skip
RATES = "learning_rate=0.05,0.001,0.0005"


@pytest.fixture
def race(command, uri):
    """Run the command; what it says, and the sweep as it is then."""

    def run(*words, rates=RATES):
        done = command(RUN_GRID, *WORDS, "--axis", rates, "--tracking-uri", uri, *words)
        assert done.stderr == ""
        client = MlflowClient(uri)
        record = read_sweep(client, find_sweep(client, "gan-grid", "raced")[0])
        return done, compare(record), client.get_run(record.run_id)

    return run


def trained(rows):
    """Every epoch that was logged, with its run's name and its time."""
    return rows(
        "SELECT name, step, timestamp FROM metrics JOIN runs USING (run_uuid) "
        "WHERE key = 'loss/generator' AND lifecycle_stage = 'active' ORDER BY 1, 2"
    )


def test_a_race_ends_with_an_answer(race, rows):
    done, found, parent = race()
    assert done.returncode == 0
    assert found.race.answer == "best", done.stdout
    assert found.race.chosen == "lr0.05"
    assert parent.info.status == "FINISHED"
    tags = parent.data.tags
    assert {key: tags[key] for key in tags if key.startswith("answer") and key != "answer.check"} == {
        "answer": "best",
        "answer.settings": "lr0.05",
        "answer.leads": "lr0.05",
        "answer.confidence": "0.95",
        "answer.margin": "0.1",
        "answer.max_seeds": "10",
    }
    name, mean, low, high = tags["answer.check"].split()
    assert name == "lr0.05"
    assert 0 < float(low) < float(mean) < float(high)
    assert parent.data.metrics["race/settings_left"] == 1
    assert parent.data.metrics["race/runs_likely_left"] == 0
    assert parent.data.metrics["race/epochs"] == found.race.spent
    assert "race: lr0.001 is dropped after epoch" in done.stdout
    assert "Best: lr0.05, of 3 settings, at 95 % confidence." in done.stdout
    assert dict(rows("SELECT status, count(*) FROM runs GROUP BY status")).keys() == {"FINISHED"}
    for run in found.record.runs:
        whole = run.epochs == 20
        assert whole or (run.dropped.startswith("after epoch") and run.epochs == 1)
        assert whole != bool(run.dropped)


@pytest.mark.slow
def test_nothing_trains_twice_and_a_fixed_grid_takes_up_what_was_dropped(race, rows):
    race()
    before = trained(rows)
    again, *_ = race()
    assert again.returncode == 0
    assert trained(rows) == before, "something was trained twice"

    fixed, found, parent = race("--seeds", 0, 1)
    assert fixed.returncode == 0
    assert found.race is None
    assert not [key for key in parent.data.tags if key.startswith("answer")]
    whole = {(run.setting, run.seed) for run in found.record.runs if run.finished}
    assert whole >= {(setting, seed) for setting in ("lr0.05", "lr0.001", "lr0.0005") for seed in (0, 1)}
    assert not [run for run in found.record.runs if run.seed < 2 and run.dropped]
    assert set(before) <= set(trained(rows)), "an epoch was trained twice"


@pytest.mark.slow
def test_with_more_epochs_a_race_goes_on_from_what_is_there(race, rows):
    race()
    before = trained(rows)
    longer, found, _ = race("--epochs", 26)
    assert (longer.returncode, found.race.answer, found.race.chosen) == (0, "best", "lr0.05")
    runs = {(run.setting, run.seed): run for run in found.record.runs if run.finished}
    assert {run.length for run in runs.values()} == {26}
    assert {run.epochs for run in runs.values()} == {26}
    assert all(found.race.reached[key] == 26 for key in runs if key in found.race.reached)
    assert set(before) <= set(trained(rows)), "an epoch was trained twice"


@pytest.mark.slow
def test_what_is_interrupted_has_the_answer_so_far(race, rows, uri):
    words = map(str, (*WORDS, "--axis", RATES, "--tracking-uri", uri))
    started = subprocess.Popen(
        [sys.executable, str(RUN_GRID), *words], start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while len(rows("SELECT 1 FROM metrics WHERE key = 'quality/fd'")) < 5:
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert (started.returncode, "Traceback" in said) == (130, False)
    client = MlflowClient(uri)
    parent, _ = find_sweep(client, "gan-grid", "raced")
    assert (parent.info.status, parent.data.tags["answer"]) == ("KILLED", "open")
    assert set(parent.data.tags["answer.settings"].split()) <= {"lr0.05", "lr0.001", "lr0.0005"}
    before = trained(rows)
    done, found, parent = race()
    assert (done.returncode, parent.data.tags["answer"]) == (0, "best")
    assert found.race.chosen == "lr0.05"
    assert set(before) <= set(trained(rows)), "an epoch was trained twice"


@pytest.mark.slow
def test_a_setting_that_diverges_is_out_and_the_others_race_on(race):
    done, found, parent = race(rates="learning_rate=0.05,0.001,1e30")
    assert done.returncode == 1  # a run has failed
    assert (found.race.answer, found.race.chosen, parent.info.status) == ("best", "lr0.05", "FAILED")
    assert found.race.dropped["lr1e+30"].leader == ""
    assert "race: lr1e+30 is dropped after epoch 20 of seed 0, its run diverged" in done.stdout
    (broken,) = [run for run in found.record.runs if run.setting == "lr1e+30"]
    assert (broken.status, broken.health) == ("FAILED", "diverged")
    again, found, _ = race(rates="learning_rate=0.05,0.001,1e30")
    assert (again.returncode, found.race.chosen) == (1, "lr0.05")


SEARCHED = """
settings = 10
search = "tpe"
[fixed]
dataset = "digits"
batch_size = 32
hidden_dim = 16
epochs = 10
[axes]
optimizer = ["sgd", "adam"]
learning_rate = {low = 1e-4, high = 0.1, scale = "log"}
[race]
max_seeds = 3
"""


@pytest.mark.slow
def test_a_search_that_was_killed_tries_the_same_settings(command, rows, uri, tmp_path):
    """With another number of workers as well: what is chosen does not depend on which was faster."""
    (tmp_path / "searched.toml").write_text(SEARCHED)
    words = (RUN_GRID, "--sweep", tmp_path / "searched.toml", "--evaluate-every", 0, "--name", "raced")
    whole = f"sqlite:///{tmp_path / 'whole' / 'mlflow.db'}"
    done = command(*words, "--workers", 2, "--tracking-uri", whole)
    assert (done.returncode, done.stderr) == (0, "")
    started = subprocess.Popen(
        [sys.executable, *map(str, words), "--workers", "1", "--tracking-uri", uri],
        start_new_session=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 240
    while len(rows("SELECT DISTINCT value FROM tags WHERE key = 'sweep.setting'")) < 9:
        assert started.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    for process in (*psutil.Process(started.pid).children(recursive=True), started):
        process.kill()
    started.wait()
    done = command(*words, "--workers", 1, "--tracking-uri", uri)
    assert (done.returncode, done.stderr) == (0, "")
    found = []
    for store in (whole, uri):
        client = MlflowClient(store)
        record = read_sweep(client, find_sweep(client, "gan-grid", "raced")[0])
        race = compare(record).race
        assert len(record.settings) == 10
        assert not race.asked
        found.append((sorted(record.settings), race))
    assert found[0] == found[1]
