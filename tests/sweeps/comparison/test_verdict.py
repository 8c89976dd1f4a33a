"""Each kind of verdict, by numbers on both sides of where it changes; then its sentences."""

import re
from dataclasses import replace

import pytest

from sweeps.comparison.compare import compare
from sweeps.comparison.render import render
from sweeps.comparison.verdict import Verdict, give_verdict, held_equal
from sweeps.race import Rules

FOUR = {("sgd", 20): 5.0, ("sgd", 50): 7.0, ("adam", 20): 25.0, ("adam", 50): 27.0}
SAID = """{% import "verdict.j2" as say with context %}{{ say.headline(c, verdict) }}
{{ say.reasons(c, verdict, fair) }}{{ say.cautions(c, verdict) }}"""


@pytest.fixture
def give(made_up):
    def verdict(runs, absent=(), **changes):
        return give_verdict(compare(made_up.sweep(runs, absent, **changes)))

    return verdict


@pytest.fixture
def say(made_up, tmp_path, monkeypatch):
    """The verdict's sentences: the headline, then all of them."""
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "__init__.py").touch()
    (tmp_path / "said" / "templates").mkdir()
    (tmp_path / "said" / "templates" / "said.txt.j2").write_text(SAID)
    monkeypatch.syspath_prepend(tmp_path)

    def words(runs, absent=(), **changes):
        comparison = compare(made_up.sweep(runs, absent, **changes))
        values = {"c": comparison, "verdict": give_verdict(comparison), "fair": held_equal(comparison, {})}
        text = re.sub("</?[a-z]+>|&nbsp;", " ", render("said/said.txt.j2", values, ["said"]))
        return text.splitlines()[0], " ".join(text.split())

    return words


def test_nothing_finished(give, made_up):
    assert give([]).kind == "nothing finished"
    runs = [replace(run, status="FAILED") for run in made_up.settings(FOUR)]
    assert give(runs).kind == "nothing finished"
    assert give([replace(runs[0], status="FINISHED"), *runs[1:]]).kind == "one setting"


def test_without_scores_or_baselines_there_is_no_verdict(give, made_up):
    runs = [made_up.run(seed, None, z_dim=z) for z in (20, 50) for seed in (0, 1)]
    assert give(runs).kind == "not scored"
    assert (
        give(made_up.settings(FOUR), classifiers=[made_up.classifier._replace(real_baseline={})]).kind == "not scored"
    )


@pytest.mark.parametrize(
    ("health", "kind"), [("collapsed", "nothing usable"), ("d-dominant", "apart"), ("", "apart"), ("ok", "apart")]
)
def test_nothing_usable(give, made_up, health, kind):
    runs = [replace(run, health="not-learning") for run in made_up.settings(FOUR)]
    assert give(runs).kind == "nothing usable"
    assert give([replace(runs[0], health=health), *runs[1:]]).kind == kind


def test_one_seed_or_none_in_common_is_no_verdict(give, made_up):
    assert give(made_up.settings(FOUR, seeds=1)).kind == "one seed"
    assert give(made_up.settings(FOUR, seeds=2, spread=0.001)).kind == "apart"
    runs = made_up.settings({("sgd", 20): 5.0}, seeds=5)
    assert give(runs + [made_up.run(seed, 9.0, z_dim=50) for seed in (4, 5)]).kind == "no seeds in common"
    assert give(runs + [made_up.run(seed, 9.0 + seed, z_dim=50) for seed in (3, 4)]).kind != "no seeds in common"


def test_what_spoils_a_verdict(give, made_up):
    assert give(made_up.settings(FOUR)) == Verdict("apart", flattered=[], unscored=[], epochs=[])
    runs = made_up.settings(FOUR)
    runs[0] = replace(runs[0], health="collapsed")
    runs[6] = replace(runs[6], status="KILLED")
    runs[7] = replace(runs[7], status="RUNNING")
    runs[10:15] = [replace(run, health="mode-collapsed") for run in runs[10:15]]
    runs[15] = replace(runs[15], status="FAILED")
    runs[16] = made_up.run(1, None, optimizer="adam", z_dim=50)
    found = give(runs, absent=[("x_s0", "x", "FAILED", "its worker died"), ("x_s1", "x", "SCHEDULED", "")])
    assert found.best_is_unsound
    assert found.broken == {"collapsed": [("sgd_z20", 1, 5)], "mode-collapsed": [("adam_z20", 5, 5)]}
    assert found.left_out == {
        "KILLED": ["sgd_z50_s1"], "RUNNING": ["sgd_z50_s2"], "FAILED": ["adam_z50_s0", "x_s0"], "SCHEDULED": ["x_s1"],
    }  # fmt: skip
    assert found.flattered == ["adam_z50"]
    assert found.unscored == ["adam_z50_s1"]
    assert not found.epochs


def test_runs_of_different_length_are_said(give, made_up):
    runs = [made_up.run(seed, 5.0, z_dim=z, epochs=10 if seed else 20) for z in (20, 50) for seed in (0, 1)]
    assert give(runs).epochs == [10, 20]
    assert give(runs, axes=("z_dim", "epochs")).epochs == []
    alone = [run if run.seed else replace(run, status="KILLED") for run in runs]
    assert give(alone).epochs == []


