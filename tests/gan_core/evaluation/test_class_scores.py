import math

import pytest
import torch

from gan_core.evaluation.class_scores import class_divergence, class_shares, confidence

EVEN = torch.full((10,), 0.1).double()


def test_shares_count_the_likeliest_class():
    shares = class_shares(torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.35, 0.25]]).log())
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3, 0]).double())


def test_divergence_of_a_missing_class_is_finite():
    without_nine = torch.tensor([1 / 9] * 9 + [0]).double()
    assert class_divergence(without_nine, EVEN) == pytest.approx(math.log(10 / 9))
    assert class_divergence(EVEN, EVEN) == pytest.approx(0)
    assert class_divergence(torch.eye(10)[8].double(), EVEN) == pytest.approx(math.log(10))


def test_divergence_of_a_class_that_the_data_has_not():
    assert class_divergence(EVEN, torch.tensor([1 / 9] * 9 + [0]).double()) == math.inf


def test_confidence():
    assert confidence(torch.tensor([[0.6, 0.4], [0.1, 0.9]]).log()) == pytest.approx(0.75)
