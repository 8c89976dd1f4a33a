"""Which commits of the code have trained a run."""

import pytest
from mlflow.entities import Param
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from gan_core.tracking.queries import context_tags
from sweeps.runs import add_commit, commits


@pytest.fixture
def run_of(client, experiment):
    def make(commit, begun=True):
        run_id = client.create_run(experiment, tags={MLFLOW_GIT_COMMIT: commit} if commit else {}).info.run_id
        if begun:
            client.log_batch(run_id, params=[Param("epochs", "5")])
        return run_id

    return make


@pytest.fixture
def this(monkeypatch):
    monkeypatch.setitem(context_tags(), MLFLOW_GIT_COMMIT, "bbb")
    return "bbb"


def commits_of(client, run_id):
    return commits(client.get_run(run_id).data.tags)


def test_a_run_resumed_with_another_commit_keeps_both(client, run_of, this):
    run_id = run_of("aaa")
    add_commit(client, run_id)
    assert commits_of(client, run_id) == ["aaa", this]
    add_commit(client, run_id)
    assert commits_of(client, run_id) == ["aaa", this]


def test_a_run_resumed_with_the_same_commit_has_that_one(client, run_of, this):
    run_id = run_of(this)
    add_commit(client, run_id)
    assert commits_of(client, run_id) == [this]


def test_a_run_that_has_not_begun_is_trained_by_this_commit_alone(client, run_of, this):
    run_id = run_of("aaa", begun=False)
    add_commit(client, run_id)
    assert commits_of(client, run_id) == [this]


def test_outside_of_a_repository_nothing_is_known(client, run_of, monkeypatch):
    monkeypatch.delitem(context_tags(), MLFLOW_GIT_COMMIT, raising=False)
    run_id = run_of("")
    add_commit(client, run_id)
    assert commits_of(client, run_id) == []
