"""The command on a real store, written as a grid writes it."""

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from gan_core import metric_names as names
from gan_core.cli import exit_code
from gan_core.tracking.store import prepare_store
from sweeps.comparison.compare import compare
from sweeps.comparison.page import write_overview
from sweeps.comparison.records import find_sweep, read_sweep
from sweeps.report import main, publish_report

SCRIPT = Path(__file__).parents[3] / "sweeps" / "report.py"


def run(*words):
    return exit_code("report.py", lambda: main([str(word) for word in words]))


def test_the_report_of_a_store(write, uri, tmp_path, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    parent = write("a/b: <b>", axes={"optimizer": ["sgd", "adam"], "z_dim": [20, 30]})
    client = MlflowClient(uri)
    before = client.get_run(parent).to_dictionary()
    assert run("--tracking-uri", uri) == 0
    out, err = capsys.readouterr()
    assert not err
    (folder,) = (tmp_path / "reports").iterdir()
    assert folder.name.startswith("a-b-b-")
    assert out == f"{folder / 'report.html'}\n"
    assert not list((tmp_path / "elsewhere").iterdir())

    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "report.html", "report.md", "settings.csv", "runs.csv", "losses_G.png", "fd.png", "sweep.toml",
        "practical_losses_G.png", "practical_z20.png",
    } <= written  # fmt: skip
    sheets = sorted(name for name in written if name.startswith("sheets/"))
    assert [re.sub("_s0_[0-9a-f]{6}_", " ", name) for name in sheets if "z20" in name] == [
        f"sheets/{name}_z20 epoch_{epoch}.png" for name in ("adam", "sgd") for epoch in ("0001", "0004")
    ]
    with Image.open(folder / sheets[1]) as sheet:
        assert sheet.size == (241, 241)

    html = (folder / "report.html").read_text()
    assert "tell it from" in html
    assert "5.00 times (5.00 to 5.00)" in html  # fd of Adam / SGD, paired
    assert "99.0" not in html  # of two points of an epoch the later counts
    assert "6.00 (6.00 to 6.00), 3 seeds" in html  # the peak, out of losses.npz
    assert "run_grid.py --sweep sweep.toml --name" in html

    # It only reads.
    assert client.get_run(parent).to_dictionary() == before
    assert {file.path for file in client.list_artifacts(parent)} == {"sweep.toml"}


def test_a_sweep_that_looks_alive_is_left_as_it_is(write, uri, tmp_path):
    parent = write("alive", seeds=(0,))
    client = MlflowClient(uri)
    client.update_run(parent, status="RUNNING")
    client.set_tag(parent, names.LOCK, f"{tmp_path}/gone.lock")
    assert run("--tracking-uri", uri, "--output", tmp_path / "out") == 0
    assert client.get_run(parent).info.status == "RUNNING"
    assert (
        "This sweep is running, or was cut off: 2 of 2 runs finished." in (tmp_path / "out" / "report.md").read_text()
    )


def test_what_the_end_of_a_grid_keeps_with_the_sweep(write, uri, tmp_path):
    parent = write("kept", seeds=(0, 1))
    client = MlflowClient(uri)
    comparison = compare(read_sweep(client, client.get_run(parent)))
    page = publish_report(client, uri, comparison)
    assert page == tmp_path / "reports" / "kept" / "report.html"
    kept = {file.path.removeprefix("report/") for file in client.list_artifacts(parent, "report")}
    assert kept == {path.name for path in page.parent.iterdir()}
    assert (
        page.read_text()
        == (tmp_path / client.download_artifacts(parent, "report/report.html", str(tmp_path))).read_text()
    )
    write_overview(client, comparison)
    for name in ("losses.png", "contact_sheet.png"):
        with Image.open(client.download_artifacts(parent, name, str(tmp_path))) as picture:
            assert picture.size[0] > 400


@pytest.mark.parametrize(
    "axes", [{"batch_size": [8, 16], "hidden_dim": [8, 16, 32]}, {"epochs": [3, 4], "hidden_dim": [8]}]
)
def test_any_field_is_an_axis(write, uri, axes):
    parent = write("any", axes=axes, seeds=(0, 1), fd=lambda values, seed: values["hidden_dim"] + seed / 10)
    client = MlflowClient(uri)
    record = read_sweep(client, client.get_run(parent))
    assert record.axes == list(axes)
    comparison = compare(record)
    assert {axis: list(values) for axis, values in comparison.axes.items()} == {
        axis: [str(value) for value in values] for axis, values in axes.items()
    }
    assert len(comparison.settings) == len(axes["hidden_dim"]) * len(next(iter(axes.values())))
    assert comparison.best.values["hidden_dim"] == "8"
    assert comparison.best.fd == pytest.approx((8 * 8.1) ** 0.5)


