"""Axes → settings → the configs of all runs. Pure: knows nothing of Ray or MLflow, and no field by its name."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass

from gan_core.config import (
    FIELDS,
    STRICT,
    RunConfig,
    as_in_configs,
    as_in_names,
    extra,
    make_config,
    make_record,
    parse_value,
)
from gan_core.errors import UserError
from sweeps.search import BATCH, MOST_TRIES, Choose, Found, Range, Values, sobol, tpe

SEEDS_OR_RACE = "seeds are for a fixed grid, until, margin and max_seeds for a race: give one or the other"
PARTS = ("seeds", "race", "settings", "search", "fixed", "axes", "axes_when")  # of a sweep file
SEED = "seed"  # it repeats a setting, and so is no axis


class AxesWhen(NamedTuple):
    """Axes of those settings alone whose fields have these values."""

    when: Mapping[str, Any]
    axes: Mapping[str, Values | Range]


class Setting(NamedTuple):
    """One combination of values of the axes. It has a run for each seed."""

    name: str  # the first part of its runs' names
    values: Mapping[str, Any]  # by field, in the order of the name


class GridRun(NamedTuple):
    """One run of the grid."""

    name: str
    setting: Setting
    config: RunConfig


@strict_dataclass(frozen=True, kw_only=True, config=STRICT)
class RaceOptions:
    """When a race has its answer, instead of a list of seeds."""

    until: float = Field(
        0.95, gt=0.5, lt=1, description="race: train seeds until the answer is as sure as this, such as 0.95"
    )
    margin: float = Field(
        0.1, gt=0, le=1, description="race: distances within this share of each other are equal; more than 0, up to 1"
    )
    max_seeds: int = Field(10, ge=2, le=1000, description="race: seeds that a setting may have; 2 or more")


@strict_dataclass(frozen=True, kw_only=True, config=STRICT)
class DrawOptions:
    """How settings are drawn, instead of all combinations."""

    settings: int | None = Field(
        None, ge=2, le=10_000, description="draw so many settings from the axes, whose ranges need it (default: all)"
    )
    search: Literal["sobol", "tpe"] = Field(
        "sobol", description="how they are drawn: sobol, evenly, or tpe, by what was found so far"
    )


COMBINATIONS = make_record(DrawOptions, {})  # of all values: nothing is drawn


@dataclass(frozen=True)
class Grid:
    """What a sweep varies and what it does not. Make one with `read_sweep_file` or `checked`."""

    axes: Mapping[str, Values | Range] = field(default_factory=dict)
    axes_when: Sequence[AxesWhen] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)  # a field that stands nowhere has its default
    seeds: Sequence[int] = ()  # of a race all that it may come to; empty: not said, which means 0
    race: RaceOptions | None = None
    draw: DrawOptions = COMBINATIONS

    @property
    def parts(self) -> list[AxesWhen]:
        """All its axes: those of every setting, then those of some."""
        return [AxesWhen({}, self.axes), *self.axes_when]

    def fields(self) -> list[str]:
        """The fields that vary, in the order of the names: one that depends on others right after these."""
        order = list(self.axes)
        for condition in self.axes_when:
            place = 1 + max(order.index(other) for other in condition.when)
            for name in condition.axes:
                if name not in order:
                    needed = [other for when, axes in self.axes_when if name in axes for other in when]
                    order.insert(max(place, 1 + max(map(order.index, needed))), name)
                place = order.index(name) + 1
        return order

    def settings(self) -> list[Setting]:
        """Every setting; the last field varies fastest. If settings are searched for, the first of them."""
        if self.draw.settings is None:
            return [Setting(_name(values), values) for values in self._combinations()]
        first = self.draw.settings if self.draw.search == "sobol" else min(BATCH, self.draw.settings)
        return self._drawn(sobol(self.fields()), first)

    @property
    def search(self) -> str:
        """How settings are drawn; empty where they are all combinations."""
        return self.draw.search if self.draw.settings else ""

    @property
    def wanted(self) -> int:
        """How many settings there are to be."""
        return self.draw.settings or len(self.settings())

    def more_settings(self, found: Sequence[Found]) -> list[Setting]:
        """The next settings of a search, by what was found; the same finds give the same settings."""
        count = min(BATCH, self.wanted - len(found))
        return self._drawn(tpe(found, self._values), count, [_name(one.values) for one in found])

    def runs(self, settings: Sequence[Setting] = ()) -> list[GridRun]:
        """A config for each setting and seed; seed by seed, so that no setting has to wait. settings: (all).

        Raises UserError for a value that RunConfig refuses, and for two settings that would share a name.
        """
        settings = settings or self.settings()
        names = [setting.name for setting in settings]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two settings would be called {doubled}: their values are too much alike")
        return [
            GridRun(
                f"{setting.name}_{_label(SEED, seed)}",
                setting,
                make_config(**self.fixed, **setting.values, seed=seed),
            )
            for seed in self.seeds or (0,)
            for setting in settings
        ]

    def _combinations(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{}]
        for name in self.fields():
            before, found = found, []
            for chosen in before:
                values = self._values(name, chosen)
                if isinstance(values, Range):
                    raise UserError(f"{name} has a range: say how many settings to draw, such as --settings 32")
                found += [chosen] if values is None else [{**chosen, name: value} for value in values]
        return found

    def _values(self, name: str, chosen: Mapping[str, Any]) -> Values | Range | None:
        """What a field can be where others have been chosen; None: its default."""
        holding = (axes for when, axes in self.parts if name in axes and when.items() <= chosen.items())
        return next((axes[name] for axes in holding), None)

    def _chosen(self, choose: Choose) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        for name in self.fields():
            if (values := self._values(name, chosen)) is not None:
                chosen[name] = choose(name, values)
        return chosen

    def _drawn(self, choices: Iterator[Choose], count: int, there: Sequence[str] = ()) -> list[Setting]:
        found: dict[str, Setting] = {}
        for choose in islice(choices, MOST_TRIES * (count + len(there))):
            values = self._chosen(choose)
            if (name := _name(values)) not in there:
                found.setdefault(name, Setting(name, values))
            if len(found) == count:
                return list(found.values())
        raise UserError(
            f"{count + len(there)} settings cannot be drawn: {len(found) + len(there)} different ones were found"
        )


def checked(grid: Grid) -> tuple[Grid, list[str]]:
    """The grid with each value once, and a line for each value that stood on an axis twice.

    Raises UserError for an axis that is empty, of an unknown field or of one that cannot vary, and for a
    field that is given in two places or depends on one that does not vary.
    """
    notes: list[str] = []
    grid = replace(
        grid,
        axes=_once(grid.axes, notes),
        axes_when=[AxesWhen(_as_in_configs(when), _once(axes, notes)) for when, axes in grid.axes_when],
        fixed=_as_in_configs(grid.fixed),
        seeds=_once({"seeds": tuple(grid.seeds)}, notes)["seeds"] if grid.seeds else (),
    )
    varied = [name for part in grid.parts for name in part.axes]
    for name in (*varied, *grid.fixed):
        if name not in FIELDS:
            raise UserError(f"there is no setting {name}; there are {', '.join(FIELDS)}")
    for name in varied:
        if not extra(name)["axis"]:
            raise UserError(f"{name} cannot be an axis: it is the same for all runs, or given by --seeds")
        if name in grid.fixed:
            raise UserError(f"{name} is given twice: as an axis and with the value {grid.fixed[name]!r}")
    if SEED in grid.fixed:
        raise UserError(f"{SEED} repeats a setting: give the seeds as a list")
    _check_conditions(grid)
    if grid.draw.search != "sobol":
        if grid.draw.settings is None:
            raise UserError(f"--search {grid.draw.search} should know how many settings to try, such as --settings 32")
        if grid.seeds and not grid.race:
            raise UserError(f"--search {grid.draw.search} goes with a race, not with seeds: leave the seeds out")
    return grid, notes


def _as_in_configs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_in_configs(name, value) for name, value in values.items()}


def _check_conditions(grid: Grid) -> None:
    for number, (when, axes) in enumerate(grid.axes_when):
        if not when or not axes:
            raise UserError("axes_when should have both: `when`, and at least one axis")
        for name, value in when.items():
            if name not in grid.axes:
                raise UserError(f"{', '.join(axes)} depends on {name}, which is not among the axes")
            among = grid.axes[name]
            if isinstance(among, Range):
                raise UserError(f"{', '.join(axes)} depends on {name}, which is a range: give it a list")
            if value not in among:
                values = ", ".join(map(text_of, among))
                raise UserError(f"{', '.join(axes)} is given for {name} {text_of(value)}, which is not among {values}")
        for name in axes:
            if name in grid.axes:
                raise UserError(f"{name} is given twice: for all settings and for some")
            if any(
                name in other.axes and all(other.when.get(key, value) == value for key, value in when.items())
                for other in grid.axes_when[:number]
            ):
                raise UserError(f"{name} is given twice for the same settings")


def _once(axes: Mapping[str, Values | Range], notes: list[str]) -> dict[str, Any]:
    """The axes with each value once, as configs have it; `notes` get a line for each that stood there twice."""
    found = dict(axes)
    for name, its in axes.items():
        if isinstance(its, Range):
            continue
        if not its:
            raise UserError(f"{name} is empty: give at least one value")
        counts = Counter(as_in_configs(name, value) for value in its)
        found[name] = tuple(counts)
        notes += [
            f"{name}: {text_of(value)} is given {count} times and taken once"
            for value, count in counts.items()
            if count > 1
        ]
    return found


def parse_axis(text: str) -> tuple[str, Values]:
    """FIELD=VALUE,VALUE → the field and its values. Raises UserError."""
    name, equals, listed = text.partition("=")
    if not equals:
        raise UserError(f"an axis should be FIELD=VALUE,VALUE, got {text!r}")
    return name, tuple(parse_value(name, value) for value in listed.split(","))


def read_sweep_file(path: Path) -> Grid:
    """The grid that a TOML file describes, not checked yet; docs/axes.md says what can be in it.

    Raises UserError if the file cannot be read, or has anything else in it.
    """
    try:
        return parse_sweep(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read the sweep file {path}: {error}") from error
    except UserError as error:
        raise UserError(f"the sweep file {path}: {error}") from error


def parse_sweep(text: str) -> Grid:
    """The same of the file's text. Raises UserError and tomllib.TOMLDecodeError."""
    content = tomllib.loads(text)
    if unknown := content.keys() - set(PARTS):
        raise UserError(f"there is no {min(unknown)} in a sweep file; there are {', '.join(PARTS)}")
    if content.keys() >= {"seeds", "race"}:
        raise UserError(SEEDS_OR_RACE)
    conditions = content.get("axes_when", [])
    if not isinstance(conditions, list) or not all(isinstance(each, dict) for each in conditions):
        raise UserError("axes_when should be written as [[axes_when]]")
    grid = Grid(
        axes=_axes(_table(content, "axes")),
        axes_when=[
            AxesWhen(_table(each, "when"), _axes({name: axis for name, axis in each.items() if name != "when"}))
            for each in conditions
        ],
        fixed=_table(content, "fixed"),
        seeds=_list("seeds", content.get("seeds", [])),
        draw=make_record(DrawOptions, {name: content[name] for name in ("settings", "search") if name in content}),
    )
    if not grid.seeds and "seeds" in content:
        raise UserError("seeds is empty: give at least one value")
    return raced(grid, make_record(RaceOptions, _table(content, "race"))) if "race" in content else grid


