"""A comparison and the files of its runs → the files of its report, and its overview in MLflow."""

import hashlib
import importlib
import io
import math
import pkgutil
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from PIL import Image

import studies
from gan_core import metric_names as names
from gan_core.losses import OBJECTIVES
from gan_core.plots import SHEET_SCALE
from sweeps.comparison import charts
from sweeps.comparison.compare import TRAINING, Comparison, Contrast, Setting, over_epochs
from sweeps.comparison.records import THREADS, RunRecord, SweepRecord, read_histories
from sweeps.comparison.render import render, to_markdown
from sweeps.comparison.verdict import give_verdict, held_equal, random_streams
from sweeps.inference import NOTHING

LINES = 12  # of a chart, at most
LOSS_LINES = 4
SHEETS = 24  # settings whose sheets are shown, at most
SHEET_COLUMNS = 4
LONGEST_NAME = 80  # of a file
PAGE, MARKDOWN, SETTINGS_CSV, RUNS_CSV = "report.html", "report.md", "settings.csv", "runs.csv"
# What is raised for a file that is not there, or is broken.
ABSENT = (MlflowException, OSError, ValueError, LookupError, BadZipFile)
Read = TypeVar("Read")


class Sheet(NamedTuple):
    """A sample sheet of the page."""

    run: RunRecord
    epoch: int
    png: bytes | None  # one pixel per pixel of a generated image; None: there is none

    @property
    def file(self) -> str:
        """Its path beside report.md; the run's id keeps two runs of one name apart."""
        return f"sheets/{safe_name(f'{self.run.name}_{self.run.run_id[:6]}_epoch_{self.epoch:04d}')}.png"


@dataclass(frozen=True)
class Artifacts:
    """The files of a sweep and its runs. What is not there or cannot be read is left out."""

    client: MlflowClient  # of the store that has them

    def sheet_epochs(self, runs: Sequence[RunRecord]) -> list[list[int]]:
        """The epochs after which each run kept a sample sheet, in order."""

        def ask(run: RunRecord) -> list[int]:
            try:
                found = list_artifacts(f"{run.artifact_uri}/{names.SAMPLES}", tracking_uri=self.client.tracking_uri)
                return sorted(int(Path(file.path).stem.rpartition("_")[2]) for file in found)
            except ABSENT:
                return []

        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(ask, runs))

    def sheets(self, wanted: Iterable[tuple[RunRecord, int]]) -> list[Sheet]:
        """The sheets of these runs and epochs."""

        def fetch(what: tuple[RunRecord, int]) -> Sheet:
            return Sheet(*what, self.read(what[0], names.sheet_name(what[1]), _small_sheet))

        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(fetch, wanted))

    def last_sheets(self, runs: Sequence[RunRecord]) -> list[Sheet]:
        """The last sheet of each of these runs that kept one."""
        kept = zip(runs, self.sheet_epochs(runs), strict=True)
        return self.sheets((run, epochs[-1]) for run, epochs in kept if epochs)

    def read(self, of: RunRecord | SweepRecord, name: str, how: Callable[[Path], Read]) -> Read | None:
        """What `how` makes of a file of a run or a sweep; None if there is none or it is broken."""
        try:
            with tempfile.TemporaryDirectory(prefix="gan-artifact-") as folder:
                # By the artifacts' own address: by the run's id the store is asked for it first.
                address = f"{of.artifact_uri}/{name}"
                return how(Path(download_artifacts(address, dst_path=folder, tracking_uri=self.client.tracking_uri)))
        except ABSENT:
            return None


