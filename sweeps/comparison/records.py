"""A sweep and its runs as plain records, and how they are read from MLflow."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from pydantic import TypeAdapter

from gan_core import compat
from gan_core import metric_names as names
from gan_core.errors import UserError
from gan_core.tracking.store import UNFINISHED, children_of, newest
from sweeps.race import Rules
from sweeps.runs import commits
from sweeps.search import batch_of

# Read point by point. Of every other metric only the last value is read, which comes with the run.
HISTORIES = (
    names.LOSS_D, names.LOSS_G, names.LOSS_STD_D, names.LOSS_STD_G, names.EPOCH_SECONDS, names.FD
)  # fmt: skip
FINISHED = "FINISHED"
THREADS = 8  # a server answers several at once
MOST_POINTS = 10_000_000  # more than any sweep has
# Of a classifier. One class of ten is a share of 0.1: one that is wrong about more real images than that cannot tell
# whether a G makes every class. MNIST's and the digits' are right on 0.99.
WEAK_ACCURACY = 0.9
ENTITY_LIMIT = 400  # run ids in one query: SQLite takes 999 variables and more


@dataclass(frozen=True)
class RunRecord:
    """One child run that has begun."""

    name: str
    run_id: str
    status: str
    setting: str
    seed: int
    fields: Mapping[str, str]  # every other field of its config, as MLflow has it
    history: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # metric → epoch → value
    metrics: Mapping[str, float] = field(default_factory=dict)  # metric → last value
    health: str = ""  # empty where it was not checked
    health_reason: str = ""
    failure: str = ""
    dropped: str = ""  # why it was not trained to its end, in a race
    artifact_uri: str = ""
    commits: Sequence[str] = ()  # of the code that trained it, in order
    machines: Sequence[str] = ()  # the kinds of machine that trained it, in order

    @property
    def finished(self) -> bool:
        """Whether it trained to its end: only such runs are compared."""
        return self.status == FINISHED and not self.dropped

    @property
    def length(self) -> int:
        """Epochs that it was to train; 0 for nonsense."""
        asked = self.fields.get("epochs", "")
        return int(asked) if asked.isdecimal() else 0

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.history.get(names.LOSS_G, ()))

    def course(self, metric: str) -> list[float]:
        """The metric's values in the order of the epochs; empty if none was logged."""
        return list(self.history.get(metric, {}).values())

    def last(self, metric: str) -> float:
        """The metric's last value; nan if there is none."""
        course = self.course(metric)
        return course[-1] if course else self.metrics.get(metric, math.nan)

    def score(self, metric: str) -> float | None:
        """A quality score of the trained generator; None if the run has not finished or has no such score."""
        value = self.last(metric)
        usable = math.isfinite(value) and (metric != names.FD or value > 0)  # its logarithm is taken
        return value if self.finished and usable else None

    @property
    def seconds(self) -> float:
        """Training time."""
        return sum(self.course(names.EPOCH_SECONDS))

    @property
    def images_per_second(self) -> float:
        """Real images per second, over the whole run; nan if no epoch has ended."""
        each = self.course(names.EPOCH_SECONDS)
        # Each epoch has as many images as the last one.
        return self.last(names.IMAGES_PER_SECOND) * each[-1] * len(each) / sum(each) if each else math.nan


class AbsentRun(NamedTuple):
    """A child run that never began: it has no params and no metrics."""

    name: str
    setting: str
    status: str
    failure: str


class Classifier(NamedTuple):
    """What measured the scores, and the two baselines, by the scores' names."""

    sha256: str
    accuracy: float
    images: int  # generated for an evaluation
    real_baseline: Mapping[str, float]
    untrained_baseline: Mapping[str, float]

    @property
    def is_weak(self) -> bool:
        """Whether distances on its features mean little."""
        return self.accuracy < WEAK_ACCURACY