def raced(grid: Grid, options: RaceOptions) -> Grid:
    """The same settings as a race."""
    return replace(grid, seeds=tuple(range(options.max_seeds)), race=options)


def sweep_text(grid: Grid) -> str:
    """The grid as the text of a sweep file, which `parse_sweep` reads back."""
    import tomli_w

    tables = asdict(grid)  # in which ranges and options are tables, too
    content: dict[str, Any] = {
        **(tables["draw"] if grid.draw.settings else {}),
        **({"race": tables["race"]} if grid.race else {"seeds": grid.seeds}),
        "fixed": tables["fixed"],
        "axes": tables["axes"],
        "axes_when": [{"when": when, **axes} for when, axes in tables["axes_when"]],
    }
    return tomli_w.dumps({name: value for name, value in content.items() if value})


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The table of this name; one that is not there is empty."""
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{name} should be a table, got {table!r}")
    return table


def _axes(table: Mapping[str, Any]) -> dict[str, Values | Range]:
    return {name: Range.read(name, its) if isinstance(its, dict) else _list(name, its) for name, its in table.items()}


def _list(name: str, value: Any) -> Values:
    if not isinstance(value, list) or not all(isinstance(each, str | int | float) for each in value):
        raise UserError(f"{name} should be a list of values, got {value!r}")
    return tuple(value)


def _name(values: Mapping[str, Any]) -> str:
    return "_".join(_label(name, value) for name, value in values.items()) or "default"


def _label(name: str, value: Any) -> str:
    """A value as a part of a name: z_dim 100 → z100. Nothing but what a file can be called."""
    return re.sub(r"[^\w.+-]+", "-", f"{extra(name)['short']}{text_of(as_in_names(name, value))}", flags=re.ASCII)


def text_of(value: Any) -> str:
    """A value in as few characters as tell it from every other; several values by a space; a range as it is shown."""
    if isinstance(value, tuple):
        return " ".join(map(text_of, value))
    if isinstance(value, float):
        rounded = f"{value:g}"
        return rounded if float(rounded) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
