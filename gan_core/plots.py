"""Pictures of a run: its loss curves, and sheets of generated images."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from gan_core.events import EpochEnd, Event

D_COLOUR, G_COLOUR = "#1f5fa8", "#d1641a"  # told apart by colour-blind readers and in grey
SHEET_SCALE = 2  # screen pixels for a pixel of an image
SPANS = 2000  # of the width of a figure
FRAME, FRAME_SHADE = 2, 96  # pixels between two images of a sheet, and their grey


def plot_losses(events: Iterable[Event], title: str = "") -> Figure:
    """G's and D's loss over training: every iteration lightly, and a running mean as long as an epoch."""
    epochs = [event for event in events if isinstance(event, EpochEnd)]
    figure = Figure(figsize=(9, 4.5))
    axes = figure.add_axes((0.065, 0.11, 0.92, 0.82))  # an automatic layout draws everything twice
    if epochs:
        draw_losses(axes, [epoch.generator_losses for epoch in epochs], G_COLOUR, "G")
        draw_losses(axes, [epoch.discriminator_losses for epoch in epochs], D_COLOUR, "D")
        axes.legend(frameon=False)
    axes.set_title(title, parse_math=False)  # a name may have dollars in it
    axes.set(xlabel="epoch", ylabel="loss")
    if axes.dataLim.y0 >= 0:  # a critic's loss goes below
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_losses(axes: Axes, epochs: Sequence[NDArray[np.float32]], colour: str, label: str) -> None:
    """One loss, an element an iteration, against the epoch: iterations lightly under their running mean."""
    losses, per_epoch = np.concatenate(epochs), len(epochs[0])
    epoch = np.arange(1, len(losses) + 1) / per_epoch
    if len(losses) <= SPANS:
        axes.plot(epoch, losses, color=colour, alpha=0.4, linewidth=0.6)
    else:
        # Their envelope shows what 94,000 iterations would, and is drawn at once.
        low, high, at = envelope(losses, epoch)
        axes.fill_between(at, low, high, color=colour, alpha=0.25, linewidth=0)
    window = min(per_epoch, len(losses))
    mean = running_mean(losses, window)
    thin = slice(None, None, max(1, len(mean) // 4000))
    axes.plot(epoch[window - 1 :][thin], mean[thin], color=colour, linewidth=1.5, label=label)


def running_mean(values: NDArray[np.float32], window: int) -> NDArray[np.float64]:
    """The mean of each `window` consecutive values: one element for each full window."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray((total[window:] - total[:-window]) / window)


def envelope(
    values: NDArray[np.float32], at: NDArray[np.float64], spans: int = SPANS
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """The least and the greatest value in each of at most `spans` equal spans, and where each span begins."""
    starts = np.unique(np.linspace(0, len(values), min(spans, len(values)), endpoint=False).astype(int))
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts), at[starts]


def sample_sheet(images: Tensor) -> Image.Image:
    """Images (uint8, N×C×H×W, N a multiple of 8) as one sheet, eight in a row, in order; gray if C is 1, else RGB."""
    # torchvision's make_grid would do, and would bring 90 MB into every worker.
    framed = pad(images, (FRAME, 0, FRAME, 0), value=FRAME_SHADE)  # N×C×30×30: each with its left and top
    N, channels, height, width = framed.shape
    sheet = framed.view(N // 8, 8, channels, height, width).permute(0, 3, 1, 4, 2)  # N/8×30×8×30×C
    sheet = sheet.reshape(N // 8 * height, 8 * width, channels)
    sheet = pad(sheet, (0, 0, 0, FRAME, 0, FRAME), value=FRAME_SHADE).squeeze(2)
    return Image.fromarray(sheet.numpy().repeat(SHEET_SCALE, axis=0).repeat(SHEET_SCALE, axis=1))
