import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gan_core.config import make_config
from gan_core.data import load_images
from gan_core.errors import NonFiniteLossError
from gan_core.evaluation.baselines import Reference, evaluate
from gan_core.evaluation.health import Standard, diagnose, pixel_spread
from gan_core.evaluation.scores import Evaluation
from gan_core.events import Diagnosis, EpochEnd, Samples, Trained
from gan_core.losses import OBJECTIVES
from gan_core.training import train

UNTRAINED_BASELINE = {"quality/fd": 50.0}
GOOD = Evaluation(
    {"quality/fd": 13.0, "quality/precision": 0.8, "quality/recall": 0.1, "quality/coverage": 0.09},
    np.full(10, 0.1),
)
STEPS = 100


class Ended(NamedTuple):
    """What is asked of an EpochEnd, whose metrics are here whatever its losses are."""

    of_epoch: dict[str, float]
    discriminator_losses: NDArray[np.float32]
    generator_losses: NDArray[np.float32]

    def metrics(self) -> dict[str, float]:
        return self.of_epoch


@dataclasses.dataclass
class Run:
    """A healthy run of four epochs, as SGD at 0.03 has them, to be spoilt."""

    D: float = 0.95
    G: float = 1.6
    epochs: int = 4
    spread: float = 0.14

    def __post_init__(self) -> None:
        healthy = {
            "loss/discriminator": self.D, "loss/generator": self.G, "loss_std/discriminator": 0.2,
            "loss_std/generator": 0.8, "score/real": 0.7, "score/fake": 0.3,
        }  # fmt: skip
        self.history = [dict(healthy) for _ in range(self.epochs)]
        self.last = np.full(STEPS, self.D, np.float32), np.full(STEPS, self.G, np.float32)

    def set_from(self, epoch: int, **metrics: float) -> None:
        for metrics_of_epoch in self.history[epoch - 1 :]:
            metrics_of_epoch.update({name.replace("__", "/"): value for name, value in metrics.items()})

    def diagnosis(self, evaluation: Evaluation | None = GOOD, **standard) -> Diagnosis:
        return diagnose(self.ends, self.spread, evaluation, Standard(UNTRAINED_BASELINE, **standard))

    @property
    def ends(self) -> list["Ended"]:
        return [Ended(metrics, *self.last) for metrics in self.history]


def evaluated(shares: NDArray[np.float64] | None = None, **scores: float) -> Evaluation:
    renamed = {f"quality/{name}": value for name, value in scores.items()}
    return Evaluation(GOOD.scores | renamed, GOOD.class_shares if shares is None else shares)


def test_a_healthy_run_is_ok_with_and_without_an_evaluation():
    assert Run().diagnosis().health == "ok"
    assert Run().diagnosis(None).health == "ok"


