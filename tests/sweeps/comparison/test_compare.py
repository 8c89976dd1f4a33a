import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gan_core import metric_names as names
from sweeps.comparison.compare import Contrast, compare, over_epochs
from sweeps.comparison.records import FINISHED
from sweeps.inference import LEVEL, Estimate


@pytest.fixture
def comparison(made_up):
    return lambda runs, absent=(), **changes: compare(made_up.sweep(runs, absent, **changes))


def test_the_best_is_first_and_the_unmeasured_last(comparison, made_up):
    runs = made_up.settings({("sgd", 20): 9.0, ("sgd", 50): 5.0, ("adam", 20): 7.0})
    runs.append(made_up.run(0, None, optimizer="adam", z_dim=50))
    found = comparison(runs)
    assert [each.name for each in found.settings] == ["sgd_z50", "adam_z20", "sgd_z20", "adam_z50"]
    assert found.best.name == "sgd_z50"
    assert [each.setting.name for each in found.contrasts] == ["adam_z20", "sgd_z20"]
    assert found.settings[-1].fd == math.inf


def test_fd_is_the_geometric_mean_of_finished_runs(comparison, made_up):
    runs = [made_up.run(seed, fd) for seed, fd in enumerate((2.0, 8.0, 100.0))]
    runs[2] = replace(runs[2], status="KILLED")
    (setting,) = comparison(runs).settings
    assert setting.fd == pytest.approx(4.0)
    assert setting.scores[names.FD].n == 2
    assert setting.training[names.LOSS_D].n == 2
    assert (len(setting.finished), setting.planned) == (2, 3)


def test_values_of_one_field_never_mix_whatever_the_name(comparison, made_up):
    runs = [
        made_up.run(seed, fd, name="one name", batch_size=batch, axes=())
        for batch, fd in ((32, 3.0), (64, 30.0))
        for seed in (0, 1)
    ]
    found = comparison(runs, axes=("batch_size",))
    assert [(each.values["batch_size"], each.fd) for each in found.settings] == [
        ("32", pytest.approx(3.0)), ("64", pytest.approx(30.0))
    ]  # fmt: skip
    assert found.contrasts[0].ratio.mean == pytest.approx(10.0)
    assert found.contrasts[0].ratio.n == 2


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_runs_of_a_seed_the_finished_one_counts_then_the_longer(comparison, made_up, order):
    short = replace(made_up.run(0, 5.0, epochs=10), run_id="short")
    longer = replace(made_up.run(0, 4.0, epochs=20), run_id="longer")
    broken = replace(made_up.run(0, 3.0, epochs=40), run_id="broken", status="FAILED")
    (setting,) = comparison([short, longer, broken][::order]).settings
    assert [run.run_id for run in setting.runs] == ["longer"]
    assert setting.planned == 1


def test_absent_runs_are_planned(comparison, made_up):
    absent = [("sgd_z20_s1", "sgd_z20", "SCHEDULED", ""), ("sgd_z50_s0", "sgd_z50", "SCHEDULED", "")]
    (setting,) = comparison([made_up.run()], absent).settings
    assert setting.planned == 2


def test_the_contrast_is_a_paired_test_of_the_logarithms(comparison, made_up):
    runs = made_up.settings({("sgd", 20): 5.0, ("sgd", 50): 6.0, ("adam", 20): 7.0}, spread=0.2)
    found = comparison(runs)
    logs = {each.name: np.log([run.score(names.FD) for run in each.runs]) for each in found.settings}
    theirs = [stats.ttest_rel(logs[each.setting.name], logs[found.best.name]) for each in found.contrasts]
    assert [each.p for each in found.contrasts] == pytest.approx([each.pvalue for each in theirs])
    low, high = sorted(each.pvalue for each in theirs)
    assert sorted(each.p_corrected for each in found.contrasts) == pytest.approx([2 * low, max(2 * low, high)])
    interval = theirs[0].confidence_interval(0.95)
    assert found.contrasts[0].ratio.low == pytest.approx(math.exp(interval.low))
    assert found.contrasts[0].ratio.high == pytest.approx(math.exp(interval.high))


def test_only_seeds_in_common_are_pairs(comparison, made_up):
    runs = made_up.settings({("sgd", 20): 5.0}, seeds=4)
    runs += [made_up.run(seed, 9.0 + seed, z_dim=50) for seed in (2, 3, 7)]
    found = comparison(runs)
    assert found.contrasts[0].ratio.n == 2
    shared = [made_up.run(seed, 9.0, z_dim=50) for seed in (3, 7)]
    (contrast,) = comparison(runs[:4] + shared).contrasts
    assert (contrast.ratio.n, contrast.outcome) == (1, "untested")


def test_the_values_of_an_epoch_are_put_together(made_up):
    runs = [made_up.run(seed, fd, epochs=4) for seed, fd in enumerate((2.0, 8.0))]
    runs[1] = made_up.with_losses(runs[1], D=[3.0, math.nan, 5.0])
    losses = over_epochs(runs, names.LOSS_D)
    assert losses.loc[1].to_dict() == {"mean": 2.5, "least": 2.0, "most": 3.0}
    assert losses.loc[2, "mean"] == losses.loc[2, "most"] == pytest.approx(5 / 3)
    assert list(losses.index) == [1, 2, 3, 4]
    assert over_epochs(runs, names.FD)["mean"].to_dict() == pytest.approx({2: 4 * math.e, 4: 4.0})
    assert over_epochs([replace(runs[0], history={names.FD: {1: 0.0, 2: 1.0}})], names.FD).index == [2]
    assert over_epochs([], names.FD).empty


