"""The MLflow runs of a sweep: begun, grown, ended; and which commits of the code have trained them."""

from pathlib import Path

import pytest
from mlflow.entities import Param
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from gan_core.compat import context_tags
from sweeps.grid import AxesWhen, Grid, parse_sweep
from sweeps.runs import add_child, begin_sweep, colour, commits, settle, take_up


@pytest.fixture
def begin(client, experiment):
    def of(plan, found=None, lock="a lock"):
        return client.get_run(begin_sweep(client, experiment, plan, lock, found).info.run_id)

    return of


def test_the_parent_has_the_axes_and_what_all_runs_share(plan, begin, client, tmp_path):
    grid = Grid(
        {"optimizer": ("sgd", "adam"), "z_dim": (5, 7)}, [AxesWhen({"optimizer": "sgd"}, {"learning_rate": (0.1, 0.3)})],
        {"dataset": "digits"}, seeds=(0, 3),
    )  # fmt: skip
    made = plan(grid=grid, runs=grid.runs())
    parent = begin(made)
    assert (parent.info.run_name, parent.info.status) == ("small", "RUNNING")
    params = parent.data.params
    assert {name: params[name] for name in ("optimizer", "learning_rate", "z_dim", "seed", "dataset", "hidden_dim")} == {
        "optimizer": "sgd adam", "learning_rate": "0.1 0.3", "z_dim": "5 7", "seed": "0 3", "dataset": "digits",
        "hidden_dim": "128",
    }  # fmt: skip
    tags = parent.data.tags
    assert {name: value for name, value in tags.items() if name.startswith(("sweep.", "run."))} == {
        "sweep.axes": "optimizer learning_rate z_dim", "sweep.kind": "grid", "sweep.format": "2",
        "sweep.key": made.key, "run.lock": "a lock",
    }  # fmt: skip
    assert "mlflow.user" in tags
    file = client.download_artifacts(parent.info.run_id, "sweep.toml", str(tmp_path))
    assert parse_sweep(Path(file).read_text()) == Grid(grid.axes, grid.axes_when, grid.fixed, (0, 3))


def test_a_sweep_that_has_grown_says_what_is_so_now(plan, begin, client):
    first = begin(plan())
    client.update_run(first.info.run_id, status="KILLED")
    grown = begin(plan(z_dims=(5, 7), epochs=9), first, "another lock")
    assert (grown.info.run_id, grown.info.status) == (first.info.run_id, "RUNNING")
    assert (grown.data.params["z_dim"], grown.data.params["epochs"]) == ("5", "5")
    assert {name: value for name, value in grown.data.tags.items() if name.startswith("now.")} == {
        "now.z_dim": "5 7", "now.epochs": "9",
    }  # fmt: skip
    assert grown.data.tags["run.lock"] == "another lock"


def test_only_an_unnamed_sweep_is_marked_as_such(plan, begin):
    assert "sweep.unnamed" not in begin(plan()).data.tags
    assert begin(plan(named=False)).data.tags["sweep.unnamed"] == "true"


@pytest.fixture
def sweep(plan, begin, client):
    """A parent with two children of the statuses given; their ids, the parent's first."""

    def make(*statuses):
        made = plan()
        parent = begin(made)
        ids = [add_child(client, parent, run, "#123456") for run in made.runs]
        for run_id, status in zip(ids, statuses, strict=True):
            client.update_run(run_id, status=status)
        return parent, *ids

    return make


def status_of(client, run):
    return client.get_run(run).info.status


def test_a_child_is_known_by_its_parent_its_setting_and_its_colour(sweep, client):
    parent, first, _ = sweep("SCHEDULED", "RUNNING")
    run = client.get_run(first)
    assert (run.info.run_name, run.info.status) == ("sgd_z5_s0", "SCHEDULED")
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.data.tags["sweep.setting"], run.data.tags["mlflow.runColor"]) == ("sgd_z5", "#123456")


