import csv
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gan_core import metric_names as names
from gan_core.live import plain_console
from gan_core.storage import project_root
from sweeps.comparison.compare import TRAINING, compare
from sweeps.comparison.page import report_files, safe_name, telling_epochs
from sweeps.comparison.render import print_summary, ui_command

HOSTILE = '<script>alert(1)</script> & "q" | [x](y) `z` ../../etc'
VOID = {"meta", "img", "br", "source", "link", "input", "hr", "wbr"}
FOUR = {("sgd", 20): 5.0, ("sgd", 50): 5.2, ("adam", 20): 25.0, ("adam", 50): 27.0}

pytestmark = pytest.mark.xdist_group("page")  # so that each page is made once


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


@pytest.fixture(scope="module")
def files(made_up, store_client):
    def of(runs, absent=(), **changes):
        return report_files(store_client, compare(made_up.sweep(runs, absent, **changes)))

    return of


@pytest.fixture(scope="module")
def good(files, made_up):
    return files(made_up.settings(FOUR))


def text_of(files):
    return Page(files["report.html"].decode()).text


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
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_light_and_dark_differ_in_every_chart(good):
    page = Page(good["report.html"].decode())
    dark = [attrs["srcset"] for tag, attrs in page.tags if tag == "source"]
    light = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(dark) == len(light) == 7  # losses of G and of D, fd; the practical's: of G and of D, one per z_dim
    assert not set(dark) & set(light)