def test_the_words_of_a_clear_winner(say, made_up):
    headline, said = say(made_up.settings(FOUR))
    assert headline == "Use sgd_z20: the seeds tell it from every other setting."
    assert re.search(
        r"Best by Fréchet distance: sgd_z20 \(optimizer sgd, z_dim 20, learning_rate 0\.03\) has fd [45]\.\d+ "
        r"\(.* to .*\), the geometric mean of 5 seeds\. Real images have 0\.100, and an untrained G has 50\.0\.", said
    )  # fmt: skip
    assert re.search(r"The next, sgd_z50, has fd [67]\.\d+: 1\.[34]\d times as much, paired by seed", said)
    assert "after Holm’s correction for 3 comparisons). The seeds tell the two apart." in said
    assert "The best of 4 settings was picked by the same seeds that it is then tested on." in said
    assert "Seeds needed" not in said


def test_the_words_of_two_settings(say, made_up):
    _, said = say(made_up.settings({("sgd", 20): 5.0, ("sgd", 50): 9.0}))
    assert "Holm" not in said
    assert "picked by the same seeds" not in said


@pytest.mark.parametrize("health", ["", "ok", "d-dominant"])
def test_the_best_is_unsound_if_something_is_known_to_be_wrong(give, made_up, health):
    runs = [replace(run, health=health if run.setting == "sgd_z20" else "collapsed") for run in made_up.settings(FOUR)]
    assert give(runs).best_is_unsound == (health == "d-dominant")


def test_equal_settings_need_more_seeds_than_is_worth_it(say, made_up):
    runs = made_up.settings({("sgd", 20): 5.0})
    same = [made_up.run(run.seed, run.score("quality/fd"), z_dim=50) for run in runs]
    assert "sgd_z50 more than 1,000, so take the two for equal." in say([*runs, *same])[1]


def test_at_most_four_of_the_tied_are_said_with_their_seeds(say, made_up):
    _, said = say(made_up.settings({("sgd", z): 5.0 + z / 1000 for z in range(20, 27)}, spread=0.3))
    seeds = said[said.index("so many seeds would tell it") :].split(".")[0]
    assert len(re.findall(r"sgd_z\d+ (?:about|more than)", seeds)) == 4
    assert seeds.endswith("for 2 more see the table")


def test_the_words_of_a_tie(say, made_up):
    headline, said = say(made_up.settings({**FOUR, ("sgd", 50): 5.1}, spread=0.1))
    assert re.fullmatch(r"sgd_z\d+ leads, but 5 seeds cannot tell it from sgd_z\d+: either may be the best\.", headline)
    assert "The seeds cannot tell the two apart." in said
    assert re.search(r"would tell it from a tied setting: sgd_z\d+ (about \d+|more than 1,000)", said)
    assert "(Paired t-test with 80 % power at 5 %, shared among the comparisons.)" in said
    assert "The seeds do tell it from adam_z20 and adam_z50." in said
    headline, _ = say(made_up.settings({("sgd", z): 5.0 + z / 1000 for z in (20, 21, 22)}, spread=0.3))
    assert headline.endswith("any of these may be the best.")


def test_the_words_where_there_is_no_verdict(say, made_up):
    headline, said = say(made_up.settings(FOUR, seeds=1))
    assert headline.endswith("one seed cannot tell a better setting from a luckier one. It looks like sgd_z20.")
    assert "--seeds 0 1 2 3 4." in said
    assert "times as much" not in said
    headline, _ = say([made_up.run(0, None)])
    assert headline == "No verdict: the quality of the images was not measured."
    assert say([])[0] == "No verdict: no run has finished."
    headline, said = say([replace(run, health="collapsed") for run in made_up.settings(FOUR)])
    assert headline == "Use none of these: no run made usable images."
    assert "The least bad by Fréchet distance: sgd_z20" in said
    two = [made_up.classifier, made_up.classifier._replace(sha256="cd" * 32)]
    headline, said = say(made_up.settings(FOUR), classifiers=two)
    assert "different classifiers" in headline
    assert said.count("2 classifiers scored these runs") == 1
    unmeasured = made_up.run(0, None, z_dim=50)
    assert "nothing to compare it with" in say([*made_up.settings({("sgd", 20): 5.0}), unmeasured])[0]


def test_the_words_of_settings_that_could_not_be_tested(say, made_up):
    runs = made_up.settings({("sgd", 20): 5.0, ("sgd", 50): 9.0})
    runs += [made_up.run(seed, 25.0, optimizer="adam") for seed in (7, 8)]
    headline, said = say(runs)
    assert headline == "Use sgd_z20: the seeds tell it from every setting that could be tested."
    assert "Not tested, because they share fewer than two seeds with it: adam_z20." in said
    runs += [made_up.run(seed, 6.0, z_dim=100) for seed in (7, 8)]
    assert "The next, sgd_z100, has fd 6.00. It shares fewer than two seeds with the best" in say(runs)[1]
    runs = [*made_up.settings({("sgd", 20): 5.0}), made_up.run(7, 9.0, z_dim=50)]
    headline, said = say(runs)
    assert headline.startswith("No verdict: no other setting shares two seeds with sgd_z20.")
    assert "--seeds 0 1 2 3 4 5 6." in said


