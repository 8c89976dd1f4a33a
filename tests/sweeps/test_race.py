"""What a race asks for, drops and answers: on scores that are made up, and on simulated sweeps."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.race import families, simulate
from sweeps.race import CHECKS, NEAR_CHECKS, Ask, Rules, Trained, ahead, bounds, decide, likely_left, scores_of

RULES = Rules(100)
EPOCHS = (5, 10, 30, 100)  # the rungs, those of drawn settings too


def table(means, spreads, seeds=10, seed=0, fall=1.0):
    """The score of every setting and seed, at the rung and at the end; settings are called a, b, c …"""
    chance = np.random.default_rng(seed)
    scores = {}
    for name, mean, spread in zip("abcdefgh", means, np.broadcast_to(spreads, len(means)), strict=False):
        for number in range(seeds):
            at_rung, at_end = spread * chance.standard_normal(2)
            scores[name, number] = dict.fromkeys(EPOCHS[:-1], mean + fall + at_rung) | {100: mean + at_end}
    return scores


def course(names, scores, rules=RULES):
    """Every batch that is asked for, when each is trained before the next one."""
    known, batches = {}, []
    while (race := decide(names, known, rules)).asked:
        batches.append(race.asked)
        for ask in race.asked:
            its = known.setdefault((ask.setting, ask.seed), {})
            its |= {epoch: value for epoch, value in scores[ask.setting, ask.seed].items() if epoch <= ask.epochs}
    return batches


def test_first_every_setting_with_seed_0_then_two_more_seeds_of_the_two_best():
    first, second, *_ = course("abcd", table([3, 1, 2, 4], 0.01))
    assert first == [Ask(name, 0, 100) for name in "abcd"]
    assert second == [Ask(name, seed, 100) for seed in (1, 2) for name in "bc"]


def test_what_looks_hopeless_is_dropped_once_its_second_seed_agrees_at_the_rung():
    scores = table([1, 1.2, 3, 4], 0.02)
    race = decide("abcd", scores, RULES)
    assert (race.answer, race.left, race.chosen, race.asked) == ("best", ["a"], "a", [])
    assert race.reached["c", 1] == race.reached["d", 1] == RULES.rung
    assert ("c", 2) not in race.reached
    drop = race.dropped["c"]
    assert (drop.seed, drop.epoch, drop.leader) == (1, RULES.rung, "a")
    assert drop.ratio == pytest.approx(math.exp(2), rel=0.2)
    assert drop.p < RULES.drop_level
    assert (race.dropped["b"].epoch, race.dropped["b"].seed > 1) == (100, True)
    third = course("abcd", scores)[2]
    assert Ask("c", 1, RULES.rung) in third


def test_a_second_seed_that_speaks_for_a_setting_keeps_it():
    """Its first seed was an unlucky one: at the rung the second is far better, so it is no hopeless setting."""
    scores = table([1, 1.2, 1.1, 4], 0.02)
    scores["c", 0] = {RULES.rung: 4.0, 100: 3.0}
    race = decide("abcd", scores, RULES)
    assert race.reached["c", 1] == 100
    assert race.dropped.get("c", race.dropped["d"]).seed > 0


def test_without_a_score_at_the_rung_the_second_seed_is_trained_whole():
    scores = table([1, 1.2, 3, 4], 0.02)
    for its in scores.values():
        del its[RULES.rung]
    race = decide("abcd", scores, RULES)
    assert (race.answer, race.left) == ("best", ["a"])
    assert set(race.reached.values()) == {100}


def test_the_chosen_setting_is_checked_with_fresh_seeds():
    scores = table([1, 2], 0.02)
    race = decide("ab", scores, RULES)
    trained = [seed for name, seed in race.reached if name == "a"]
    fresh = [scores["a", seed][100] for seed in trained[-CHECKS:]]
    assert race.distance.mean == pytest.approx(np.mean(fresh))
    assert race.distance.low < 1 < race.distance.high
    assert race.distance.n == CHECKS
    *_, last = course("ab", scores)
    assert last == [Ask("a", seed, 100) for seed in trained[-CHECKS:]]


@pytest.mark.parametrize(("answer", "other"), [("equal", 1.01), ("best", 1.15)])
def test_where_another_setting_is_near_fresh_seeds_alone_give_the_interval(answer, other):
    scores = table([1, other, 3], 0.01)
    race = decide("abc", scores, RULES)
    assert race.answer == answer
    fresh = [scores[race.chosen, seed][100] for seed in race.checks]
    assert race.distance.n == len(fresh) == NEAR_CHECKS
    found = stats.ttest_1samp(fresh, 0).confidence_interval(0.95)
    assert (race.distance.low, race.distance.high) == pytest.approx((found.low, found.high))


def test_settings_within_the_margin_are_equal_and_the_others_worse():
    race = decide("abcd", table([1, 1.01, 3, 1.02], 0.01), RULES)
    assert (race.answer, race.left, list(race.dropped)) == ("equal", ["a", "b", "d"], ["c"])
    assert race.chosen in race.left


def test_what_the_seeds_cannot_tell_stays_open():
    race = decide("ab", table([1, 1.05], 0.05, seed=1), RULES)
    assert (race.answer, race.left, race.asked, race.distance) == ("open", ["a", "b"], [], None)


def test_where_the_seeds_allowed_cannot_tell_they_are_not_spent():
    race = decide("ab", table([1, 1.05], 1.0), RULES)
    assert race.answer == "open"
    assert race.spent < 2 * RULES.max_seeds * RULES.epochs


def test_of_two_settings_the_noisier_gets_the_seeds():
    batches = course("ab", table([1, 1.2], [0.003, 0.12], seed=6))
    assert len(batches) > 4
    assert all(ask.setting == "b" for batch in batches[2:-1] for ask in batch)


def test_a_setting_whose_run_failed_is_dropped_unless_all_have():
    scores = table([1, 2, 3], 0.02)
    scores["a", 2] = dict.fromkeys(EPOCHS, math.inf)
    race = decide("abc", scores, RULES)
    assert (race.answer, race.left, race.dropped["a"].leader) == ("best", ["b"], "")
    assert math.isinf(race.dropped["a"].ratio)
    everything = {run: dict.fromkeys(its, math.inf) for run, its in scores.items()}
    race = decide("abc", everything, RULES)
    assert (race.answer, race.left, race.asked) == ("open", ["a", "b", "c"], [])


def test_one_setting_has_nothing_to_race_against():
    race = decide("a", table([1], 0.1), RULES)
    assert (race.answer, race.left) == ("best", ["a"])


@pytest.mark.parametrize("most", [2, 3, 4])
def test_no_setting_has_more_seeds_than_allowed(most):
    race = decide("abc", table([1, 1.01, 1.02], 0.1), Rules(100, max_seeds=most))
    assert race.asked == []
    assert max(seed for _, seed in race.reached) < most


def test_what_is_begun_early_is_the_next_seed_of_the_best():
    scores = {run: its for run, its in table([3, 1, 2, 4], 0.01).items() if run[1] == 0}
    race = decide("abcd", scores, RULES)
    assert ahead(race, scores) == [Ask("b", 3, 100), Ask("c", 3, 100)]


def test_a_race_costs_no_more_and_no_less_than_it_says():
    for spread, means in ((0.001, [1, 3, 5, 7]), (0.3, [1, 1.1, 1.2, 1.3])):
        least, most = bounds(4, RULES)
        assert least <= decide("abcd", table(means, spread), RULES).spent / RULES.epochs <= most


def test_once_there_is_an_answer_nothing_is_begun_early():
    scores = {run: its for run, its in table([1, 2], 0.02).items() if run[1] < 3}
    race = decide("ab", scores, RULES)
    assert (race.answer, race.asked) == ("best", [Ask("a", 3, 100), Ask("a", 4, 100)])
    assert ahead(race, scores) == []


def test_what_is_likely_left_is_what_it_comes_to():
    whole = table([1, 1.4, 3, 4], 0.02)
    assert likely_left(decide("abcd", {}, RULES), {}) == bounds(4, RULES)[0]
    known = {run: its for run, its in whole.items() if run[1] == 0 or (run[0] in "ab" and run[1] < 3)}
    race = decide("abcd", known, RULES)
    comes = (decide("abcd", whole, RULES).spent - race.spent + sum(ask.epochs for ask in race.asked)) / 100
    assert likely_left(race, known) == pytest.approx(comes)
    assert likely_left(decide("abcd", whole, RULES), whole) == 0


def test_an_open_race_says_how_many_seeds_it_would_take_and_with_more_there_are_answers():
    def races(most):
        return [decide("ab", table([1, 1.06], 0.08, most, seed=n), Rules(100, max_seeds=most)) for n in range(40)]

    few, many = ([race for race in races(most) if race.answer == "open"] for most in (10, 80))
    assert all(race.needed > 10 and not race.asked for race in few)
    assert len(few) > 20
    assert len(many) < 10


LOG2, LOG4 = math.log(2), math.log(4)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (Trained({5: 4.0, 100: 2.0}, 100, "FINISHED"), {5: LOG4, 100: LOG2}),
        (Trained({5: 4.0}, 100, "RUNNING"), {5: LOG4}),
        (Trained({3: 4.0}, 100, "FINISHED", "collapsed"), dict.fromkeys((3, 5, 100), LOG4)),
        (Trained({3: 4.0}, 100, "FINISHED", dropped=True), {3: LOG4}),
        (Trained({50: 4.0}, 50, "FINISHED"), {50: LOG4}),  # a shorter run
        (Trained({80: 4.0, 160: 2.0}, 160, "FINISHED"), {80: LOG4, 100: LOG2, 160: LOG2}),
        (Trained({100: 0.0}, 100, "FINISHED"), {100: math.inf}),
        (Trained({}, 100, "FINISHED"), {}),
        (Trained({5: 4.0}, 100, "FAILED", "diverged"), dict.fromkeys((5, 100), math.inf)),
        (Trained({5: 4.0}, 100, "FAILED"), {5: LOG4}),  # its worker died, say
    ],
)
def test_the_scores_of_a_run(run, expected):
    assert scores_of(run, RULES) == pytest.approx(expected)


DRAWN = Rules(100, drawn=True)
SEARCHED = Rules(100, drawn=True, batch=3)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([RULES, DRAWN, SEARCHED]))
def test_the_course_does_not_depend_on_what_was_trained_first_nor_on_what_nobody_asked_for(data, rules):
    means = data.draw(st.lists(st.sampled_from([1.0, 1.02, 1.3, 2.0]), min_size=2, max_size=8))
    names = "abcdefgh"[: len(means)]
    scores = table(means, 0.05, seed=data.draw(st.integers(0, 9)))
    whole = decide(names, scores, rules)
    known: dict = {}
    while (race := decide(names, known, rules)).asked:
        assert race.dropped.items() <= whole.dropped.items()
        # Whoever is ready first, some runs of the batch alone.
        done = data.draw(st.lists(st.sampled_from(race.asked), min_size=1, unique=True))
        for ask in done:
            its = known.setdefault((ask.setting, ask.seed), {})
            its |= {epoch: score for epoch, score in scores[ask.setting, ask.seed].items() if epoch <= ask.epochs}
        left = [ask for ask in race.asked if ask not in done]
        assert not left or decide(names, known, rules).asked == left
    assert race == whole


def test_drawn_settings_that_cannot_catch_up_are_dropped_with_their_first_seed():
    scores = table([1.0, 1.1, 2.2, 4.0], 0.01)
    race = decide("abcd", scores, DRAWN)
    assert {name: (drop.seed, drop.epoch, drop.leader) for name, drop in race.dropped.items()} == {
        "d": (0, 10, "a"),
        "c": (0, 30, "a"),
        "b": (2, 100, "a"),
    }
    assert race.dropped["d"].ratio == pytest.approx(math.exp(3), rel=0.1)
    assert (race.answer, race.reached["d", 0], race.reached["c", 0]) == ("best", 10, 30)
    assert bounds(4, DRAWN)[0] <= race.spent / 100
    whole = {run: {100: its[100]} for run, its in scores.items()}  # of a fixed grid, scored at the end alone
    assert set(decide("abcd", whole, DRAWN).reached.values()) == {100}


def test_a_search_is_told_of_the_best_by_more_than_one_seed_before_it_goes_on():
    scores = table([3, 1, 2.5, 1.5, 1.2, 4], 0.01)
    first = decide("abc", {}, SEARCHED, more=True)
    assert first.asked == [Ask(name, 0, 10) for name in "abc"]
    race = decide("abc", scores, SEARCHED, more=True)
    assert (race.asked, race.answer, race.known) == ([], "open", {})
    assert {run for run, epochs in race.reached.items() if epochs == 100} == {("b", 0), ("b", 1), ("b", 2)}
    race = decide("abcdef", scores, SEARCHED)
    assert (race.answer, race.chosen) == ("best", "b")


@pytest.mark.parametrize("name", ["study", "rates", "random", "same", "crossing", "heavy-tailed"])
def test_on_simulated_sweeps_a_race_is_seldom_wrong_and_cheap(name):
    """A short form of benchmarks/race.py, which has the figures: here a method that is broken shows."""
    rules = Rules(100)
    found = simulate(families(rules, 8)[name], "race", rules, 100, seed=1)
    assert sum(one.wrong for one in found) <= 8
    assert name == "same" or np.mean([one.cost for one in found]) < 0.9
    assert name == "same" or np.mean([one.answered for one in found]) > 0.6