@pytest.mark.parametrize("name", ["discriminator", "generator"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_divergence(name: str, value: float):
    run = Run()
    run.set_from(3, **{f"loss__{name}": value})
    found = run.diagnosis(None)
    assert (found.health, found.epoch) == ("diverged", 3)
    assert name in found.reason
    assert str(value) in found.reason


@pytest.mark.parametrize("name", ["discriminator", "generator"])
def test_a_loss_at_its_clamp_is_a_collapse_since_it_began(name: str):
    run = Run()
    run.set_from(2, **{f"loss__{name}": 99.0})
    run.last[name == "generator"][:] = 100
    found = run.diagnosis()
    assert (found.health, found.epoch) == ("collapsed", 2)
    assert f"the loss of the {name} is pinned at 100 since epoch 2" in found.reason


def test_a_collapse_at_the_end_of_the_last_epoch_shows_though_its_mean_does_not():
    run = Run()
    run.last[0][80:] = 100
    found = run.diagnosis()
    assert (found.health, found.epoch) == ("collapsed", 4)
    assert "iteration 81 of 100" in found.reason


def test_a_run_that_recovered_is_no_collapse():
    run = Run()
    run.set_from(1, loss__discriminator=99.0)
    run.set_from(2, loss__discriminator=0.9)
    assert run.diagnosis().health == "ok"


def test_missing_classes_are_a_mode_collapse():
    shares = np.array([0, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0])
    found = Run().diagnosis(evaluated(shares))
    assert found.health == "mode-collapsed"
    assert "classes 0, 9 missing" in found.reason


def test_a_certain_discriminator_dominates_and_is_told_beside_a_mode_collapse():
    run = Run()
    run.set_from(2, score__real=0.95, score__fake=0.05)
    assert (run.diagnosis().health, run.diagnosis().epoch) == ("d-dominant", 2)
    both = run.diagnosis(evaluated(np.eye(10)[8]))
    assert both.health == "mode-collapsed"
    assert "D is nearly certain of every image since epoch 2" in both.reason


def test_losses_of_one_iteration_an_epoch_are_not_frozen():
    run = Run()
    run.set_from(1, loss_std__discriminator=0.0, loss_std__generator=0.0)
    for iterations in (STEPS, 2):
        run.last = run.last[0][:iterations], run.last[1][:iterations]
        assert run.diagnosis().health == "collapsed"
    run.last = run.last[0][:1], run.last[1][:1]
    assert run.diagnosis().health == "ok"


UP, DOWN = float("inf"), float("-inf")


def beside(value: float, towards: float) -> float:
    """The next float32 from a threshold: as near as a run can come to it."""
    return float(np.nextafter(np.float32(value), np.float32(towards)))


def pinned_mean(loss: float, name: str = "discriminator", since: int = 2, until: int = 4) -> Run:
    run = Run()
    run.set_from(since, **{f"loss__{name}": loss})
    run.set_from(until + 1, **{f"loss__{name}": 0.9})
    return run


def pinned_tail(loss: float, steps: int, name: str = "discriminator") -> Run:
    """Its last iterations at `loss`."""
    run = Run()
    run.last[name == "generator"][-steps:] = loss
    return run


def frozen(std: float, other: float = 0.0) -> Run:
    run = Run()
    run.set_from(3, loss_std__discriminator=std, loss_std__generator=other)
    return run


def certain(real: float, fake: float) -> Run:
    run = Run()
    run.set_from(3, score__real=real, score__fake=fake)
    return run


def share(of_class_3: float) -> Evaluation:
    shares = np.full(10, 0.1)
    shares[3] = of_class_3
    return evaluated(shares)


@pytest.mark.parametrize(
    ("run", "evaluation", "health"),
    [
        # A loss pinned above 50: in an epoch's mean, or in the median of the last tenth of its iterations.
        *((pinned_mean(50.0, name), GOOD, "ok") for name in ("discriminator", "generator")),
        *((pinned_mean(beside(50.0, UP), name), GOOD, "collapsed") for name in ("discriminator", "generator")),
        (pinned_mean(99.0, since=4), GOOD, "collapsed"),
        (pinned_mean(99.0, until=3), GOOD, "ok"),
        (pinned_tail(50.0, 100), GOOD, "ok"),
        (pinned_tail(beside(50.0, UP), 100), GOOD, "collapsed"),
        (pinned_tail(100.0, 4), GOOD, "ok"),
        (pinned_tail(100.0, 6, "generator"), GOOD, "collapsed"),
        # No loss moves: both spreads below 1e-5.
        (frozen(1e-5), GOOD, "ok"),
        (frozen(0.0, 1e-5), GOOD, "ok"),
        (frozen(0.99e-5, 0.99e-5), GOOD, "collapsed"),
        # One picture: below 0.005.
        (Run(spread=0.005), GOOD, "ok"),
        (Run(spread=beside(0.005, DOWN)), GOOD, "collapsed"),
        # Not learning: a distance of 0.85 of an untrained G's or more, and a precision below 0.5.
        (Run(), evaluated(fd=42.5, precision=0.4), "not-learning"),
        (Run(), evaluated(fd=beside(42.5, DOWN), precision=0.4), "ok"),
        (Run(), evaluated(fd=48.0, precision=0.5), "ok"),
        (Run(), evaluated(fd=48.0, precision=beside(0.5, DOWN)), "not-learning"),
        # A class missing: below 0.005 of the images.
        (Run(), share(0.005), "ok"),
        (Run(), share(beside(0.005, DOWN)), "mode-collapsed"),
        # Few pictures: recall below 0.01 and coverage below 0.025.
        (Run(), evaluated(recall=0.01, coverage=0.0), "ok"),
        (Run(), evaluated(recall=0.0, coverage=0.025), "ok"),
        (Run(), evaluated(recall=beside(0.01, DOWN), coverage=beside(0.025, DOWN)), "mode-collapsed"),
        # D certain: above 0.9 of real images and below 0.1 of generated ones.
        (certain(0.9, 0.05), GOOD, "ok"),
        (certain(0.95, 0.1), GOOD, "ok"),
        (certain(beside(0.9, UP), beside(0.1, DOWN)), GOOD, "d-dominant"),
    ],
)
def test_both_sides_of_every_threshold(run: Run, evaluation: Evaluation, health: str):
    assert run.diagnosis(evaluation).health == health


def test_each_diagnosis_names_its_evidence():
    """The words that the tests above do not look at, with the figures in them."""
    figures = "D gives real images 0.70 and generated ones 0.30, losses 0.95 and 1.6 in epoch 4"
    assert Run().diagnosis() == Diagnosis("ok", figures, 1)
    pinned = "the loss of the discriminator is pinned at 100 since epoch 4, first in iteration 81 of 100"
    assert pinned_tail(100.0, 20).diagnosis() == Diagnosis("collapsed", f"{pinned}: no gradient is left", 4)
    still = frozen(0.0)
    still.set_from(3, loss__discriminator=0.9, loss__generator=1.5)
    said = "no step changes a loss since epoch 3: 0.9 of D, 1.5 of G throughout"
    assert still.diagnosis() == Diagnosis("collapsed", said, 3)
    said = "G makes one picture whatever z is: a pixel's standard deviation is 0.0003 of its range after epoch 4"
    assert Run(spread=0.0003).diagnosis() == Diagnosis("collapsed", said, 4)
    said = "Fréchet distance 48 after epoch 4, 50 untrained; 10% of the images lie near a real one"
    assert Run().diagnosis(evaluated(fd=48, precision=0.1)) == Diagnosis("not-learning", said, 4)
    said = "10% of the images are of class 0; recall 0.100, coverage 0.090 after epoch 4"
    assert Run().diagnosis(share(0.0)) == Diagnosis("mode-collapsed", f"class 3 missing; {said}", 4)
    said = "10% of the images are of class 0; recall 0.000, coverage 0.000 after epoch 4"
    assert Run().diagnosis(evaluated(recall=0.0, coverage=0.0)) == Diagnosis("mode-collapsed", said, 4)
    figures = "D gives real images 0.95 and generated ones 0.05, losses 0.95 and 1.6 in epoch 4"
    said = f"D is nearly certain of every image since epoch 3: {figures}"
    assert certain(0.95, 0.05).diagnosis() == Diagnosis("d-dominant", said, 3)


def test_of_several_that_are_true_the_first_in_order_is_told():
    run = certain(0.95, 0.05)
    worst = evaluated(np.eye(10)[8], fd=60, precision=0.0)
    assert run.diagnosis(evaluated(np.eye(10)[8])).health == "mode-collapsed"
    assert run.diagnosis(worst).health == "not-learning"
    run.spread = 0.0
    assert run.diagnosis(worst).health == "collapsed"
    run.set_from(4, loss__generator=float("nan"))
    assert run.diagnosis(worst).health == "diverged"


def test_without_an_untrained_baseline_no_run_is_not_learning():
    run, worst = Run(), evaluated(fd=60, precision=0.0)
    assert diagnose(run.ends, run.spread, worst).health == "ok"


def test_an_epoch_of_few_iterations_has_its_last_one_for_a_tail():
    for steps, pinned in ((1, 1), (9, 1), (19, 1), (20, 2)):
        run = Run()
        run.last = np.full(steps, 0.9, np.float32), np.full(steps, 1.6, np.float32)
        run.last[0][-pinned:] = 100
        found = run.diagnosis()
        assert found.health == "collapsed"
        assert f"first in iteration {steps - pinned + 1} of {steps}" in found.reason


def test_a_run_that_broke_only_in_its_last_epoch_says_in_which_iteration():
    run = Run()
    run.set_from(4, loss__discriminator=60.0)
    run.last[0][30:] = 100
    assert "since epoch 4, first in iteration 31 of 100" in run.diagnosis().reason
    run.set_from(3, loss__discriminator=60.0)
    assert run.diagnosis().epoch == 3
    assert "iteration" not in run.diagnosis().reason


def test_a_run_of_no_epoch_is_refused():
    with pytest.raises(ValueError, match="no epoch"):
        diagnose([], 0.1)


def test_pixel_spread_is_the_standard_deviation_in_a_pixels_range():
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    images[1, :, :14] = 255
    assert pixel_spread(images) == pytest.approx(2**-0.5 / 2)  # half of the pixels: 0 and 1, over N − 1
    assert pixel_spread(images[:1].expand(9, -1, -1, -1)) == 0


def really_run(reference: Reference | None = None, **settings) -> Diagnosis:
    config = make_config(**settings)
    ends, evaluation = [], None
    try:
        for event in train(config, load_images(config.dataset).images):
            if isinstance(event, EpochEnd):
                ends.append(event)
            elif isinstance(event, Samples):
                spread = pixel_spread(event.images)
            elif isinstance(event, Trained) and reference:
                evaluation = evaluate(event.generator, reference)
    except NonFiniteLossError:
        pass
    standard = Standard(reference.baselines.untrained_baseline if reference else None)
    return diagnose(ends, spread, evaluation, standard)


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 0.3), ("adam", 0.1)])
def test_large_steps_collapse_on_the_digits(optimizer: str, learning_rate: float):
    found = really_run(dataset="digits", optimizer=optimizer, learning_rate=learning_rate, epochs=6)
    assert found.health == "collapsed", found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "learning_rate", "epochs", "health"),
    [
        ("sgd", 0.03, 3, "ok"),
        ("sgd", 0.1, 3, "ok"),
        ("sgd", 0.2, 1, "collapsed"),  # at two thirds of the epoch: its mean does not show it
        ("sgd", 0.3, 2, "collapsed"),
        ("adam", 0.03, 1, "collapsed"),
        ("adam", 2e-4, 4, "mode-collapsed"),
        ("sgd", 1e-3, 1, "not-learning"),
    ],
)
def test_real_runs_on_mnist(mnist: Reference, optimizer: str, learning_rate: float, epochs: int, health: str):
    found = really_run(mnist, optimizer=optimizer, learning_rate=learning_rate, epochs=epochs)
    assert found.health == health, found


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_a_class_is_missing_by_its_part_of_an_equal_share(classes):
    for part, health in ((0.06, "ok"), (0.04, "mode-collapsed")):
        shares = np.full(classes, (1 - part / classes) / (classes - 1))
        shares[1] = part / classes
        assert Run().diagnosis(evaluated(shares)).health == health


