"""The same sweep asked for again and again, and otherwise: only what is left is done. One Ray for all."""

import dataclasses
import functools
import io
import os
import sys
from contextlib import ExitStack
from unittest.mock import Mock

import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console

from gan_core.checkpoint import CheckpointFolder
from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.metric_names import LOCK
from gan_core.networks import load_generator
from gan_core.tracking.store import prepare_store
from gan_core.training import train
from sweeps.compat import let_tune_use_waiting_workers
from sweeps.plan import locked
from sweeps.ray_session import ray_session, set_ray_environment
from sweeps.resume import sweep_state
from sweeps.runs import begin_sweep

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray in this process")]


@pytest.fixture(scope="module", autouse=True)
def _ray():
    before = dict(os.environ)
    assert "ray" not in sys.modules, "another test has imported Ray, which reads its settings only then"
    set_ray_environment(None)
    with ray_session(None, 1):
        let_tune_use_waiting_workers()
        yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def adams(plan):
    """A plan of Adam alone, of three epochs unless said otherwise."""
    return functools.partial(plan, ["adam"], epochs=3)


@pytest.fixture
def go():
    """Conduct a plan; its exit code, and what it said."""

    def run(plan):
        from sweeps.driver import conduct, prepare

        console = Console(file=io.StringIO(), markup=False, highlight=False, soft_wrap=True)
        with locked(plan):
            code = conduct(plan, prepare(plan), ExitStack(), console)
        return code, console.file.getvalue()

    return run


@pytest.fixture
def children(rows):
    """name → (run id, status), of what is not deleted."""

    def ask(lifecycle="active"):
        found = rows("SELECT name, run_uuid, status FROM runs WHERE lifecycle_stage = ? AND name != 'small'", lifecycle)
        return {name: (run_id, status) for name, run_id, status in found}

    return ask


def to_do(said):
    return next(line.removeprefix("to do").strip() for line in said.splitlines() if line.startswith("to do"))


def test_a_sweep_grows_and_never_does_a_thing_twice(go, adams, children, rows, uri, tmp_path, digits):
    code, said = go(adams())
    assert (code, to_do(said)) == (0, "1 new")
    first = children()
    assert {status for _, status in first.values()} == {"FINISHED"}
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "mlruns").rglob("epoch_*")}

    # As if killed right before its end.
    client = MlflowClient(uri)
    client.update_run(*rows("SELECT run_uuid FROM runs WHERE name = 'small'")[0], status="RUNNING")
    code, said = go(adams())
    assert (code, to_do(said)) == (0, "1 skip")
    assert "adam_z5" in said  # and shows what there is
    assert children() == first
    assert rows("SELECT status FROM runs WHERE name = 'small'") == [("FINISHED",)]
    assert {path: path.stat().st_mtime_ns for path in files} == files

    code, said = go(adams((5, 6)))
    assert (code, to_do(said)) == (0, "1 skip, 1 new")
    grown = children()
    assert grown["adam_z5_s0"] == first["adam_z5_s0"]
    assert len(rows("SELECT 1 FROM runs WHERE name = 'small'")) == 1

    # One of the two finds another config's checkpoint in its folder, and fails until that is removed.
    folder = tmp_path / "checkpoints" / grown["adam_z6_s0"][0]
    own = RunConfig(dataset="digits", optimizer="adam", z_dim=6, hidden_dim=8, epochs=3)
    (file,) = folder.glob("*.checkpoint")
    content = file.read_bytes()
    CheckpointFolder(folder, dataclasses.replace(own, z_dim=9)).save(CheckpointFolder(folder, own).load(print))
    code, said = go(adams((5, 6), epochs=6))
    assert (code, to_do(said)) == (1, "2 extend")
    assert "is of another config" in said
    assert children("deleted") == {"adam_z5_s0": first["adam_z5_s0"]}  # the other's longer one is not whole yet
    ((failed, reason),) = rows("SELECT run_uuid, value FROM tags WHERE key = 'failure_reason'")
    assert reason.startswith("the checkpoint ")
    assert rows("SELECT status FROM runs WHERE name = 'small'") == [("FAILED",)]

    (tmp_path / "checkpoints" / failed / file.name).write_bytes(content)
    code, said = go(adams((5, 6), epochs=6))
    assert (code, to_do(said)) == (0, "1 skip, 1 retry")
    longer = children()
    assert longer["adam_z6_s0"] == (failed, "FINISHED")
    assert rows("SELECT 1 FROM tags WHERE key = 'failure_reason'") == []
    assert children("deleted") == grown
    assert rows("SELECT status FROM runs WHERE name = 'small'") == [("FINISHED",)]
    points = rows(
        "SELECT run_uuid, key, step, count(*) FROM metrics JOIN runs USING (run_uuid) "
        "WHERE lifecycle_stage = 'active' AND name != 'small' GROUP BY run_uuid, key, step"
    )
    assert len(points) == 2 * (6 * 8 + 11)
    assert {count for *_, count in points} == {1}
    for z in (5, 6):
        run_id = longer[f"adam_z{z}_s0"][0]
        file = client.download_artifacts(run_id, "generator.safetensors", str(tmp_path))
        config = dataclasses.replace(own, z_dim=z, epochs=6)
        unbroken = list(train(config, digits.images))[-1].generator.state_dict()
        ours = load_generator(file).state_dict()
        assert all(torch.equal(ours[name], unbroken[name]) for name in unbroken)
        seconds = rows(
            "SELECT value FROM metrics WHERE run_uuid IN (?, ?) AND key = 'time/epoch_seconds' AND step = 2",
            run_id, grown[f"adam_z{z}_s0"][0],
        )  # fmt: skip
        assert len(seconds) == 2
        assert len(set(seconds)) == 1  # told again, not trained again


