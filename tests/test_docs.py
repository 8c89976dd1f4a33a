"""The documentation: the site builds without a network, its commands are understood, what it names is there."""

import importlib
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gan_core import metric_names
from gan_core.config import FIELDS
from sweeps.grid import checked
from sweeps.run_grid import grid_asked_for

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {
    "sweeps/run_grid.py": "sweeps.run_grid",
    "sweeps/report.py": "sweeps.report",
    "sweeps/rehearse.py": "sweeps.rehearse",
    "-m gan_core": "gan_core.__main__",
}
COMMAND = re.compile(r"^\s*(?:[A-Z_]+=\S+ )*python (-m gan_core(?!\S)|sweeps/\w+\.py)([^\n#]*)", re.M)


def commands(page):
    """Each command of ours that the page shows: the module of its program, and its words."""
    for program, words in COMMAND.findall(page.read_text().replace("\\\n", " ")):
        # slope is a field that tests/test_contributing.py adds
        if program in PROGRAMS and "slope" not in words:
            yield PROGRAMS[program], shlex.split(words)


ALL = sorted({(page.name, program, *words) for page in PAGES for program, words in commands(page)})


@pytest.mark.parametrize(("page", "program", "words"), [(page, program, words) for page, program, *words in ALL])
def test_each_command_is_understood(page, program, words):
    args = importlib.import_module(program)._parser().parse_args(words)
    if program == "sweeps.run_grid":
        grid, notes = checked(grid_asked_for(args))
        assert grid.runs()
        assert not notes


def test_there_are_commands_of_each_kind():
    assert {program for _, program, *_ in ALL} == set(PROGRAMS.values())
    assert len(ALL) > 20


@pytest.mark.parametrize("program", PROGRAMS.values())
def test_the_reference_has_every_option_and_no_other(program):
    text = (ROOT / "docs" / "commands.md").read_text()
    parser = importlib.import_module(program)._parser()
    known = {word for action in parser._actions for word in action.option_strings if word.startswith("--")}
    assert known <= set(re.findall(r"--[\w-]+", text)), program


def test_the_reference_has_no_option_that_is_not_there():
    shown = set(re.findall(r"`(--[\w-]+)", (ROOT / "docs" / "commands.md").read_text()))
    known = set()
    for program in PROGRAMS.values():
        for action in importlib.import_module(program)._parser()._actions:
            known |= set(action.option_strings)
    assert shown <= known


def test_the_reference_has_every_field_of_a_run():
    section = (ROOT / "docs" / "commands.md").read_text().split("## Fields of a run")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.M)) == sorted(FIELDS)


def test_the_records_have_every_name_that_mlflow_gets():
    text = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("records", "scores"))
    named = {value for name, value in vars(metric_names).items() if name.isupper() and isinstance(value, str)}
    assert len(named) > 40
    assert {name for name in named if name not in text} == set()


def test_the_architecture_page_has_every_module_and_no_other():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for package in ("gan_core", "sweeps"):
        section = text.split(f"## {'One run' if package == 'gan_core' else 'Many runs'}: `{package}/`")[1]
        named = {
            word.rstrip("/")
            for row in re.findall(r"^\| (`.*?) \|", section.split("\n## ")[0], re.M)
            for word in re.findall(r"`([\w./]+)`", row)
        }
        there = {
            path.name
            for path in (ROOT / package).iterdir()
            if path.name not in ("__init__.py", "templates") and (path.suffix == ".py" or is_package(path))
        }
        assert named == there, package


def is_package(path):
    return (path / "__init__.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text()
    for path in re.findall(r"`((?:gan_core|sweeps|studies|tests|benchmarks|docs)/[\w./]+)`", text):
        if not path.startswith(("studies/seeds", "reports/")):
            assert (ROOT / path).exists(), path
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("http") and target not in ("contributing.md", "changes.md"):
            assert (page.parent / target).exists(), target


def test_the_example_of_a_sweep_file_is_the_one_that_the_page_shows():
    page = (ROOT / "docs" / "axes.md").read_text()
    for example in ("rates.toml", "tuned.toml"):
        assert (ROOT / "docs" / "examples" / example).read_text() in page


LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Addresses(HTMLParser):
    """What a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.found.add(attrs.get(LOADS.get(tag, ""), ""))


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        reader = Addresses()
        reader.feed(page.read_text())
        assert not {found for found in reader.found if re.match(r"\w+:|//", found or "") and "data:" not in found}
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", style.read_text()), style
    api = (tmp_path / "api" / "gan_core.html").read_text()
    for name in ("RunConfig", "train", "EpochEnd", "load_generator", "batch_size"):
        assert re.search(rf"\b{name}\b", api), name