def test_the_order_of_the_page(good):
    text = text_of(good)
    places = [
        text.index(part)
        for part in (
            "leads, but 5 seeds cannot tell it", "The settings", "real baseline", "Each value of an axis", "Figures",
            "The practical’s claims", "How fair", "The sweep", "report.py --sweep", "Glossary",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert "1 h 00 min" in text


def test_the_rows_are_ranked_and_marked(good):
    html = good["report.html"].decode()
    rows = re.findall(r'<tr class="(\w*)"><th scope="row">(\w+)', html.replace("<wbr>", ""))
    assert rows[0][0] == "tied"  # it leads, and is not told apart
    assert rows[1][0] == "tied"
    assert {name for _, name in rows[2:4]} == {"adam_z20", "adam_z50"}
    assert {mark for mark, _ in rows[2:4]} == {""}


def test_markdown_has_the_same_words_and_its_pictures(good):
    text = good["report.md"].decode()
    assert "leads, but 5 seeds cannot tell it" in text
    wanted = set(re.findall(r"\]\(([^)]+\.png)\)", text))
    assert wanted == {name for name in good if name.endswith(".png")}
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    in_page = re.sub(r"\W+", "", text_of(good))
    for line in text.splitlines():
        if line and not line.startswith(("|", "!", "```")) and ":**" not in line:
            assert re.sub(r"\W+|_", "", line) in in_page.replace("_", ""), line


def test_the_csv_files(good):
    settings = list(csv.DictReader(io.StringIO(good["settings.csv"].decode())))
    assert settings[0]["setting"].startswith("sgd_z")
    assert (settings[0]["optimizer"], settings[0]["runs_finished"]) == ("sgd", "5")
    assert float(settings[0]["quality/fd low"]) < float(settings[0]["quality/fd mean"])
    runs = list(csv.DictReader(io.StringIO(good["runs.csv"].decode())))
    assert len(runs) == 20
    assert {row["status"] for row in runs} == {"FINISHED"}
    assert {row["batch_size"] for row in runs} == {"64"}
    assert {row["seed"] for row in runs} == set("01234")


def test_what_a_spreadsheet_would_take_for_a_formula_stays_text(files, made_up):
    made = files([replace(made_up.run(), name="=1+1", failure="@x")], absent=[("+a", "-b", "FAILED", "=c")])
    rows = list(csv.DictReader(io.StringIO(made["runs.csv"].decode())))
    assert (rows[0]["run"], rows[0]["failure"]) == ("'=1+1", "'@x")
    assert (rows[1]["run"], rows[1]["setting"], rows[1]["failure"]) == ("'+a", "'-b", "'=c")


def test_a_hostile_name_is_text(files, made_up):
    made = files(
        [replace(made_up.run(seed, name=HOSTILE), health=HOSTILE) for seed in (0, 1)],
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


@pytest.mark.parametrize("name", [HOSTILE, "..", ".", "a/b", "a b", "", "-rf", "x" * 300, "\ud800", "ä", "/etc"])
def test_files_have_harmless_names(name):
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,90}", safe)
    assert safe != name


def test_a_harmless_name_stays_and_no_two_share_one():
    assert safe_name("grid-20260101-120000") == "grid-20260101-120000"
    assert len({safe_name(name) for name in ("a b", "a/b", "a-b", "a  b")}) == 4


def test_runs_without_scores_are_shown_as_they_are(files, made_up):
    made = files(
        [made_up.run(0, None, optimizer=optimizer, z_dim=z) for optimizer in ("sgd", "adam") for z in (20, 50)]
    )
    text = text_of(made)
    assert "quality of the images was not measured" in text
    assert "precision" not in text.split("The practical’s claims")[0]
    assert "Inception score" not in text
    assert "fd.png" not in made
    assert "losses_G.png" in made
    assert "not checked 1/1" in text


def test_a_running_sweep_says_so_first(files, made_up):
    runs = made_up.settings({("sgd", 20): 5.0, ("sgd", 50): 9.0})
    runs[0] = replace(runs[0], status="RUNNING")
    text = text_of(files(runs, [("x_s0", "x", "SCHEDULED", "")], status="RUNNING"))
    assert text.index("This sweep is running, or was cut off: 9 of 11 runs finished.") < text.index("Use sgd_z20")
    assert "Not begun yet, so not counted: x_s0" in text
    assert "was cut off" not in text_of(files(runs, status="FAILED"))


def test_the_commits_that_trained_it_are_said(files, made_up):
    runs = made_up.settings({("sgd", 20): 5.0}, seeds=4)
    old, new = "a" * 40, "b" * 40
    alone = files([replace(run, commits=(old,)) for run in runs])
    assert f"- **commit of the code**: {old}" in alone["report.md"].decode()
    trained = [(old,), (old,), (old, new), (new,)]
    several = files([replace(run, commits=each) for run, each in zip(runs, trained, strict=True)])
    said = f"{old[:12]} (2 runs), {old[:12]} then {new[:12]} (1 run), {new[:12]} (1 run)"
    assert said in several["report.md"].decode()


@pytest.mark.parametrize(
    ("namesakes", "said"), [(1, "1 other sweep has this name"), (2, "2 other sweeps have this name")]
)
def test_namesakes_are_said(files, made_up, namesakes, said):
    assert said in text_of(files([made_up.run()], namesakes=namesakes))


@pytest.mark.parametrize("runs", [[], "failed at once"])
def test_next_to_nothing(files, made_up, runs):
    failed = replace(made_up.run(), status="FAILED", history={}, metrics={})
    made = files([failed] if runs else [])
    text = text_of(made)
    assert "no run has finished" in text
    assert "No run has ended an epoch" in text


def test_other_axes_and_their_values_at_their_best(files, made_up):
    fds = {("rmsprop", 0.001): 9.0, ("rmsprop", 0.01): 6.0, ("sgd", 0.03): 5.0, ("sgd", 0.1): 4.0, ("sgd", 0.2): 30.0}
    runs = [
        made_up.run(seed, fd * (1 + 0.02 * seed), optimizer=optimizer, learning_rate=rate, z_dim=30)
        for seed in range(3)
        for (optimizer, rate), fd in fds.items()
    ]
    text = text_of(files(runs, axes=("optimizer", "learning_rate")))
    best = text[text.index("Each value of an axis at its best") :]
    assert re.search(r"optimizer sgd\s*sgd_lr0.1_z30\s*3\s*4\.\d", best)
    assert re.search(r"optimizer rmsprop\s*rmsprop_lr0.01_z30\s*2\s*6\.\d+.*?1\.50 times", best, re.DOTALL)
    assert "a value with more settings to choose from is flattered more" in best
    assert "sgd has 3, rmsprop has 2" in best
    assert "The practical" not in text


def test_a_field_that_only_some_settings_have_is_not_called_none(files, made_up):
    runs = [
        made_up.run(seed, fd * (1 + 0.02 * seed), z_dim=30, **settings)
        for seed in range(3)
        for fd, settings in (
            (3.0, {"optimizer": "sgd"}),
            *((fd, {"optimizer": "adam", "beta1": beta1}) for fd, beta1 in ((6.0, 0.5), (9.0, 0.9))),
        )
    ]
    text = text_of(files(runs, axes=("optimizer", "beta1")))
    best = text[text.index("Each value of an axis at its best") :]
    assert re.search(r"no beta1\s*sgd_z30", best)
    assert re.search(r"beta1 0.5\s*adam_", best)
    assert "None" not in text


def test_the_csv_files_have_the_comparison(files, made_up):
    runs = [
        made_up.run(seed, fd, z_dim=z)
        for z, fds in ((20, (2.0, 8.0)), (50, (6.0, 40.0)))
        for seed, fd in enumerate(fds)
    ]
    runs.append(replace(made_up.run(0, 1.0, z_dim=100), status="KILLED"))
    made = files(runs)
    comparison = compare(made_up.sweep(runs))
    head, best, next_one, unscored = csv.reader(io.StringIO(made["settings.csv"].decode()))
    scores = [f"{name} {what}" for name in (*TRAINING, *comparison.scores) for what in ("mean", "low", "high")]
    assert head == [
        "setting", "optimizer", "z_dim", "runs_finished", "runs_planned", *scores, "fd ratio to best", "ratio low",
        "ratio high", "p", "p Holm", "health", "seconds", "images_per_second",
    ]  # fmt: skip
    (contrast,) = comparison.contrasts
    ratio = contrast.ratio
    at = head.index("fd ratio to best")
    expected = [ratio.mean, ratio.low, ratio.high, contrast.p, contrast.p_corrected]
    assert list(map(float, next_one[at : at + 5])) == pytest.approx(expected)
    assert ratio.mean == pytest.approx(math.sqrt(3 * 5))
    assert best[at : at + 5] == unscored[at : at + 5] == [""] * 5
    fd = head.index("quality/fd mean")
    assert unscored[fd : fd + 3] == [""] * 3
    head, *_ = csv.reader(io.StringIO(made["runs.csv"].decode()))
    assert head == [
        "run", "run_id", "setting", *runs[0].fields, "seed", "status", "failure", "health", "health_reason",
        "epochs_trained", *TRAINING, *comparison.scores, "seconds", "images_per_second",
    ]  # fmt: skip


def test_a_hundred_settings_stay_readable(files, made_up):
    runs = [
        made_up.run(0, 5.0 + n / 10, epochs=4, batch_size=8 + n % 10, hidden_dim=8 + n // 10, axes=("batch_size", "hidden_dim"))
        for n in range(100)
    ]  # fmt: skip
    made = files(runs, axes=("batch_size", "hidden_dim"))
    text = text_of(made)
    assert "Shown are the best 12 of 100 settings by fd." in text
    assert "of the best 4 of 10 values" in text
    assert len(made["report.html"]) < 2_000_000


def test_without_its_file_the_page_has_no_command_that_makes_the_sweep_again(good):
    text = text_of(good)
    assert "Its file sweep.toml is missing: runs.csv has the fields of every run." in text
    assert "run_grid.py" not in text
    assert "sweep.toml" not in good


@pytest.mark.parametrize(
    ("kept", "epochs"),
    [([], []), ([[0]], []), ([[0, 1, 2]], [1, 2]), ([[1, 2, 5, 10, 20, 50, 100]] * 2, [1, 5, 20, 100]),
     ([[1, 3, 4], [1, 2, 4]], [1, 4]), ([[1], [2]], [1, 2]), ([[], [3]], [3])],
)  # fmt: skip
def test_a_few_epochs_tell_the_course(kept, epochs):
    assert telling_epochs(kept) == epochs


def summary(comparison, uri="http://somewhere:5000", width=120):
    console = plain_console()
    console.width, console.file = width, io.StringIO()
    print_summary(console, comparison, "http://somewhere:5000/#/view", uri)
    return console.file.getvalue()


def test_the_terminal_shows_the_numbers_of_the_page(made_up, files):
    runs = [
        made_up.run(seed, fd, z_dim=z)
        for z, fds in ((20, (2.0, 8.0)), (50, (30.0, 30.0)))
        for seed, fd in enumerate(fds)
    ]
    runs[0], runs[3] = replace(runs[0], health="mode-collapsed"), replace(runs[3], status="KILLED")
    said = summary(compare(made_up.sweep(runs)))
    assert re.search(
        r"sgd_z20 +2/2 +1\.00 +2\.00 +0\.600 +0\.400 +4\.00 +(?:mode-collapsed 1, ok 1|ok 1, mode-collapsed 1) +40 s",
        said,
    )
    assert "4.00" in text_of(files(runs))
    assert "means over seeds, of fd the geometric one." in said
    assert "No verdict: no other setting shares two seeds with sgd_z20." in said
    assert "Pictures: /nowhere/contact_sheet.png and losses.png" in said
    assert "Compare:  on the tracking server\n          then open http://somewhere:5000/#/view" in said


def test_the_terminal_says_how_near_the_limit_runs_trained_and_where_on_several_kinds_of_machine(made_up):
    runs = [made_up.run(seed, 3.0 + seed) for seed in range(3)]
    assert "Speed:" not in summary(compare(made_up.sweep(runs)))
    runs = [
        replace(run, metrics={**run.metrics, names.FLOOR_RATIO: pace}, machines=["one"])
        for run, pace in zip(runs, (9.0, 1.0, 1.234), strict=True)
    ]
    said = summary(compare(made_up.sweep(runs)))
    assert "Speed:    a step took 1.23 times as long as its matrix products alone" in said
    assert "Machines:" not in said
    runs[1] = replace(runs[1], machines=["one", "two"])
    assert said.splitlines() == [
        line for line in summary(compare(made_up.sweep(runs))).splitlines() if "Machines: 2 kinds have" not in line
    ]


def test_the_terminal_table_to_the_letter(made_up):
    runs = [made_up.run(0, 3.0, z_dim=20), made_up.run(0, 41.0, z_dim=50)]
    runs[0], runs[1] = replace(runs[0], health="mode-collapsed"), replace(runs[1], health="")
    comparison = compare(replace(made_up.sweep(runs), artifact_uri="file:///there/[red]"))
    said = summary(comparison)
    assert [line.rstrip() for line in said.splitlines()[1:4]] == [
        "setting  finished  loss D  loss G   D(x)  D(G(z))    fd            health  time",
        "sgd_z20       1/1    1.00    2.00  0.600    0.400  3.00  mode-collapsed 1  40 s",
        "sgd_z50       1/1    1.00    2.00  0.600    0.400  41.0     not checked 1  40 s",
    ]
    assert "Pictures: /there/[red]/contact_sheet.png and losses.png" in said
    # Where the terminal is narrow, the words of health give way, and no number does.
    narrow = summary(comparison, width=76)
    assert "sgd_z20       1/1    1.00    2.00  0.600    0.400  3.00" in narrow
    assert "mode-collapsed 1" not in narrow
    assert narrow.count("40 s") == 2
    assert max(map(len, narrow.splitlines())) > 76  # sentences are left to the terminal


def test_where_the_ui_is_started(monkeypatch, tmp_path, uri):
    monkeypatch.chdir(tmp_path)
    own = f"sqlite:///{project_root() / 'mlflow.db'}"
    assert ui_command("https://there:5000") == ""
    assert ui_command(uri) == f"mlflow ui --backend-store-uri {uri}"
    assert ui_command(own) == f"cd {project_root()} && mlflow ui"
    monkeypatch.chdir(project_root())
    assert ui_command(own) == "mlflow ui"


def test_the_terminal_of_a_sweep_with_many_settings_or_none(made_up, uri):
    assert "No verdict: no run has finished." in summary(compare(made_up.sweep([])))
    many = [made_up.run(0, 5.0 + z, z_dim=z, epochs=2) for z in range(1, 28)]
    said = summary(compare(made_up.sweep(many, status="RUNNING")), uri)
    assert "3 more settings are in the report." in said
    assert "sgd_z24 " in said
    assert "sgd_z25 " not in said
    assert "of finished runs.\n" in said
    assert "The sweep is running, or was cut off" in said
    assert f"mlflow ui --backend-store-uri {uri}" in said
