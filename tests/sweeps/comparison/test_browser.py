"""The page in a real browser: what a reader sees, on a wide and a narrow screen, light and dark, and printed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gan_core.metric_names import sheet_name
from sweeps.comparison.compare import compare
from sweeps.comparison.page import report_files
from sweeps.report import write_files

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
A4 = 688  # CSS pixels between margins of 14 mm
CONTRAST = 4.5  # WCAG 2.2, level AA
# Every text with its colour and the colour behind it.
COLOURS = """() => {
  const shown = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    if (!text) continue;
    const element = walker.currentNode.parentElement;
    let behind = element;
    while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    shown.push([text, getComputedStyle(element).color, behind ? getComputedStyle(behind).backgroundColor : 'none']);
  }
  return shown;
}"""

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium here"),
    pytest.mark.xdist_group("browser"),  # so that each page is made once
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


def made_up_sweep(kind, made_up):
    """A sweep of the practical's grid, of other axes, with names that no one should give, or of nothing."""
    if kind == "practical":
        fds = {(optimizer, z): 5.0 + z / 20 for optimizer in ("sgd", "adam") for z in (20, 50, 200)}
        return made_up.sweep(made_up.settings(fds, seeds=2))
    if kind == "any axes":
        runs = [
            made_up.run(seed, 5.0 + b / 9 + h / 7 + rate, batch_size=b, hidden_dim=h, learning_rate=rate)
            for seed in (0, 1) for b in (16, 32, 64) for h in (8, 64, 128) for rate in (0.1, 0.0123456789)
        ]  # fmt: skip
        return made_up.sweep(runs, axes=("batch_size", "hidden_dim", "learning_rate"))
    if kind == "hostile":
        name = "<script>alert(1)</script>" + "x" * 150
        runs = [made_up.run(seed, 5.0 + z, z_dim=z, name=f"{name}{z}") for seed in (0, 1) for z in (20, 50)]
        return made_up.sweep(runs, name=name, namesakes=3, status="RUNNING")
    return made_up.sweep([])


@pytest.fixture(scope="module", params=["practical", "any axes", "hostile", "empty"])
def page(request, made_up, store_client, tmp_path_factory):
    """The address of a report's page. All its runs have the same sample sheets."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "samples").mkdir()
    for epoch in (1, 20):
        (folder / sheet_name(epoch)).write_bytes(made_up.sheet(60))
    record = made_up_sweep(request.param, made_up)
    record = replace(record, runs=[replace(run, artifact_uri=str(folder)) for run in record.runs])
    write_files(folder, report_files(store_client, compare(record)))
    return (folder / "report.html").as_uri()


def opened(browser, page, width=1280, **options):
    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    tab = context.new_page()
    tab.goto(page)
    return tab


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_overflows_the_screen(browser, page, width):
    tab = opened(browser, page, width)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_no_request_leaves_and_no_script_runs(browser, page):
    context = browser.new_context()
    tab = context.new_page()
    asked, said = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(page, wait_until="networkidle")
    assert [url for url in asked if not url.startswith("data:image/")] == [page]
    assert said == []
    assert tab.evaluate("document.scripts.length") == 0


def luminance(colour):
    """Relative luminance of WCAG."""
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser, page, scheme):
    tab = opened(browser, page, color_scheme=scheme)
    texts = tab.evaluate(COLOURS)
    assert texts
    for text, colour, behind in texts:
        light, dark = sorted((luminance(colour), luminance(behind)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= CONTRAST, (text, colour, behind)
    ground = luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (ground > 0.5) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_picture_is_there_and_has_words(browser, page, scheme):
    tab = opened(browser, page, color_scheme=scheme)
    pictures = tab.evaluate("[...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.naturalHeight])")
    if "No run has begun" not in tab.content():
        assert pictures
    for alt, complete, width, height in pictures:
        assert alt.strip()
        assert complete
        assert min(width, height) > 0


def test_it_prints_with_nothing_cut_off(browser, page):
    tab = opened(browser, page, A4)
    tab.emulate_media(media="print")
    widths = tab.evaluate("""() => [...document.querySelectorAll('table, img, pre, p, h1, h2, h3')].map(
        e => Math.round(e.getBoundingClientRect().right))""")
    assert max(widths) <= A4 + 1
    cut = tab.evaluate("""() => [...document.querySelectorAll('th, td, .scroll')].filter(
        e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflow !== 'visible').length""")
    assert cut == 0
    pdf = tab.pdf(prefer_css_page_size=True, print_background=True)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 1
    assert len(pdf) > 10_000
