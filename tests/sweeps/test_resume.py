"""What is left to do of a sweep, as the store has it; however odd that is."""

import dataclasses
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlflow.entities import Dataset, DatasetInput

from gan_core.data import ImageKey, load_images
from gan_core.errors import UserError
from gan_core.locks import lock_tag
from gan_core.metric_names import LOCK
from gan_core.tracking.store import settle_stale
from sweeps.comparison.compare import compare
from sweeps.comparison.records import read_sweep
from sweeps.comparison.verdict import give_verdict, held_equal, random_streams
from sweeps.grid import Grid
from sweeps.resume import Step, SweepState, describe_state, look_up, require_same_images, sweep_state
from sweeps.runs import add_child, begin_sweep, settle

NAMES = ["sgd_z5_s0", "adam_z5_s0"]


@pytest.fixture
def begun(client, experiment, plan):
    """A sweep with a child for each status given: begun, but for SCHEDULED ones."""
    standard = plan()

    def make(*statuses, epochs=5, plan=standard, found=None):
        sweep = begin_sweep(client, experiment, plan, "tag", found)
        run_ids = []
        for run, status in zip(plan.runs, statuses, strict=False):
            run_ids.append(add_child(client, sweep, run, "#000000"))
            if status != "SCHEDULED":
                client.log_param(run_ids[-1], "epochs", epochs)
                client.update_run(run_ids[-1], status=status)
        client.update_run(sweep.info.run_id, status="KILLED")
        return sweep, run_ids

    return make


def test_seed_by_seed_the_longest_first():
    grid = Grid({"optimizer": ("sgd", "adam"), "z_dim": (5, 7)}, fixed={"dataset": "digits"}, seeds=(3, 1))
    steps = [Step(run, "new") for run in grid.runs()]
    steps[1] = dataclasses.replace(steps[1], action="skip")  # sgd_z7_s3
    names = [step.run.name for step in SweepState(None, steps).to_do()]
    assert names == [
        "adam_z7_s3", "adam_z5_s3", "sgd_z5_s3", "adam_z7_s1", "adam_z5_s1", "sgd_z7_s1", "sgd_z5_s1",
    ]  # fmt: skip


def actions(client, experiment, plan):
    return [step.action for step in sweep_state(client, experiment, plan).steps]


def test_where_there_is_nothing_all_is_new(client, experiment, plan):
    state = sweep_state(client, experiment, plan())
    assert state.parent is None
    assert [step.action for step in state.steps] == ["new", "new"]
    assert state.count() == {"new": 2}


@pytest.mark.parametrize(
    ("status", "action"),
    [("FINISHED", "skip"), ("KILLED", "resume"), ("FAILED", "retry"), ("SCHEDULED", "new")],
)
def test_a_run_is_what_its_status_says(client, experiment, plan, begun, status, action):
    sweep, run_ids = begun(status, "FINISHED")
    state = sweep_state(client, experiment, plan(z_dims=(5, 6)))
    assert state.parent.info.run_id == sweep.info.run_id
    assert [step.action for step in state.steps] == [action, "new", "skip", "new"]
    assert [step.run_id for step in state.steps] == [run_ids[0], "", run_ids[1], ""]
    assert len(state.to_do()) == 2 + (status != "FINISHED")


def test_more_epochs_continue_the_longest_and_replace_all_shorter(client, experiment, plan, begun):
    sweep, (first, _) = begun("FINISHED", "FINISHED", epochs=5)
    _, (second, _) = begun("KILLED", "KILLED", epochs=8, found=sweep)
    _, (third, _) = begun("KILLED", "KILLED", epochs=3, found=sweep)
    step = sweep_state(client, experiment, plan(epochs=20)).steps[0]
    assert (step.action, step.run_id, step.shorter) == ("extend", "", (third, first, second))


@pytest.mark.parametrize("status", ["SCHEDULED", "KILLED", "FAILED", "FINISHED"])
def test_what_a_longer_run_replaces_is_known_after_a_break_too(client, experiment, plan, begun, status):
    """Killed right after the longer run was created, in the middle, or before the shorter one was removed."""
    sweep, (shorter, _) = begun("FINISHED", "FINISHED", epochs=5)
    longer_plan = plan(epochs=20)
    _, (longer,) = begun(status, epochs=20, plan=longer_plan, found=sweep)
    step = sweep_state(client, experiment, longer_plan).steps[0]
    assert (step.run_id, step.shorter) == (longer, (shorter,))
    settle(client, sweep, "KILLED", {}, {longer: step.shorter})
    there = {run.info.run_id for run in client.search_runs([experiment])}
    assert (shorter in there) == (status != "FINISHED")