@pytest.mark.parametrize(
    ("statuses", "cut_off", "ended", "whole"),
    [
        (("FINISHED", "FINISHED"), "FAILED", ("FINISHED", "FINISHED"), "FINISHED"),
        (("FINISHED", "FAILED"), "KILLED", ("FINISHED", "FAILED"), "FAILED"),
        (("FINISHED", "RUNNING"), "FAILED", ("FINISHED", "FAILED"), "FAILED"),
        (("FINISHED", "SCHEDULED"), "KILLED", ("FINISHED", "KILLED"), "KILLED"),
        (("FAILED", "RUNNING"), "KILLED", ("FAILED", "KILLED"), "KILLED"),
    ],
)
def test_a_sweep_ends_as_its_runs_have(sweep, client, statuses, cut_off, ended, whole):
    parent, *ids = sweep(*statuses)
    assert settle(client, parent, cut_off, {}, {}) == dict(zip(ids, ended, strict=True))
    assert tuple(status_of(client, run) for run in ids) == ended
    assert status_of(client, parent.info.run_id) == whole


@pytest.mark.parametrize(
    ("cut_off", "known", "reason"),
    [("KILLED", {}, "interrupted"), ("FAILED", {}, "its worker died"), ("FAILED", {1: "no memory"}, "no memory")],
)
def test_a_run_that_was_cut_off_says_why(sweep, client, cut_off, known, reason):
    parent, *ids = sweep("FINISHED", "RUNNING")
    settle(client, parent, cut_off, {ids[place]: why for place, why in known.items()}, {})
    assert client.get_run(ids[1]).data.tags["failure_reason"] == reason
    assert "failure_reason" not in client.get_run(ids[0]).data.tags


def test_a_longer_run_replaces_shorter_ones_once_it_is_finished(sweep, client):
    parent, longer, shorter = sweep("FAILED", "FINISHED")
    assert shorter in settle(client, parent, "KILLED", {}, {longer: [shorter], "none": [shorter]})
    client.update_run(longer, status="FINISHED")
    client.set_tag(parent.info.run_id, "failure_reason", "of before")
    assert settle(client, parent, "KILLED", {}, {longer: [shorter]}) == {longer: "FINISHED"}
    assert client.get_run(shorter).info.lifecycle_stage == "deleted"
    ended = client.get_run(parent.info.run_id)
    assert (ended.info.status, "failure_reason" in ended.data.tags) == ("FINISHED", False)


def test_each_setting_has_a_colour_and_the_first_twenty_have_their_own():
    assert (colour(0), colour(1)) == ("#1f77b4", "#ff7f0e")  # the strong ones come first
    assert len({colour(place) for place in range(20)}) == 20
    assert colour(20) == colour(0)


@pytest.fixture
def run_of(client, experiment):
    def make(commit, begun=True):
        run_id = client.create_run(experiment, tags={MLFLOW_GIT_COMMIT: commit} if commit else {}).info.run_id
        if begun:
            client.log_batch(run_id, params=[Param("epochs", "5")])
        return run_id

    return make


@pytest.mark.parametrize(
    ("before", "begun", "after"),
    [
        ("aaa", True, ["aaa", "bbb"]),
        ("bbb", True, ["bbb"]),
        ("aaa", False, ["bbb"]),  # nothing of it has been trained by another
        ("", True, ["bbb"]),
    ],
)
def test_a_run_knows_the_commits_that_trained_it(client, run_of, monkeypatch, before, begun, after):
    monkeypatch.setitem(context_tags(), MLFLOW_GIT_COMMIT, "bbb")
    run_id = run_of(before, begun)
    for _ in range(2):
        take_up(client, run_id)
        assert commits(client.get_run(run_id).data.tags) == after


def test_outside_of_a_repository_nothing_is_known(client, run_of, monkeypatch):
    monkeypatch.delitem(context_tags(), MLFLOW_GIT_COMMIT, raising=False)
    run_id = run_of("")
    take_up(client, run_id)
    assert commits(client.get_run(run_id).data.tags) == []
