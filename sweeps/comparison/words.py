"""How the report writes numbers and lists, and what each score means in a sentence."""

import math
from collections.abc import Iterable, Sequence

from gan_core.live import in_time
from sweeps.comparison.cells import Cell
from sweeps.comparison.records import FD
from sweeps.comparison.statistics import Estimate
from sweeps.grid import text_of as short

NONE = "–"

SCORE_NAMES = {
    "quality/fd": "fd",
    "quality/kd": "kid",
    "quality/is": "is",
    "quality/precision": "precision",
    "quality/recall": "recall",
    "quality/density": "density",
    "quality/coverage": "coverage",
    "quality/class_kl": "class KL",
    "quality/confidence": "confidence",
}

GLOSSARY = {
    "fd": "Fréchet distance between the features that the classifier sees in generated images and in the test "
    "images. Less is better. The one number that the cells are ranked by.",
    "kid": "Kernel distance: the same question without taking the features for a Gaussian. Less is better; "
    "around 0 it may be a little negative.",
    "is": "Inception score's form, 1 to 10: 10 where every image is clearly of one class and all ten are as "
    "common. More is better, but one good picture of each class is enough for 10.",
    "precision": "Share of the generated images that lie near a real one. More is better: the images are "
    "believable.",
    "recall": "Share of the real images that lie near a generated one. More is better: the images are as "
    "various as the real ones.",
    "density": "Precision that counts near how many real ones an image lies; about 1 for real images.",
    "coverage": "Share of the real images that have a generated one near them. More is better.",
    "class KL": "How far the shares of the ten classes are from the real ones, in nats. 0 is best.",
    "confidence": "Mean probability that the classifier gives its choice of a class. More is clearer, though the "
    "classifier is confident of noise as well.",
    "real_baseline": "The scores of real training images: the best that can be asked.",
    "untrained_baseline": "The scores of an untrained G: what no training at all gives.",
    "classifier": "The fixed classifier of digits whose features all scores are made of.",
    "health": "ok; collapsed: no gradient is left, or one picture for every z; diverged: a loss became "
    "infinite; mode-collapsed: classes are missing; d-dominant: D is certain of every image; not-learning: "
    "still noise.",
    "cell, run, seed": "A cell is one setting; it has one run a seed. One seed means the same first weights, "
    "the same order of real images and the same noise in every cell that can share them.",
}


def number(value: float) -> str:
    """Three significant digits; a dash where there is no number."""
    if not math.isfinite(value):
        return NONE
    size = abs(value)
    if size < 5e-5:
        return "0"
    words = f"{size:,.0f}" if size >= 100 else f"{size:.4f}" if size < 1e-3 else f"{size:#.3g}"
    return f"−{words}" if value < 0 else words


def signed(value: float) -> str:
    """Two decimals and the sign."""
    return f"{value:+.2f}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """The 95 % interval as `low to high`; a dash for a single value."""
    return NONE if estimate.n < 2 else f"{number(estimate.low)} to {number(estimate.high)}"


def with_interval(estimate: Estimate) -> str:
    """The mean, and its interval where there is one."""
    return number(estimate.mean) + (f" ({interval(estimate)})" if estimate.n > 1 else "")


def p_value(p: float) -> str:
    """A p-value as one writes it."""
    return NONE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_clause(p: float) -> str:
    """`p = 0.03`, `p < 0.001`."""
    words = p_value(p)
    return f"p {words}" if words.startswith("<") else f"p = {words}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 seed`, `5 seeds`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(words: Iterable[object], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *front, end = list(map(str, words)) or [NONE]
    return f"{', '.join(front)} {last} {end}" if front else end


def setting(optimizer: str, learning_rate: float, z_dim: int | None = None) -> str:
    """`SGD at learning rate 0.03, z_dim 50`."""
    named = optimizer_name(optimizer)
    rate = f"{named} at learning rate {short(learning_rate)}"
    return rate if z_dim is None else f"{rate}, z_dim {z_dim}"


def optimizer_name(optimizer: str) -> str:
    """The optimizer as one writes it."""
    names = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
    return names.get(optimizer, optimizer)


def duration(seconds: float) -> str:
    """A span of time; a dash where it is not known."""
    return in_time(seconds) if math.isfinite(seconds) and seconds > 0 else NONE


def health_words(health: dict[str, int], of: int) -> str:
    """`ok 4/5, mode-collapsed 1/5`."""
    return ", ".join(f"{name or 'not recorded'} {count}/{of}" for name, count in health.items()) or NONE


def some(names: Sequence[str], most: int = 6) -> str:
    """A list that stays readable: the first few and how many more."""
    return listed(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def mean_distance(cell: Cell) -> str:
    """A cell's Fréchet distance in a few words, for a caption; empty if it has none."""
    return f"fd {with_interval(cell.scores[FD])}" if FD in cell.scores else ""
