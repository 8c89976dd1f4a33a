from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_core.losses import OBJECTIVES

discriminator_loss, generator_loss = OBJECTIVES["non-saturating"]

PROBABILITY = st.floats(2**-20, 1 - 2**-20, width=32)


def column(*values):
    return torch.tensor(values).unsqueeze(1)


@given(st.lists(st.tuples(PROBABILITY, PROBABILITY), min_size=1, max_size=8))
def test_closed_forms(pairs):
    real, fake = zip(*pairs, strict=True)
    n = len(pairs)
    D_loss = discriminator_loss(column(*real), column(*fake)).item()
    G_loss = generator_loss(column(*fake)).item()
    assert D_loss == pytest.approx(-sum(map(log, real)) / n - sum(log(1 - p) for p in fake) / n, rel=1e-4)
    assert G_loss == pytest.approx(-sum(map(log, fake)) / n, rel=1e-4)


def test_certain_and_wrong_costs_100():
    assert discriminator_loss(column(0.0), column(0.0)).item() == 100
    assert generator_loss(column(0.0)).item() == 100


def test_a_saturated_sigmoid_passes_no_gradient():
    x = torch.tensor([[-200.0]], requires_grad=True)
    generator_loss(torch.sigmoid(x)).backward()
    assert x.grad is not None
    assert x.grad.item() == 0


def test_nan_in_is_nan_out():
    assert generator_loss(column(float("nan"), 0.5)).isnan()
    assert discriminator_loss(column(0.5), column(float("nan"))).isnan()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_a_mean_over_the_batch(name):
    D_loss, G_loss = OBJECTIVES[name]
    real, fake = column(0.9, 0.6, 0.2), column(0.1, 0.5, 0.7)
    for loss, parts in ((D_loss, (real, fake)), (G_loss, (fake,))):
        assert loss(*parts).shape == ()
        assert loss(*(p.repeat(5, 1) for p in parts)).item() == pytest.approx(loss(*parts).item(), rel=1e-5)
        one_by_one = [loss(*(p[n : n + 1] for p in parts)).item() for n in range(3)]
        assert loss(*parts).item() == pytest.approx(sum(one_by_one) / 3, rel=1e-5)