def test_where_the_length_is_an_axis_a_shorter_run_is_another_run(client, experiment, plan, begun):
    grid = Grid({"epochs": (3, 5, 8)}, fixed={"dataset": "digits", "hidden_dim": 8})
    longer = plan(grid=grid, runs=grid.runs())
    _, run_ids = begun("SCHEDULED", "FINISHED", plan=longer, epochs=5)
    steps = sweep_state(client, experiment, longer).steps
    assert [(step.action, step.run_id, step.shorter) for step in steps] == [
        ("new", run_ids[0], ()), ("skip", run_ids[1], ()), ("new", "", ()),
    ]  # fmt: skip


def test_a_sweep_of_another_version_is_refused_not_misread(client, experiment, plan, begun):
    sweep, _ = begun("FINISHED", "FINISHED")
    client.delete_tag(sweep.info.run_id, "sweep.format")
    with pytest.raises(UserError, match=r"'small' was recorded by another version .*choose another --name"):
        sweep_state(client, experiment, plan())
    assert actions(client, experiment, plan(name="other")) == ["new", "new"]


def test_a_sweep_whose_settings_are_not_known_is_taken_by_its_name(client, experiment, plan, begun):
    sweep, _ = begun("FINISHED", "FINISHED")
    client.delete_tag(sweep.info.run_id, "sweep.key")
    assert actions(client, experiment, plan()) == ["skip", "skip"]


def test_fewer_epochs_than_trained_are_finished(client, experiment, plan, begun):
    begun("FINISHED", "KILLED", epochs=20)
    assert actions(client, experiment, plan(epochs=5)) == ["skip", "new"]


def test_names_and_settings_tell_sweeps_apart(client, experiment, plan, begun):
    begun("FINISHED", "FINISHED")
    assert actions(client, experiment, plan(name="other")) == ["new", "new"]
    assert actions(client, experiment, plan(named=False)) == ["new", "new"]
    assert actions(client, experiment, plan(again=True)) == ["new", "new"]
    with pytest.raises(
        UserError,
        match=r"there is a sweep 'small' with other settings .*: choose another --name, or start anew with --again$",
    ):
        sweep_state(client, experiment, plan(hidden_dim=9))
    unnamed = plan(name="grid-20200101-000000", named=False)
    begun("FINISHED", "FAILED", plan=unnamed)
    assert actions(client, experiment, plan(name="grid-today", named=False)) == ["skip", "retry"]


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "x" * 200,
        "💥",
        "it's",
        '"',
        "'; DROP TABLE runs; --",
        "a\\",
        "`",
        "%",
        "' OR '1'='1",
        "a' AND 1",
    ],
)
def test_a_sweep_is_found_by_its_name_whatever_that_is(client, experiment, plan, begun, name):
    begun("FINISHED", "KILLED")
    begun("FINISHED", "FINISHED", plan=plan(name=name))
    assert actions(client, experiment, plan(name=name)) == ["skip", "skip"]
    assert actions(client, experiment, plan()) == ["skip", "resume"]


def test_nonsense_in_the_store_is_passed_over(client, experiment, plan, begun):
    sweep, (first, second) = begun("SCHEDULED", "SCHEDULED")
    for key, value in (("config_hash", "💥"), ("sweep.setting", "")):
        client.set_tag(first, key, value)
    client.log_param(second, "epochs", "abc")
    client.update_run(second, status="FINISHED")
    stray = client.create_run(experiment, tags={"mlflow.parentRunId": sweep.info.run_id})
    client.log_param(stray.info.run_id, "epochs", "9" * 5000)
    for _ in range(2):
        client.set_tag(sweep.info.run_id, LOCK, "../../../etc/passwd")
        client.set_tag(sweep.info.run_id, "sweep.unnamed", "\n")
        assert actions(client, experiment, plan()) == ["new", "new"]
    client.set_tag(stray.info.run_id, "config_hash", plan().runs[0].config.config_hash)
    assert actions(client, experiment, plan()) == ["new", "new"]


TAGS = [
    "config_hash", "sweep.setting", "sweep.kind", "sweep.key", "sweep.unnamed", LOCK, "mlflow.parentRunId",
    "health", "failure_reason", "quality.classifier", "quality.classifier_accuracy", "quality.n", "quality.real_baseline",
    "now.epochs", "sweep.format", "sweep.axes",
]  # fmt: skip
VALUES = st.sampled_from(
    ["", "\n", "nan", "1e999", "-1", "9" * 5000, "[]", '{"a": {}}', "[" * 3000, "../../x", "/etc/passwd"]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)