def _small_sheet(file: Path) -> bytes:
    png = io.BytesIO()
    with Image.open(file) as sheet:
        size = (sheet.width // SHEET_SCALE, sheet.height // SHEET_SCALE)
        plain = sheet if sheet.mode == "RGB" else sheet.convert("L")
        plain.resize(size, Image.Resampling.NEAREST).save(png, format="png")
    return png.getvalue()


@dataclass(frozen=True)
class Section:
    """What a study adds to the page: a template of its package, PACKAGE/NAME, and what that shows."""

    template: str
    values: Mapping[str, Any]
    pictures: Mapping[str, charts.Picture] = field(default_factory=dict)
    sheets: Sequence[Sheet] = ()


def report_files(client: MlflowClient, comparison: Comparison) -> dict[str, bytes]:
    """Every file of the report, by its path within the report's folder. Writes nothing."""
    artifacts, record = Artifacts(client), comparison.record
    sections = _sections(comparison, artifacts)
    rows = _sheet_rows(comparison, artifacts)
    losses = _telling_settings(comparison)
    pictures = _pictures(comparison, losses)
    sheets = [sheet for _, of_row in rows for sheet in of_row]
    for section in sections.values():
        pictures |= section.pictures
        sheets += section.sheets
    sweep_file = artifacts.read(record, names.SWEEP_FILE, Path.read_text)
    objectives = {run.fields.get("objective") for run in record.runs}
    values = {
        "c": comparison,
        "record": record,
        "verdict": give_verdict(comparison),
        "fair": held_equal(comparison, random_streams(record)),
        "pictures": pictures,
        "loss_settings": losses,
        "fd_settings": min(LINES, len(comparison.measured)),
        "sheet_rows": rows,
        "sections": list(sections.values()),
        "commits": Counter(tuple(run.commits) for run in record.runs).most_common(),
        "sweep_file": sweep_file is not None,
        "objectives": {name: its for name, its in OBJECTIVES.items() if name in objectives},
    }
    html = render("report.html.j2", values | {"inline": True}, list(sections))
    body = render("body.html.j2", values | {"inline": False}, list(sections))
    files = {PAGE: html.encode(), MARKDOWN: to_markdown(body).encode()}
    files |= {f"{stem}.png": picture.png for stem, picture in pictures.items()}
    files |= {sheet.file: sheet.png for sheet in sheets if sheet.png}
    files |= {SETTINGS_CSV: settings_csv(comparison), RUNS_CSV: runs_csv(comparison)}
    return files | ({names.SWEEP_FILE: sweep_file.encode()} if sweep_file is not None else {})


def write_overview(client: MlflowClient, comparison: Comparison) -> None:
    """Log what the parent run shows: each setting's mean distance, the loss curves, the contact sheet."""
    run_id = comparison.record.run_id
    _log_distances(client, comparison)
    if settings := comparison.order(comparison.settings[:SHEETS]):
        client.log_figure(run_id, charts.losses_overview(comparison, settings), names.LOSSES_PICTURE)
    if runs := [run for _, run in _shown_runs(comparison)]:
        sheets = {sheet.run.run_id: sheet.png for sheet in Artifacts(client).last_sheets(runs)}
        client.log_figure(run_id, charts.contact_sheet(comparison, runs, sheets), names.CONTACT_SHEET)


def _log_distances(client: MlflowClient, comparison: Comparison) -> None:
    """Log each setting's mean Fréchet distance by epoch to the parent run; what is there already is left."""
    run_id, now = comparison.record.run_id, time.time_ns() // 1_000_000
    curves = {
        # MLflow allows no + in a metric's name.
        names.SETTING_FD + setting.name.replace("+", ""): over_epochs(setting.finished, names.FD)["mean"]
        for setting in comparison.settings
    }
    there = read_histories(client, [run_id], list(curves))
    metrics = [
        Metric(name, mean, now, epoch)
        for name, curve in curves.items()
        for epoch, mean in curve.items()
        if there.get((run_id, name), {}).get(epoch) != mean
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def settings_csv(comparison: Comparison) -> bytes:
    """One row per setting, the best first: means over its finished runs, with their 95 % intervals."""
    contrasts = {id(contrast.setting): contrast for contrast in comparison.contrasts}
    rows = []
    for setting in comparison.settings:
        contrast = contrasts.get(id(setting), Contrast(setting, NOTHING, math.nan, math.nan, None))
        estimates = setting.training | dict.fromkeys(comparison.scores, NOTHING) | setting.scores
        row: dict[str, object] = {"setting": setting.name, **setting.values}
        row |= {"runs_finished": len(setting.finished), "runs_planned": setting.planned}
        for name, found in estimates.items():
            row |= {f"{name} mean": found.mean, f"{name} low": found.low, f"{name} high": found.high}
        ratio = contrast.ratio
        row |= {"fd ratio to best": ratio.mean, "ratio low": ratio.low, "ratio high": ratio.high}
        row |= {"p": contrast.p, "p Holm": contrast.p_corrected}
        row["health"] = " ".join(f"{name or 'not-checked'}:{runs}" for name, runs in setting.health.items())
        rows.append(row | {"seconds": setting.seconds, "images_per_second": setting.images_per_second})
    return _csv(rows)


def runs_csv(comparison: Comparison) -> bytes:
    """One row per run, those that never began as well."""
    rows: list[dict[str, object]] = [
        {
            "run": run.name, "run_id": run.run_id, "setting": run.setting, **run.fields, "seed": run.seed,
            "status": run.status, "failure": run.failure, "health": run.health,
            "health_reason": run.health_reason, "epochs_trained": run.epochs,
            **{metric: run.last(metric) for metric in TRAINING},
            **{score: run.score(score) for score in comparison.scores},
            "seconds": run.seconds, "images_per_second": run.images_per_second,
        }
        for run in comparison.record.runs
    ]  # fmt: skip
    rows += [
        {"run": run.name, "setting": run.setting, "status": run.status, "failure": run.failure}
        for run in comparison.record.absent
    ]
    return _csv(rows)


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    def inert(value: object) -> object:
        # What a spreadsheet would take for a formula stays text.
        return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value

    return str(pd.DataFrame(rows).map(inert).to_csv(index=False, lineterminator="\n")).encode()


def _sections(comparison: Comparison, artifacts: Artifacts) -> dict[str, Section]:
    """What the packages in studies/ have to say on this sweep, by their names."""
    packages = [found.name for found in pkgutil.iter_modules(studies.__path__, "studies.") if found.ispkg]
    sections = {name: importlib.import_module(name).section(comparison, artifacts) for name in packages}
    return {name: section for name, section in sections.items() if section}


def _telling_settings(comparison: Comparison) -> list[Setting]:
    """A few settings whose losses are shown: the best with each value of the first axis, or the best ones."""
    if comparison.at_best:
        return [setting for setting, *_ in next(iter(comparison.at_best.values()))][:LOSS_LINES]
    return [each for each in comparison.settings if any(run.epochs for run in each.runs)][:LOSS_LINES]


def _pictures(comparison: Comparison, losses: Sequence[Setting]) -> dict[str, charts.Picture]:
    """The curves, by the stem of their files."""
    pictures = {}
    if comparison.race:
        trained = {(run.setting, run.seed): run.epochs for run in comparison.record.runs}
        pictures["race"] = charts.race_chart(comparison.race, trained)
    for network, metric in charts.LOSSES.items() if losses else ():
        lines = charts.lines_of(losses, comparison, metric)
        pictures[f"losses_{network}"] = charts.chart(lines, f"Loss of {network}")
    if measured := comparison.order(comparison.measured[:LINES]):
        classifier = comparison.record.classifiers[0]
        bounds = {"real images": classifier.real_baseline, "untrained G": classifier.untrained_baseline}
        marks = {name: bound[names.FD] for name, bound in bounds.items() if bound[names.FD] > 0}
        pictures["fd"] = charts.chart(charts.lines_of(measured, comparison, names.FD), marks=marks)
    return pictures


def _shown_runs(comparison: Comparison) -> list[tuple[Setting, RunRecord]]:
    """The settings whose sheets are shown, in the order of the axes, each with its run of the comparison's seed."""
    settings = comparison.order(comparison.settings[:SHEETS])
    return [(setting, run) for setting in settings for run in setting.runs if run.seed == comparison.seed]


def _sheet_rows(comparison: Comparison, artifacts: Artifacts) -> list[tuple[Setting, list[Sheet]]]:
    """Of each setting that is shown its sheets after a few epochs; none where none was kept."""
    shown = _shown_runs(comparison)
    epochs = telling_epochs(artifacts.sheet_epochs([run for _, run in shown]))
    return [(setting, artifacts.sheets((run, epoch) for epoch in epochs)) for setting, run in shown if epochs]


def telling_epochs(kept: Iterable[Sequence[int]]) -> list[int]:
    """A few epochs that show the course: the first, the last, and some between that most runs have kept."""
    there = [set(epochs) - {0} for epochs in kept if set(epochs) - {0}]
    if not there:
        return []
    common = sorted(set.intersection(*there) or set.union(*there))
    if len(common) <= SHEET_COLUMNS:
        return common
    # Evenly in the logarithm: early epochs change most.
    wanted = np.geomspace(common[0], common[-1], SHEET_COLUMNS)
    return sorted({min(common, key=lambda epoch: abs(np.log(epoch / target))) for target in wanted})


def safe_name(name: str) -> str:
    """The name as a file's name: unchanged where that is harmless, else what is left of it with a digest.

    Harmless are letters, digits, `.`, `_`, `-`, `+`, but no dot or dash in front. No two names share one.
    """
    kept = re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).lstrip(".-")[:LONGEST_NAME]
    if kept and kept == name:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kept or 'sweep'}-{digest}"
