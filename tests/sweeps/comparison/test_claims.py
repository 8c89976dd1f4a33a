"""Each claim in each of its three outcomes."""

import math
import random
import re

import pytest

from sweeps.comparison.cells import compare
from sweeps.comparison.claims import judge_claims
from sweeps.comparison.loss_claims import Peaks

SGD_WINS, CURVES, CLEAREST, FLAT, SENSIBLE, TELLS = range(6)


@pytest.fixture
def classifier(made_up):
    def claims(runs, peaks=None):
        record = made_up.sweep(runs)
        return judge_claims(record, compare(record), peaks or {})

    return claims


def by_z(made_up, fds, spread=0.02):
    return made_up.cells({("sgd", z): fd for z, fd in fds.items()}, spread=spread)


@pytest.mark.parametrize(
    ("adam", "spread", "outcome"),
    [(25.0, 0.05, "holds"), (2.0, 0.05, "does not hold"), (5.2, 0.3, "not decided")],
)
def test_sgd_beats_adam(classifier, made_up, adam, spread, outcome):
    fds = {("sgd", 20): 5.0, ("sgd", 50): 5.0, ("adam", 20): adam, ("adam", 50): adam}
    claim = classifier(made_up.cells(fds, spread=spread))[SGD_WINS]
    assert claim.outcome == outcome
    assert "5 seeds" in claim.parts[0].numbers  # not ten: z_dims of one seed are no independent pairs
    assert "SGD at 0.03 and Adam at 0.0002" in claim.rule


def test_what_is_not_in_the_sweep_is_not_decided(classifier, made_up):
    claims = classifier(made_up.cells({("adam", 20): 5.0, ("adam", 50): 6.0}))
    assert claims[SGD_WINS].parts[0].numbers == "no finished run of SGD in this sweep"
    assert {claims[which].outcome for which in (CLEAREST, FLAT, SENSIBLE)} == {"not decided"}
    assert claims[CURVES].parts[0].numbers == "no finished run of SGD in this sweep"
    claims = classifier([made_up.run("sgd", z, seed, None) for z in (20, 50, 200) for seed in range(3)])
    assert "was not measured" in claims[CLEAREST].parts[0].numbers
    assert claims[SENSIBLE].parts[0].numbers == "fd was not measured"
    assert claims[TELLS].parts[0].numbers == "fd was not measured"


def test_one_seed_decides_nothing(classifier, made_up):
    claims = classifier(
        made_up.cells({(o, z): 5.0 + z for o in ("sgd", "adam") for z in (20, 50, 200)}, seeds=1)
    )
    assert {claim.outcome for claim in claims[:TELLS]} == {"not decided"}
    assert "one seed only" in claims[SGD_WINS].parts[0].numbers


def as_the_practical_has_it(made_up, swing=2.0):
    runs, peaks = [], {}
    for seed in range(5):
        shift = 0.01 * seed
        for optimizer, peak in (("sgd", Peaks(4.5 + shift, 6.2 + shift)), ("adam", Peaks(1.5, 1.9 + shift))):
            run = made_up.run(optimizer, 100, seed)
            if optimizer == "adam":
                rising = [0.9 + shift + epoch / 20 for epoch in range(20)]
                noise = [swing * (0.5 + shift)] * 20
                run = made_up.with_losses(run, G=rising, G_std=noise, D_std=noise)
            else:
                run = made_up.with_losses(run, D=[1.5 + shift] * 20, G=[2.0 + shift] * 20)
            runs.append(run)
            peaks[run.run_id] = peak
    return runs, peaks


def test_the_curves(classifier, made_up):
    runs, peaks = as_the_practical_has_it(made_up)
    claim = classifier(runs, peaks)[CURVES]
    assert [part.outcome for part in claim.parts] == ["holds"] * 8
    assert claim.outcome == "holds"
    assert "At z_dim 100" in claim.rule

    swapped = classifier(as_the_practical_has_it(made_up, swing=0.2)[0], peaks)[CURVES]
    assert [part.outcome for part in swapped.parts][-2:] == ["does not hold"] * 2
    assert swapped.outcome == "does not hold"

    unknown = classifier(runs)[CURVES]
    assert unknown.parts[0].numbers == "no losses of single iterations are kept"
    assert unknown.outcome == "not decided"


def clear(made_up, precision):
    runs = by_z(made_up, {20: 4.0, 100: 5.0, 200: 8.0})
    shares = {20: precision, 100: 0.7, 200: 0.5}
    return [
        made_up.with_metrics(
            run,
            precision=shares[run.z_dim] + 0.001 * run.seed,
            confidence=shares[run.z_dim] - 0.002 * run.seed,
        )
        for run in runs
    ]