@pytest.fixture
def finished(client, begun):
    """The ids of a sweep's parent and of its two runs, scored and finished."""
    sweep, children = begun("FINISHED", "FINISHED")
    for child in children:
        client.log_metric(child, "quality/fd", 1.0, step=5)
        for key, value in (("seed", 0), ("z_dim", 5), ("learning_rate", 0.1), ("optimizer", "sgd")):
            client.log_param(child, key, value)
    return sweep.info.run_id, *children


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(TAGS), VALUES), min_size=1, max_size=5))
def test_no_tag_in_the_store_breaks_what_reads_it(client, experiment, plan, finished, tmp_path, changes):
    """At worst the sweep is another one's, and that is said."""
    for which, key, value in changes:
        client.set_tag(finished[which], key, value)
    try:
        sweep_state(client, experiment, plan(epochs=20))
    except UserError as refusal:
        assert "with other settings" in str(refusal) or "in another format" in str(refusal)
    settle_stale(client, experiment, tmp_path / "checkpoints")
    try:
        comparison = compare(read_sweep(client, client.get_run(finished[0])))
    except UserError as refusal:
        assert "recorded by another version" in str(refusal)
    else:
        assert comparison.record.run_id == finished[0]
        give_verdict(comparison), held_equal(comparison, random_streams(comparison.record))


def digest(folder):
    """Everything in a folder but SQLite's own side files."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_look_shows_each_run_and_writes_nothing(client, experiment, plan, begun, tmp_path, monkeypatch):
    sweep, _ = begun("KILLED", "FAILED")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = digest(tmp_path)
    state = look_up(plan(z_dims=(5, 6)))
    assert describe_state(state, plan()).splitlines() == [
        "to do          1 resume, 2 new, 1 retry",
        "  sgd_z5_s0  resume",
        "  sgd_z6_s0  new",
        "  adam_z5_s0  retry",
        "  adam_z6_s0  new",
    ]
    assert digest(tmp_path) == before
    assert look_up(plan(experiment="none")).count() == {"new": 2}
    assert look_up(plan(tracking_uri=f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")).count() == {"new": 2}
    assert digest(tmp_path) == before
    client.update_run(sweep.info.run_id, status="RUNNING")
    said = describe_state(look_up(plan()), plan()).splitlines()[0]
    assert "on another machine or with another --checkpoint-dir" in said
    tag = lock_tag(tmp_path / "checkpoints", "sweep-0123456789abcdef.lock")
    client.set_tag(sweep.info.run_id, LOCK, tag)
    said = describe_state(look_up(plan()), plan()).splitlines()[0]
    assert said == "now            it was cut off"
    assert describe_state(look_up(plan()), plan(), every_run=False, gone=3).splitlines() == [
        "3 runs of a process that is gone were still marked as running",
        "to do          1 resume, 1 retry",
    ]


def test_a_store_of_another_schema_is_refused_in_one_line(plan, uri, tmp_path):
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'of another MLflow'")
    with pytest.raises(UserError) as refusal:
        look_up(plan())
    said = str(refusal.value)
    assert said.startswith(f"cannot use the store {uri}: ")
    assert "schema" in said
    assert len(said.splitlines()) == 1


@pytest.fixture
def on_folder(client, experiment, plan, shapes):
    """A sweep on a folder whose name cannot stand in a query, with a run that was trained on it."""
    folder = shapes.rename(shapes.with_name("it's mine"))
    plan = plan(dataset=f"folder:{folder}", named=False)
    sweep = begin_sweep(client, experiment, plan, "tag", None)
    child = add_child(client, sweep, plan.runs[0], "#000000")
    data = load_images(plan.image_keys[0], folder.parent)
    profile = json.dumps({"shape": list(data.images.shape[1:])})
    dataset = Dataset(data.name, data.digest, "local", "{}", profile=profile)
    client.log_inputs(child, [DatasetInput(dataset)])
    return folder, plan, sweep


def test_runs_on_a_folders_earlier_images_are_not_mixed_with_others(client, experiment, on_folder, tmp_path):
    folder, plan, sweep = on_folder
    state = sweep_state(client, experiment, plan)
    assert state.parent.info.run_id == sweep.info.run_id
    require_same_images(state, [load_images(plan.image_keys[0], tmp_path)])
    require_same_images(state, [load_images(ImageKey(f"folder:{folder}", 32, 1), tmp_path)])  # other runs have these
    for file in (folder / "dark discs").glob("1*.png"):
        file.unlink()
    changed = load_images(plan.image_keys[0], tmp_path)
    with pytest.raises(UserError, match=f"the images in folder:{folder} have changed since .*_z5_s0 .* --again"):
        require_same_images(state, [changed])
    again = dataclasses.replace(plan, again=True)
    require_same_images(sweep_state(client, experiment, again), [changed])
