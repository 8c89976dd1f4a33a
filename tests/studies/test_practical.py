"""Each claim in each of its three outcomes."""

import math
import random
import re

import pytest

from studies.practical import BEYOND_STRONG, Claims, decide, is_its_grid, outcome_of, section
from sweeps.comparison.compare import compare
from sweeps.comparison.page import Artifacts, report_files
from sweeps.inference import Estimate

SGD_WINS, CURVES, CLEAREST, FLAT, SENSIBLE, TELLS = range(6)


@pytest.fixture
def claims_of(made_up):
    def claims(runs, peaks=None):
        return Claims(compare(made_up.sweep(runs))).all(peaks or {})

    return claims


@pytest.fixture
def said(made_up, store_client):
    """The section in Markdown."""

    def words(runs, **changes):
        text = report_files(store_client, compare(made_up.sweep(runs, **changes)))["report.md"].decode()
        return text[text.index("## The practical") : text.index("## How fair")].replace("\\", "")

    return words


def by_z(made_up, fds, spread=0.02):
    return made_up.settings({("sgd", z): fd for z, fd in fds.items()}, spread=spread)


@pytest.mark.parametrize(
    ("adam", "spread", "outcome"), [(25.0, 0.05, "holds"), (2.0, 0.05, "does not hold"), (5.2, 0.3, "not decided")]
)
def test_sgd_beats_adam(claims_of, made_up, adam, spread, outcome):
    fds = {("sgd", 20): 5.0, ("sgd", 50): 5.0, ("adam", 20): adam, ("adam", 50): adam}
    claim = claims_of(made_up.settings(fds, spread=spread))[SGD_WINS]
    assert claim.outcome == outcome
    assert claim.parts[0].found.n == 5  # not ten: z_dims of one seed are no independent pairs


def test_what_is_not_in_the_sweep_is_not_decided(claims_of, made_up):
    claims = claims_of(made_up.settings({("adam", 20): 5.0, ("adam", 50): 6.0}))
    assert claims[SGD_WINS].parts[0].lacks == claims[CURVES].parts[0].lacks == "no sgd"
    assert {claims[which].outcome for which in (CLEAREST, FLAT, SENSIBLE)} == {"not decided"}
    assert claims_of(made_up.settings({("sgd", 20): 5.0}))[SGD_WINS].parts[0].lacks == "no adam"
    claims = claims_of([made_up.run(seed, None, z_dim=z) for z in (20, 50, 200) for seed in range(3)])
    assert claims[CLEAREST].parts[0].lacks == "no score"
    assert claims[SENSIBLE].parts[0].lacks == claims[TELLS].parts[0].lacks == "no fd"
    assert claims_of(by_z(made_up, {50: 5.0, 200: 6.0}))[CLEAREST].parts[0].lacks == "no z"
    assert claims_of(by_z(made_up, {20: 5.0}))[CLEAREST].parts[0].lacks == "one z"
    assert claims_of(by_z(made_up, {50: 5.0, 200: 6.0}))[FLAT].parts[0].lacks == "no z"
    assert claims_of(by_z(made_up, {50: 5.0, 200: 6.0}))[SENSIBLE].parts[0].lacks == "no z around"


def test_one_seed_decides_nothing(claims_of, made_up):
    claims = claims_of(made_up.settings({(o, z): 5.0 + z for o in ("sgd", "adam") for z in (20, 50, 200)}, seeds=1))
    assert {claim.outcome for claim in claims[:TELLS]} == {"not decided"}
    assert claims[SGD_WINS].parts[0].found.n == 1


def as_the_practical_has_it(made_up, swing=2.0):
    runs, peaks = [], {}
    for seed in range(5):
        shift = 0.01 * seed
        for optimizer, D, G in (("sgd", 4.5 + shift, 6.2 + shift), ("adam", 1.5, 1.9 + shift)):
            run = made_up.run(seed, optimizer=optimizer, z_dim=100)
            if optimizer == "adam":
                rising = [0.9 + shift + epoch / 20 for epoch in range(20)]
                noise = [swing * (0.5 + shift)] * 20
                run = made_up.with_losses(run, G=rising, G_std=noise, D_std=noise)
            else:
                run = made_up.with_losses(run, D=[1.5 + shift] * 20, G=[2.0 + shift] * 20)
            runs.append(run)
            peaks[run.run_id] = {"D": D, "G": G}
    return runs, peaks


