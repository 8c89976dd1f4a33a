"""Installed as a wheel, away from a checkout: its commands work, and write where one stands."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]
ROOT = Path(__file__).parent.parent
PACKAGES = [name for name in ("gan_core", "sweeps", "studies") if (ROOT / name).is_dir()]
PURELIB = sysconfig.get_path("purelib")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the source distribution, and that from a copy: setuptools leaves files beside the source."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = tmp_path_factory.mktemp("built")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", built, source)
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment that has the wheel, and what it depends on from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    # Python does not follow the path files of a folder that a path file names: a checkout that is installed here
    # as editable is not found there.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{PURELIB}\n")
    return folder


@pytest.fixture
def run(installed, tmp_path):
    """Run one of its commands in an empty folder; its output."""
    unset = ("PYTHONPATH", "GAN_DATA_DIR", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in unset}

    def ask(name, *words):
        return _run(installed / "bin" / name, *words, cwd=tmp_path, env=environment)

    return ask


def _run(*words, **options):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_it(wheel):
    ours = {
        str(file.relative_to(ROOT))
        for name in PACKAGES
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as content:
        assert {name for name in content.namelist() if ".dist-info/" not in name} == ours
    assert {f"{name}/py.typed" for name in PACKAGES} <= ours


def test_its_commands_work_where_no_checkout_is(run, installed, tmp_path):
    found = run("python", "-c", f"import {', '.join(PACKAGES)}, sys; print(gan_core.__file__, *sys.path)").split()
    assert Path(found[0]).is_relative_to(installed)
    assert str(ROOT) not in found[1:]

    small = ("--dataset", "digits", "--hidden-dim", 8, "--epochs", 2)
    said = run("gan-grid", *small, "--optimizers", "sgd", "adam", "--z-dims", 5, "--seeds", 0, "--name", "small")
    page = tmp_path / "reports" / "small" / "report.html"
    assert str(page) in said
    assert {"mlflow.db", "mlruns", "reports"} <= {path.name for path in tmp_path.iterdir()}
    page.unlink()
    assert run("gan-grid-report").split() == [str(page)]
    assert "sgd" in page.read_text()
    run("gan-grid-train", *small, "--output", "one")
    assert (tmp_path / "one" / "generator.safetensors").is_file()
