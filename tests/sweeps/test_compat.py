"""The prepared view in a real browser: `mlflow ui` on a small store, opened at the address printed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import playwright.sync_api as playwright
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from gan_core.metric_names import PARENT, SAMPLES, SETTING
from sweeps.compat import CURVES, view_address, write_view

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium")

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
START, PATIENCE = 300, 120  # seconds
EPOCHS = 5
CARD = "[data-testid=experiment-view-compare-runs-card]"
# MLflow draws a run's curve twice, with the points and without; a curve has the name of its run.
LINES = """(card) => card.querySelector('.js-plotly-plot').data
    .filter(({mode}) => mode === 'lines+markers').map(({name, x}) => [name, x.length])"""
STROKES = """(card) => [...card.querySelectorAll('path.js-line')].map((path) => path.style.stroke)"""


class Store(NamedTuple):
    uri: str
    experiment: str
    colours: dict[str, str]  # of the sweep's runs, by name, the best one last
    key: str


def sweep(client: MlflowClient, experiment: str, name: str, settings: int, seeds: int) -> tuple[str, dict[str, str]]:
    parent = client.create_run(experiment, run_name=name).info.run_id
    colours = {}
    now = time.time_ns() // 1_000_000
    for place in range(settings):
        for seed in range(seeds):
            setting = f"{name}_z{10 * place + 10}"
            colour = f"#{20 * place + 10:02x}4080"
            tags = {PARENT: parent, SETTING: setting, "mlflow.runColor": colour}
            run = client.create_run(experiment, run_name=f"{setting}_s{seed}", tags=tags).info
            points = [
                Metric(metric, 1 / epoch - place - seed / 10, now + epoch, epoch)
                for metric in (*CURVES, "score/real")
                for epoch in range(1, EPOCHS + 1)
            ]
            client.log_batch(run.run_id, metrics=points)
            for epoch in (0, EPOCHS):
                client.log_image(
                    run.run_id,
                    np.full((64, 64), 40 * place, np.uint8),
                    key=SAMPLES,
                    step=epoch,
                    synchronous=True,
                )
            client.set_terminated(run.run_id)
            colours[run.run_name] = colour
    client.set_terminated(parent)
    return parent, colours


@pytest.fixture(
    scope="module",
    params=[pytest.param((4, 1), id="one seed", marks=pytest.mark.slow), pytest.param((6, 2), id="two seeds")],
)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of 12 runs MLflow would by itself show 10."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("grid", artifact_location=(folder / "mlruns").as_uri())
    parent, colours = sweep(client, experiment, "wanted", *request.param)
    sweep(client, experiment, "other", 1, 1)
    write_view(client, client.get_run(parent), request.param[1] > 1, EPOCHS)
    return Store(uri, experiment, colours, parent)


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("server") / "log"
    # A worker that imports for longer than 5 s, as on a loaded machine, would be killed, again and again.
    words = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store.uri, "--port", str(port)]
    words += ["--workers", "1", "--uvicorn-opts", "--timeout-worker-healthcheck 120"]
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + START
        while not answers(f"{address}/health"):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def test_the_view_opens_on_every_runs_curves_and_samples(store: Store, server: str, tmp_path: Path) -> None:
    runs = set(store.colours)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE * 1000)
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.set_default_timeout(PATIENCE * 1000)
            broken: list[str] = []
            page.on("pageerror", lambda error: broken.append(str(error)))
            page.goto(view_address(server, store.experiment, store.key))
            cards = page.locator(CARD)
            playwright.expect(cards).to_have_count(len(CURVES) + 1, timeout=PATIENCE * 1000)
            try:
                for card, metric in zip(cards.all(), CURVES, strict=False):
                    card.get_by_text(metric, exact=True).wait_for()
                    page.wait_for_function(
                        f"([card, count]) => ({STROKES})(card).length >= count",
                        arg=[card.element_handle(), 2 * len(runs)],
                    )
                    assert sorted(card.evaluate(LINES)) == [[name, EPOCHS] for name in sorted(runs)]
                    assert set(card.evaluate(STROKES)) == {rgb(colour) for colour in store.colours.values()}
                panel = cards.nth(len(CURVES))
                panel.get_by_text(SAMPLES, exact=True).wait_for()
                seen = min(len(runs), 10)  # MLflow's limit
                playwright.expect(panel.locator("img[src*=get-artifact]")).to_have_count(seen, timeout=PATIENCE * 1000)
                sources = panel.locator("img").evaluate_all("(all) => all.map(({src}) => src)")
                assert all(f"step%2B{EPOCHS}%2B" in source for source in sources)
                assert page.get_by_role("slider").count() == 1
                # Above the fold, slider and all.
                assert page.get_by_role("slider").bounding_box()["y"] < 1000
            finally:
                page.screenshot(path=tmp_path / "view.png")
            assert page.get_by_text("No charts in this section").count() == 0
            assert page.get_by_text("other_z10_s0").count() == 0
            listed = page.get_by_role("link").all_inner_texts()
            order = [name for name in listed if name in runs]
            assert order == list(store.colours)[::-1], "not the best first"
            assert not broken
        finally:
            browser.close()


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))})"


PRIVATE_NAMES_OF_RAY = """
from ray._private.node import Node
from ray.tune.execution import class_cache
from sweeps.compat import RAYS_SERVERS, keep_keys_from_tune, let_tune_use_waiting_workers
assert all(callable(getattr(Node, name)) for name in RAYS_SERVERS)
assert class_cache.DEFAULT_ENV_VARS and "AWS_ACCESS_KEY_ID" in class_cache.ENV_VARS_TO_PROPAGATE
let_tune_use_waiting_workers()
keep_keys_from_tune()
assert not class_cache.DEFAULT_ENV_VARS
assert not any(name.startswith("AWS_") for name in class_cache.ENV_VARS_TO_PROPAGATE)
"""


def test_rays_private_names_are_there(command):
    """In a process of its own: they are changed for good."""
    done = command("-c", PRIVATE_NAMES_OF_RAY)
    assert done.returncode == 0, done.stderr
