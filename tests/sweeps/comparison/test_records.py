"""A sweep in MLflow → a record: every field of it."""

import math

import pytest
from mlflow import MlflowClient

from gan_core import metric_names as names
from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.tracking.store import create_run
from sweeps.comparison.records import HISTORIES, Classifier, _ask_database, _ask_server, find_sweep, read_sweep


@pytest.fixture
def read(client, write):
    """Writes a sweep, lets a test change it, and reads it: its record."""

    def made(change=lambda parent: None, **given):
        parent = write(**given)
        change(parent)
        return read_sweep(client, client.get_run(parent))

    return made


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


def test_the_parent(client, read):
    record = read(seeds=(3, 0))
    info = client.get_run(record.run_id).info
    assert (record.name, record.experiment, record.status) == ("a sweep", "gan-grid", "FINISHED")
    assert (record.started, record.ended) == (info.start_time / 1000, info.end_time / 1000)
    assert record.artifact_uri == info.artifact_uri
    assert (record.axes, record.seeds, record.running) == (["optimizer", "z_dim"], [0, 3], False)
    assert (record.params["optimizer"], record.commit, record.namesakes) == ("sgd adam", "", 0)


def test_what_has_grown_is_as_it_is_now(client, read):
    def grow(parent):
        client.set_tag(parent, "now.epochs", "9")
        client.update_run(parent, status="RUNNING")

    record = read(grow)
    assert (record.params["epochs"], record.running) == ("9", True)


def test_a_run(client, read):
    def mark(parent):
        for run in client.search_runs(
            [client.get_run(parent).info.experiment_id], "attributes.run_name = 'adam_z20_s1'"
        ):
            client.set_tag(run.info.run_id, names.FAILURE_REASON, "out of memory")
            client.set_tag(run.info.run_id, names.COMMITS, "aaa bbb")
            client.delete_tag(run.info.run_id, names.HEALTH_REASON)

    record = read(mark, seeds=(0, 1))
    assert [run.name for run in record.runs] == ["sgd_z20_s0", "adam_z20_s0", "sgd_z20_s1", "adam_z20_s1"]
    first, *_, last = record.runs
    assert (first.setting, first.seed, first.status, first.finished, first.epochs) == (
        "sgd_z20",
        0,
        "FINISHED",
        True,
        4,
    )
    assert (first.health, first.health_reason, first.failure, first.commits) == ("ok", "fine", "", [])
    assert (last.health_reason, last.failure, last.commits) == ("", "out of memory", ["aaa", "bbb"])
    assert "seed" not in first.fields
    assert (first.fields["z_dim"], first.fields["optimizer"]) == ("20", "sgd")
    assert first.artifact_uri == client.get_run(first.run_id).info.artifact_uri
    assert list(first.history[names.LOSS_G]) == [1, 2, 3, 4]
    assert first.history[names.LOSS_G][1] != 99.0  # of an earlier try
    assert first.metrics[names.FD] == first.score(names.FD) == 5.0


def test_a_run_that_never_began_is_absent(client, read):
    def add(parent):
        tags = {names.PARENT: parent, names.SETTING: "sgd_z99", names.FAILURE_REASON: "why"}
        run_id = create_run(client, client.get_run(parent).info.experiment_id, "sgd_z99_s0", RunConfig(), tags)
        client.set_terminated(run_id, "FAILED")
        client.create_run(client.get_run(parent).info.experiment_id, tags={names.PARENT: parent}, run_name="stray")

    absent, stray = read(add).absent
    assert absent == ("sgd_z99_s0", "sgd_z99", "FAILED", "why")
    assert (stray.name, stray.setting, stray.failure) == ("stray", "", "")


def test_scores_of_two_classifiers_or_of_two_numbers_of_images_are_told_apart(client, read):
    def change(parent):
        runs = client.search_runs([client.get_run(parent).info.experiment_id], f"tags.`{names.PARENT}` = '{parent}'")
        client.set_tag(runs[0].info.run_id, names.CLASSIFIER, "cd")
        client.set_tag(runs[1].info.run_id, names.EVALUATION_IMAGES, "10")

    assert len(read().classifiers) == 1
    assert sorted((one.sha256[:2], one.images) for one in read(change, name="other").classifiers) == [
        ("ab", 10), ("ab", 599), ("cd", 599),
    ]  # fmt: skip


@pytest.mark.parametrize("key", [names.REAL_BASELINE, names.CLASSIFIER_ACCURACY, names.EVALUATION_IMAGES])
@pytest.mark.parametrize("value", ["nonsense", '{"a": {}}', "[]"])
def test_a_classifier_that_is_not_described_is_known_by_its_digest_alone(client, read, key, value):
    def change(parent):
        for run in client.search_runs(
            [client.get_run(parent).info.experiment_id], f"tags.`{names.PARENT}` = '{parent}'"
        ):
            client.set_tag(run.info.run_id, key, value)

    (found,) = read(change).classifiers
    assert math.isnan(found.accuracy)
    assert found._replace(accuracy=0.5) == Classifier("ab" * 32, 0.5, 0, {}, {})


def test_a_server_and_a_database_give_the_same_points(client, read):
    run_ids = [run.run_id for run in read().runs]

    def points(ask):
        return sorted(
            (run_id, at.key, at.step, at.timestamp, at.value) for run_id, at in ask(client, run_ids, HISTORIES)
        )

    assert points(_ask_server) == points(_ask_database)
    assert len(points(_ask_server)) > len(run_ids) * 4 * 5


def test_the_latest_of_a_name_is_found(client, write):
    first, second = write(), write(seeds=(0,))
    other = write(name="other")
    assert find_sweep(client, "gan-grid")[0].info.run_id == other
    parent, namesakes = find_sweep(client, "gan-grid", "a sweep")
    assert (parent.info.run_id, namesakes) == (second, 1)
    parent, namesakes = find_sweep(client, "gan-grid", first)
    assert (parent.info.run_id, namesakes) == (first, 1)


def test_a_deleted_experiment_is_none(client, write):
    write()
    client.delete_experiment(client.get_experiment_by_name("gan-grid").experiment_id)
    with pytest.raises(UserError, match="there is no experiment 'gan-grid' in this store"):
        find_sweep(client, "gan-grid")
