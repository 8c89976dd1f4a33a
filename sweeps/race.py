"""Which runs a race trains next, which settings it drops, and when it has an answer; pure.

Settings are compared by log Fréchet distance, less is better. Seed 0 of every setting is trained to its end, then
two more of the two best. After that a round is one more seed for every setting whose comparison is open, but not
for one that looks hopeless after a single seed: its second seed is trained to an early epoch, the rung, and the
setting is dropped there if that does not speak for it. The race ends with an answer, or where the seeds allowed
cannot give one. The chosen setting then gets fresh seeds, which had no part in choosing it.

`decide` replays the whole race from what is recorded, in a fixed order. So the same record gives the same
decisions, whichever worker was faster, and what was trained beyond what is asked for changes nothing.
docs/answers.md explains the method.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from sweeps.inference import Estimate, Group, farther_apart, moderated, worse

LEADERS, TOGETHER = 2, (1, 2)  # the best settings by seed 0, and the seeds that they get next
CHECKS = 2  # fresh seeds of the chosen setting
# Where another setting is this near, in log distance, a race ends when the spreads seen so far happen to look small.
# An interval by them would be too narrow, so the chosen setting gets enough fresh seeds for one without them.
NEAR, NEAR_CHECKS = math.log(1.2), 4
DIVERGED = "diverged"  # the health of a run that has failed by its own doing
RUNG = 0.05  # share of a run's epochs
# Of drawn settings: share of a run's epochs → how far behind the best, in log distance, one cannot catch up. Of 64
# drawn ones on digits the best at the end was 0.56 behind at a tenth and 0.69 at three tenths (docs/answers.md).
CATCH_UP = {0.1: math.log(4), 0.3: math.log(3)}
# Looks at the same seeds overlap, so their errors do not add up: with ten looks each could have twice its share
# (Pocock 1977). A test by two or three seeds errs a little more often than it says, so it is less than that.
OVERLAP = 1.6
AGREES = 20  # how much greater than the level the p-value of a setting may be that its second seed does not speak for
PLAYS = 3  # of the rest of a race, of which the median is what it is likely to need
WORTH = 0.9  # a mean is not made surer whose variance is a smaller share of that of the one it is compared with

Scores = Mapping[tuple[str, int], Mapping[int, float]]  # setting, seed → epoch → log fd; inf: the run has failed


class Ask(NamedTuple):
    """A run to be trained up to an epoch, and scored there."""

    setting: str
    seed: int
    epochs: int


@dataclass(frozen=True)
class Rules:
    """When a setting is dropped, and when there is an answer."""

    epochs: int  # of a whole run
    confidence: float = 0.95
    margin: float = 0.1  # distances within this share of each other are equal
    max_seeds: int = 10
    drawn: bool = False  # settings are raced from their first seed on
    batch: int | None = None  # of a search: so many settings are tried before the next ones are chosen

    @property
    def rung(self) -> int:
        """The epoch up to which a hopeless setting's second seed is trained."""
        return math.ceil(RUNG * self.epochs)

    @property
    def first_rungs(self) -> dict[int, float]:
        """Epochs after which a drawn setting's first seed is dropped, and how far behind the best it has to be."""
        return {math.ceil(share * self.epochs): behind for share, behind in CATCH_UP.items()} if self.drawn else {}

    @property
    def rungs(self) -> tuple[int, ...]:
        """All epochs after which runs are compared, but for the last."""
        return tuple(sorted({*self.first_rungs, self.rung}))

    def most_trials(self, settings: int) -> int:
        """How often runs can be begun or resumed, at most."""
        return settings * self.max_seeds * (1 + len(self.rungs))

    @property
    def drop_level(self) -> float:
        """The level of one look at who is worse, of `max_seeds` looks at most."""
        return OVERLAP * (1 - self.confidence) / self.max_seeds

    @property
    def equal_level(self) -> float:
        """The level of one look at who is equal."""
        return (1 - self.confidence) / self.max_seeds

    @property
    def log_margin(self) -> float:
        """The margin on the scale of the scores."""
        return math.log1p(self.margin)


