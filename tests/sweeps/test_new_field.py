"""A field added to RunConfig needs no edit in sweeps/: here one is added, and swept."""

import os
import shutil
import subprocess
import sys

from mlflow import MlflowClient

from tests.conftest import ROOT

FIELD = """
    shade: int = Field(3, ge=1, description="a field that no code knows")
    device: Literal"""


def test_a_new_field_is_a_flag_an_axis_a_param_and_a_column(tmp_path, uri):
    program = tmp_path / "program"
    for package in ("gan_core", "sweeps", "studies"):
        if (ROOT / package).exists():
            shutil.copytree(ROOT / package, program / package, ignore=shutil.ignore_patterns("__pycache__"))
    config = program / "gan_core" / "config.py"
    before = config.read_text()
    assert before.count("\n    device: Literal") == 1
    config.write_text(before.replace("\n    device: Literal", FIELD))
    done = subprocess.run(
        [
            sys.executable, program / "sweeps" / "run_grid.py", "--dataset", "digits", "--epochs", "1",
            "--axis", "shade=1,2", "--hidden-dim", "8", "--seeds", "0", "1", "--name", "shades",
            "--tracking-uri", uri,
        ],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(program)}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "shade          1 2" in done.stdout
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("gan-grid").experiment_id])
    children = {run.info.run_name: run.data for run in runs if "sweep.setting" in run.data.tags}
    assert {name: data.params["shade"] for name, data in children.items()} == {
        "shade-1_s0": "1", "shade-2_s0": "2", "shade-1_s1": "1", "shade-2_s1": "2",
    }  # fmt: skip
    (parent,) = (run for run in runs if run.info.run_name == "shades")
    assert (parent.data.tags["sweep.axes"], parent.data.params["shade"]) == ("shade", "1 2")
    report = tmp_path / "reports" / "shades"
    assert "shade-1" in (report / "report.html").read_text()
    assert "shade" in (report / "settings.csv").read_text().splitlines()[0].split(",")
    refused = subprocess.run(
        [sys.executable, program / "sweeps" / "run_grid.py", "--shade", "0", "--dry-run", "--tracking-uri", uri],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(program)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert refused.stderr == "run_grid.py: shade should be greater than or equal to 1, got 0\n"
