"""MLflow → the record of a sweep. All that the report knows comes through here."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mlflow.entities import Metric, Run, ViewType
from mlflow.exceptions import MlflowException

from gan_core.errors import UserError
from gan_core.metric_names import SETTING as CELL_TAG
from gan_core.metric_names import SWEEP_KIND as KIND_TAG
from gan_core.metric_names import SWEEP_NOW as NOW
from gan_core.tracking.queries import MlflowClient
from sweeps.comparison.records import FD, AbsentRun, Classifier, RunRecord, SweepRecord
from sweeps.runs import Sweep, children, commits

# Read point by point; of every other metric the last point alone, which comes with the run.
HISTORIES = (
    "loss/discriminator", "loss/generator", "loss_std/discriminator", "loss_std/generator",
    "time/epoch_seconds", FD,
)  # fmt: skip
MOST_POINTS = 10_000_000  # more than any sweep has
ENTITY_LIMIT = 400  # run ids in one query: SQLite takes 999 variables and more


def find_sweep(client: MlflowClient, experiment: str, wanted: str | None) -> tuple[Run, int]:
    """The parent run of the latest sweep, or of `wanted` (a name or a run id); the number of its namesakes.

    Of several sweeps of one name it is the latest. Raises UserError if there is none.
    """
    try:
        found = client.get_experiment_by_name(experiment)
    except MlflowException as error:
        raise UserError(f"cannot read experiment {experiment!r}: {error}") from error
    if found is None or found.lifecycle_stage == "deleted":
        raise UserError(f"there is no experiment {experiment!r} in this store")
    parents = list(_search(client, found.experiment_id, f"tags.`{KIND_TAG}` = 'grid'"))
    if wanted is None:
        if not parents:
            raise UserError(f"there is no sweep in experiment {experiment!r}")
        return parents[0], _count(parents, parents[0].info.run_name) - 1
    named = [parent for parent in parents if parent.info.run_name == wanted]
    if named:
        return named[0], len(named) - 1
    for parent in parents:
        if parent.info.run_id == wanted:
            return parent, _count(parents, parent.info.run_name) - 1
    known = ", ".join(str(parent.info.run_name) for parent in parents[:5]) or "none"
    raise UserError(f"there is no sweep {wanted!r} in experiment {experiment!r}; the latest there: {known}")


def _count(parents: Sequence[Run], name: str) -> int:
    return sum(parent.info.run_name == name for parent in parents)


def _search(client: MlflowClient, experiment_id: str, query: str) -> Iterator[Run]:
    """All runs that match, the latest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], query, ViewType.ACTIVE_ONLY, 1000, ["attributes.start_time DESC"], token
        )
        yield from page
        token = page.token
        if not token:
            return


def read_record(client: MlflowClient, parent: Run, experiment: str, namesakes: int = 0) -> SweepRecord:
    """All that the store has of a sweep's runs, but for their files."""
    info, tags = parent.info, parent.data.tags
    sweep = Sweep(info.experiment_id, info.run_id, info.run_name)
    found = children(client, sweep)
    return SweepRecord(
        name=info.run_name,
        run_id=info.run_id,
        experiment=experiment,
        status=info.status,
        started=info.start_time / 1000,
        ended=info.end_time / 1000 if info.end_time else None,
        params=parent.data.params | _grown(tags),
        commit=tags.get("mlflow.source.git.commit", ""),
        runs=_records(client, found),
        absent=[
            AbsentRun(
                run.info.run_name, run.data.tags.get(CELL_TAG, "?"), run.info.status,
                run.data.tags.get("failure_reason", ""),
            )
            for run in found
            if not _began(run)
        ],
        classifiers=_classifiers(found),
        namesakes=namesakes,
    )  # fmt: skip


def _grown(tags: Mapping[str, str]) -> dict[str, str]:
    """The params of a sweep that has grown since it began, as they are now."""
    return {tag.removeprefix(NOW): value for tag, value in tags.items() if tag.startswith(NOW)}


def read_sweep(client: MlflowClient, sweep: Sweep) -> list[RunRecord]:
    """The sweep's runs that have begun, in the order of the grid."""
    return _records(client, children(client, sweep))


