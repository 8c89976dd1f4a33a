"""The report's curves: matplotlib figures, and each as an SVG for light and for dark pages and as a PNG."""

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

from gan_core.plots import D_COLOUR, G_COLOUR
from sweeps.comparison.cells import Cell
from sweeps.comparison.records import FD, RunRecord
from sweeps.comparison.words import setting

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its black and its yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", ":", "-.")
INK, FAINT, PAPER = "#1c1e21", "#c9ccd1", "#ffffff"
# On a dark page: what is dark becomes light. All others are seen on both.
DARK = {
    INK: "#e4e6ea", FAINT: "#4a4e55", PAPER: "#1b1d21",
    "#0072b2": "#4ba3dc", "#d55e00": "#f07f35", "#009e73": "#2fbf95",
    D_COLOUR: "#5b9ce6", G_COLOUR: "#ee8a45",
}  # fmt: skip
SIZE = (5.4, 3.3)  # inches; about half of a wide page, and readable on a phone
LEGEND_COLUMNS = 4
FEW_EPOCHS = 20  # up to here points are marked
STYLE: dict[Any, Any] = {
    "font.size": 10, "svg.hashsalt": "gan-grid", "text.color": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK, "axes.facecolor": PAPER,
    "figure.facecolor": PAPER, "axes.titlesize": 10, "legend.fontsize": 8.5, "grid.color": FAINT,
}  # fmt: skip


class Picture(NamedTuple):
    """One figure in all the forms that the report needs."""

    light: bytes  # SVG
    dark: bytes  # SVG
    png: bytes


class Curve(NamedTuple):
    """A metric over the epochs, over several runs."""

    epochs: list[int]
    mean: list[float]
    least: list[float]
    most: list[float]
    several: bool


def losses_by_optimizer(runs: Sequence[RunRecord], network: str) -> Picture:
    """G's or D's loss of several settings at one z_dim: the mean over seeds, and their range as a band."""
    metric = {"G": "loss/generator", "D": "loss/discriminator"}[network]
    settings = list(dict.fromkeys((run.optimizer, run.learning_rate) for run in runs))
    with rc_context(STYLE):
        figure, axes = _axes(f"Loss of {network}", "nats, mean of epoch")
        for place, (optimizer, rate) in enumerate(settings):
            curves = _curve(
                [run for run in runs if (run.optimizer, run.learning_rate) == (optimizer, rate)], metric
            )
            _draw(
                axes,
                curves,
                COLOURS[place % len(COLOURS)],
                STYLES[place % len(STYLES)],
                setting(optimizer, rate),
            )
        _loss_axis(axes)
        _legend(figure, axes)
        return _picture(figure)


def losses_of_setting(runs: Sequence[RunRecord]) -> Picture:
    """G's and D's loss of one setting: the mean over seeds, and their range as a band."""
    with rc_context(STYLE):
        figure, axes = _axes("", "nats, mean of epoch")
        _draw(axes, _curve(runs, "loss/generator"), G_COLOUR, "-", "G")
        _draw(axes, _curve(runs, "loss/discriminator"), D_COLOUR, "--", "D")
        _loss_axis(axes)
        _legend(figure, axes)
        return _picture(figure)


def distance_over_epochs(cells: Sequence[Cell], real_baseline: float, untrained_baseline: float) -> Picture:
    """Fréchet distance over training: a line a cell (geometric mean over seeds), its seeds' range as a band.

    A colour for each z_dim, a style of line for each optimizer and learning rate; with one z_dim a colour for
    each learning rate of an optimizer, and a style for each optimizer.
    """
    looks = line_looks(cells)
    with rc_context(STYLE):
        lines = math.ceil(len(cells) / LEGEND_COLUMNS)
        below = 0.65 + 0.2 * lines
        figure, axes = _axes("", "Fréchet distance", (8.6, 4 + below), below)
        for cell, (colour, style) in zip(cells, looks, strict=True):
            _draw(axes, _curve(cell.runs, FD, log=True), colour, style, cell.name)
        for value, name in ((real_baseline, "real images"), (untrained_baseline, "untrained G")):
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
            axes.annotate(
                name, (1, value), xycoords=("axes fraction", "data"), xytext=(-4, 2),
                textcoords="offset points", ha="right", va="bottom", fontsize=8.5, color=INK,
            )  # fmt: skip
        _log_axis(axes)
        figure.legend(
            loc="lower center", ncols=min(LEGEND_COLUMNS, len(cells)), frameon=False, handlelength=2.6
        )
        return _picture(figure)