def test_the_words_of_the_cautions(say, made_up):
    runs = made_up.settings(FOUR)
    runs[0] = replace(runs[0], status="FAILED")
    runs[1] = replace(runs[1], health="collapsed")
    runs[6] = replace(runs[6], status="KILLED")
    runs[10:15] = [replace(run, health="mode-collapsed") for run in runs[10:15]]
    _, said = say(runs, absent=[("sgd_z90_s0", "sgd_z90", "FAILED", "its worker died")])
    assert "The best setting by Fréchet distance, sgd_z20, has runs whose health is not ok." in said
    assert "Failed, so not counted: sgd_z20_s0 and sgd_z90_s0 (2 runs)." in said
    assert "Interrupted, so not counted: sgd_z50_s1 (1 run)." in said
    assert "Some runs of sgd_z20 failed. The scores are those of the other runs, which flatters it." in said
    assert "Mode-collapsed: adam_z20." in said
    assert "Collapsed: sgd_z20 (1 of 4 runs)." in said
    assert "geometric mean of 4 seeds" in said


RULES = Rules(epochs=20)


def test_the_words_of_a_race_with_a_best_setting(say, made_up):
    headline, text = say(made_up.settings(FOUR), rules=RULES)
    assert headline == "Best: sgd_z20, of 4 settings, at 95 % confidence."
    assert re.search(r"On fresh seeds, .* sgd_z20 has an fd of 4\.\d+ \(4\.\d+ to 5\.\d+, 2 seeds\)\.", text)
    assert "3 of 4 settings were dropped on the way." in text
    assert "five seeds of every setting are 20." in text
    assert "Holm" not in text


def test_the_words_of_a_race_between_equals(say, made_up):
    fds = {("sgd", 20): 5.0, ("sgd", 50): 5.02, ("adam", 20): 25.0}
    headline, _ = say(made_up.settings(fds, seeds=10, spread=0.01), rules=RULES)
    assert headline == (
        "Equal: sgd_z20 and sgd_z50 are within 10 % of each other, and the other 1 is worse, at 95 % confidence."
    )
    fds.pop(("adam", 20))
    headline, text = say(made_up.settings(fds, seeds=3, spread=0.01), rules=replace(RULES, max_seeds=3))
    assert headline == "Equal: sgd_z20 and sgd_z50 are within 10 % of each other, at 95 % confidence."
    assert "No seeds were left to measure its fd afresh, so the fd below is flattered by the choice." in text


def test_the_words_of_a_race_that_is_open_or_not_over(say, made_up):
    fds = {("sgd", 20): 5.0, ("sgd", 50): 5.4}
    headline, _ = say(made_up.settings(fds, seeds=10, spread=0.5), rules=RULES)
    assert re.fullmatch(
        r"Open: sgd_z20 and sgd_z50 may be the best, and sgd_z[25]0 leads\. "
        r"As it looks, an answer would take about \d+ seeds of each, and the race allows 10\.",
        headline,
    )
    headline, text = say(made_up.settings(FOUR, seeds=1), rules=RULES)
    assert re.search(
        r"The race has asked for as much training as 8\.00 whole runs; .* About \d\.\d\d more are likely", text
    )
    assert headline == "No answer yet: sgd_z20, sgd_z50, adam_z20 and adam_z50 may be the best."
    only = [run for run in made_up.settings(FOUR, seeds=1) if "adam" not in run.name]
    absent = [(f"adam_z{z}_s0", f"adam_z{z}", "SCHEDULED", "") for z in (20, 50)]
    headline, _ = say(only, absent, rules=RULES)  # a setting that has not begun is in the race, too
    assert headline == "No answer yet: sgd_z20, sgd_z50, adam_z20 and adam_z50 may be the best."


def test_of_unusable_settings_a_race_has_its_answer_as_well(say, made_up):
    runs = [replace(run, health="collapsed") for run in made_up.settings(FOUR)]
    headline, _ = say(runs, rules=RULES)
    assert headline.startswith("Use none of these: no run made usable images. Best: sgd_z20, of 4 settings")


def test_a_run_that_was_dropped_does_not_count_and_is_not_called_missing(give, made_up):
    runs = made_up.settings(FOUR)
    dropped = replace(runs[-1], dropped="after epoch 1 of seed 4")
    assert not dropped.finished
    verdict = give([*runs[:-1], dropped], rules=RULES)
    assert (verdict.kind, verdict.left_out) == ("raced", {})


@pytest.mark.parametrize(
    ("accuracy", "said"), [(0.8964, "right on only 89.6 % of the test images"), (0.9, ""), (float("nan"), "")]
)
def test_distances_on_a_weak_classifier_mean_little(say, made_up, accuracy, said):
    _, words = say(made_up.settings(FOUR), classifiers=[made_up.classifier._replace(accuracy=accuracy)])
    assert ("mean little" in words) == bool(said)
    assert said in words
