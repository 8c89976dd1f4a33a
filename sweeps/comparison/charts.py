"""The pictures of a report: curves as SVG for light and dark pages and as PNG, and a sweep's overview."""

import io
import math
from collections.abc import Sequence
from statistics import fmean, geometric_mean
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from gan_core import metric_names as names
from gan_core.plots import D_COLOUR, G_COLOUR
from sweeps.comparison.artifacts import Sheets
from sweeps.comparison.compare import Comparison, Setting
from sweeps.comparison.records import RunRecord

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its black and its yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", ":", "-.")
INK, FAINT, PAPER = "#1c1e21", "#c9ccd1", "#ffffff"
# On a dark page what is dark becomes light. All others are seen on both.
DARK = {
    INK: "#e4e6ea", FAINT: "#4a4e55", PAPER: "#1b1d21",
    "#0072b2": "#4ba3dc", "#d55e00": "#f07f35", "#009e73": "#2fbf95",
    D_COLOUR: "#5b9ce6", G_COLOUR: "#ee8a45",
}  # fmt: skip
SIZE = (5.4, 3.3)  # inches; about half of a wide page, and readable on a phone
LEGEND_COLUMNS = 3
FEW_LINES = 3
FEW_EPOCHS = 20  # up to here points are marked
TILES = 6  # in a row of the contact sheet, where the axes do not say how many
STYLE: dict[Any, Any] = {
    "font.size": 10, "svg.hashsalt": "gan-grid", "text.color": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK, "axes.facecolor": PAPER,
    "figure.facecolor": PAPER, "axes.titlesize": 10, "legend.fontsize": 8.5, "grid.color": FAINT,
    "text.parse_math": False,  # a name may have dollars in it
}  # fmt: skip
LOSSES = {"G": names.LOSS_G, "D": names.LOSS_D}


class Picture(NamedTuple):
    """One figure in all the forms that the report needs."""

    light: bytes  # SVG
    dark: bytes  # SVG
    png: bytes


class Line(NamedTuple):
    """What a line of a chart shows: the mean of some runs."""

    label: str
    runs: Sequence[RunRecord]
    colour: str
    style: str = "-"


def lines_of(settings: Sequence[Setting], comparison: Comparison) -> list[Line]:
    """A line per setting. No two look alike as long as there are 24 at most.

    A few settings have a colour each. Of two axes with few values one is the colour and the other the style.
    Otherwise colours and styles take turns.
    """
    varied = [axis for axis, values in comparison.axes.items() if len(values) > 1]
    varied.sort(key=lambda axis: -len(comparison.axes[axis]))
    sizes = [len(comparison.axes[axis]) for axis in varied]
    looks = [(place % len(COLOURS), place // len(COLOURS)) for place in range(len(settings))]
    if len(settings) > FEW_LINES and len(sizes) == 2 and sizes[0] <= len(COLOURS) and sizes[1] <= len(STYLES):
        colour, style = (comparison.axes[axis].index for axis in varied)
        looks = [(colour(each.values[varied[0]]), style(each.values[varied[1]])) for each in settings]
    return [
        Line(setting.name, setting.runs, COLOURS[colour], STYLES[style % len(STYLES)])
        for setting, (colour, style) in zip(settings, looks, strict=True)
    ]


def fd_chart(lines: Sequence[Line], real: float, untrained: float) -> Picture:
    """The Fréchet distance over the epochs: geometric means over seeds, with their range."""
    with rc_context(STYLE):
        figure, axes = _axes("", "Fréchet distance", (8.6, 4), len(lines))
        for line in lines:
            finished = [run for run in line.runs if run.finished]  # as in the settings' means
            _draw(axes, line._replace(runs=finished), names.FD, log=True)
        for value, name in ((real, "real images"), (untrained, "untrained G")):
            if value > 0:
                axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
                axes.annotate(
                    name, (1, value), xycoords=("axes fraction", "data"), xytext=(-4, 2),
                    textcoords="offset points", ha="right", va="bottom", fontsize=8.5, color=INK,
                )  # fmt: skip
        _log_axis(axes)
        return _picture(figure)


def loss_chart(lines: Sequence[Line], network: str) -> Picture:
    """The loss of G or of D over the epochs: means over seeds, their range as a band."""
    with rc_context(STYLE):
        figure, axes = _axes(f"Loss of {network}", "nats, mean of epoch", SIZE, len(lines))
        for line in lines:
            _draw(axes, line, LOSSES[network])
        _loss_axis(axes)
        return _picture(figure)


def both_losses_chart(runs: Sequence[RunRecord]) -> Picture:
    """The losses of G and of D of one setting over the epochs."""
    with rc_context(STYLE):
        figure, axes = _axes("", "nats, mean of epoch", SIZE, 2)
        for network, colour in (("G", G_COLOUR), ("D", D_COLOUR)):
            _draw(axes, Line(network, runs, colour), LOSSES[network])
        _loss_axis(axes)
        return _picture(figure)


def losses_overview(comparison: Comparison, settings: Sequence[Setting]) -> bytes:
    """All these settings' losses as PNG: a row per value of the first axis that varies, D left, G right."""
    varied = [axis for axis, values in comparison.axes.items() if len(values) > 1]
    rows: dict[str, list[Line]] = {}
    for line, setting in zip(lines_of(settings, comparison), settings, strict=True):
        row = f"{varied[0]} {setting.values[varied[0]]}" if len(varied) > 1 else ""
        rows.setdefault(row, []).append(line)
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 0.8 + 2.9 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), 2, squeeze=False, sharex=True)
        for panels, (row, lines) in zip(grid, rows.items(), strict=True):
            for axes, network in zip(panels, ("D", "G"), strict=True):
                for line in lines:
                    _draw(axes, line, LOSSES[network])
                _loss_axis(axes)
                axes.set_title(f"Loss of {network}{row and ', '}{row}", loc="left")
                axes.spines[["top", "right"]].set_visible(False)
            panels[0].set_ylabel("nats, mean of epoch")
            if panels[1].lines:  # a row of runs that broke in their first epoch has none
                panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handlelength=2.6)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        return _png(figure)