def line_looks(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Colour and style of each cell's line; no two are alike as long as there are 24 cells at most."""
    z_dims = sorted({cell.z_dim for cell in cells})
    rates = {
        optimizer: sorted({cell.learning_rate for cell in cells if cell.optimizer == optimizer})
        for optimizer in dict.fromkeys(cell.optimizer for cell in cells)
    }
    settings = [(optimizer, rate) for optimizer, its in rates.items() for rate in its]
    if len(z_dims) > 1:
        places = [(z_dims.index(c.z_dim), settings.index((c.optimizer, c.learning_rate))) for c in cells]
    else:
        places = [(rates[c.optimizer].index(c.learning_rate), list(rates).index(c.optimizer)) for c in cells]
    if any(colour >= len(COLOURS) or style >= len(STYLES) for colour, style in places):
        places = [(number % len(COLOURS), number // len(COLOURS)) for number in range(len(cells))]
    return [(COLOURS[colour], STYLES[style % len(STYLES)]) for colour, style in places]


def _axes(
    title: str, label: str, size: tuple[float, float] = SIZE, below: float = 0.5
) -> tuple[Figure, Axes]:
    # Margins that fit what stands there: to have them worked out takes as long as the drawing.
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (0.62 / size[0], below / size[1], 1 - 0.75 / size[0], 1 - (below + 0.45) / size[1])
    )
    axes.set_title(title, loc="left")
    axes.set(xlabel="epoch", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure, axes


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


def _legend(figure: Figure, axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        # Above the curves, not on them.
        figure.legend(loc="upper right", ncols=2, frameon=False, handlelength=2.6)


def _curve(runs: Sequence[RunRecord], metric: str, log: bool = False) -> Curve:
    """The metric's mean over the runs that have it at an epoch (`log`: geometric), its least and its most."""
    points: dict[int, list[float]] = {}
    for run in runs:
        for epoch, value in zip(run.epochs.get(metric, []), run.history.get(metric, []), strict=True):
            if math.isfinite(value) and (value > 0 or not log):
                points.setdefault(epoch, []).append(value)
    epochs = sorted(points)
    mean = geometric_mean if log else fmean
    return Curve(
        epochs,
        [mean(points[epoch]) for epoch in epochs],
        [min(points[epoch]) for epoch in epochs],
        [max(points[epoch]) for epoch in epochs],
        any(len(points[epoch]) > 1 for epoch in epochs),
    )


def _draw(axes: Axes, curve: Curve, colour: str, style: str, label: str) -> None:
    if not curve.epochs:
        return
    if curve.several:
        axes.fill_between(curve.epochs, curve.least, curve.most, color=colour, alpha=0.16, linewidth=0)
    marker = "." if len(curve.epochs) <= FEW_EPOCHS else ""
    axes.plot(
        curve.epochs, curve.mean, color=colour, linestyle=style, linewidth=1.7, marker=marker, label=label
    )


def _picture(figure: Figure) -> Picture:
    drawing, image = io.BytesIO(), io.BytesIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    figure.savefig(image, format="png", dpi=110)
    light = drawing.getvalue()
    dark = light
    for colour, instead in DARK.items():
        dark = dark.replace(colour.encode(), instead.encode())
    return Picture(light, dark, image.getvalue())
