"""A comparison → the files of its report, and its overview in MLflow."""

import importlib
import pkgutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

import studies
from gan_core import metric_names as names
from gan_core.cli import flag
from gan_core.config import FIELDS
from sweeps.comparison.artifacts import Artifacts, Sheet, sheet_of, telling_epochs
from sweeps.comparison.charts import Picture, contact_sheet, fd_chart, lines_of, loss_chart, losses_overview
from sweeps.comparison.compare import SCORES, TRAINING, Comparison, Contrast, Setting
from sweeps.comparison.records import RunRecord, read_histories
from sweeps.comparison.render import render, to_markdown
from sweeps.comparison.verdict import give_verdict, held_equal, random_streams

LINES = 12  # of a chart, at most
LOSS_LINES = 4
SHEETS = 24  # settings whose sheets are shown, at most
PAGE, MARKDOWN, SETTINGS_CSV, RUNS_CSV = "report.html", "report.md", "settings.csv", "runs.csv"
LOSSES_OVERVIEW = names.LOSSES_PICTURE


@dataclass(frozen=True)
class Section:
    """What a study adds to the page: a template of its package, PACKAGE/NAME, and what that shows."""

    template: str
    values: Mapping[str, Any]
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    sheets: Sequence[Sheet] = ()


def report_files(client: MlflowClient, comparison: Comparison) -> dict[str, bytes]:
    """Every file of the report, by its path within the report's folder. Writes nothing."""
    artifacts, record = Artifacts(client), comparison.record
    sections = {name: section for name in _studies() if (section := _section(name, comparison, artifacts))}
    epochs, rows = _sheet_rows(comparison, artifacts)
    losses = _telling_settings(comparison)
    pictures = _pictures(comparison, losses)
    for section in sections.values():
        pictures |= section.pictures
    sweep_file = artifacts.text(record.run_id, names.SWEEP_FILE)
    streams = random_streams(record)
    values = {
        "c": comparison,
        "record": record,
        "verdict": give_verdict(comparison),
        "fair": held_equal(comparison, streams),
        "classifier": record.classifiers[0] if len(record.classifiers) == 1 else None,
        "pictures": pictures,
        "loss_settings": losses,
        "fd_settings": min(LINES, len(_measured(comparison))),
        "sheet_epochs": epochs,
        "sheet_rows": rows,
        "sections": list(sections.values()),
        "commits": Counter(tuple(run.commits) for run in record.runs).most_common(),
        "grid_command": _grid_command(comparison, sweep_file is not None),
        "report_command": _report_command(comparison),
        "sweep_file": sweep_file is not None,
        "measures": {"fd": names.FD, "training": TRAINING, "scores": SCORES},
    }
    sheets = [sheet for _, of_row in rows for sheet in of_row]
    sheets += [sheet for section in sections.values() for sheet in section.sheets]
    html = render("report.html.j2", values | {"inline": True}, list(sections))
    body = render("body.html.j2", values | {"inline": False}, list(sections))
    files = {PAGE: html.encode(), MARKDOWN: to_markdown(body).encode()}
    files |= {f"{stem}.png": picture.png for stem, picture in pictures.items()}
    files |= {sheet.file: sheet.png for sheet in sheets if sheet.png}
    files |= {SETTINGS_CSV: settings_csv(comparison), RUNS_CSV: runs_csv(comparison)}
    return files | ({names.SWEEP_FILE: sweep_file.encode()} if sweep_file is not None else {})


def write_overview(client: MlflowClient, comparison: Comparison) -> None:
    """Log what the parent run shows: the contact sheet, the loss curves, each setting's mean distance."""
    _log_distances(client, comparison)
    runs = _sheet_runs(comparison)
    if not comparison.settings:
        return
    artifacts = Artifacts(client)
    epochs = artifacts.sheet_epochs(runs)
    sheets = artifacts.sheets([(run, epochs[run.run_id][-1]) for run in runs if epochs[run.run_id]])
    with tempfile.TemporaryDirectory(prefix="gan-overview-") as folder:
        for name, png in (
            (LOSSES_OVERVIEW, losses_overview(comparison, comparison.shown(SHEETS))),
            (names.CONTACT_SHEET, contact_sheet(comparison, runs, sheets) if runs else None),
        ):
            if png:
                (Path(folder) / name).write_bytes(png)
                client.log_artifact(comparison.record.run_id, str(Path(folder) / name))


def _log_distances(client: MlflowClient, comparison: Comparison) -> None:
    """Log each setting's mean Fréchet distance by epoch to the parent run; what is there already is left."""
    # MLflow allows no + in a metric's name.
    curves = {
        names.SETTING_FD + setting.name.replace("+", ""): setting.fd_by_epoch() for setting in comparison.settings
    }
    run_id = comparison.record.run_id
    there = read_histories(client, [run_id], list(curves))
    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(name, value, now, epoch)
        for name, curve in curves.items()
        for epoch, value in curve.items()
        if there.get((run_id, name), {}).get(epoch) != value
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def settings_csv(comparison: Comparison) -> bytes:
    """One row per setting, the best first: means over its finished runs, with their 95 % intervals."""
    contrasts = {id(contrast.setting): contrast for contrast in comparison.contrasts}
    return _csv([_setting_row(each, comparison, contrasts.get(id(each))) for each in comparison.settings])


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


