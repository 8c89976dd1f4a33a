"""A small sweep from its first MLflow run to what is said of it; trained here, without Ray."""

import io

import numpy as np
import pytest
from PIL import Image

from gan_core import metric_names as names
from gan_core.data import ImageSet
from gan_core.live import plain_console
from gan_core.run import Job, run
from gan_core.tracking.tracker import MlflowTracker
from sweeps.comparison.compare import compare
from sweeps.comparison.page import report_files, write_overview
from sweeps.comparison.records import read_sweep
from sweeps.comparison.render import print_summary
from sweeps.runs import add_child, begin_sweep, colour, settle

SETTINGS = ["sgd_z5", "sgd_z7", "adam_z5", "adam_z7"]
NAMES = [f"{name}_s0" for name in SETTINGS]


@pytest.fixture
def small(plan):
    return plan(z_dims=(5, 7), epochs=2)


@pytest.fixture
def sweep(client, experiment, small):
    return begin_sweep(client, experiment, small, "a.lock", None)


@pytest.fixture
def run_ids(client, sweep, small):
    return {run.name: add_child(client, sweep, run, colour(place)) for place, run in enumerate(small.runs)}


@pytest.fixture
def trained(small, run_ids, uri, digits, digits_reference, watcher):
    """All runs of the plan, trained."""
    data = ImageSet("digits", digits.images[:200], digits.digest, digits.source)
    for one in small.runs:
        tracker = MlflowTracker(uri, run_ids[one.name], one.config, data, one.name)
        run(Job(one.name, one.config, data, digits_reference, small.options), tracker, watcher())
    return run_ids


def test_what_was_logged_is_what_is_shown(client, sweep, trained, uri, tmp_path):
    assert set(settle(client, sweep, "FAILED", {}, {}).values()) == {"FINISHED"}
    assert client.get_run(sweep.info.run_id).info.status == "FINISHED"
    record = read_sweep(client, client.get_run(sweep.info.run_id))
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
        with Image.open(client.download_artifacts(sweep.info.run_id, name, str(tmp_path))) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    shown = client.get_run(sweep.info.run_id).data.metrics
    assert {name: shown[f"{names.SETTING_FD}{name}"] for name in SETTINGS} == {
        setting.name: pytest.approx(setting.fd) for setting in comparison.settings
    }
    points = len(client.get_metric_history(sweep.info.run_id, f"{names.SETTING_FD}sgd_z5"))
    write_overview(client, comparison)
    assert len(client.get_metric_history(sweep.info.run_id, f"{names.SETTING_FD}sgd_z5")) == points

    files = report_files(client, comparison)
    assert len([name for name in files if name.startswith("sheets/")]) == 8
    assert files["sweep.toml"].decode().startswith("#") or "optimizer" in files["sweep.toml"].decode()
    console = plain_console()
    console.file = io.StringIO()
    print_summary(console, comparison, "http://127.0.0.1:5000/#/here", uri)
    said = console.file.getvalue()
    for setting in comparison.settings:
        assert f"{setting.fd:.3g}"[:3] in said
    assert "one seed cannot tell" in said or "no run made usable images" in said


def test_a_sweep_that_never_began_has_no_pictures(client, sweep, run_ids):
    comparison = compare(read_sweep(client, client.get_run(sweep.info.run_id)))
    assert comparison.settings == []
    assert [run.name for run in comparison.record.absent] == NAMES
    write_overview(client, comparison)
    assert {file.path for file in client.list_artifacts(sweep.info.run_id)} == {names.SWEEP_FILE}
    text = report_files(client, comparison)["report.md"].decode()
    assert "No run has begun." in text
    assert "Not begun yet, so not counted" in text