class Trained(NamedTuple):
    """What the record has of a run."""

    curve: Mapping[int, float]  # epoch → Fréchet distance
    epochs: int  # that it was to train
    status: str
    health: str = ""
    dropped: bool = False


def scores_of(run: Trained, rules: Rules) -> dict[int, float]:
    """A run's scores by epoch.

    A run that diverged is infinitely bad; one that failed otherwise may do better when it is tried again. One that
    collapsed may have ended early: it stays as it was then.
    """
    if run.status == "FAILED" and run.health == DIVERGED:
        return dict.fromkeys((rules.rung, rules.epochs), math.inf)
    scores = {epoch: math.log(fd) if fd > 0 else math.inf for epoch, fd in run.curve.items()}
    if run.status == "FINISHED" and not run.dropped and scores and run.epochs >= rules.epochs:
        last = scores[max(scores)]
        scores |= {epoch: last for epoch in (rules.rung, rules.epochs) if epoch > max(scores)}
        # A longer run may have no score at this very epoch.
        scores.setdefault(rules.epochs, scores[min(epoch for epoch in scores if epoch >= rules.epochs)])
    return scores


class Drop(NamedTuple):
    """Why and when a setting left the race."""

    seed: int
    epoch: int
    leader: str  # that it is worse than; empty: its run had no distance
    ratio: float  # of its distance to the leader's, as it looked then
    p: float


@dataclass
class Race:
    """A race, as far as the record goes."""

    rules: Rules
    settings: Sequence[str]
    left: list[str]  # of these, those that may still be the best
    dropped: dict[str, Drop] = field(default_factory=dict)
    asked: list[Ask] = field(default_factory=list)  # what is to be trained now; empty at the end
    answer: Literal["best", "equal", "open"] = "open"
    chosen: str = ""  # the setting of least mean distance; of an answer, before its check
    known: dict[str, tuple[float, float]] = field(default_factory=dict)  # mean and spread of each setting
    needed: float = 0.0  # seeds that an open race would take, if all is as it looks
    checks: range = range(0)  # the chosen setting's fresh seeds
    distance: Estimate | None = None  # log fd of the chosen setting, by its fresh seeds alone
    reached: dict[tuple[str, int], int] = field(default_factory=dict)  # setting, seed → epochs asked for so far

    @property
    def spent(self) -> int:
        """Epochs of all that was asked for."""
        return sum(self.reached.values())


def bounds(settings: int, rules: Rules) -> tuple[float, float]:
    """The least and the most that a race of so many settings can cost, in whole runs."""
    together = min(len(TOGETHER), rules.max_seeds - 1)
    checks = min(CHECKS, rules.max_seeds - 1 - together)
    others = settings - LEADERS
    each = min(rules.first_rungs) / rules.epochs if rules.drawn else 1 + rules.rung / rules.epochs
    return LEADERS * (1 + together) + others * each + checks, float(settings * rules.max_seeds)


def decide(settings: Sequence[str], scores: Scores, rules: Rules, *, more: bool = False) -> Race:
    """The race of these settings, as far as the scores go. more: other settings will follow, so it has no end yet."""
    race = Race(rules, settings, list(settings))
    for asks in _course(race, scores, more):
        for ask in asks:
            race.reached[ask.setting, ask.seed] = ask.epochs
        race.asked = [ask for ask in asks if ask.epochs not in scores.get((ask.setting, ask.seed), {})]
        if race.asked:
            break
    return race


