import numpy as np
import pytest
import torch

from gan_core.config import make_config
from gan_core.data import load_images
from gan_core.evaluation.baselines import Reference, evaluate, real_baseline_images
from gan_core.evaluation.scores import (
    QUICK_SCORES,
    SCORES,
    Evaluation,
    evaluation_images,
    measure_real,
    score_images,
)
from gan_core.networks import Generator, build_models
from gan_core.training import fixed_noise

LESS_IS_BETTER = {"quality/fd", "quality/kd", "quality/class_kl"}
# Inception's form and confidence look at no real image, and density is no share: more is not always better.
GRADES = {"quality/fd", "quality/kd", "quality/precision", "quality/recall", "quality/coverage"}


def score(images: torch.Tensor, reference: Reference) -> Evaluation:
    return score_images(images, reference.classifier, reference.real)


def worse(name: str, one: float, other: float) -> bool:
    return one > other if name in LESS_IS_BETTER else one < other


def generator(seed: int = 0, z_dim: int = 100) -> Generator:
    return build_models(make_config(seed=seed, z_dim=z_dim))[0]


def test_an_evaluation_has_every_score_and_ten_shares(digits: Reference):
    found = evaluate(generator(), digits)
    assert tuple(found.scores) == SCORES
    assert all(type(value) is float for value in found.scores.values())
    assert found.class_shares.shape == (10,)
    assert found.class_shares.sum() == pytest.approx(1)


def test_a_quick_evaluation_has_the_same_values_of_fewer_scores(digits: Reference):
    whole, quick = evaluate(generator(), digits), evaluate(generator(), digits, quick=True)
    assert quick.scores == {name: whole.scores[name] for name in QUICK_SCORES}
    assert np.array_equal(quick.class_shares, whole.class_shares)


def test_the_same_weights_give_the_same_scores_and_draw_nothing(digits: Reference):
    torch.manual_seed(0)
    first = evaluate(generator(3), digits)
    drawn = torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(2))
    second = evaluate(generator(3), digits)
    assert first.scores == second.scores
    assert evaluate(generator(4), digits).scores != first.scores


def test_evaluation_noise_is_not_that_of_the_sample_sheet():
    G = generator(z_dim=7)
    images = evaluation_images(G, 64)
    assert images.shape == (64, 1, 28, 28)
    assert images.dtype == torch.uint8
    with torch.no_grad():
        sheet = G(fixed_noise(7)).add(1).mul(127.5).round().to(torch.uint8)
    assert not torch.equal(images, sheet)


def test_the_untrained_baseline_is_an_untrained_generators(digits: Reference):
    assert evaluate(generator(0), digits).scores == digits.baselines.untrained_baseline


@pytest.mark.parametrize("name", sorted(GRADES))
def test_real_images_are_better_than_an_untrained_generators(digits: Reference, name: str):
    assert worse(name, digits.baselines.untrained_baseline[name], digits.baselines.real_baseline[name])


def test_test_images_themselves_are_as_near_as_can_be(digits: Reference):
    found = score(load_images("digits").splits["test"].images, digits).scores
    assert found["quality/fd"] == pytest.approx(0, abs=1e-4)
    assert (found["quality/precision"], found["quality/recall"], found["quality/coverage"]) == (1, 1, 1)
    assert found["quality/class_kl"] == 0


def check_a_lost_class_shows(reference: Reference, recall_by: float) -> None:
    train = load_images(reference.baselines.dataset).splits["train"]
    order = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(0))
    images, labels = train.images[order], train.labels[order]
    count = min(reference.baselines.n, int((labels != 9).sum()))
    whole = score(images[:count], reference)
    lost = score(images[labels != 9][:count], reference)
    assert lost.class_shares[9] < 0.02
    assert whole.class_shares[9] > 0.08
    # A tenth of the real images loses its neighbours, but some lie within the wide balls of other classes.
    assert lost.scores["quality/recall"] < whole.scores["quality/recall"] - recall_by
    assert lost.scores["quality/coverage"] < whole.scores["quality/coverage"] - 0.05
    assert lost.scores["quality/class_kl"] > whole.scores["quality/class_kl"] + 0.05
    assert lost.scores["quality/fd"] > 2 * whole.scores["quality/fd"]


def test_a_lost_class_shows(digits: Reference):
    check_a_lost_class_shows(digits, recall_by=0.02)


def test_few_pictures_show_in_recall_and_coverage_not_in_precision(digits: Reference):
    few = load_images("digits").splits["train"].images[:20].repeat(30, 1, 1, 1)[: digits.baselines.n]
    found = score(few, digits).scores
    assert found["quality/precision"] > 0.5
    assert found["quality/recall"] < 0.1
    assert found["quality/coverage"] < 0.3


@pytest.mark.slow
def test_a_lost_class_shows_on_mnist(mnist: Reference):
    check_a_lost_class_shows(mnist, recall_by=0.05)


@pytest.mark.slow
def test_inception_score_of_real_digits(mnist: Reference):
    assert score(load_images("mnist").splits["test"].images, mnist).scores["quality/is"] == pytest.approx(9.8, abs=0.1)


@pytest.mark.slow
def test_memorised_images_are_as_good_as_the_real_baseline(mnist: Reference):
    # Other training images than the baseline's: only chance differs. The bounds are twice the baseline's range
    # over five draws (docs/quality.md).
    found = score(real_baseline_images(load_images("mnist"), mnist.baselines.n, draw=1), mnist).scores
    chance = {"fd": 0.05, "kd": 0.0022, "is": 0.022, "precision": 0.01, "recall": 0.02, "coverage": 0.015}
    for name, allowed in chance.items():
        assert abs(found[f"quality/{name}"] - mnist.baselines.real_baseline[f"quality/{name}"]) < allowed, name


def test_a_class_that_the_classifier_sees_in_no_real_image_makes_no_score_infinite(digits):
    test = load_images("digits").splits["test"]
    real = measure_real(digits.classifier, test.images[test.labels != 3][:200])
    assert real.shares.min() == 0.5 / 200
    found = score_images(test.images[:200], digits.classifier, real).scores
    assert 0 < found["quality/class_kl"] < 10