def _setting_row(setting: Setting, comparison: Comparison, contrast: Contrast | None) -> dict[str, object]:
    row: dict[str, object] = {
        "setting": setting.name, **setting.values,
        "runs_finished": len(setting.finished), "runs_planned": setting.planned,
    }  # fmt: skip
    for name in (*TRAINING, *comparison.scores):
        found = {**setting.training, **setting.scores}.get(name)
        row |= {f"{name} {what}": getattr(found, what, None) for what in ("mean", "low", "high")}
    return row | {
        "fd ratio to best": contrast and contrast.ratio.mean,
        "ratio low": contrast and contrast.ratio.low,
        "ratio high": contrast and contrast.ratio.high,
        "p": contrast and contrast.p,
        "p Holm": contrast and contrast.p_corrected,
        "health": " ".join(f"{name or 'not-checked'}:{runs}" for name, runs in setting.health.items()),
        "seconds": setting.seconds,
        "images_per_second": setting.images_per_second,
    }


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    import pandas as pd

    def inert(value: object) -> object:
        # What a spreadsheet would take for a formula stays text.
        return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value

    table = pd.DataFrame([{name: inert(value) for name, value in row.items()} for row in rows])
    return str(table.to_csv(index=False, lineterminator="\n")).encode()


def _studies() -> list[str]:
    """The packages in studies/, each of which may have a section for this sweep."""
    return [f"studies.{found.name}" for found in pkgutil.iter_modules(studies.__path__) if found.ispkg]


def _section(study: str, comparison: Comparison, artifacts: Artifacts) -> Section | None:
    found: Section | None = importlib.import_module(study).section(comparison, artifacts)
    return found


def _measured(comparison: Comparison) -> list[Setting]:
    return [setting for setting in comparison.settings if names.FD in setting.scores]


def _telling_settings(comparison: Comparison) -> list[Setting]:
    """A few settings whose losses are shown: the best with each value of the first axis, or the best ones."""
    axis = next(iter(comparison.at_best), None)
    begun = [setting for setting in comparison.settings if any(run.epochs for run in setting.runs)]
    if axis is None:
        return begun[:LOSS_LINES]
    return [value.setting for value in comparison.at_best[axis]][:LOSS_LINES]


def _pictures(comparison: Comparison, losses: Sequence[Setting]) -> dict[str, Picture]:
    """The curves, by the stem of their files."""
    pictures: dict[str, Picture] = {}
    if losses:
        lines = lines_of(losses, comparison)
        pictures |= {f"losses_{network}": loss_chart(lines, network) for network in ("G", "D")}
    if measured := comparison.order(_measured(comparison)[:LINES]):
        classifier = comparison.record.classifiers[0]
        bounds = (each[names.FD] for each in (classifier.real_baseline, classifier.untrained_baseline))
        pictures["fd"] = fd_chart(lines_of(measured, comparison), *bounds)
    return pictures


def _sheet_runs(comparison: Comparison) -> list[RunRecord]:
    """The run of the comparison's seed of each setting that is shown, in the order of the axes."""
    return [run for setting in comparison.shown(SHEETS) for run in setting.runs if run.seed == comparison.seed]


def _sheet_rows(comparison: Comparison, artifacts: Artifacts) -> tuple[list[int], list[tuple[Setting, list[Sheet]]]]:
    """A few epochs, and of each setting that is shown its sheets after these."""
    runs = {run.run_id: run for run in _sheet_runs(comparison)}
    epochs = telling_epochs(artifacts.sheet_epochs(list(runs.values())).values())
    pngs = artifacts.sheets([(run, epoch) for run in runs.values() for epoch in epochs])
    rows = [
        (setting, [sheet_of(run, epoch, pngs.get((run.run_id, epoch))) for epoch in epochs])
        for setting in comparison.shown(SHEETS)
        for run in setting.runs
        if run.run_id in runs
    ]
    return epochs, rows if epochs else []


def _grid_command(comparison: Comparison, has_file: bool) -> str:
    """The command that makes the sweep again; empty where flags cannot say it."""
    record, words = comparison.record, ["python", "sweeps/run_grid.py"]
    if has_file:
        words += ["--sweep", names.SWEEP_FILE]
    elif comparison.axes and len(comparison.settings) != _product(comparison):
        return ""
    else:
        for name, value in record.params.items():
            if name == "seed":
                words += ["--seeds", *map(quote, value.split())]
            elif name in record.axes:
                words += ["--axis", quote(f"{name}={','.join(value.split())}")]
            elif name in FIELDS:
                words += [flag(name), quote(value)]
    return " ".join([*words, "--name", quote(record.name)])


def _product(comparison: Comparison) -> int:
    total = 1
    for values in comparison.axes.values():
        total *= len(values)
    return total


def _report_command(comparison: Comparison) -> str:
    record = comparison.record
    place = "" if record.experiment == "gan-grid" else f" --experiment {quote(record.experiment)}"
    return f"python sweeps/report.py --sweep {record.run_id}{place}"