def test_a_class_that_is_rare_in_the_data_may_be_rare():
    real = np.array([0.97, 0.02, 0.01])
    for shares, health in (([0.97, 0.029, 0.001], "ok"), ([0.97, 0.0296, 0.0004], "mode-collapsed")):
        assert Run().diagnosis(evaluated(np.array(shares)), class_shares=real).health == health
    assert Run().diagnosis(evaluated(np.array([0.97, 0.029, 0.001]))).health == "mode-collapsed"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_large_loss_is_a_collapse_only_where_losses_are_clamped(objective):
    assert (Run(D=-900.0, G=700.0).diagnosis(objective=objective).health == "collapsed") == (
        objective in ("non-saturating", "minimax")
    )
    assert Run(D=math.nan).diagnosis(objective=objective).health == "diverged"


@pytest.mark.parametrize(
    ("objective", "real", "fake", "health"),
    [
        ("minimax", 0.95, 0.05, "d-dominant"), ("minimax", 0.7, 0.3, "ok"),
        ("least-squares", 0.95, 0.05, "d-dominant"), ("least-squares", 0.7, 0.3, "ok"),
        ("hinge", 1.6, -1.6, "d-dominant"), ("hinge", 1.2, -1.2, "ok"),
        ("wasserstein", 500.0, -500.0, "ok"),
    ],
)  # fmt: skip
def test_that_d_is_certain_is_a_matter_of_the_objective(objective, real, fake, health):
    run = Run()
    run.set_from(1, score__real=real, score__fake=fake)
    assert run.diagnosis(objective=objective).health == health
