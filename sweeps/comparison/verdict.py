"""Which setting to use, how sure one can be, how fair the comparison is: names and numbers, no sentences."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gan_core import metric_names as names
from gan_core import rng
from sweeps.comparison.compare import Comparison, Contrast
from sweeps.comparison.records import FINISHED, SweepRecord

SEEDS_TO_BEGIN_WITH = 5
MOST_NEEDED = 4  # tied settings of which it is said how many seeds they would need

Kind = Literal[
    "nothing finished", "several classifiers", "not scored", "nothing usable", "one setting", "one seed",
    "no seeds in common", "tie", "apart",
]  # fmt: skip
State = Literal["failed", "interrupted", "running", "not begun"]
STATES: dict[str, State] = {"FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running"}


@dataclass(frozen=True)
class Cautions:
    """What a reader must not overlook."""

    best_is_unsound: bool = False
    broken: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)  # health → setting, runs, of
    left_out: dict[State, list[str]] = field(default_factory=dict)  # names of runs that are not counted
    flattered: list[str] = field(default_factory=list)  # settings of which a run failed: the others count
    unscored: list[str] = field(default_factory=list)  # finished runs without a Fréchet distance
    epochs: list[int] = field(default_factory=list)  # lengths of the runs, where they differ and are no axis

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self != Cautions()


@dataclass(frozen=True)
class Verdict:
    """What one look at the page must give."""

    kind: Kind
    cautions: Cautions
    seeds_to_ask_for: Sequence[int] = ()  # where one seed was not enough
    needed: Sequence[tuple[str, int | None]] = ()  # tied setting → seeds to tell it apart; None: too many

    @property
    def sure(self) -> Literal["told apart", "a tie", "no verdict"]:
        """How sure it is."""
        return "told apart" if self.kind == "apart" else "a tie" if self.kind == "tie" else "no verdict"


def give_verdict(comparison: Comparison) -> Verdict:
    """The verdict on a sweep; its kind says so where there can be none."""
    seeds = len(comparison.record.seeds)
    return Verdict(
        _kind(comparison),
        _cautions(comparison),
        range(max(SEEDS_TO_BEGIN_WITH, seeds + 1)),
        [(each.setting.name, _needed(each)) for each in comparison.tied[:MOST_NEEDED]],
    )


def _kind(comparison: Comparison) -> Kind:
    """The first that applies."""
    settings, one_seed = comparison.settings, len(comparison.record.seeds) == 1
    all_untested = len(comparison.untested) == len(comparison.contrasts)
    kinds: list[tuple[bool, Kind]] = [
        (not any(setting.finished for setting in settings), "nothing finished"),
        (len(comparison.record.classifiers) > 1, "several classifiers"),
        (comparison.best is None, "not scored"),
        (not any(setting.usable for setting in settings), "nothing usable"),
        (not comparison.contrasts, "one setting"),
        (all_untested, "one seed" if one_seed else "no seeds in common"),
        (bool(comparison.tied), "tie"),
    ]
    return next((kind for applies, kind in kinds if applies), "apart")


def _needed(contrast: Contrast) -> int | None:
    # A difference just missed can ask for no more seeds than there were: it takes one more at least.
    needed = contrast.seeds_needed
    return None if needed is None else max(needed, contrast.ratio.n + 1)


def _cautions(comparison: Comparison) -> Cautions:
    record, settings, best = comparison.record, comparison.settings, comparison.best
    broken: dict[str, list[tuple[str, int, int]]] = {}
    for setting in settings:
        for health, runs in setting.health.items():
            if health not in ("ok", ""):
                broken.setdefault(health, []).append((setting.name, runs, len(setting.finished)))
    left_out: dict[State, list[str]] = {}
    everything = [(run.name, run.status) for run in record.runs]
    for name, status in everything + [(run.name, run.status) for run in record.absent]:
        if status != FINISHED:
            left_out.setdefault(STATES.get(status, "not begun"), []).append(name)
    lengths = sorted({run.epochs for setting in settings for run in setting.finished})
    return Cautions(
        best_is_unsound=bool(best and best.unsound),
        broken=broken,
        left_out=left_out,
        flattered=[
            setting.name
            for setting in settings
            if setting.finished and any(run.status == "FAILED" for run in setting.runs)
        ],
        unscored=[
            run.name
            for setting in settings
            for run in setting.finished
            if names.FD in comparison.scores and run.score(names.FD) is None
        ],
        epochs=lengths if len(lengths) > 1 and "epochs" not in comparison.axes else [],
    )


@dataclass(frozen=True)
class Shared:
    """Random streams that runs share which agree in `fields`, whatever else differs."""

    streams: list[str]
    seed: bool  # whether the runs must have one seed
    fields: tuple[str, ...]  # of those that differ in this sweep


@dataclass(frozen=True)
class Confounded:
    """A field whose values depend on an axis: a difference along the axis may be one of the field."""

    field: str
    axis: str
    values: list[tuple[str, list[str]]]  # axis value → the field's values


@dataclass(frozen=True)
class Fairness:
    """How far the runs can be compared."""

    shared: list[Shared]
    fixed: list[tuple[str, str]]  # field, value: the same in all runs
    derived: list[Confounded]  # fields that are no axes
    uneven: list[Confounded]  # axes with other values for each value of another axis
    unexplained: list[tuple[str, list[str]]]  # fields that differ, and that no axis explains
    choices: list[tuple[str, list[tuple[str, int]]]]  # axis → value, number of settings: where they differ


def random_streams(record: SweepRecord) -> dict[str, frozenset[str]]:
    """Of each random stream the fields that it depends on; empty for networks of another version."""
    networks = {run.fields.get("network", "") for run in record.runs}
    try:
        return {
            name: frozenset[str]().union(*(rng.depends_on(name, network) for network in networks))
            for name in rng.STREAMS
        }
    except (KeyError, AttributeError):
        return {}


def held_equal(comparison: Comparison, streams: Mapping[str, Collection[str]]) -> Fairness:
    """Compare the configs of all runs. `streams`: of each random stream the fields that it depends on."""
    runs = [run for setting in comparison.settings for run in setting.runs]
    fields = sorted({field for run in runs for field in run.fields})
    values = {field: list(dict.fromkeys(run.fields.get(field, "") for run in runs)) for field in fields}
    differing = [field for field in values if len(values[field]) > 1]
    axes = [axis for axis in comparison.axes if axis in differing]
    loose = [field for field in differing if field not in axes]
    derived = {field: _explained(field, axes, comparison) for field in loose}
    choices = {axis: _choices(axis, comparison) for axis in comparison.at_best}
    return Fairness(
        shared=_shared(streams, differing),
        fixed=[(field, values[field][0]) for field in values if field not in differing],
        derived=[found for found in derived.values() if found],
        uneven=_uneven(axes, comparison),
        unexplained=[(field, values[field]) for field, found in derived.items() if not found],
        choices=[(axis, counts) for axis, counts in choices.items() if len({n for _, n in counts}) > 1],
    )


def _shared(streams: Mapping[str, Collection[str]], differing: Sequence[str]) -> list[Shared]:
    """The streams by what runs must agree in to share them, those that most runs share first."""
    groups: dict[tuple[bool, tuple[str, ...]], list[str]] = {}
    for stream, fields in streams.items():
        groups.setdefault(("seed" in fields, tuple(f for f in differing if f in fields)), []).append(stream)
    ranked = sorted(groups.items(), key=lambda group: len(group[0][1]))
    return [Shared(names, seed, fields) for (seed, fields), names in ranked]


def _explained(field: str, axes: Sequence[str], comparison: Comparison) -> Confounded | None:
    """The first axis of which each value means one value of the field; None if there is no such axis."""
    for axis in axes:
        found = _by_value(field, axis, comparison)
        if all(len(values) == 1 for _, values in found):
            return Confounded(field, axis, found)
    return None


def _uneven(axes: Sequence[str], comparison: Comparison) -> list[Confounded]:
    """Each axis whose values are not the same for all values of an axis before it."""
    uneven = []
    for place, later in enumerate(axes):
        for axis in axes[:place]:
            found = _by_value(later, axis, comparison)
            if len({tuple(values) for _, values in found}) > 1:
                uneven.append(Confounded(later, axis, found))
    return uneven


def _by_value(field: str, axis: str, comparison: Comparison) -> list[tuple[str, list[str]]]:
    """The values that a field has in runs, by the axis's value."""
    found: dict[str, dict[str, None]] = {value: {} for value in comparison.axes[axis]}
    for setting in comparison.order(comparison.settings):
        for run in setting.runs:
            found[setting.values[axis]][run.fields.get(field, "")] = None
    order = comparison.axes.get(field, ())
    return [(value, sorted(values, key=order.index) if order else list(values)) for value, values in found.items()]


def _choices(axis: str, comparison: Comparison) -> list[tuple[str, int]]:
    counts = Counter(setting.values[axis] for setting in comparison.settings)
    return [(value, counts[value]) for value in comparison.axes[axis]]
