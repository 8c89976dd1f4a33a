"""The pictures of a report: curves as SVG for light and dark pages and as PNG, and a sweep's overview."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from gan_core import metric_names as names
from gan_core.plots import D_COLOUR, G_COLOUR
from sweeps.comparison.compare import Comparison, Setting, over_epochs
from sweeps.comparison.records import RunRecord
from sweeps.race import Race

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
LEGEND_COLUMNS = 3
FEW_LINES = 3
FEW_EPOCHS = 20  # up to here points are marked
TILES = 6  # in a row of the contact sheet, where the axes do not say how many
STYLE: dict[Any, Any] = {
    "font.size": 10, "svg.hashsalt": "gan-grid", "text.color": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK, "axes.facecolor": PAPER,
    "figure.facecolor": PAPER, "figure.dpi": 110, "axes.titlesize": 10, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": FAINT, "grid.linewidth": 0.6, "lines.linewidth": 1.7,
    "legend.fontsize": 8.5, "legend.frameon": False, "legend.handlelength": 2.6,
    "text.parse_math": False,  # a name may have dollars in it
}  # fmt: skip
LOSSES = {"G": names.LOSS_G, "D": names.LOSS_D}
LOSS_LABEL = "mean of epoch"


class Picture(NamedTuple):
    """One figure in all the forms that the report needs."""

    light: bytes  # SVG
    dark: bytes  # SVG
    png: bytes


class Line(NamedTuple):
    """What a line of a chart shows: the mean of a metric over some runs, of fd the geometric one."""

    label: str
    runs: Sequence[RunRecord]
    metric: str
    colour: str
    style: str = "-"


def lines_of(settings: Sequence[Setting], comparison: Comparison, metric: str) -> list[Line]:
    """A line per setting: of fd over its finished runs. No two look alike as long as there are 24 at most.

    A few settings have a colour each. Of two axes with few values one is the colour and the other the style.
    Otherwise colours and styles take turns.
    """
    varied = sorted(comparison.varied, key=lambda axis: -len(comparison.axes[axis]))
    sizes = [len(comparison.axes[axis]) for axis in varied]
    looks = [(place % len(COLOURS), place // len(COLOURS)) for place in range(len(settings))]
    if len(settings) > FEW_LINES and len(sizes) == 2 and sizes[0] <= len(COLOURS) and sizes[1] <= len(STYLES):
        colour, style = (comparison.axes[axis].index for axis in varied)
        looks = [(colour(each.values[varied[0]]), style(each.values[varied[1]])) for each in settings]
    return [
        Line(
            setting.name,
            setting.finished if metric == names.FD else setting.runs,  # as in the settings' means
            metric,
            COLOURS[colour],
            STYLES[style % len(STYLES)],
        )
        for setting, (colour, style) in zip(settings, looks, strict=True)
    ]


@rc_context(STYLE)
def chart(lines: Sequence[Line], title: str = "", marks: Mapping[str, float] | None = None) -> Picture:
    """A metric over the epochs: means over seeds, their range as a band. marks: values to compare fd with, by name."""
    is_fd = lines[0].metric == names.FD
    width, height = (8.6, 3.5) if is_fd else (5.4, 2.8)  # inches; half of a wide page is readable on a phone
    # Margins that fit what stands there: to have them worked out takes as long as the drawing.
    below = 0.65 + 0.2 * math.ceil(len(lines) / LEGEND_COLUMNS)
    full = height + below
    figure = Figure(figsize=(width, full))
    axes = figure.add_axes((0.62 / width, below / full, 1 - 0.75 / width, 1 - (below + 0.3) / full))
    axes.set(title=title, xlabel="epoch", ylabel="Fréchet distance" if is_fd else LOSS_LABEL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _draw(axes, lines)
    if axes.lines:
        figure.legend(loc="lower center", ncols=min(LEGEND_COLUMNS, len(axes.lines)))
    for name, value in (marks or {}).items():
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), xytext=(-4, 2),
            textcoords="offset points", ha="right", va="bottom", fontsize=8.5, color=INK,
        )  # fmt: skip
    return _picture(figure)


@rc_context(STYLE)
def race_chart(race: Race, trained: Mapping[tuple[str, int], int]) -> Picture:
    """A row per setting, those in the race first; a bar per seed, as long as it was trained. trained: in epochs."""
    rows = [*sorted(race.left, key=lambda name: name != race.chosen), *reversed(race.dropped)]
    seeds = 1 + max((seed for _, seed in trained), default=0)
    width, height = 8.6, 0.75 + 0.26 * len(rows)
    figure = Figure(figsize=(width, height))
    left = 0.3 + 0.075 * max(map(len, rows))
    axes = figure.add_axes((left / width, 0.5 / height, 1 - (left + 0.1) / width, 1 - 0.6 / height))
    for (name, seed), epochs in trained.items():
        asked, place = race.reached.get((name, seed), 0), rows.index(name)
        checks = name == race.chosen and seed in race.checks
        colour = COLOURS[0] if name in race.left else COLOURS[1]
        axes.barh(
            place, 0.92 * epochs / race.rules.epochs, left=seed - 0.46, height=0.6, edgecolor=colour, linewidth=1,
            facecolor=(colour, 1 if checks else 0.45) if asked else "none",
        )  # fmt: skip
    for name, drop in race.dropped.items():
        share = min(drop.epoch / race.rules.epochs, 1)
        axes.plot(drop.seed - 0.46 + 0.92 * share, rows.index(name), "x", color=INK, markersize=7, clip_on=False)
    axes.set(xlabel="seed", xlim=(-0.6, seeds - 0.4), ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
    axes.set_yticklabels(rows)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    return _picture(figure)


def _picture(figure: Figure) -> Picture:
    drawing, image = io.BytesIO(), io.BytesIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    figure.savefig(image, format="png")
    light = dark = drawing.getvalue()
    for colour, instead in DARK.items():
        dark = dark.replace(colour.encode(), instead.encode())
    return Picture(light, dark, image.getvalue())


@rc_context(STYLE)
def losses_overview(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """All these settings' losses: a row per value of the first axis that varies, D left, G right."""
    first = comparison.varied[0] if len(comparison.varied) > 1 else None
    rows: dict[str, list[Line]] = {}
    for line, setting in zip(lines_of(settings, comparison, names.LOSS_D), settings, strict=True):
        rows.setdefault(f", {first} {setting.values[first]}" if first else "", []).append(line)
    figure = Figure(figsize=(12, 0.8 + 2.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False, sharex=True)
    for panels, (row, lines) in zip(grid, rows.items(), strict=True):
        for axes, network in zip(panels, ("D", "G"), strict=True):
            _draw(axes, [line._replace(metric=LOSSES[network]) for line in lines])
            axes.set_title(f"Loss of {network}{row}")
        panels[0].set_ylabel(LOSS_LABEL)
        if panels[1].lines:  # a row of runs that broke in their first epoch has none
            panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    return figure


@rc_context(STYLE)
def contact_sheet(comparison: Comparison, runs: Sequence[RunRecord], sheets: Mapping[str, bytes | None]) -> Figure:
    """The last sample sheet of each run. runs: one per setting, in the axes' order. sheets: PNGs by the run's id."""
    tiles = len(comparison.axes[comparison.varied[-1]]) if comparison.varied else TILES
    across = min(tiles if len(runs) % tiles == 0 and tiles <= 2 * TILES else TILES, len(runs))
    down = math.ceil(len(runs) / across)
    figure = Figure(figsize=(2.6 * across + 0.3, 3.0 * down + 0.3), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, run in zip(grid.flat, runs, strict=False):
        axes.set_title(run.setting, fontsize=9, loc="center")
        if png := sheets.get(run.run_id):
            with Image.open(io.BytesIO(png)) as sheet:
                axes.imshow(np.asarray(sheet), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        fd = run.score(names.FD)
        note = f", fd {fd:.3g}" if fd else "" if run.finished else f", {run.status.lower()}"
        axes.set_xlabel(f"seed {run.seed}, epoch {run.epochs}{note}", fontsize=8)
    return figure


def _draw(axes: Axes, lines: Sequence[Line]) -> None:
    """Each line's mean over the runs at each epoch, and a band for their range, on a scale that shows them."""
    shown = []
    for line in lines:
        over = over_epochs(line.runs, line.metric)
        if over.empty:
            continue
        if len(line.runs) > 1:
            axes.fill_between(over.index, over["least"], over["most"], color=line.colour, alpha=0.16, linewidth=0)
        marker = "." if len(over) <= FEW_EPOCHS else ""
        axes.plot(over["mean"], color=line.colour, linestyle=line.style, marker=marker, label=line.label)
        shown += [mean for mean in over["mean"] if mean > 0]
    # Logarithmic where a collapsed run at the clamp of 100 would flatten all others.
    positive = axes.dataLim.y0 >= 0  # the losses of some objectives are not
    if lines[0].metric == names.FD or (positive and shown and max(shown) > 20 * np.median(shown)):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    elif positive:
        axes.set_ylim(bottom=0)