def _course(race: Race, scores: Scores, more: bool) -> Iterator[list[Ask]]:
    """What is asked for, one batch after another; each is answered before the next one is asked for."""
    rules, end = race.rules, race.rules.epochs
    size = rules.batch or len(race.settings)
    asks: list[Ask] = []
    for first in range(0, len(race.settings), size):
        yield asks  # of the best so far: what is chosen next rests on more than one seed
        yield from _first_seeds(race, scores, race.settings[first : first + size])
        if not _drop_failed(race, scores):
            return
        tried = [setting for setting in race.settings[: first + size] if setting in race.left]
        best = sorted(tried, key=lambda setting: scores[setting, 0][end])[:LEADERS]
        asks = [Ask(setting, seed, end) for seed in TOGETHER[: rules.max_seeds - 1] for setting in best]
    if more:
        yield asks
        return
    counts = Counter(setting for (setting, _), epochs in race.reached.items() if epochs == end)
    seeds = {setting: counts[setting] for setting in race.left}  # how many of each setting are trained to the end
    doubted: list[str] = []
    for _ in range(rules.max_seeds):
        # A first seed of another sweep may have no score at the rung.
        at_rung = [setting for setting in doubted if rules.rung in scores[setting, 0]]
        asks += [Ask(setting, 1, end) for setting in doubted if setting not in at_rung]
        yield [*asks, *(Ask(setting, 1, rules.rung) for setting in at_rung)]
        seeds |= {ask.setting: ask.seed + 1 for ask in asks}
        if not _drop_failed(race, scores):
            return
        groups = _groups(race, scores, seeds)
        doubted = _drop_worse(race, groups, seeds)
        race.known = {
            setting: (group.mean, math.sqrt(group.variance * seeds[setting])) for setting, group in groups.items()
        }
        race.chosen = min(race.left, key=lambda setting: groups[setting].mean)
        pairs = combinations(race.left, 2)
        unsure = [pair for pair in pairs if not _equal(groups, pair, rules) or any(seeds[each] < 2 for each in pair)]
        if not unsure:
            race.answer = "best" if len(race.left) == 1 else "equal"
            break
        told_by = {pair: _seeds_to_tell(groups, pair, seeds, rules) for pair in unsure if not set(pair) & set(doubted)}
        race.needed = max(told_by.values(), default=0.0)
        open_pairs = [pair for pair, n in told_by.items() if n <= rules.max_seeds]
        in_need = _in_need(open_pairs, groups, seeds, rules.max_seeds)
        asks = [Ask(setting, seeds[setting], end) for setting in race.left if setting in in_need]
        if not asks and not doubted:
            break
    if race.answer == "open":
        race.needed = max(race.needed, rules.max_seeds + 1)
        return
    yield from _check(race, scores, seeds[race.chosen])


def _first_seeds(race: Race, scores: Scores, batch: Sequence[str]) -> Iterator[list[Ask]]:
    """Train seed 0 of these settings; drawn ones are dropped on the way where they cannot catch up."""
    end, left = race.rules.epochs, list(batch)
    for epoch, behind in race.rules.first_rungs.items():
        # A whole run of another sweep may have no score at the rung.
        yield [Ask(name, 0, epoch) for name in left if end not in (its := scores.get((name, 0), {})) or epoch in its]
        seen = [name for name, seed in race.reached if seed == 0]  # not what the record has of settings to come
        at_rung = {name: scores[name, 0][epoch] for name in seen if epoch in scores[name, 0]}
        leader = min(at_rung, key=lambda name: (at_rung[name], name), default="")
        for name in [name for name in left if at_rung.get(name, -math.inf) > at_rung.get(leader, 0) + behind]:
            left.remove(name)
            race.left.remove(name)
            far = at_rung[name] - at_rung[leader]
            race.dropped[name] = Drop(0, epoch, leader if math.isfinite(far) else "", math.exp(min(far, 700)), math.nan)
    yield [Ask(name, 0, end) for name in left]


def _check(race: Race, scores: Scores, seeds: int) -> Iterator[list[Ask]]:
    """Train fresh seeds of the chosen setting, and take its distance from them. seeds: those that chose it."""
    rules, end = race.rules, race.rules.epochs
    used = 1 + max(seed for setting, seed in race.reached if setting == race.chosen)
    nearest = min((mean for name, (mean, _) in race.known.items() if name != race.chosen), default=math.inf)
    checks = NEAR_CHECKS if nearest < race.known[race.chosen][0] + NEAR else CHECKS
    if fresh := range(used, min(used + checks, rules.max_seeds)):
        race.checks = fresh
        yield [Ask(race.chosen, seed, end) for seed in fresh]
        before, after = ([scores[race.chosen, seed][end] for seed in its] for its in (range(seeds), fresh))
        race.distance = _by_fresh(after, before, rules.confidence)


