"""Axes → cells → the configs of all runs. Pure: knows nothing of Ray or MLflow."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gan_core.config import RunConfig, make_config
from gan_core.errors import UserError

AXES = ("optimizer", "learning_rate", "z_dim", "seed")  # the fields of RunConfig that a grid varies


class Cell(NamedTuple):
    """One point of the grid; it has a run for each seed."""

    optimizer: str
    learning_rate: float | None  # None: no axis for this optimizer, it has its own
    z_dim: int

    def __str__(self) -> str:
        """The cell's name, the first part of its runs' names."""
        rate = "" if self.learning_rate is None else f"_lr{short(self.learning_rate)}"
        return f"{self.optimizer}{rate}_z{self.z_dim}"


def short(rate: float) -> str:
    """A learning rate in as few characters as tell it from every other."""
    rounded = f"{rate:g}"
    return rounded if float(rounded) == rate else repr(rate)


class GridRun(NamedTuple):
    """One run of the grid."""

    name: str
    cell: Cell
    config: RunConfig


Rates = Sequence[float] | Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Grid:
    """The axes; make one with `make_grid`, which checks them."""

    optimizers: tuple[str, ...]
    z_dims: tuple[int, ...]
    seeds: tuple[int, ...]
    learning_rates: Mapping[str, tuple[float, ...]]  # by optimizer; one without an entry has its own

    def cells(self) -> list[Cell]:
        """Every cell, optimizer by optimizer."""
        return [
            Cell(optimizer, rate, z_dim)
            for optimizer in self.optimizers
            for rate in self.learning_rates.get(optimizer, (None,))
            for z_dim in self.z_dims
        ]

    def rates_in_words(self) -> str:
        """The axis of learning rates as the command line takes it; empty if there is none."""
        lists = {name: [short(rate) for rate in rates] for name, rates in self.learning_rates.items()}
        if set(lists) == set(self.optimizers) and len(set(map(tuple, lists.values()))) == 1:
            return " ".join(lists[self.optimizers[0]])
        return " ".join(f"{name}={','.join(rates)}" for name, rates in lists.items())


def make_grid(
    optimizers: Iterable[str], z_dims: Iterable[int], seeds: Iterable[int], learning_rates: Rates = ()
) -> tuple[Grid, list[str]]:
    """The grid of these axes, and a line for each value that stood on an axis twice and is taken once.

    learning_rates: the same for all optimizers, or by optimizer; none: each its own. Raises UserError if
    another axis is empty, or if rates are given for an optimizer that is not on its axis.
    """
    notes: list[str] = []

    def axis(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
        given = list(values)
        if not given and name != "learning_rates":
            raise UserError(f"{name} is empty: give at least one value")
        once = tuple(dict.fromkeys(given))
        notes.extend(
            f"{name}: {value} is given {given.count(value)} times and taken once"
            for value in once
            if given.count(value) > 1
        )
        return once

    every_optimizer = axis("optimizers", optimizers)
    every_z_dim, every_seed = axis("z_dims", z_dims), axis("seeds", seeds)
    if isinstance(learning_rates, Mapping):
        if absent := [name for name in learning_rates if name not in every_optimizer]:
            raise UserError(
                f"learning rates are given for {absent[0]}, which is not among the optimizers "
                f"{' '.join(every_optimizer)}"
            )
        rates = {name: tuple(given) for name, given in learning_rates.items()}
    else:
        shared = axis("learning_rates", learning_rates)
        rates = dict.fromkeys(every_optimizer, shared) if shared else {}
    return Grid(every_optimizer, every_z_dim, every_seed, rates), notes


def parse_rates(words: Sequence[str]) -> Rates:
    """What --learning-rates was given: `0.01 0.03` for all optimizers, or `sgd=0.01,0.03 adam=0.001`.

    Raises UserError for a mixture of the two, for an optimizer or one of its rates given twice, and for what
    is no number; whether a number can be a learning rate, RunConfig decides.
    """
    lists = [word.partition("=") for word in words]
    if not any(equals for _, equals, _ in lists):
        return [_rate(word) for word in words]
    if plain := [word for word, equals, _ in lists if not equals]:
        raise UserError(
            f"--learning-rates should be numbers for all optimizers, or OPTIMIZER=RATE,RATE for each: "
            f"{plain[0]!r} stands among the latter"
        )
    rates: dict[str, tuple[float, ...]] = {}
    for optimizer, _, listed in lists:
        if optimizer in rates:
            raise UserError(f"--learning-rates has {optimizer} twice: give one list, {optimizer}=RATE,RATE")
        rates[optimizer] = tuple(_rate(text) for text in listed.split(","))
        if len(set(rates[optimizer])) < len(rates[optimizer]):
            raise UserError(f"--learning-rates has a rate twice in {optimizer}={listed}")
    return rates


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--learning-rates should be numbers, got {text!r}") from error


def grid_runs(grid: Grid, **common: Any) -> list[GridRun]:
    """A config for each cell and seed, with the `common` settings; seed by seed, so that no cell has to wait.

    Raises UserError for a value that RunConfig refuses.
    """
    runs = []
    for seed, cell in itertools.product(grid.seeds, grid.cells()):
        rate = {} if cell.learning_rate is None else {"learning_rate": cell.learning_rate}
        config = make_config(optimizer=cell.optimizer, z_dim=cell.z_dim, seed=seed, **rate, **common)
        runs.append(GridRun(f"{cell}_s{seed}", cell, config))
    return runs
