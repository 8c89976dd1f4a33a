from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gan_core.config import RunOptions
from gan_core.data import ImageSet
from gan_core.run import Job, run
from gan_core.tracking.queries import MlflowClient
from gan_core.tracking.store import prepare_store
from gan_core.tracking.tracker import MlflowTracker
from sweeps.grid import grid_runs, make_grid
from sweeps.plan import Plan
from sweeps.report import contact_sheet, losses_figure, read_sweep, write_figures
from sweeps.resume import add_child, begin_sweep, children, colours, settle

NAMES = ["sgd_z5_s0", "sgd_z7_s0", "adam_z5_s0", "adam_z7_s0"]


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture
def plan(uri, tmp_path):
    grid, notes = make_grid(["sgd", "adam"], [5, 7], [0])
    runs = grid_runs(grid, dataset="digits", hidden_dim=8, epochs=2)
    return Plan(
        name="small", experiment="grid", grid=grid, runs=runs, notes=notes, dataset="digits", data_dir=None,
        tracking_uri=uri, workers=1, address=None, assessment=RunOptions(), named=True, again=False,
        checkpoint_dir=tmp_path / "checkpoints", checkpoint_every=1, retries=0,
    )  # fmt: skip


@pytest.fixture
def sweep(client, plan, uri):
    return begin_sweep(client, prepare_store(uri, "grid"), plan, "a.lock", None)


@pytest.fixture
def run_ids(client, sweep, plan):
    colour = colours(run.cell for run in plan.runs)
    return {run.name: add_child(client, sweep, run, colour[run.cell]) for run in plan.runs}


@pytest.fixture
def trained(plan, run_ids, uri, digits, digits_reference, watcher):
    """All runs of the plan, trained here, without Ray."""
    data = ImageSet("digits", digits.images[:200], digits.digest, digits.source)
    for one in plan.runs:
        tracker = MlflowTracker(uri, run_ids[one.name], one.config, data, one.name)
        run(Job(one.name, one.config, data, digits_reference, plan.assessment), tracker, watcher())
    return run_ids


def test_children_wait_as_scheduled(client, sweep, run_ids):
    found = children(client, sweep)
    assert {child.info.run_name: child.info.run_id for child in found} == run_ids
    assert {child.info.status for child in found} == {"SCHEDULED"}
    assert {child.data.tags["sweep.cell"] for child in found} == {"sgd_z5", "sgd_z7", "adam_z5", "adam_z7"}
    assert len({child.data.tags["config_hash"] for child in found}) == 4
    assert len({child.data.tags["mlflow.runColor"] for child in found}) == 4


def test_the_parent_has_the_grid_in_its_params(client, sweep):
    parent = client.get_run(sweep.parent_id)
    assert parent.info.status == "RUNNING"
    assert parent.data.params == {
        "optimizers": "sgd adam", "z_dims": "5 7", "seeds": "0", "learning_rates": "each optimizer's own",
        "dataset": "digits", "hidden_dim": "8", "batch_size": "64", "epochs": "2", "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize(("cut_off", "whole"), [("KILLED", "KILLED"), ("FAILED", "FAILED")])
def test_no_run_is_left_unsettled(client, sweep, run_ids, cut_off, whole):
    client.set_terminated(run_ids["sgd_z5_s0"], "FINISHED")
    client.update_run(run_ids["sgd_z7_s0"], status="RUNNING")
    statuses = settle(client, sweep, cut_off, {run_ids["sgd_z7_s0"]: "out of memory"}, {})
    assert statuses == {run_ids[name]: "FINISHED" if name == "sgd_z5_s0" else cut_off for name in NAMES}
    assert client.get_run(run_ids["sgd_z7_s0"]).data.tags["failure_reason"] == "out of memory"
    assert client.get_run(sweep.parent_id).info.status == whole


def test_a_sweep_is_finished_when_all_its_runs_are(client, sweep, trained):
    assert set(settle(client, sweep, "FAILED", {}, {}).values()) == {"FINISHED"}
    assert client.get_run(sweep.parent_id).info.status == "FINISHED"


def test_the_report_reads_what_was_logged(client, sweep, trained):
    records = read_sweep(client, sweep)
    assert [record.name for record in records] == NAMES
    for record in records:
        assert len(record.history["loss/generator"]) == 2
        logged = client.get_run(record.run_id).data.metrics
        assert record.last("loss/generator") == logged["loss/generator"]
        assert np.isnan(record.last("quality/none"))


def test_the_figures_show_every_cell_in_its_place(client, sweep, trained):
    records = read_sweep(client, sweep)
    figure = losses_figure(records)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "sgd 0.03: loss of D",
        "sgd 0.03: loss of G",
        "adam 0.0002: loss of D",
        "adam 0.0002: loss of G",
    ]
    shown = {tuple(line.get_ydata()) for axes in figure.axes for line in axes.lines if len(line.get_ydata())}
    assert shown == {
        tuple(record.history[metric])
        for record in records
        for metric in ("loss/discriminator", "loss/generator")
    }

    shades = {record.run_id: Image.new("L", (8, 8), 10 * place) for place, record in enumerate(records)}
    figure = contact_sheet(records, shades)
    places = [int(np.asarray(axes.images[0].get_array()).max()) // 10 for axes in figure.axes]
    assert places == [0, 1, 2, 3]  # sgd z 5, sgd z 7; adam z 5, adam z 7
    assert [axes.get_title() for axes in figure.axes[:2]] == ["z_dim 5", "z_dim 7"]

    scored = [
        replace(record, history={**record.history, "quality/fd": [5.0 + place]})
        for place, record in enumerate(records)
    ]
    notes = [axes.get_xlabel().split(", ")[1:] for axes in contact_sheet(scored, shades).axes]
    assert notes == [["fd 5.00"], ["fd 6.00"], ["fd 7.00"], ["fd 8.00"]]


def test_the_figures_are_artifacts_of_the_parent(client, sweep, trained, tmp_path):
    write_figures(client, sweep.parent_id, read_sweep(client, sweep))
    for name in ("losses.png", "contact_sheet.png"):
        with Image.open(client.download_artifacts(sweep.parent_id, name, str(tmp_path))) as picture:
            assert np.asarray(picture.convert("L")).std() > 10


def test_a_sweep_that_never_began_has_no_figures(client, sweep, run_ids):
    assert read_sweep(client, sweep) == []
    write_figures(client, sweep.parent_id, [])
    assert client.list_artifacts(sweep.parent_id) == []
