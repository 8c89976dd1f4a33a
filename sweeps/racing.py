"""A race under way: its record read, the runs that it asks for handed out, and its answer told to the store."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from gan_core import metric_names as names
from gan_core.live import LiveView
from gan_core.run import Outcome
from gan_core.tracking.store import children_of
from gan_core.tracking.tracker import is_passing
from sweeps.comparison.records import read_histories
from sweeps.grid import GridRun, Setting, text_of
from sweeps.plan import LENGTH, Plan, render
from sweeps.race import Ask, Race, Trained, ahead, decide, likely_left, scores_of
from sweeps.search import Found
from sweeps.worker import Trial

Key = tuple[str, int]  # a run's setting and seed
STORE_ERRORS = (MlflowException, OSError)
# As a run waits for the store at its end.
patient = Retrying(
    retry=retry_if_exception(is_passing), stop=stop_after_delay(60), wait=wait_random_exponential(0.2, 2), reraise=True
)


class Racing:
    """Hands out what the race asks for, run by run, and something likely where all of that is under way."""

    def __init__(
        self, plan: Plan, client: MlflowClient, parent: Run, view: LiveView, begin: Callable[[GridRun, int], Trial]
    ) -> None:
        """Read what is recorded. begin: makes a run a trial, up to an epoch. Raises MlflowException."""
        if plan.rules is None:
            raise ValueError("a fixed grid is no race")
        self._rules, self._client, self._parent, self._view = plan.rules, client, parent, view
        self._begin = begin
        self.lost: Exception | None = None  # why the store cannot be used any more, if that is so
        self._grid = plan.grid
        self._settings: dict[str, Setting] = {}
        self._runs: dict[Key, GridRun] = {}
        self._key: dict[str, Key] = {}  # by the runs' names
        self._under_way: dict[Key, float] = {}  # since when
        self._first = self._busy = 0.0  # when the first run was handed out; seconds of all runs that have ended
        self._at_once = 0
        self._tried: set[Ask] = set()  # that have ended without a score
        self._likely = 0.0  # runs that are likely to be left
        self.scores: dict[Key, dict[int, float]] = {}
        self._children = children_of(client, parent.info.experiment_id, parent.info.run_id)
        self._enter(plan.grid.settings())
        self.race = self._decide()
        self._show(None)
        self._record()

    def _enter(self, settings: Sequence[Setting]) -> None:
        """These settings enter the race, with what is recorded of them."""
        self._settings |= {setting.name: setting for setting in settings}
        runs = self._grid.runs(settings)
        keys = {run.name: (run.setting.name, run.config.seed) for run in runs}
        self._key |= keys
        self._runs |= {keys[run.name]: run for run in runs}
        there = {child.info.run_id: child for child in self._children if child.info.run_name in keys}
        curves = self._curves(there)
        for run_id, child in there.items():
            tags, length = child.data.tags, int(child.data.params.get(LENGTH, 0))
            status, health, dropped = child.info.status, tags.get(names.HEALTH, ""), names.DROPPED in tags
            self._take(self._key[child.info.run_name], Trained(curves.get(run_id, {}), length, status, health, dropped))

    def _decide(self) -> Race:
        """The race as it stands; where it waits for settings to be chosen, these are chosen."""
        while True:
            more = len(self._settings) < self._grid.wanted
            race = decide(list(self._settings), self.scores, self._rules, more=more)
            if race.asked or not more:
                return race
            self._enter(self._grid.more_settings([self._found(race, setting) for setting in self._settings.values()]))

    def _found(self, race: Race, setting: Setting) -> Found:
        """What a search is told: the mean over the setting's seeds; of one that was dropped before, how it looked."""
        end = self._rules.epochs
        ends = [
            self.scores[key][end] for key, epochs in race.reached.items() if key[0] == setting.name and epochs == end
        ]
        drop = race.dropped.get(setting.name)
        if ends or not drop or not drop.leader:
            return Found(setting.values, float(np.mean(ends)) if ends else math.inf)
        return Found(setting.values, self.scores[drop.leader, 0].get(end, 0.0) + math.log(drop.ratio))

    def trials(self) -> Iterator[Trial | None]:
        """The runs to be trained; None where there is none before another one has ended."""
        while not self.over():
            yield self._next()

    def _next(self) -> Trial | None:
        asked = [ask for ask in self.race.asked if ask not in self._tried]
        if not asked or self.lost:
            return None
        for ask in (*asked, *ahead(self.race, self.scores)):
            key = (ask.setting, ask.seed)
            if key not in self._under_way and ask.epochs not in self.scores.get(key, {}) and ask not in self._tried:
                self._under_way[key] = now = time.monotonic()
                self._first, self._at_once = self._first or now, max(self._at_once, len(self._under_way))
                self._view.expect(self._runs[key].name, ask.epochs)
                try:
                    return patient(self._begin, self._runs[key], ask.epochs)
                except STORE_ERRORS as error:
                    self.lost = error
                    del self._under_way[key]
                    return None
        return None

    def over(self) -> bool:
        """Whether nothing more will be asked for: there is an answer, or what is asked for cannot be had."""
        return not self._under_way and (self.lost is not None or all(ask in self._tried for ask in self.race.asked))

    @property
    def decided(self) -> bool:
        """Whether the race has come to its end."""
        return not self.race.asked

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Take in the score of a run that has ended, and decide."""
        key, until = self._key[trial.name], trial.until or self._rules.epochs
        self._busy += time.monotonic() - self._under_way.pop(key)
        try:
            curve = patient(self._curves, [trial.run_id]).get(trial.run_id, {})
            self._take(key, Trained(curve, self._rules.epochs, outcome.status, outcome.health))
            if until not in self.scores.get(key, {}):
                self._tried.add(Ask(*key, until))
            before, self.race = self.race, patient(self._decide)
            self._show(before)
            patient(self._record)
        except STORE_ERRORS as error:  # Tune would end with a traceback, and the runs under way with it
            self.lost = error

    def reasons(self) -> dict[str, str]:
        """Why a run of it need not be trained to its end, by its name."""
        dropped = self.race.dropped
        return {
            name: render("race", what="reason", drop=dropped.get(setting)) for name, (setting, _) in self._key.items()
        }

    def _idle(self) -> float:
        """The share of the workers' time, since the first run was handed out, in which they had none."""
        now = time.monotonic()
        busy = self._busy + sum(now - since for since in self._under_way.values())
        return max(1 - busy / ((now - self._first) * self._at_once), 0.0) if self._at_once else 0.0

    def _curves(self, run_ids: Collection[str]) -> dict[str, dict[int, float]]:
        found = read_histories(self._client, list(run_ids), [names.FD])
        return {run_id: curve for (run_id, _), curve in found.items()}

    def _take(self, key: Key, run: Trained) -> None:
        self.scores.setdefault(key, {}).update(scores_of(run, self._rules))

    def _show(self, before: Race | None) -> None:
        """Tell the user what has changed."""
        race = self.race
        self._likely = likely_left(race, self.scores)
        self._view.foresee(self._likely * self._rules.epochs)
        dropped = {name: drop for name, drop in race.dropped.items() if not before or name not in before.dropped}
        if before and not dropped and (before.spent, before.answer) == (race.spent, race.answer):
            return
        known = {"dropped": dropped, "likely": self._likely, "idle": self._idle(), "trained": self._at_once > 0}
        self._view.note(render("race", what="round", race=race, **known))

    def _record(self) -> None:
        """Keep with the parent run how the race stands."""
        race = self.race
        tags = {
            names.ANSWER: race.answer,
            names.ANSWER_SETTINGS: " ".join(race.left),
            names.ANSWER_CONFIDENCE: text_of(self._rules.confidence),
            names.ANSWER_MARGIN: text_of(self._rules.margin),
            names.ANSWER_MAX_SEEDS: text_of(self._rules.max_seeds),
        }
        if race.chosen:
            tags[names.ANSWER_LEADS] = race.chosen
        if race.distance:
            low, mean, high = (text_of(round(math.exp(value), 4)) for value in sorted(race.distance[:3]))
            tags[names.ANSWER_CHECK] = f"{race.chosen} {mean} {low} {high}"
        figures = {
            names.RACE_LEFT: len(race.left),
            names.RACE_EPOCHS: race.spent,
            names.RACE_LIKELY_LEFT: self._likely,
            names.RACE_IDLE: self._idle(),
        }
        now = time.time_ns() // 1_000_000
        self._client.log_batch(
            self._parent.info.run_id,
            metrics=[Metric(name, float(value), now, race.spent) for name, value in figures.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
