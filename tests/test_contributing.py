"""What CONTRIBUTING.md and docs/studies.md show is run as it stands there, against the code as it is."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gan_core import metric_names
from gan_core.architectures import NETWORKS
from gan_core.data import DATASETS
from gan_core.losses import OBJECTIVES
from gan_core.optimizers import OPTIMIZERS
from sweeps.comparison.compare import compare
from sweeps.comparison.page import report_files
from sweeps.comparison.records import RunRecord, SweepRecord

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
STUDIES = (ROOT / "docs" / "studies.md").read_text()
PACKAGES = ("gan_core", "sweeps", "studies")


def python(text, mark=""):
    """The Python that the text shows; mark: the comment right before the block."""
    before = re.escape(f"<!-- {mark} -->\n") if mark else r"(?<!-->\n)"
    return re.findall(rf"{before}```python\n(.*?)```", text, re.DOTALL)


def sections(text):
    """Each `Add …` section by its name, with the Python that needs nothing but the code as it is."""
    parts = re.split(r"^## Add (?:an? )(.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(python, parts[2::2]), strict=True))


EXAMPLES = sections(CONTRIBUTING)


@pytest.fixture
def registries():
    """As they were, whatever a test adds to them."""
    before = [(registry, dict(registry)) for registry in (OPTIMIZERS, OBJECTIVES, NETWORKS, DATASETS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


def test_there_is_a_section_for_each_thing_that_one_adds():
    assert list(EXAMPLES) == ["optimizer", "loss", "network", "image set", "axis", "study", "score"]


@pytest.mark.parametrize("what", [name for name, blocks in EXAMPLES.items() if blocks])
@pytest.mark.usefixtures("registries")
def test_each_example_runs(what):
    (code,) = EXAMPLES[what]
    exec(compile(code, f"CONTRIBUTING.md, Add: {what}", "exec"), {"__name__": what})


def test_the_new_field_is_an_axis(tmp_path):
    (field,), (use,) = python(CONTRIBUTING, "a field of RunConfig"), python(CONTRIBUTING, "with that field")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    config = tmp_path / "gan_core" / "config.py"
    before = config.read_text()
    assert before.count("\n    device: ") == 1
    indented = "".join(f"    {line}\n" for line in field.splitlines())
    config.write_text(before.replace("\n    device: ", f"\n{indented}    device: "))
    (command,) = re.findall(r"^python (sweeps/run_grid.py .*slope.*)$", CONTRIBUTING, re.MULTILINE)
    for words in (["-c", use], [*command.split(), "--tracking-uri", f"sqlite:///{tmp_path}/new.db"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    assert "slope          0.1 0.2 0.3" in done.stdout
    for name in ("slope0.1_s0", "slope0.2_s0", "slope0.3_s0"):
        assert name in done.stdout


def test_the_study_of_the_docs_is_a_section_of_the_page(tmp_path, uri, monkeypatch):
    folder = tmp_path / "studies" / "seeds"
    (folder / "templates").mkdir(parents=True)
    (code,) = python(STUDIES)
    (template,) = re.findall(r"```html\n(.*?)```", STUDIES, re.DOTALL)
    (folder / "__init__.py").write_text(code)
    (folder / "templates" / "section.html.j2").write_text(template)
    studies = importlib.import_module("studies")
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(folder.parent)])
    runs = [
        RunRecord(
            f"z{z}_s{seed}", f"{z}{seed}", "FINISHED", f"z{z}", seed, {"z_dim": str(z)},
            history={metric_names.LOSS_G: {1: 1.0}, metric_names.LOSS_D: {1: 1.0}},
        )
        for z in (20, 50) for seed in (0, 3)
    ]  # fmt: skip
    record = SweepRecord("mine", "0" * 32, "gan-grid", "", "FINISHED", 0.0, 1.0, {}, ["z_dim"], runs)
    try:
        files = report_files(MlflowClient(uri), compare(record))
    finally:
        sys.modules.pop("studies.seeds", None)
    for page in ("report.html", "report.md"):
        assert "This sweep has 2 seeds: 0 and 3." in files[page].decode()