def test_the_curves(claims_of, made_up):
    runs, peaks = as_the_practical_has_it(made_up)
    claim = claims_of(runs, peaks)[CURVES]
    assert [part.outcome for part in claim.parts] == ["holds"] * 8
    assert claim.outcome == "holds"

    swapped = claims_of(as_the_practical_has_it(made_up, swing=0.2)[0], peaks)[CURVES]
    assert [part.outcome for part in swapped.parts][-2:] == ["does not hold"] * 2
    assert swapped.outcome == "does not hold"

    unknown = claims_of(runs)[CURVES]
    assert unknown.parts[0].lacks == "no iterations"
    assert unknown.outcome == "not decided"


def clear(made_up, precision):
    runs = by_z(made_up, {20: 4.0, 100: 5.0, 200: 8.0})
    shares = {20: precision, 100: 0.7, 200: 0.5}
    return [
        made_up.with_metrics(
            run,
            precision=shares[int(run.fields["z_dim"])] + 0.001 * run.seed,
            confidence=shares[int(run.fields["z_dim"])] - 0.002 * run.seed,
        )
        for run in runs
    ]


def test_the_clearest_digits(claims_of, made_up):
    assert claims_of(clear(made_up, 0.9))[CLEAREST].outcome == "holds"
    claim = claims_of(clear(made_up, 0.6))[CLEAREST]  # precision and confidence say 100
    assert claim.outcome == "does not hold"
    assert claim.parts[0].outcome == "holds"
    noisy = claims_of(by_z(made_up, {20: 5.0, 100: 5.0, 200: 5.1}, spread=0.3))[CLEAREST]
    assert noisy.outcome == "not decided"
    assert [each.about["z"] for each in noisy.parts[0].parts] == [100, 200]


@pytest.mark.parametrize(
    ("first", "last", "outcome"),
    [(3.5, 3.5, "holds"), (6.0, 3.5, "does not hold"), (3.5, 1.0, "does not hold"), (3.0, 3.0, "not decided")],
)
def test_the_flat_loss(claims_of, made_up, first, last, outcome):
    runs = [
        made_up.with_losses(
            made_up.run(seed, z_dim=20), G=[first + 0.05 * (seed - 2)] * 10 + [last + 0.05 * (seed - 2)] * 10
        )
        for seed in range(5)
    ]
    assert claims_of(runs)[FLAT].outcome == outcome


@pytest.mark.parametrize(
    ("fds", "outcome"),
    [
        ({20: 8.0, 50: 5.0, 100: 5.1, 200: 9.0}, "holds"),
        ({20: 3.0, 50: 5.0, 100: 5.1, 200: 9.0}, "does not hold"),
        ({20: 5.0, 50: 5.0, 100: 5.1, 200: 9.0}, "not decided"),
        ({50: 5.0, 100: 5.1, 200: 9.0}, "not decided"),
    ],
)
def test_the_sensible_choice(claims_of, made_up, fds, outcome):
    assert claims_of(by_z(made_up, fds))[SENSIBLE].outcome == outcome


def losses_along(made_up, loss_of_fd, seeds=5):
    """Runs whose losses are a function of fd, in each epoch."""
    runs = []
    fds = {("sgd", z): fd for z, fd in ((20, 3.0), (50, 5.0), (100, 8.0), (200, 12.0))}
    for run in made_up.settings(fds, spread=0.2, seeds=seeds):
        fds = run.history["quality/fd"]
        losses = [loss_of_fd(fds.get(epoch, fds.get(epoch + 1)), epoch) for epoch in range(1, 21)]
        runs.append(made_up.with_losses(run, G=losses, D=[5 - loss for loss in losses]))
    return runs


