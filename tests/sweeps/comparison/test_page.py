import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gan_core.tracking.queries import MlflowClient
from sweeps.comparison.assemble import report_files
from sweeps.comparison.statistics import t_interval
from sweeps.comparison.words import duration, interval, number
from sweeps.folders import safe_name

HOSTILE = '<script>alert(1)</script> & "q" | [x](y) `z` ../../etc'
VOID = {"meta", "img", "br", "source", "link", "input", "hr"}


class Page(HTMLParser):
    """Every tag's attributes, the text, and whether tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], []):
            self.text += data


@pytest.fixture
def files(made_up, uri):
    """A store that has none of these runs: what the report then shows is from its records alone."""
    client = MlflowClient(uri)

    def of(runs, absent=(), **changes):
        return report_files(client, made_up.sweep(runs, absent, **changes))

    return of


@pytest.fixture
def good(files, made_up):
    return files(made_up.cells({("sgd", 20): 5.0, ("sgd", 50): 5.2, ("adam", 20): 25.0, ("adam", 50): 27.0}))


def test_the_page_is_well_formed_and_self_contained(good):
    page = Page(good["report.html"].decode())
    assert "script" not in {tag for tag, _ in page.tags}
    links = ("src", "href", "srcset", "data")
    addresses = [value for _, attrs in page.tags for name, value in attrs.items() if name in links]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    style = good["report.html"].decode().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_light_and_dark_differ_in_every_chart(good):
    page = Page(good["report.html"].decode())
    dark = [attrs["srcset"] for tag, attrs in page.tags if tag == "source"]
    light = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(dark) == len(light) == 5  # two of losses by optimizer, one for each z_dim, one of fd
    assert not set(dark) & set(light)


def test_the_order_of_the_page(good):
    text = Page(good["report.html"].decode()).text
    places = [
        text.index(part)
        for part in (
            "leads, but with 5 seeds", "The cells", "real_baseline: real images", "Figures",
            "The practical's claims", "How fair", "The sweep", "run_grid.py --optimizers sgd", "Glossary",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert "1 h 00 min" in text


def test_the_rows_are_ranked_and_marked(good):
    html = good["report.html"].decode()
    rows = re.findall(r'<tr class="(\w*)"><th scope="row">(\w+)', html)
    assert rows[0][0] == "best"
    assert rows[1][0] == "tied"
    assert {name for _, name in rows[2:4]} == {"adam_z20", "adam_z50"}
    assert {mark for mark, _ in rows[2:4]} == {""}


def test_markdown_has_the_same_words_and_its_pictures(good):
    text = good["report.md"].decode()
    assert "leads, but with 5 seeds" in text
    wanted = set(re.findall(r"\]\(([^)]+\.png)\)", text))
    assert wanted == {name for name in good if name.endswith(".png")}
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_the_csv_files(good):
    cells = list(csv.DictReader(io.StringIO(good["cells.csv"].decode())))
    assert cells[0]["cell"].startswith("sgd_z")
    assert float(cells[0]["quality/fd low"]) < float(cells[0]["quality/fd mean"])
    runs = list(csv.DictReader(io.StringIO(good["runs.csv"].decode())))
    assert len(runs) == 20
    assert {row["status"] for row in runs} == {"FINISHED"}


def test_a_hostile_name_is_text(files, made_up):
    made = files(
        [replace(made_up.run("sgd", 20, seed), health=HOSTILE) for seed in (0, 1)],
        name=HOSTILE, params={**made_up.params, "dataset": HOSTILE}, experiment=HOSTILE,
    )  # fmt: skip
    page = Page(made["report.html"].decode())
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.text
    outside = re.sub(r"```.*?```", "", made["report.md"].decode(), flags=re.DOTALL)
    assert "<script" not in outside.replace("\\<", "")
    assert "[x](y)" not in outside
    # The command that makes it again is one word for the shell.
    assert "'<script>alert(1)</script> & \"q\" | [x](y) `z` ../../etc'" in page.text


@pytest.mark.parametrize(
    "name", [HOSTILE, "..", ".", "a/b", "a b", "", "-rf", "x" * 300, "\ud800", "ä", "/etc"]
)
def test_folders_have_harmless_names(name):
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,90}", safe)
    assert safe != name


def test_a_harmless_name_stays_and_no_two_share_one():
    assert safe_name("grid-20260101-120000") == "grid-20260101-120000"
    assert len({safe_name(name) for name in ("a b", "a/b", "a-b", "a  b")}) == 4


def test_old_sweeps_are_shown_as_they_are(files, made_up):
    made = files([made_up.run(optimizer, z, 0, None) for optimizer in ("sgd", "adam") for z in (20, 50)])
    text = Page(made["report.html"].decode()).text
    assert "quality of the images was not measured" in text
    assert "Quality of images: not measured" in text
    assert "precision" not in text.split("The practical's claims")[0]
    assert "Inception score" not in text
    assert "fd.png" not in made
    assert "not recorded 1/1" in text


def test_a_running_sweep_says_so_first(files, made_up):
    runs = made_up.cells({("sgd", 20): 5.0, ("sgd", 50): 9.0})
    runs[0] = replace(runs[0], status="RUNNING")
    text = Page(files(runs, [("x_s0", "x", "SCHEDULED", "")], status="RUNNING")["report.html"].decode()).text
    assert text.index("still running") < text.index("Use sgd_z20")
    assert "9 of 11 runs finished" in text
    assert "Not begun yet, not counted: x_s0" in text


def test_the_commits_that_trained_it_are_said(files, made_up):
    runs = made_up.cells({("sgd", 20): 5.0}, seeds=4)
    old, new = "a" * 40, "b" * 40
    alone = files([replace(run, commits=(old,)) for run in runs])
    assert f"- **commit of the code**: {old}" in alone["report.md"].decode()
    trained = [(old,), (old,), (old, new), (new,)]
    several = files([replace(run, commits=each) for run, each in zip(runs, trained, strict=True)])
    said = f"{old[:12]} (2 runs), {old[:12]} then {new[:12]} (1 run), {new[:12]} (1 run)"
    assert said in several["report.md"].decode()


def test_namesakes_are_said(files, made_up):
    text = Page(files([made_up.run()], namesakes=2)["report.html"].decode()).text
    assert "2 other sweeps of this name" in text


@pytest.mark.parametrize("runs", [[], "failed at once"])
def test_next_to_nothing(files, made_up, runs):
    failed = replace(made_up.run(), status="FAILED", history={}, epochs={}, metrics={})
    made = files([failed] if runs else [])
    text = Page(made["report.html"].decode()).text
    assert "no run has finished" in text
    assert "No run has ended an epoch" in text


def test_other_optimizers_and_rates(files, made_up):
    runs = [
        made_up.run(optimizer, 30, seed, fd * (1 + 0.02 * seed), rate=rate)
        for seed in range(3)
        for optimizer, rate, fd in (
            ("rmsprop", 0.001, 9.0), ("rmsprop", 0.01, 6.0), ("sgd", 0.03, 5.0), ("sgd", 0.1, 4.0),
            ("sgd", 0.2, 30.0),
        )
    ]  # fmt: skip
    text = Page(files(runs)["report.html"].decode()).text
    assert "Each optimizer at its own best learning rate" in text
    best = text[text.index("own best learning rate") :]
    assert re.search(r"SGD at learning rate 0.1\s*3\s*4\.\d", best)
    assert re.search(r"RMSprop at learning rate 0.01\s*2\s*6\.\d+.*?1\.50 times", best, re.DOTALL)
    assert "had more rates to choose from is flattered more" in best
    assert "different numbers of learning rates" in text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.2345, "1.23"), (12.345, "12.3"), (0.0, "0"), (-0.0012345, "−0.00123"), (0.00005, "0.0001"),
        (1234.5, "1,234"), (250.4, "250"), (10.0, "10.0"), (float("nan"), "–"), (float("inf"), "–"),
    ],
)  # fmt: skip
def test_numbers(value, words):
    assert number(value) == words


def test_a_single_value_has_a_dash_for_an_interval():
    assert interval(t_interval([3.0])) == "–"
    assert interval(t_interval([3.0, 3.0])) == "3.00 to 3.00"
    assert duration(float("nan")) == "–"