def ahead(race: Race, scores: Scores) -> list[Ask]:
    """What is likely to be asked for after this batch, the likeliest first: the next seed of the best settings."""
    end = race.rules.epochs
    if race.answer != "open":
        return []  # what is left to do is the check
    means = {
        setting: float(np.mean(ends))
        for setting in race.left
        if (ends := [its[end] for (name, _), its in scores.items() if name == setting and end in its])
    }
    found = []
    for setting in sorted(means, key=lambda each: means[each])[:LEADERS]:
        seed = next(n for n in range(race.rules.max_seeds + 1) if race.reached.get((setting, n), 0) < end)
        if seed < race.rules.max_seeds:
            found.append(Ask(setting, seed, end))
    return found


def likely_left(race: Race, scores: Scores) -> float:
    """How much the race is likely to need yet, in whole runs: it is played to its end as all looks now."""
    rules = race.rules
    trained = sum(max((epoch for epoch in its if epoch <= rules.epochs), default=0) for its in scores.values())
    if not race.known:
        return max(bounds(len(race.settings), rules)[0] - trained / rules.epochs, 0.0)
    left = []
    for play in range(PLAYS):
        chance, played, now = np.random.default_rng(play), {run: dict(its) for run, its in scores.items()}, race
        while now.asked:
            for setting, seed, _ in now.asked:
                mean, spread = race.known[setting]
                at_end, at_rung = spread * chance.standard_normal(2)
                drawn = {rules.epochs: mean + at_end}
                if rules.rung in scores[setting, 0]:
                    drawn[rules.rung] = scores[setting, 0][rules.rung] + at_rung
                played[setting, seed] = drawn | played.get((setting, seed), {})
            now = decide(race.settings, played, rules)
        left.append((now.spent - race.spent + sum(ask.epochs for ask in race.asked)) / rules.epochs)
    return float(np.median(left))


def _drop_failed(race: Race, scores: Scores) -> bool:
    """Drop the settings that have a run without a distance; False if no other setting is left to go on with."""
    failed: dict[str, tuple[int, int]] = {}
    for (setting, seed), epoch in race.reached.items():
        if not math.isfinite(scores[setting, seed][epoch]):
            failed.setdefault(setting, (seed, epoch))
    if failed.keys() >= set(race.left):
        return False
    for setting in [each for each in race.left if each in failed]:
        race.left.remove(setting)
        race.dropped[setting] = Drop(*failed[setting], "", math.inf, 0.0)
    return True


def _groups(race: Race, scores: Scores, seeds: Mapping[str, int]) -> dict[str, Group]:
    """What is known of each setting by its scores at the end, of any number of seeds.

    Of a setting with one seed the spread is what the others' spreads make likely. Where its second seed has been
    seen at the rung, that moves the mean by half of the difference there, and the spread is at least what the two
    show. It is no more than that: the first seeds' order at an early epoch says little about their ends.
    """
    end, rung = race.rules.epochs, race.rules.rung
    ends = {
        setting: [scores[setting, seed][end] for seed in range(count)]
        for setting, count in seeds.items()
        if setting in race.left or race.dropped[setting].leader
    }
    spreads = dict(zip(ends, moderated(list(ends.values())), strict=True))
    means = {setting: float(np.mean(sample)) for setting, sample in ends.items()}
    for setting in ends:
        if _seen_at_rung(race, setting, seeds):
            pair = [scores[setting, seed][rung] for seed in (0, 1)]
            means[setting] += (pair[1] - pair[0]) / 2
            others = [ends[each] for each in ends if each != setting]
            spreads[setting] = max(spreads[setting], moderated([*others, pair])[-1])
    of_all = sum(len(sample) - 1 for sample in ends.values())
    return {
        setting: Group(means[setting], spreads[setting][0] / len(sample), spreads[setting][1], of_all)
        for setting, sample in ends.items()
    }