@dataclass(frozen=True)
class SweepRecord:
    """A sweep, as MLflow has it."""

    name: str
    run_id: str
    experiment: str
    artifact_uri: str
    status: str
    started: float  # seconds since 1970
    ended: float | None
    params: Mapping[str, str]  # as they are now
    axes: Sequence[str]  # fields of RunConfig, in the order of the names; never the seed
    runs: Sequence[RunRecord]  # oldest first
    absent: Sequence[AbsentRun] = ()
    classifiers: Sequence[Classifier] = ()  # more than one: the scores cannot be compared
    commit: str = ""  # of the code that began it
    namesakes: int = 0  # other sweeps of this name
    rules: Rules | None = None  # of a race

    @property
    def seeds(self) -> list[int]:
        """Every seed of a run that has begun, in order."""
        return sorted({run.seed for run in self.runs})

    @property
    def settings(self) -> list[str]:
        """The name of every setting, in the order in which they began."""
        return list(dict.fromkeys([run.setting for run in self.runs] + [run.setting for run in self.absent]))

    @property
    def running(self) -> bool:
        """Whether the store has it as not over yet."""
        return self.status in UNFINISHED


def find_sweep(client: MlflowClient, experiment: str, wanted: str | None = None) -> tuple[Run, int]:
    """The parent run of the latest sweep, or of `wanted` (a name or run id), and the number of its namesakes.

    Of several sweeps with one name the latest is taken. Raises UserError if there is none.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None or found.lifecycle_stage == "deleted":
        raise UserError(f"there is no experiment {experiment!r} in this store")
    parents = list(newest(client, found.experiment_id, f"tags.`{names.SWEEP_KIND}` = 'grid'"))
    if not parents:
        raise UserError(f"there is no sweep in experiment {experiment!r}")
    matching = [parent for parent in parents if wanted in (None, parent.info.run_name)]
    matching = matching or [parent for parent in parents if parent.info.run_id == wanted]
    if not matching:
        known = ", ".join(str(parent.info.run_name) for parent in parents[:5])
        raise UserError(f"there is no sweep {wanted!r} in experiment {experiment!r}; the latest there: {known}")
    return matching[0], sum(parent.info.run_name == matching[0].info.run_name for parent in parents) - 1


def read_sweep(client: MlflowClient, parent: Run, namesakes: int = 0) -> SweepRecord:
    """All that MLflow has of a sweep, but for its files. Raises UserError for another version's sweep."""
    info, tags = parent.info, parent.data.tags
    written_as = tags.get(names.SWEEP_FORMAT, "1")
    if written_as != names.FORMAT_VERSION:
        raise UserError(
            f"sweep {info.run_name!r} ({info.run_id}) was recorded by another version of this program (its "
            f"format is {written_as}, this version reads {names.FORMAT_VERSION}): read it with that version, "
            "or run it again"
        )
    children = children_of(client, info.experiment_id, info.run_id)
    begun = [run for run in children if _began(run)]
    points = read_histories(client, [run.info.run_id for run in begun], HISTORIES)
    runs = [_record(run, points) for run in begun]
    now = {tag.removeprefix(names.SWEEP_NOW): value for tag, value in tags.items() if tag.startswith(names.SWEEP_NOW)}
    return SweepRecord(
        name=info.run_name,
        run_id=info.run_id,
        experiment=client.get_experiment(info.experiment_id).name,
        artifact_uri=info.artifact_uri,
        status=info.status,
        started=info.start_time / 1000,
        ended=info.end_time / 1000 if info.end_time else None,
        params=parent.data.params | now,
        axes=[axis for axis in tags.get(names.SWEEP_AXES, "").split() if any(axis in run.fields for run in runs)],
        runs=runs,
        absent=[
            AbsentRun(
                run.info.run_name,
                run.data.tags.get(names.SETTING, ""),
                run.info.status,
                run.data.tags.get(names.FAILURE_REASON, ""),
            )
            for run in children
            if not _began(run)
        ],
        classifiers=_classifiers(children),
        commit=tags.get(compat.GIT_COMMIT_TAG, ""),
        namesakes=namesakes,
        rules=_rules(tags, parent.data.params | now),
    )


def _began(run: Run) -> bool:
    """Whether the run has its config in its params, and a seed that makes sense."""
    seed = run.data.params.get("seed", "")
    return seed.isdecimal() and len(seed) < 20 and names.SETTING in run.data.tags