def test_the_clearest_digits(classifier, made_up):
    assert classifier(clear(made_up, 0.9))[CLEAREST].outcome == "holds"
    claim = classifier(clear(made_up, 0.6))[CLEAREST]  # precision and confidence say 100
    assert claim.outcome == "does not hold"
    assert claim.parts[0].outcome == "holds"
    noisy = classifier(by_z(made_up, {20: 5.0, 100: 5.0, 200: 5.1}, spread=0.3))[CLEAREST]
    assert noisy.outcome == "not decided"
    assert "z_dim 100: " in noisy.parts[0].numbers


@pytest.mark.parametrize(
    ("first", "last", "outcome"),
    [
        (3.5, 3.5, "holds"),
        (6.0, 3.5, "does not hold"),
        (3.5, 1.0, "does not hold"),
        (3.0, 3.0, "not decided"),
    ],
)
def test_the_flat_loss(classifier, made_up, first, last, outcome):
    runs = [
        made_up.with_losses(
            made_up.run("sgd", 20, seed), G=[first + 0.05 * (seed - 2)] * 10 + [last + 0.05 * (seed - 2)] * 10
        )
        for seed in range(5)
    ]
    assert classifier(runs)[FLAT].outcome == outcome


@pytest.mark.parametrize(
    ("fds", "outcome"),
    [
        ({20: 8.0, 50: 5.0, 100: 5.1, 200: 9.0}, "holds"),
        ({20: 3.0, 50: 5.0, 100: 5.1, 200: 9.0}, "does not hold"),
        ({20: 5.0, 50: 5.0, 100: 5.1, 200: 9.0}, "not decided"),
        ({50: 5.0, 100: 5.1, 200: 9.0}, "not decided"),
    ],
)
def test_the_sensible_choice(classifier, made_up, fds, outcome):
    assert classifier(by_z(made_up, fds))[SENSIBLE].outcome == outcome


def losses_along(made_up, loss_of_fid, seeds=5):
    """Runs whose losses are a function of fd, in each epoch."""
    runs = []
    fds = {("sgd", z): fd for z, fd in ((20, 3.0), (50, 5.0), (100, 8.0), (200, 12.0))}
    for run in made_up.cells(fds, spread=0.2, seeds=seeds):
        fds = dict(zip(run.epochs["quality/fd"], run.history["quality/fd"], strict=True))
        losses = [loss_of_fid(fds.get(epoch, fds.get(epoch + 1)), epoch) for epoch in range(1, 21)]
        runs.append(made_up.with_losses(run, G=losses, D=[5 - loss for loss in losses]))
    return runs


def test_whether_the_loss_tells(classifier, made_up):
    told = classifier(losses_along(made_up, lambda fd, _: math.log(fd)))[TELLS]
    assert told.outcome == "holds"
    assert told.parts[0].numbers.startswith("ρ = +1.00")
    assert told.parts[2].numbers.startswith("ρ = −1.00")
    untold = classifier(losses_along(made_up, lambda fd, epoch: math.sin(40 * fd + epoch)))[TELLS]
    assert untold.outcome != "holds"
    constant = classifier(losses_along(made_up, lambda *_: 1.0))[TELLS]
    assert constant.outcome == "not decided"


def test_losses_drawn_by_lot_tell_nothing(classifier, made_up):
    chance = random.Random(0)
    claim = classifier(losses_along(made_up, lambda *_: chance.uniform(1, 2), seeds=20))[TELLS]
    assert [part.outcome for part in claim.parts] == ["does not hold"] * 4
    assert claim.outcome == "does not hold"


def test_a_correlation_s_interval_ends_at_1(classifier, made_up):
    chance = random.Random(1)
    runs = losses_along(made_up, lambda fd, _: chance.choice((fd, -fd)), seeds=2)
    for part in classifier(runs)[TELLS].parts[1::2]:
        low, high = re.search(r"\(([+−][\d.]+) to ([+−][\d.]+)\)", part.numbers).groups()
        assert float(low.replace("−", "-")) >= -1
        assert float(high) <= 1


def test_where_the_rate_is_an_axis_the_claims_take_the_usual_one(classifier, made_up):
    runs = [
        made_up.run(optimizer, 20, seed, fd * (1 + 0.01 * seed), rate=rate)
        for seed in range(3)
        for optimizer, rate, fd in (
            ("sgd", 0.03, 5.0), ("sgd", 0.1, 3.0), ("adam", 2e-4, 20.0), ("adam", 1e-3, 2.0)
        )
    ]  # fmt: skip
    claim = classifier(runs)[SGD_WINS]
    assert claim.outcome == "holds"
    assert claim.parts[0].numbers.startswith("4.00 times")
