"""Settings drawn from ranges: spread evenly by a Sobol sequence, or chosen by what was found so far (Optuna). Pure.

A draw gives each field that varies a value, one field after another, as a field's range may depend on the values
before it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from gan_core.errors import UserError

BATCH = 8  # settings that Optuna is asked for at a time: what it knows does not depend on which worker was faster
SEED = 0  # of both methods
DIGITS = 3  # significant ones of a value: a name shows all of it
MOST_TRIES = 64  # draws for each setting that is wanted, where many are the same

Values = tuple[Any, ...]
Choose = Callable[[str, "Values | Range"], Any]  # a field's value


@dataclass(frozen=True)
class Range:
    """All values between two, whole numbers if both ends are."""

    low: float
    high: float
    scale: Literal["linear", "log"]

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any]) -> "Range":
        """What a sweep file says of a field. Raises UserError."""
        if given.keys() != {"low", "high", "scale"} or given["scale"] not in ("linear", "log"):
            raise UserError(
                f'{name} should be a list of values, or a range such as {{low = 1, high = 10, scale = "log"}} with '
                f'the scale "log" or "linear", got {given}'
            )
        low, high = given["low"], given["high"]
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)) or not low < high:
            raise UserError(
                f"{name}: the low end of a range should be less than its high end, got {low!r} and {high!r}"
            )
        if given["scale"] == "log" and low <= 0:
            raise UserError(f"{name}: the low end of a range on a log scale should be more than 0, got {low!r}")
        return cls(low, high, given["scale"])

    def __str__(self) -> str:
        """As the plan and MLflow show it."""
        return f"{self.low:g}..{self.high:g} ({self.scale})"

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def rounded(self, value: float) -> float:
        """The value as it is trained and shown."""
        near = round(value) if self.whole else float(f"{value:.{DIGITS}g}")
        return min(max(near, self.low), self.high)

    def at(self, share: float) -> float:
        """The value at a share, 0 to 1, of the way from low to high."""
        if self.scale == "log":
            return self.rounded(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return self.rounded(self.low + share * (self.high - self.low))


def batch_of(search: str) -> int | None:
    """How many settings are tried before the next ones are chosen; None: all are known at once."""
    return None if search in ("", "sobol") else BATCH


class Found(NamedTuple):
    """A setting that was tried, and its score: the mean over its seeds, less is better."""

    values: Mapping[str, Any]
    score: float


def sobol(fields: Sequence[str]) -> Iterator[Choose]:
    """How to choose values, setting after setting, so that they fill the ranges evenly: a scrambled Sobol sequence.

    More settings are the same ones and others (Owen 1998; scipy.stats.qmc).
    """
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(fields), rng=np.random.default_rng(SEED))
    while True:
        for point in sequence.random(BATCH):
            yield partial(_at, dict(zip(fields, map(float, point), strict=True)))


def _at(shares: Mapping[str, float], name: str, of: "Values | Range") -> Any:
    if isinstance(of, Range):
        return of.at(shares[name])
    return of[min(int(shares[name] * len(of)), len(of) - 1)]


def tpe(found: Sequence[Found], range_of: Callable[[str, Mapping[str, Any]], Any]) -> Iterator[Choose]:
    """How to choose values that are likely to do better: tree-structured Parzen estimators (Bergstra et al. 2011).

    range_of: the values or the range that a field of these values was chosen from. The same finds give the same
    choices.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=SEED + len(found), n_startup_trials=BATCH, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    worst = max((one.score for one in found if math.isfinite(one.score)), default=0.0)
    for values, score in found:
        ranges = {name: range_of(name, values) for name in values}
        study.enqueue_trial({_key(name, of): values[name] for name, of in ranges.items()})
        trial = study.ask()
        for name, of in ranges.items():
            _suggested(trial, name, of)
        study.tell(trial, score if math.isfinite(score) else worst + 1.0)
    while True:
        yield partial(_suggested, study.ask())


def _suggested(trial: Any, name: str, of: "Values | Range") -> Any:
    if not isinstance(of, Range):
        return trial.suggest_categorical(_key(name, of), of)
    log = of.scale == "log"
    if of.whole:
        return trial.suggest_int(_key(name, of), int(of.low), int(of.high), log=log)
    return of.rounded(trial.suggest_float(_key(name, of), of.low, of.high, log=log))


def _key(name: str, of: "Values | Range") -> str:
    return f"{name} {of}"  # one field may have a range of its own with each optimizer