def test_whether_the_loss_tells(claims_of, made_up):
    told = claims_of(losses_along(made_up, lambda fd, _: math.log(fd)))[TELLS]
    assert told.outcome == "holds"
    assert told.parts[0].found.mean == pytest.approx(1)
    assert told.parts[2].found.mean == pytest.approx(-1)
    untold = claims_of(losses_along(made_up, lambda fd, epoch: math.sin(40 * fd + epoch)))[TELLS]
    assert untold.outcome != "holds"
    constant = claims_of(losses_along(made_up, lambda *_: 1.0))[TELLS]
    assert constant.outcome == "not decided"


def test_losses_drawn_by_lot_tell_nothing(claims_of, made_up):
    chance = random.Random(0)
    claim = claims_of(losses_along(made_up, lambda *_: chance.uniform(1, 2), seeds=20))[TELLS]
    assert [part.outcome for part in claim.parts] == ["does not hold"] * 4
    assert claim.outcome == "does not hold"


def test_a_correlation_s_interval_ends_at_1(claims_of, made_up):
    chance = random.Random(1)
    runs = losses_along(made_up, lambda fd, _: chance.choice((fd, -fd)), seeds=2)
    for part in claims_of(runs)[TELLS].parts[1::2]:
        assert part.found.low >= -1
        assert part.found.high <= 1


def by_rate(made_up, rates):
    return [
        made_up.run(seed, fd * (1 + 0.01 * seed), optimizer=optimizer, learning_rate=rate)
        for seed in range(3)
        for (optimizer, rate), fd in rates.items()
    ]


def test_where_the_rate_is_an_axis_the_claims_take_the_default_or_else_the_best(claims_of, made_up):
    rates = {("sgd", 0.03): 5.0, ("sgd", 0.1): 3.0, ("adam", 2e-4): 20.0, ("adam", 1e-3): 2.0}
    claim = claims_of(by_rate(made_up, rates))[SGD_WINS]
    assert claim.outcome == "holds"
    assert claim.parts[0].found.mean == pytest.approx(4.0)
    rates = {("sgd", 0.2): 5.0, ("sgd", 0.1): 3.0, ("adam", 2e-3): 2.0, ("adam", 1e-3): 20.0}
    assert Claims(compare(made_up.sweep(by_rate(made_up, rates)))).rates == {"sgd": 0.1, "adam": 2e-3}
    assert claims_of(by_rate(made_up, rates))[SGD_WINS].outcome == "does not hold"


@pytest.mark.parametrize(
    ("values", "within", "outcome"),
    [
        ([1.01, 1.01], (1.0, 2.0), "holds"), ([1.99, 1.99], (1.0, 2.0), "holds"), ([1.0, 1.0], (1.0, 2.0), "not decided"),
        ([2.0, 2.0], (1.0, 2.0), "not decided"), ([0.99, 0.99], (1.0, 2.0), "does not hold"),
        ([2.01, 2.01], (1.0, 2.0), "does not hold"), ([1.0, 1.2], (1.0, 2.0), "not decided"), ([1.5], (1.0, 2.0), "not decided"),
        ([], (1.0, 2.0), "not decided"),
    ],
)  # fmt: skip
def test_a_part_is_decided_by_where_its_whole_interval_lies(values, within, outcome):
    assert decide("any", values, within).outcome == outcome


def test_above_0_is_not_0():
    assert decide("any", [0.0, 0.0]).outcome == "not decided"
    assert decide("any", [-1e-9, -1e-9]).outcome == "does not hold"
    assert decide("any", [1e-9, 1e-9]).outcome == "holds"
    assert decide("any", [math.log(2)] * 2, unit="times").found.mean == pytest.approx(2)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.51, 0.9, "holds"), (-0.9, -0.51, "holds"), (0.5, 0.9, "not decided"), (-0.9, -0.5, "not decided"),
     (-0.49, 0.49, "does not hold"), (-0.5, 0.2, "not decided"), (-0.2, 0.5, "not decided"),
     (math.nan, math.nan, "not decided")],
)  # fmt: skip
def test_a_correlation_tells_where_its_whole_interval_is_strong(low, high, outcome):
    assert outcome_of(Estimate((low + high) / 2, low, high, 9), *BEYOND_STRONG) == outcome


