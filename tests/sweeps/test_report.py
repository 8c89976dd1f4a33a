"""A small sweep from its first MLflow run to what is said of it; trained here, without Ray."""

import io

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console

from gan_core import metric_names as names
from gan_core.config import RunOptions
from gan_core.data import ImageSet
from gan_core.run import Job, run
from gan_core.tracking.store import prepare_store
from gan_core.tracking.tracker import MlflowTracker
from sweeps.comparison import compare, print_summary, read_sweep, report_files, write_overview
from sweeps.grid import Grid
from sweeps.plan import Plan
from sweeps.runs import add_child, begin_sweep, children, colours, settle

SETTINGS = ["sgd_z5", "sgd_z7", "adam_z5", "adam_z7"]
NAMES = [f"{name}_s0" for name in SETTINGS]


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture
def plan(uri, tmp_path):
    grid = Grid(
        {"optimizer": ("sgd", "adam"), "z_dim": (5, 7)}, fixed={"dataset": "digits", "hidden_dim": 8, "epochs": 2}
    )
    return Plan(
        name="small", named=True, again=False, experiment="grid", grid=grid, runs=grid.runs(), notes=[],
        options=RunOptions(), tracking_uri=uri, checkpoint_dir=tmp_path / "checkpoints", workers=1,
    )  # fmt: skip


@pytest.fixture
def sweep(client, plan, uri):
    return begin_sweep(client, prepare_store(uri, "grid"), plan, "a.lock", None)


@pytest.fixture
def run_ids(client, sweep, plan):
    colour = colours(run.setting for run in plan.runs)
    return {run.name: add_child(client, sweep, run, colour[run.setting.name]) for run in plan.runs}


@pytest.fixture
def trained(plan, run_ids, uri, digits, digits_reference, watcher):
    """All runs of the plan, trained."""
    data = ImageSet("digits", digits.images[:200], digits.digest, digits.source)
    for one in plan.runs:
        tracker = MlflowTracker(uri, run_ids[one.name], one.config, data, one.name)
        run(Job(one.name, one.config, data, digits_reference, plan.options), tracker, watcher())
    return run_ids


def test_children_wait_as_scheduled(client, sweep, run_ids):
    found = children(client, sweep)
    assert {child.info.run_name: child.info.run_id for child in found} == run_ids
    assert {child.info.status for child in found} == {"SCHEDULED"}
    assert {child.data.tags[names.SETTING] for child in found} == set(SETTINGS)
    assert len({child.data.tags[names.CONFIG_HASH] for child in found}) == 4
    assert len({child.data.tags[names.RUN_COLOUR] for child in found}) == 4


def test_the_parent_has_the_sweep_in_its_params(client, sweep):
    parent = client.get_run(sweep.parent_id)
    assert parent.info.status == "RUNNING"
    asked = {
        "optimizer": "sgd adam",
        "z_dim": "5 7",
        "seed": "0",
        "dataset": "digits",
        "hidden_dim": "8",
        "epochs": "2",
    }
    assert parent.data.params.items() >= asked.items()
    assert "learning_rate" not in parent.data.params
    assert parent.data.tags[names.SWEEP_AXES] == "optimizer z_dim"


@pytest.mark.parametrize(("cut_off", "whole"), [("KILLED", "KILLED"), ("FAILED", "FAILED")])
def test_no_run_is_left_unsettled(client, sweep, run_ids, cut_off, whole):
    client.set_terminated(run_ids["sgd_z5_s0"], "FINISHED")
    client.update_run(run_ids["sgd_z7_s0"], status="RUNNING")
    statuses = settle(client, sweep, cut_off, {run_ids["sgd_z7_s0"]: "out of memory"}, {})
    assert statuses == {run_ids[name]: "FINISHED" if name == "sgd_z5_s0" else cut_off for name in NAMES}
    assert client.get_run(run_ids["sgd_z7_s0"]).data.tags[names.FAILURE_REASON] == "out of memory"
    assert client.get_run(sweep.parent_id).info.status == whole


def test_what_was_logged_is_what_is_shown(client, sweep, trained, uri, tmp_path):
    assert set(settle(client, sweep, "FAILED", {}, {}).values()) == {"FINISHED"}
    assert client.get_run(sweep.parent_id).info.status == "FINISHED"
    record = read_sweep(client, client.get_run(sweep.parent_id))
    assert [run.name for run in record.runs] == NAMES
    for one in record.runs:
        logged = client.get_run(one.run_id).data.metrics
        assert one.epochs == 2
        assert one.last(names.LOSS_G) == logged[names.LOSS_G]
        assert one.score(names.FD) == logged[names.FD]
        assert np.isnan(one.last("quality/none"))
    comparison = compare(record)
    assert {setting.name for setting in comparison.settings} == set(SETTINGS)

    write_overview(client, comparison)
    for name in ("losses.png", names.CONTACT_SHEET):
        with Image.open(client.download_artifacts(sweep.parent_id, name, str(tmp_path))) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    shown = client.get_run(sweep.parent_id).data.metrics
    assert {name: shown[f"{names.SETTING_FD}{name}"] for name in SETTINGS} == {
        setting.name: pytest.approx(setting.fd) for setting in comparison.settings
    }
    points = len(client.get_metric_history(sweep.parent_id, f"{names.SETTING_FD}sgd_z5"))
    write_overview(client, comparison)
    assert len(client.get_metric_history(sweep.parent_id, f"{names.SETTING_FD}sgd_z5")) == points

    files = report_files(client, comparison)
    assert len([name for name in files if name.startswith("sheets/")]) == 8
    assert files["sweep.toml"].decode().startswith("#") or "optimizer" in files["sweep.toml"].decode()
    console = Console(width=120, record=True, file=io.StringIO())
    print_summary(console, comparison, "http://127.0.0.1:5000/#/here", uri)
    said = console.export_text()
    for setting in comparison.settings:
        assert f"{setting.fd:.3g}"[:3] in said
    assert "one seed cannot tell" in said or "no run made usable images" in said


def test_a_sweep_that_never_began_has_no_pictures(client, sweep, run_ids):
    comparison = compare(read_sweep(client, client.get_run(sweep.parent_id)))
    assert comparison.settings == []
    assert [run.name for run in comparison.record.absent] == NAMES
    write_overview(client, comparison)
    assert {file.path for file in client.list_artifacts(sweep.parent_id)} == {names.SWEEP_FILE}
    text = report_files(client, comparison)["report.md"].decode()
    assert "No run has begun." in text
    assert "Not begun yet, so not counted" in text
