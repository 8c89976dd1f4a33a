"""Axes → cells → the configs of all runs. Pure: knows nothing of Ray or MLflow."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gan_core.config import RunConfig, make_config
from gan_core.errors import UserError

AXES = ("optimizer", "learning_rate", "z_dim", "seed")  # the fields of RunConfig that a grid varies


class Cell(NamedTuple):
    """One point of the grid; it has a run for each seed."""

    optimizer: str
    learning_rate: float | None  # None: no axis of the grid, each optimizer has its own
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


@dataclass(frozen=True)
class Grid:
    """The axes; make one with `make_grid`, which checks them."""

    optimizers: tuple[str, ...]
    z_dims: tuple[int, ...]
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]  # may be empty: each optimizer's own

    def cells(self) -> list[Cell]:
        """Every cell, optimizer by optimizer."""
        rates: tuple[float | None, ...] = self.learning_rates or (None,)
        return [Cell(*point) for point in itertools.product(self.optimizers, rates, self.z_dims)]


def make_grid(
    optimizers: Iterable[str],
    z_dims: Iterable[int],
    seeds: Iterable[int],
    learning_rates: Iterable[float] = (),
) -> tuple[Grid, list[str]]:
    """The grid of these axes, and a line for each value that stood on an axis twice and is taken once.

    Raises UserError if an axis other than learning_rates is empty.
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

    grid = Grid(
        axis("optimizers", optimizers),
        axis("z_dims", z_dims),
        axis("seeds", seeds),
        axis("learning_rates", learning_rates),
    )
    return grid, notes


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