def test_a_sweep_that_runs_elsewhere_is_left_alone(go, adams, rows, uri):
    sweep = begin_sweep(MlflowClient(uri), prepare_store(uri, "grid"), adams(), "0" * 32 + "/x", None)
    with pytest.raises(UserError, match="on another machine or with another --checkpoint-dir"):
        go(adams())
    assert rows("SELECT run_uuid, status FROM runs") == [(sweep.info.run_id, "RUNNING")]


def test_a_run_that_the_store_did_not_take_is_begun_again(adams, client, experiment, monkeypatch):
    from sweeps.driver import _beginner

    plan = adams()
    parent = begin_sweep(client, experiment, plan, "a lock", None)
    begin = _beginner(plan, client, parent, sweep_state(client, experiment, plan))
    with monkeypatch.context() as away:
        away.setattr(client, "create_run", Mock(side_effect=ConnectionError))
        with pytest.raises(ConnectionError):
            begin(plan.runs[0], 1)
    trial = begin(plan.runs[0], 1)
    assert (trial.name, trial.until) == ("adam_z5_s0", 1)
    assert client.get_run(trial.run_id).info.run_name == "adam_z5_s0"
    assert begin(plan.runs[0], 2).run_id == trial.run_id


def test_nonsense_as_a_name_and_in_the_store_is_no_traceback(go, adams, rows, uri, tmp_path):
    name = '../../x 💥 $\\frac{$ it\'s "quoted"; DROP TABLE runs; --'
    before = set(tmp_path.parent.iterdir())
    code, said = go(adams(name=name))
    assert (code, to_do(said)) == (0, "1 new")
    ((parent, experiment),) = rows("SELECT run_uuid, experiment_id FROM runs WHERE name = ?", name)
    client = MlflowClient(uri)
    for params in ({}, {"epochs": "abc"}, {"seed": "x", "z_dim": "", "epochs": "9" * 5000}, {"seed": "1"}):
        tags = {"mlflow.parentRunId": parent, "config_hash": "💥"}
        stray = client.create_run(str(experiment), tags=tags).info.run_id
        for key, value in params.items():
            client.log_param(stray, key, value)
    ((first,),) = rows("SELECT run_uuid FROM runs WHERE name = 'adam_z5_s0'")
    client.delete_tag(first, "sweep.setting")
    client.set_tag(parent, LOCK, "../../x")
    code, said = go(adams(name=name))
    assert (code, to_do(said)) == (0, "1 skip")
    assert f"Report:   {tmp_path / 'reports'}" in said
    assert set(tmp_path.parent.iterdir()) == before
    known = {"mlflow.db", ".mlflow.db.lock", "mlruns", "checkpoints", "reports"}
    assert {path.name for path in tmp_path.iterdir()} - {"mlflow.db-wal", "mlflow.db-shm"} <= known