def contact_sheet(comparison: Comparison, runs: Sequence[RunRecord], sheets: Sheets) -> bytes:
    """The last sample sheet of each run as PNG. runs: one per setting, in the axes' order."""
    last = [len(values) for values in comparison.axes.values() if len(values) > 1][-1:]
    across = last[0] if last and len(runs) % last[0] == 0 and last[0] <= 2 * TILES else TILES
    across = min(across, len(runs))
    down = math.ceil(len(runs) / across)
    by_run = {run_id: png for (run_id, _), png in sheets.items()}
    with rc_context(STYLE):
        figure = Figure(figsize=(2.6 * across + 0.3, 3.0 * down + 0.3), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, run in zip(grid.flat, runs, strict=False):
            axes.set_title(run.setting, fontsize=9)
            if png := by_run.get(run.run_id):
                with Image.open(io.BytesIO(png)) as sheet:
                    axes.imshow(np.asarray(sheet), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
            fd = run.score(names.FD)
            note = f", fd {fd:.3g}" if fd else "" if run.finished else f", {run.status.lower()}"
            axes.set_xlabel(f"seed {run.seed}, epoch {run.epochs}{note}", fontsize=8)
        return _png(figure)


def _axes(title: str, label: str, size: tuple[float, float], lines: int) -> tuple[Figure, Axes]:
    """A figure whose margins fit what stands there: to have them worked out takes as long as the drawing."""
    width, height = size
    below = 0.65 + 0.2 * math.ceil(lines / LEGEND_COLUMNS)
    figure = Figure(figsize=(width, height + below - 0.5))
    full = height + below - 0.5
    axes = figure.add_axes((0.62 / width, below / full, 1 - 0.75 / width, 1 - (below + 0.3) / full))
    axes.set_title(title, loc="left")
    axes.set(xlabel="epoch", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure, axes


def _draw(axes: Axes, line: Line, metric: str, log: bool = False) -> None:
    """The metric's mean over the runs at each epoch (`log`: geometric), and a band for their range."""
    points: dict[int, list[float]] = {}
    for run in line.runs:
        for epoch, value in run.history.get(metric, {}).items():
            if math.isfinite(value) and (value > 0 or not log):
                points.setdefault(epoch, []).append(value)
    if not points:
        return
    epochs = sorted(points)
    if any(len(values) > 1 for values in points.values()):
        least, most = ([extreme(points[epoch]) for epoch in epochs] for extreme in (min, max))
        axes.fill_between(epochs, least, most, color=line.colour, alpha=0.16, linewidth=0)
    mean = geometric_mean if log else fmean
    axes.plot(
        epochs, [mean(points[epoch]) for epoch in epochs], color=line.colour, linestyle=line.style,
        linewidth=1.7, marker="." if len(epochs) <= FEW_EPOCHS else "", label=line.label,
    )  # fmt: skip


def _loss_axis(axes: Axes) -> None:
    """From 0, or logarithmic where a collapsed run at the clamp of 100 would flatten all others."""
    shown = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines] or [np.ones(1)])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if len(shown) and shown.max() > 20 * np.median(shown):
        _log_axis(axes)
    else:
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", linewidth=0.6)


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", linewidth=0.6)


def _picture(figure: Figure) -> Picture:
    """The figure, with a legend below the curves."""
    labels = figure.axes[0].get_legend_handles_labels()[1]
    if labels:
        figure.legend(loc="lower center", ncols=min(LEGEND_COLUMNS, len(labels)), frameon=False, handlelength=2.6)
    drawing = io.BytesIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    light = dark = drawing.getvalue()
    for colour, instead in DARK.items():
        dark = dark.replace(colour.encode(), instead.encode())
    return Picture(light, dark, _png(figure))


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()