def _record(run: Run, points: Mapping[tuple[str, str], Mapping[int, float]]) -> RunRecord:
    info, tags = run.info, run.data.tags
    return RunRecord(
        name=info.run_name,
        run_id=info.run_id,
        status=info.status,
        setting=tags[names.SETTING],
        seed=int(run.data.params["seed"]),
        fields={name: value for name, value in run.data.params.items() if name != "seed"},
        history={key: points[info.run_id, key] for key in HISTORIES if (info.run_id, key) in points},
        metrics=run.data.metrics,
        health=tags.get(names.HEALTH, ""),
        health_reason=tags.get(names.HEALTH_REASON, ""),
        failure=tags.get(names.FAILURE_REASON, ""),
        dropped=tags.get(names.DROPPED, ""),
        artifact_uri=info.artifact_uri,
        commits=commits(tags),
        machines=tags[names.MACHINES].split("; ") if names.MACHINES in tags else (),
    )


def _rules(tags: Mapping[str, str], params: Mapping[str, str]) -> Rules | None:
    """The rules of a race, by the parent's tags; None where it is none, or they make no sense."""
    try:
        epochs, most = int(params["epochs"]), int(tags[names.ANSWER_MAX_SEEDS])
        search = tags.get(names.SWEEP_SEARCH, "")
        sure, margin = float(tags[names.ANSWER_CONFIDENCE]), float(tags[names.ANSWER_MARGIN])
        return Rules(epochs, sure, margin, most, bool(search), batch_of(search))
    except (KeyError, ValueError):
        return None


def read_histories(
    client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]
) -> dict[tuple[str, str], dict[int, float]]:
    """Every point of these metrics: (run id, metric) → step → value, in the order of the steps.

    Of two points with one step the later counts. A metric that a run does not have is left out.
    """
    # A server is asked for one metric of one run at a time, several at once. A database answers for many runs
    # together, in a third of the time that takes (benchmarks/report.py).
    ask = _ask_server if client.tracking_uri.startswith("http") else _ask_database
    found: dict[tuple[str, str], list[Metric]] = {}
    for run_id, point in ask(client, run_ids, metrics):
        found.setdefault((run_id, point.key), []).append(point)
    return {
        key: {point.step: point.value for point in sorted(points, key=lambda at: (at.step, at.timestamp))}
        for key, points in found.items()
    }


def _ask_database(client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]) -> Iterator[tuple[str, Metric]]:
    store = compat.open_database(client.tracking_uri)
    for start in range(0, len(run_ids), ENTITY_LIMIT):
        for metric in metrics:
            for point in store.get_metric_history_bulk(run_ids[start : start + ENTITY_LIMIT], metric, MOST_POINTS):
                yield point.run_id, point


def _ask_server(client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]) -> Iterator[tuple[str, Metric]]:
    asked = list(itertools.product(run_ids, metrics))
    with ThreadPoolExecutor(THREADS) as threads:
        answers = threads.map(lambda what: client.get_metric_history(*what), asked)
        for (run_id, _), points in zip(asked, answers, strict=True):
            yield from ((run_id, point) for point in points)


def _classifiers(runs: Sequence[Run]) -> list[Classifier]:
    """The classifiers of the runs' scores, each once; scores of one of them can be compared."""
    found: dict[tuple[str, int], Classifier] = {}
    for run in runs:
        if names.CLASSIFIER in run.data.tags and names.FD in run.data.metrics:
            classifier = _classifier(run.data.tags)
            found.setdefault((classifier.sha256, classifier.images), classifier)
    return list(found.values())


def _classifier(tags: Mapping[str, str]) -> Classifier:
    """The classifier that a run's tags describe; what is no description is left out, and then not shown."""
    sha256, scores = tags[names.CLASSIFIER], TypeAdapter(dict[str, float])
    try:
        return Classifier(
            sha256,
            float(tags[names.CLASSIFIER_ACCURACY]),
            int(tags[names.EVALUATION_IMAGES]),
            scores.validate_json(tags[names.REAL_BASELINE]),
            scores.validate_json(tags[names.UNTRAINED_BASELINE]),
        )
    except (KeyError, ValueError):
        return Classifier(sha256, math.nan, 0, {}, {})
