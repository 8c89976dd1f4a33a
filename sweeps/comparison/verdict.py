"""Which setting to use, how sure one can be, how fair the comparison is: names and numbers, no sentences."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gan_core import metric_names as names
from gan_core import rng
from gan_core.config import OFF
from sweeps.comparison.compare import Comparison
from sweeps.comparison.records import FINISHED, AbsentRun, RunRecord, SweepRecord

Kind = Literal[
    "nothing finished", "several classifiers", "not scored", "nothing usable", "one setting", "raced", "one seed",
    "no seeds in common", "tie", "apart",
]  # fmt: skip


USABLE = ("ok", "d-dominant", "")  # healths with which the images may be good; "": not checked
SOUND = ("ok", "")
Along = Mapping[str, Sequence[str]]  # axis value → the values that a field has in runs with it


@dataclass(frozen=True)
class Verdict:
    """What one look at the page must give, and what a reader must not overlook."""

    kind: Kind
    best_is_unsound: bool = False
    broken: Mapping[str, Sequence[tuple[str, int, int]]] = field(default_factory=dict)  # health → setting, runs, of
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)  # status → names of runs that do not count
    flattered: Sequence[str] = ()  # settings of which a run failed: the others count
    unscored: Sequence[str] = ()  # finished runs without a Fréchet distance
    epochs: Sequence[int] = ()  # lengths of the runs, where they differ and are no axis


def give_verdict(comparison: Comparison) -> Verdict:
    """The verdict on a sweep; its kind says so where there can be none."""
    record, settings, best = comparison.record, comparison.settings, comparison.best
    finished = [run for setting in settings for run in setting.finished]
    broken: dict[str, list[tuple[str, int, int]]] = {}
    for setting in settings:
        for health, runs in setting.health.items():
            if health not in SOUND:
                broken.setdefault(health, []).append((setting.name, runs, len(setting.finished)))
    left_out: dict[str, list[str]] = {}
    everything: list[RunRecord | AbsentRun] = [*record.runs, *record.absent]
    for each in everything:
        if each.status != FINISHED:  # what a race has dropped is told with its answer
            left_out.setdefault(each.status, []).append(each.name)
    failed = [setting for setting in settings if any(run.status == "FAILED" for run in setting.runs)]
    lengths = sorted({run.epochs for run in finished})
    return Verdict(
        _kind(comparison),
        best_is_unsound=best is not None and any(health not in SOUND for health in best.health),
        broken=broken,
        left_out=left_out,
        flattered=[setting.name for setting in failed if setting.finished],
        unscored=[run.name for run in finished if names.FD in comparison.scores and run.score(names.FD) is None],
        epochs=lengths if len(lengths) > 1 and "epochs" not in comparison.axes else [],
    )


def _kind(comparison: Comparison) -> Kind:
    """The first that applies."""
    settings, one_seed = comparison.settings, len(comparison.record.seeds) == 1
    all_untested = len(comparison.those("untested")) == len(comparison.contrasts)
    kinds: list[tuple[bool, Kind]] = [
        (not any(setting.finished for setting in settings), "nothing finished"),
        (len(comparison.record.classifiers) > 1, "several classifiers"),
        (comparison.best is None, "not scored"),
        (not any(health in USABLE for setting in settings for health in setting.health), "nothing usable"),
        (comparison.race is not None, "raced"),
        (not comparison.contrasts, "one setting"),
        (all_untested, "one seed" if one_seed else "no seeds in common"),
        (bool(comparison.those("tied")), "tie"),
    ]
    return next((kind for applies, kind in kinds if applies), "apart")


@dataclass(frozen=True)
class Fairness:
    """How far the runs can be compared."""

    shared: Mapping[tuple[bool, tuple[str, ...]], Sequence[str]]  # one seed needed?, fields to agree in → streams
    fixed: Mapping[str, str]  # field → value: the same in all runs
    derived: Mapping[tuple[str, str], Along]  # field that is no axis, axis: each value means one of the field
    uneven: Mapping[tuple[str, str], Along]  # axis, axis before it: not the same values for all of its values
    unexplained: Mapping[str, Sequence[str]]  # field that differs, and that no axis explains → its values
    choices: Mapping[str, Mapping[str, int]]  # axis → value → number of settings: where these differ


def random_streams(record: SweepRecord) -> dict[str, frozenset[str]]:
    """Of each random stream the fields that it depends on; empty for networks of another version."""
    networks = {run.fields.get("network", "") for run in record.runs}
    try:
        return {
            name: frozenset[str]().union(*(rng.depends_on(name, network) for network in networks))
            for name, (*_, only_with) in rng.STREAMS.items()
            if not only_with or any(float(run.fields.get(only_with, 0)) for run in record.runs)
        }
    except (KeyError, AttributeError):
        return {}


def held_equal(comparison: Comparison, streams: Mapping[str, Collection[str]]) -> Fairness:
    """Compare the configs of all runs. `streams`: of each random stream the fields that it depends on."""
    runs = [run.fields for setting in comparison.order(comparison.settings) for run in setting.runs]
    values = {name: _values(runs, name) for name in sorted({name for fields in runs for name in fields})}
    # A field that only some runs have, such as Adam's beta1, is a part of what makes them different.
    values = {name: its for name, its in values.items() if "None" not in its or len(its) == 1 or len(its) > 2}
    differing = [name for name in values if len(values[name]) > 1]
    axes = [axis for axis in comparison.axes if axis in differing]
    along = {(name, axis): _along(name, axis, runs, comparison) for name in differing for axis in axes}
    explained_by = {
        name: [axis for axis in axes if all(len(its) == 1 for its in along[name, axis].values())]
        for name in differing
        if name not in axes
    }
    pairs = [(later, axis) for place, later in enumerate(axes) for axis in axes[:place]]
    counts = {axis: Counter(setting.values[axis] for setting in comparison.settings) for axis in comparison.at_best}
    shared: dict[tuple[bool, tuple[str, ...]], list[str]] = {}
    for stream, needs in streams.items():
        shared.setdefault(("seed" in needs, tuple(name for name in differing if name in needs)), []).append(stream)
    return Fairness(
        shared=dict(sorted(shared.items(), key=lambda group: len(group[0][1]))),  # first what most runs share
        fixed={name: values[name][0] for name in values if name not in differing and values[name][0] not in OFF},
        derived={(name, its[0]): along[name, its[0]] for name, its in explained_by.items() if its},
        uneven={pair: along[pair] for pair in pairs if len(set(map(tuple, along[pair].values()))) > 1},
        unexplained={name: values[name] for name, its in explained_by.items() if not its},
        choices={
            axis: {value: count[value] for value in comparison.axes[axis]}
            for axis, count in counts.items()
            if len(set(count.values())) > 1
        },
    )


def _values(runs: Iterable[Mapping[str, str]], name: str) -> list[str]:
    return list(dict.fromkeys(fields.get(name, "") for fields in runs))


def _along(name: str, axis: str, runs: Sequence[Mapping[str, str]], comparison: Comparison) -> Along:
    """The values that a field has in runs, by the axis's value."""
    order = comparison.axes.get(name)
    found = {at: _values([fields for fields in runs if fields.get(axis) == at], name) for at in comparison.axes[axis]}
    return {at: sorted(its, key=order.index) for at, its in found.items()} if order else found