@pytest.mark.parametrize("form", [None, "1", "3"])
def test_a_sweep_of_another_version_is_refused_in_one_line(write, uri, capsys, form):
    parent = write("old", seeds=(0,))
    client = MlflowClient(uri)
    client.delete_tag(parent, names.SWEEP_FORMAT)
    if form:
        client.set_tag(parent, names.SWEEP_FORMAT, form)
    assert run("--tracking-uri", uri) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert f"sweep 'old' ({parent}) was recorded by another version of this program" in err
    assert "run it again" in err


def test_a_child_that_never_began_or_makes_no_sense_is_absent(write, uri):
    parent = write("odd", seeds=(0,))
    client = MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    for name, seed, setting in (
        ("empty", None, "sgd_z20"),
        ("minus", "-1", "sgd_z20"),
        ("words", "many", "x"),
        ("long", "9" * 30, "x"),
        ("bare", "1", None),
    ):
        tags = {names.PARENT: parent, **({names.SETTING: setting} if setting else {})}
        child = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        if seed:
            client.log_param(child, "seed", seed)
    record = read_sweep(client, client.get_run(parent))
    assert [run.name for run in record.absent] == ["empty", "minus", "words", "long", "bare"]
    assert len(record.runs) == 2
    assert [setting.planned for setting in compare(record).order(compare(record).settings)] == [3, 1]


def test_which_sweep(write, uri, tmp_path, capsys):
    first = write("twice", seeds=(0,))
    time.sleep(0.002)
    second = write("twice", seeds=(0,))
    time.sleep(0.002)
    last = write("last", seeds=(0,))
    write("hidden", seeds=(0,), experiment="other")
    client = MlflowClient(uri)
    found = {wanted: find_sweep(client, "gan-grid", wanted) for wanted in (None, "twice", first, second, "last")}
    assert {wanted: (parent.info.run_id, others) for wanted, (parent, others) in found.items()} == {
        None: (last, 0), "twice": (second, 1), first: (first, 1), second: (second, 1), "last": (last, 0),
    }  # fmt: skip
    assert run("--tracking-uri", uri, "--sweep", "twice", "--output", tmp_path / "b") == 0
    assert second in (tmp_path / "b" / "report.html").read_text()
    assert "1 other sweep has this name" in (tmp_path / "b" / "report.html").read_text()
    assert f"2 sweeps are called 'twice'; this is the report of {second}, the latest" in capsys.readouterr().err
    assert run("--tracking-uri", uri, "--sweep", first, "--output", tmp_path / "c") == 0
    assert "named by its run id" in capsys.readouterr().err


def test_mistakes_are_one_line(write, uri, tmp_path, capsys):
    def said(*words):
        assert run(*words) == 2
        out, err = capsys.readouterr()
        assert not out
        assert len(err.splitlines()) == 1
        return err

    assert "there is no store" in said("--tracking-uri", tmp_path / "none.db")
    (tmp_path / "empty.db").touch()
    assert "there is no store" in said("--tracking-uri", tmp_path / "empty.db")
    assert not (tmp_path / "none.db").exists()
    assert "there is no experiment 'gan-grid'" in said("--tracking-uri", uri)
    prepare_store(uri, "gan-grid")
    assert "there is no sweep in experiment 'gan-grid'" in said("--tracking-uri", uri)
    write("one", seeds=(0,))
    for name in ("two", "'; DROP TABLE runs; --", "0" * 32):
        assert "there is no sweep" in said("--tracking-uri", uri, "--sweep", name)
    assert "cannot write" in said("--tracking-uri", uri, "--output", "/proc/none")
    (tmp_path / "file").touch()
    assert "cannot write" in said("--tracking-uri", uri, "--output", tmp_path / "file")
    assert "unrecognized arguments" in said("--sweeps", "x")


def test_help_and_mistakes_need_none_of_the_slow_imports(command):
    code = """
import sys
from sweeps.report import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted({"mlflow", "matplotlib", "scipy", "statsmodels", "pandas", "torch"} & set(sys.modules)))
"""
    done = command("-c", code)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_broken_picture_is_left_out(write, uri, tmp_path):
    write("one", axes={"optimizer": ["sgd", "adam"], "z_dim": [20]}, seeds=(0, 1))
    root = tmp_path / "mlruns"
    for sheet in root.rglob("epoch_0004.png"):
        sheet.write_bytes(b"no picture")
    for losses in root.rglob("losses.npz"):
        losses.write_bytes(b"nothing")
    assert run("--tracking-uri", uri, "--output", tmp_path / "out") == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "no sheet kept" in html
    assert "no losses of single iterations are kept" in html


def test_a_store_of_another_mlflow_version_is_one_line(write, uri, command):
    write("a sweep", seeds=(0,))
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        database.commit()
    done = command(SCRIPT, "--tracking-uri", uri)  # in this process the store is open already
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("report.py: cannot read the store")