def test_the_z_dim_at_which_optimizers_are_compared(made_up):
    def usual(*points):
        runs = [made_up.run(0, optimizer=optimizer, z_dim=z) for optimizer, z in points]
        return Claims(compare(made_up.sweep(runs))).usual_z

    assert usual(("sgd", 50), ("sgd", 100), ("adam", 100)) == 100
    assert usual(("sgd", 100), ("sgd", 20), ("adam", 20)) == 20
    assert usual(("sgd", 50), ("adam", 50), ("sgd", 120), ("adam", 120)) == 120
    assert usual() == 100


@pytest.mark.parametrize(
    ("settings", "axes", "shown"),
    [
        ([{"optimizer": "sgd"}, {"optimizer": "adam"}], ("optimizer", "z_dim"), True),
        ([{"z_dim": 20}, {"z_dim": 50}], ("optimizer", "z_dim"), True),
        ([{"z_dim": 20}], ("optimizer", "z_dim"), False),
        ([{"optimizer": "adam", "z_dim": z} for z in (20, 50)], ("optimizer", "z_dim"), False),
        ([{"optimizer": "sgd"}, {"optimizer": "adam"}], ("optimizer", "batch_size"), False),
        ([{"batch_size": 32}, {"batch_size": 64}], ("batch_size",), False),
    ],
)
def test_the_section_is_for_its_grid_alone(made_up, store_client, settings, axes, shown):
    runs = [made_up.run(seed, **each) for each in settings for seed in (0, 1)]
    comparison = compare(made_up.sweep(runs, axes=axes))
    assert is_its_grid(comparison) == shown
    assert (section(comparison, Artifacts(store_client)) is not None) == shown


def test_the_sentences(said, made_up):
    fds = {(optimizer, z): 5.0 + z / 100 for optimizer in ("sgd", "adam") for z in (20, 100, 200)}
    text = said(made_up.settings(fds))
    assert "This project grew out of a practical: a notebook that trained this small GAN" in text
    assert "This sweep has epochs 20, so it is no strict test" in text
    assert "### SGD beats Adam **not decided**" in text
    assert (
        "This compares SGD at learning rate 0.03 and Adam at learning rate 0.0002, not the optimizers as such." in text
    )
    assert re.search(
        r"\| Adam’s Fréchet distance / SGD’s is above 1 \| \*\*not decided\*\* \| [01]\.\d+ times \(.*\), 5 seeds \|",
        text,
    )
    assert (
        "peaks in the first epoch near 6.00 (4.00 to 8.00) | **not decided** | no losses of single iterations are kept |"
        in text
    )
    assert "z_dim 20 is better than every other z_dim, and 200 is worse than every other one" in text
    assert "fd at every other z_dim / fd at 100 is above 1" in text
    assert re.search(r"fd: z_dim 20 is the clearest \| \*\*holds\*\* \| z_dim 100: 1\.\d+ times", text)
    assert re.search(r"G’s final loss with fd, over runs \| .* \| too few or too equal values: 30 pairs", text)
    assert re.search(r"over the epochs of a run \| \*\*holds\*\* \| ρ = \+1\.00", text)
    assert "### Experiment 2: each z_dim with SGD at learning rate 0.03" in text


def test_the_sentences_of_what_is_lacking(said, made_up):
    text = said(made_up.settings({("sgd", 50): 5.0, ("sgd", 60): 6.0}, seeds=1))
    assert "no finished run of Adam in this sweep" in text
    assert "this sweep lacks that z_dim" in text
    assert "this sweep lacks a z_dim below, inside or above" in text
    assert "| SGD: G’s loss ends below 3 | **not decided** | 2.05, one seed only |" in text
    unscored = said([made_up.run(0, None, z_dim=z) for z in (20, 50)])
    assert "fd was not measured" in unscored
    assert "that score was not measured" in unscored
