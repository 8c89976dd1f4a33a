import re
from dataclasses import replace

import pytest

from sweeps.comparison.cells import compare
from sweeps.comparison.verdict import give_verdict

FOUR = {("sgd", 20): 5.0, ("sgd", 50): 7.0, ("adam", 20): 25.0, ("adam", 50): 27.0}


@pytest.fixture
def give(made_up):
    def verdict(runs, absent=(), **changes):
        record = made_up.sweep(runs, absent, **changes)
        return give_verdict(record, compare(record))

    return verdict


def words(found):
    return " ".join([found.headline, *found.reasons, *found.cautions])


def test_a_clear_winner(give, made_up):
    found = give(made_up.cells(FOUR))
    assert found.surety == "told apart"
    assert found.headline == "Use sgd_z20: the seeds tell it from every other cell."
    said = words(found)
    assert "SGD at learning rate 0.03, z_dim 20" in said
    assert re.search(r"The next, sgd_z50, has [67]\.\d+: 1\.[34]\d times as much", said)
    assert "after Holm's correction for 3 comparisons" in said
    assert "real images have 0.100 and an untrained G 50.0" in said
    assert "optimistic" in said
    assert not found.cautions


def test_a_tie_says_how_many_seeds_it_would_take(give, made_up):
    found = give(made_up.cells({**FOUR, ("sgd", 50): 5.1}, spread=0.1))
    assert found.surety == "a tie"
    assert "with 5 seeds it is not distinguishable from" in found.headline
    assert found.headline.endswith("use either.")
    said = words(found)
    assert "the seeds cannot tell the two apart" in said
    needed = re.search(
        r"80 % power at 5 % shared among the comparisons\): sgd_z\d+ (about (\d+)|more than)", said
    )
    assert needed[1] == "more than" or int(needed[2]) > 5
    assert "The seeds do tell it from adam_z20 and adam_z50." in said


def test_equal_cells_are_taken_for_equal(give, made_up):
    runs = made_up.cells({("sgd", 20): 5.0})
    same = [made_up.run("sgd", 50, run.seed, run.score("quality/fd")) for run in runs]
    found = give([*runs, *same])
    assert found.surety == "a tie"
    assert "sgd_z50 more than 1,000: take the two for equal" in words(found)


def test_one_seed_is_no_verdict(give, made_up):
    found = give(made_up.cells(FOUR, seeds=1))
    assert found.surety == "no verdict"
    assert "one seed cannot tell" in found.headline
    assert "It looks like sgd_z20" in found.headline
    assert "--seeds 0 1 2 3 4" in words(found)
    assert "times as much" not in words(found)


def test_a_single_cell(give, made_up):
    found = give(made_up.cells({("sgd", 20): 5.0}))
    assert found.surety == "no verdict"
    assert "nothing to compare it with" in found.headline


def test_collapsed_cells_are_named(give, made_up):
    runs = [
        replace(run, health="mode-collapsed") if run.optimizer == "adam" else run
        for run in made_up.cells(FOUR)
    ]
    runs[0] = replace(runs[0], health="collapsed")
    found = give(runs)
    assert "Mode-collapsed: adam_z20 and adam_z50." in found.cautions
    assert "Collapsed: sgd_z20 (1 of 5 runs)." in found.cautions
    assert any(
        "best cell by Fréchet distance, sgd_z20, has runs that are not sound" in c for c in found.cautions
    )


def test_all_collapsed(give, made_up):
    found = give([replace(run, health="collapsed") for run in made_up.cells(FOUR)])
    assert found.surety == "no verdict"
    assert found.headline == "Use none of these: no run drew usable digits."
    assert "Least bad" in words(found)


def test_failures_and_gaps_are_said(give, made_up):
    runs = made_up.cells(FOUR)
    runs[0] = replace(runs[0], status="FAILED")
    runs[6] = replace(runs[6], status="KILLED")
    found = give(runs, absent=[("sgd_z90_s0", "sgd_z90", "FAILED", "its worker died")])
    assert "Failed, not counted: sgd_z20_s0 and sgd_z90_s0 (2 runs)." in found.cautions
    assert "Interrupted, not counted: sgd_z50_s1 (1 run)." in found.cautions
    assert "The scores of sgd_z20 are of the runs that did not fail, which flatters it." in found.cautions
    assert "geometric mean of 4 seeds" in words(found)


def test_nothing_finished(give, made_up):
    found = give([replace(run, status="FAILED") for run in made_up.cells(FOUR)])
    assert found.headline == "No verdict: no run has finished."
    assert give([]).surety == "no verdict"


def test_no_quality_is_no_verdict_and_not_one_by_the_losses(give, made_up):
    found = give([made_up.run("sgd", z, seed, None) for z in (20, 50) for seed in (0, 1)])
    assert found.headline == "No verdict: the quality of the images was not measured."
    assert "sgd_z20" not in words(found)


def test_scores_without_floor_and_ceiling_are_none(give, made_up):
    found = give(made_up.cells(FOUR), classifiers=[made_up.classifier._replace(real_baseline={})])
    assert "not measured" in found.headline


def test_two_judges_are_no_measure(give, made_up):
    found = give(
        made_up.cells(FOUR), classifiers=[made_up.classifier, made_up.classifier._replace(sha256="cd" * 32)]
    )
    assert "different classifiers" in found.headline


def test_cells_without_seeds_in_common_are_not_tested(give, made_up):
    runs = made_up.cells({("sgd", 20): 5.0, ("sgd", 50): 9.0})
    runs += [made_up.run("adam", 20, seed, 25.0) for seed in (7, 8)]
    found = give(runs)
    assert found.headline == "Use sgd_z20: the seeds tell it from every cell that could be tested."
    assert "not tested: adam_z20." in words(found)
