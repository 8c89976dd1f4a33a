"""Two pictures of a whole sweep for MLflow's UI: all loss curves, and a sample sheet of each cell."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from PIL import Image

from gan_core.tracking.queries import MlflowClient
from sweeps.comparison.pictures import SHEETS, epoch_of
from sweeps.comparison.records import FD, RunRecord
from sweeps.comparison.words import number
from sweeps.grid import text_of as short

LOSSES_FIGURE, CONTACT_SHEET = "losses.png", "contact_sheet.png"


def write_figures(client: MlflowClient, parent_id: str, records: Sequence[RunRecord]) -> None:
    """Log the two figures of the sweep as artifacts of its parent run."""
    if not records:
        return
    with tempfile.TemporaryDirectory(prefix="gan-report-") as folder:
        for name, figure in (
            (LOSSES_FIGURE, losses_figure(records)),
            (CONTACT_SHEET, contact_sheet(records, _last_sheets(client, records))),
        ):
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=110)
            path = Path(folder) / name
            path.write_bytes(picture.getvalue())
            client.log_artifact(parent_id, str(path))


def losses_figure(records: Sequence[RunRecord]) -> Figure:
    """All cells' losses: a row for each optimizer and rate, D left, G right, a colour for each z_dim.

    A line is a run: the mean loss of each epoch.
    """
    rows = _rows(records)
    z_dims = _columns(records)
    colours = dict(zip(z_dims, colormaps["viridis"](np.linspace(0.05, 0.85, len(z_dims))), strict=True))
    figure = Figure(figsize=(10, 0.8 + 2.7 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False, sharex=True)
    for row, setting in enumerate(rows):
        for column, (metric, name) in enumerate((("loss/discriminator", "D"), ("loss/generator", "G"))):
            axes = grid[row, column]
            for record in records:
                losses = record.history.get(metric)
                if _setting(record) == setting and losses:
                    marker = "." if len(losses) < 20 else ""
                    axes.plot(
                        range(1, len(losses) + 1),
                        losses,
                        color=colours[record.z_dim],
                        linewidth=1.2,
                        marker=marker,
                    )
            axes.set_title(f"{setting}: loss of {name}", fontsize=10, loc="left")
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
        grid[row, 0].set_ylabel("nats, mean of epoch")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    # One legend for the figure: a colour means the same in every panel.
    for z_dim in z_dims:
        grid[0, 1].plot([], [], color=colours[z_dim], label=f"z_dim {z_dim}")
    figure.legend(loc="outside upper center", ncols=len(z_dims), frameon=False)
    return figure


def contact_sheet(records: Sequence[RunRecord], sheets: dict[str, Image.Image]) -> Figure:
    """The last sample sheet of every cell's first seed: a row for each optimizer, a column for each z_dim.

    Within a column, all sheets are made of the same z; below each stands that run's fd. `sheets`: by run id.
    """
    rows, z_dims = _rows(records), _columns(records)
    first_seed = min(record.seed for record in records)
    figure = Figure(figsize=(2.6 * len(z_dims) + 0.5, 2.8 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(z_dims), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for record in records:
        if record.seed != first_seed:
            continue
        axes = grid[rows.index(_setting(record)), z_dims.index(record.z_dim)]
        if sheet := sheets.get(record.run_id):
            axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        fd = record.score(FD)
        note = f", fd {number(fd)}" if fd else "" if record.status == "FINISHED" else f", {record.status}"
        axes.set_xlabel(f"epoch {len(record.history.get('loss/generator', []))}{note}", fontsize=8)
    for axes, z_dim in zip(grid[0], z_dims, strict=True):
        axes.set_title(f"z_dim {z_dim}", fontsize=10)
    for axes, setting in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(setting, fontsize=10)
    return figure


def _setting(record: RunRecord) -> str:
    return f"{record.optimizer} {short(record.learning_rate)}"


def _rows(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(_setting(record) for record in records))


def _columns(records: Sequence[RunRecord]) -> list[int]:
    return sorted({record.z_dim for record in records})


def _last_sheets(client: MlflowClient, records: Sequence[RunRecord]) -> dict[str, Image.Image]:
    """The last sample sheet of each run of the first seed that has one, by run id."""
    sheets = {}
    first_seed = min(record.seed for record in records)
    with tempfile.TemporaryDirectory(prefix="gan-sheets-") as folder:
        for record in records:
            if record.seed != first_seed:
                continue
            try:
                logged = [file.path for file in client.list_artifacts(record.run_id, SHEETS)]
                if not logged:
                    continue
                path = client.download_artifacts(record.run_id, max(logged, key=epoch_of), folder)
                with Image.open(path) as sheet:
                    sheets[record.run_id] = sheet.copy()
            except (MlflowException, OSError, ValueError):
                continue  # the figure shows an empty place
    return sheets