def test_axes_are_in_order_numbers_by_size_words_as_asked_for(comparison, made_up):
    runs = [made_up.run(0, optimizer=name, z_dim=z) for z in (200, 20, 100) for name in ("adam", "rmsprop", "sgd")]
    found = comparison(runs, params={"optimizer": "sgd adam", "z_dim": "200 20 100"})
    assert found.axes == {"optimizer": ["sgd", "adam", "rmsprop"], "z_dim": ["20", "100", "200"]}
    assert [each.name for each in found.order(found.settings)][:4] == ["sgd_z20", "sgd_z100", "sgd_z200", "adam_z20"]


def test_each_value_is_shown_with_its_best_setting(comparison, made_up):
    fds = {("sgd", 20): 5.0, ("sgd", 50): 6.0, ("adam", 20): 30.0, ("adam", 50): 20.0, ("adam", 100): 25.0}
    found = comparison(made_up.settings(fds, spread=0.01)).at_best
    shown = {axis: [(setting.name, tried) for setting, tried, _ in rows] for axis, rows in found.items()}
    assert shown == {
        "optimizer": [("sgd_z20", 2), ("adam_z50", 3)],
        "z_dim": [("sgd_z20", 2), ("sgd_z50", 2), ("adam_z100", 1)],
    }
    first, second = (contrast for *_, contrast in found["optimizer"])
    assert first is None
    assert second.ratio.mean == pytest.approx(4.0, rel=0.05)
    assert second.p == second.p_corrected  # one comparison


def test_one_axis_alone_has_no_table_of_values(comparison, made_up):
    assert comparison(made_up.settings({("sgd", 20): 5.0, ("sgd", 50): 6.0})).at_best == {}


def test_the_seed_that_is_shown_is_the_one_most_settings_have_finished(comparison, made_up):
    runs = made_up.settings({("sgd", 20): 5.0, ("sgd", 50): 6.0}, seeds=3)
    assert comparison(runs).seed == 0
    runs[0] = replace(runs[0], status="FAILED")
    assert comparison(runs).seed == 1
    assert comparison([]).seed is None


def test_scores_without_both_baselines_are_not_shown(comparison, made_up):
    runs = made_up.settings({("sgd", 20): 5.0})
    classifier = made_up.classifier
    assert comparison(runs).scores[0] == names.FD
    lacks = {name: value for name, value in classifier.real_baseline.items() if name != names.KD}
    assert names.KD not in comparison(runs, classifiers=[classifier._replace(real_baseline=lacks)]).scores
    assert comparison(runs, classifiers=[classifier, classifier._replace(images=5)]).scores == []
    assert comparison(runs, classifiers=[]).scores == []


def test_a_scores_interval_ends_where_the_score_does(comparison, made_up):
    runs = [
        made_up.with_metrics(made_up.run(seed), precision=share, kd=share - 0.5)
        for seed, share in enumerate((0.2, 0.99))
    ]
    (setting,) = comparison(runs).settings
    assert setting.scores[names.PRECISION][1:3] == (0, 1)
    assert setting.scores[names.KD].low < 0


def test_the_healths_of_the_finished_runs_are_counted(comparison, made_up):
    runs = [replace(made_up.run(seed), health=health) for seed, health in enumerate(("collapsed", "ok", "ok"))]
    assert comparison(runs).settings[0].health == {"ok": 2, "collapsed": 1}
    assert comparison([*runs[:2], replace(runs[2], status="KILLED")]).settings[0].health == {"ok": 1, "collapsed": 1}


@pytest.mark.parametrize(
    ("p", "n", "outcome"),
    [(LEVEL, 2, "tied"), (LEVEL * 0.999, 2, "apart"), (math.nan, 1, "untested"), (math.nan, 0, "untested")],
)
def test_at_what_p_two_settings_are_told_apart(p, n, outcome):
    assert Contrast(None, Estimate(1.5, 1.1, 2.0, n), p, p, None).outcome == outcome


def test_what_is_tied_needs_more_seeds_than_there_were(comparison, made_up):
    found = comparison(made_up.settings({("sgd", z): 5.0 + z / 100 for z in range(20, 45, 4)}, 4, spread=0.1))
    tied = found.those("tied")
    assert len(tied) > 3
    assert all(each.seeds_needed is None or each.seeds_needed > 4 for each in tied)


def test_a_run_has_a_score_only_if_it_finished_and_the_number_can_be_used(made_up):
    run = made_up.run(0, 5.0)
    assert run.score(names.FD) == 5.0
    assert replace(run, status="KILLED").score(names.FD) is None
    assert made_up.with_metrics(run, precision=math.nan).score(names.PRECISION) is None
    assert made_up.with_metrics(run, precision=0.0).score(names.PRECISION) == 0.0
    nothing = replace(run, history={**run.history, names.FD: {20: 0.0}})
    assert nothing.score(names.FD) is None  # its logarithm is taken
    assert replace(run, status=FINISHED).images_per_second == pytest.approx(30_000)
    assert run.seconds == 40.0