def _began(run: Run) -> bool:
    """Whether the run has its settings, and they make sense."""
    params = run.data.params
    try:
        int(params["seed"]), int(params["z_dim"]), float(params["learning_rate"])
    except (KeyError, ValueError):
        return False
    return "optimizer" in params and CELL_TAG in run.data.tags


def _records(client: MlflowClient, found: Sequence[Run]) -> list[RunRecord]:
    begun = [run for run in found if _began(run)]
    points = read_histories(client, [run.info.run_id for run in begun], HISTORIES)
    return [_record(run, points) for run in begun]


def _record(run: Run, points: Mapping[tuple[str, str], Mapping[int, float]]) -> RunRecord:
    info, params, tags = run.info, run.data.params, run.data.tags
    mine = {metric: points[info.run_id, metric] for metric in HISTORIES if (info.run_id, metric) in points}
    return RunRecord(
        name=info.run_name,
        run_id=info.run_id,
        status=info.status,
        cell=tags[CELL_TAG],
        optimizer=params["optimizer"],
        learning_rate=float(params["learning_rate"]),
        z_dim=int(params["z_dim"]),
        seed=int(params["seed"]),
        history={metric: list(by_epoch.values()) for metric, by_epoch in mine.items()},
        health=tags.get("health", ""),
        health_reason=tags.get("health_reason", ""),
        failure=tags.get("failure_reason", ""),
        epochs={metric: list(by_epoch) for metric, by_epoch in mine.items()},
        metrics=run.data.metrics,
        artifact_uri=info.artifact_uri,
        commits=tuple(commits(tags)),
    )


def read_histories(
    client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]
) -> dict[tuple[str, str], dict[int, float]]:
    """Every point of these metrics: (run id, metric) → step → value, in the order of the steps.

    Of two points of one step the later counts.
    """
    # A server is asked for one metric of one run at a time, several at once. A database answers for all runs
    # together in a third of the time that takes (benchmarks/report.py).
    read = ask_server if client.tracking_uri.startswith("http") else ask_database
    found: dict[tuple[str, str], list[Metric]] = {}
    for run_id, point in read(client, run_ids, metrics):
        found.setdefault((run_id, point.key), []).append(point)
    return {
        key: {point.step: point.value for point in sorted(points, key=lambda at: (at.step, at.timestamp))}
        for key, points in found.items()
    }


def ask_database(
    client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[str, Metric]]:
    """The run id and each point, from a store that is a database."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # The client's own store, which it does not hand out; of the artifacts' place only writing makes use.
    store = SqlAlchemyStore(client.tracking_uri, "mlruns")
    for start in range(0, len(run_ids), ENTITY_LIMIT):
        some = run_ids[start : start + ENTITY_LIMIT]
        for metric in metrics:
            for point in store.get_metric_history_bulk(some, metric, MOST_POINTS):
                yield point.run_id, point


def ask_server(
    client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[str, Metric]]:
    """The run id and each point, from any store, by the client's own means."""
    asked = [(run_id, metric) for run_id in run_ids for metric in metrics]
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda what: client.get_metric_history(*what), asked)
        for (run_id, _), points in zip(asked, answers, strict=True):
            for point in points:
                yield run_id, point


def _classifiers(found: Sequence[Run]) -> list[Classifier]:
    """The classifiers of the runs' scores, each once; by what decides whether two scores can be compared."""
    classifiers: dict[tuple[str, int], Classifier] = {}
    for run in found:
        tags = run.data.tags
        if "quality.classifier" in tags and FD in run.data.metrics:
            sha, images = tags["quality.classifier"], _whole(tags.get("quality.n"))
            classifiers.setdefault(
                (sha, images),
                Classifier(
                    sha,
                    _number(tags.get("quality.classifier_accuracy"), math.nan),
                    images,
                    _scores(tags.get("quality.real_baseline")),
                    _scores(tags.get("quality.untrained_baseline")),
                ),
            )
    return list(classifiers.values())


def _whole(text: str | None) -> int:
    number = _number(text, 0)
    return int(number) if math.isfinite(number) else 0


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text) if text is not None else otherwise
    except ValueError:
        return otherwise


def _scores(text: str | None) -> dict[str, float]:
    """A JSON object of scores; empty if it is none: the scores are then not shown."""
    try:
        return {name: float(value) for name, value in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