def _seen_at_rung(race: Race, setting: str, seeds: Mapping[str, int]) -> bool:
    return seeds[setting] == 1 and (setting, 1) in race.reached


def _drop_worse(race: Race, groups: Mapping[str, Group], seeds: Mapping[str, int]) -> list[str]:
    """Drop every setting that is worse than the leader at the look's level, shared among the comparisons.

    A setting that is, but by one seed alone, is not dropped yet: it is returned.
    """
    leader = min(race.left, key=lambda setting: groups[setting].mean)
    others = [setting for setting in race.left if setting != leader]
    # Of two settings either may look worse by chance, so the test is two-sided. Their spreads lean on each other
    # alone, so the level has no more than its share (benchmarks/race.py --settings 2).
    comparisons = 2 * OVERLAP if len(race.settings) == 2 else max(len(others), 1)
    level = race.rules.drop_level / comparisons
    doubted = []
    for setting in others:
        p = worse(groups[leader], groups[setting])
        seen = _seen_at_rung(race, setting, seeds)
        if p >= level * (AGREES if seen else 1):
            continue
        if seeds[setting] == 1 and not seen:
            doubted.append(setting)
            continue
        race.left.remove(setting)
        ratio = math.exp(groups[setting].mean - groups[leader].mean)
        seed, epoch = (1, race.rules.rung) if seen else (seeds[setting] - 1, race.rules.epochs)
        race.dropped[setting] = Drop(seed, epoch, leader, ratio, p)
    return doubted


def _equal(groups: Mapping[str, Group], pair: tuple[str, str], rules: Rules) -> bool:
    """Whether two settings are within the margin of each other, at the look's level.

    All pairs have to be, so nothing is shared among them (Berger 1982, intersection-union tests).
    """
    one, other = (groups[setting] for setting in pair)
    return farther_apart(one, other, rules.log_margin) < rules.equal_level


def _seeds_to_tell(groups: Mapping[str, Group], pair: tuple[str, str], seeds: Mapping[str, int], rules: Rules) -> float:
    """Seeds that would tell two settings apart, or equal, if they differ and vary as much as it looks."""
    from scipy.special import ndtri

    variance = sum(groups[setting].variance * seeds[setting] for setting in pair)
    gap = abs(groups[pair[0]].mean - groups[pair[1]].mean)
    if math.isinf(variance):
        return 0.0  # nothing is known that speaks against it
    room = max(rules.log_margin - gap, 0.0)
    tests = ((gap, rules.drop_level), (room, rules.equal_level))
    return min(variance * (float(ndtri(level)) / size) ** 2 if size else math.inf for size, level in tests)


def _in_need(
    pairs: Sequence[tuple[str, str]], groups: Mapping[str, Group], seeds: Mapping[str, int], most: int
) -> set[str]:
    """Of each pair the settings that one more seed helps: not one whose mean is far surer than the other's."""
    found = set()
    for pair in pairs:
        able = [setting for setting in pair if seeds[setting] < most]
        largest = max((groups[setting].variance for setting in able), default=0.0)
        found |= {setting for setting in able if groups[setting].variance >= WORTH * largest}
    return found


def _by_fresh(fresh: Sequence[float], before: Sequence[float], confidence: float) -> Estimate:
    """The mean of fresh seeds, with a t interval: by their own spread where they are NEAR_CHECKS.

    Where they are fewer, by that within these and within those before them. A race stops where spreads look small;
    half a degree of freedom less makes up for it (benchmarks/race.py).
    """
    from scipy.special import stdtrit

    parts, less = ([fresh], 0.0) if len(fresh) == NEAR_CHECKS else ([fresh, before], 0.5)
    df = max(sum(len(part) - 1 for part in parts), 1)
    squares = sum(float(np.var(part)) * len(part) for part in parts)
    mean = float(np.mean(fresh))
    half = float(stdtrit(max(df - less, 1), (1 + confidence) / 2)) * math.sqrt(squares / df / len(fresh))
    return Estimate(mean, mean - half, mean + half, len(fresh))
