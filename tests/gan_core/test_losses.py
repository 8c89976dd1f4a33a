"""Each loss and penalty against its paper's closed form, and against the formulas of two other libraries."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss, relu, softplus

from gan_core.losses import OBJECTIVES, one_lipschitz, r1, taken_for_generated, taken_for_real

PROBABILITY = st.floats(2**-20, 1 - 2**-20, width=32)
OUTPUT = st.floats(-8, 8, width=32)


def column(*values):
    return torch.tensor(values).unsqueeze(1)


def losses(name, real_output, fake_output):
    """The means of D's loss and of G's, of D's outputs (n×1 both)."""
    objective = OBJECTIVES[name]
    real, fake = (f.sigmoid() if objective.probability else f for f in (real_output, fake_output))
    D_loss = objective.real_loss(real).mean() + objective.fake_loss(fake).mean()
    return D_loss, objective.generator_loss(fake).mean()


# As the papers write them, of one image each; f: D's output, p: the probability.
CLOSED = {
    # Goodfellow et al. 2014, algorithm 1, and the end of section 3.
    "minimax": (lambda p, q: -math.log(p) - math.log(1 - q), lambda q: math.log(1 - q)),
    "non-saturating": (lambda p, q: -math.log(p) - math.log(1 - q), lambda q: -math.log(q)),
    # Mao et al. 2017, equation 9: a = 0, b = c = 1.
    "least-squares": (lambda f, g: (f - 1) ** 2 / 2 + g**2 / 2, lambda g: (g - 1) ** 2 / 2),
    # Lim and Ye 2017, equations 4 and 5 with a margin of 1; Miyato et al. 2018, equations 16 and 17.
    "hinge": (lambda f, g: max(0, 1 - f) + max(0, 1 + g), lambda g: -g),
    # Arjovsky et al. 2017, algorithm 1.
    "wasserstein": (lambda f, g: g - f, lambda g: -g),
}
# torchgan/losses/functional.py and its callers, of D's outputs.
TORCHGAN = {
    "minimax": (lambda dx, dgz: (softplus(-dx) + softplus(dgz)).mean(), lambda dgz: -softplus(dgz).mean()),
    "non-saturating": (lambda dx, dgz: (softplus(-dx) + softplus(dgz)).mean(), lambda dgz: softplus(-dgz).mean()),
    "least-squares": (
        lambda dx, dgz: 0.5 * ((dx - 1.0) ** 2 + (dgz - 0.0) ** 2).mean(), lambda dgz: 0.5 * ((dgz - 1.0) ** 2).mean()
    ),
    "wasserstein": (lambda fx, fgz: torch.mean(fgz - fx), lambda fgz: torch.mean(fgz) * -1.0),
}  # fmt: skip
# torch_mimicry/modules/losses.py.
MIMICRY = {
    "hinge": (
        lambda real, fake: relu(1.0 - real).mean() + relu(1.0 + fake).mean(), lambda fake: -fake.mean()
    ),
    "wasserstein": (lambda real, fake: -1.0 * real.mean() + fake.mean(), lambda fake: -fake.mean()),
    "least-squares": (
        lambda real, fake: 0.5 * (mse_loss(real, torch.ones_like(real)) + mse_loss(fake, torch.zeros_like(fake))),
        lambda fake: 0.5 * mse_loss(fake, torch.ones_like(fake)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
@given(st.lists(st.tuples(OUTPUT, OUTPUT), min_size=1, max_size=8))
def test_closed_forms(name, pairs):
    of_D, of_G = CLOSED[name]
    real, fake = zip(*pairs, strict=True)
    D_loss, G_loss = losses(name, column(*real).double(), column(*fake).double())
    if OBJECTIVES[name].probability:
        real, fake = ([1 / (1 + math.exp(-f)) for f in side] for side in (real, fake))
    assert D_loss.item() == pytest.approx(sum(map(of_D, real, fake)) / len(real), rel=1e-6, abs=1e-6)
    assert G_loss.item() == pytest.approx(sum(map(of_G, fake)) / len(real), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("theirs", "name"), [(TORCHGAN, name) for name in TORCHGAN] + [(MIMICRY, n) for n in MIMICRY])
def test_the_formulas_of_other_libraries(theirs, name):
    real, fake = (4 * torch.randn(2, 50, 1, generator=torch.Generator().manual_seed(1))).requires_grad_()
    found, right = losses(name, real, fake), (theirs[name][0](real, fake), theirs[name][1](fake))
    for ours, its in zip(found, right, strict=True):
        torch.testing.assert_close(ours, its)
        for side in (real, fake):
            gradients = [
                torch.autograd.grad(loss, side, retain_graph=True, allow_unused=True)[0] for loss in (ours, its)
            ]
            assert (gradients[0] is None) == (gradients[1] is None)
            if gradients[0] is not None:
                torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_every_objective_is_compared():
    assert OBJECTIVES.keys() == CLOSED.keys() == TORCHGAN.keys() | MIMICRY.keys()


@pytest.mark.parametrize("needs_gradient", [False, True])
@given(st.lists(PROBABILITY, min_size=1, max_size=8))
def test_the_recorded_loss_is_the_trained_one(needs_gradient, values):
    p = column(*values).requires_grad_(needs_gradient)
    exact = p.detach().double()
    torch.testing.assert_close(taken_for_real(p).detach().double(), -exact.log(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(taken_for_generated(p).detach().double(), -exact.neg().log1p(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_certain_and_wrong_costs_100(needs_gradient):
    certain = column(0.0, 1.0).requires_grad_(needs_gradient)
    assert taken_for_real(certain).tolist() == [[100], [0]]
    assert taken_for_generated(certain).tolist() == [[0], [100]]


def test_a_saturated_sigmoid_passes_no_gradient():
    x = torch.tensor([[-200.0]], requires_grad=True)
    taken_for_real(torch.sigmoid(x)).backward()
    assert x.grad is not None
    assert x.grad.item() == 0


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_nan_in_is_nan_out_and_the_others_stay(name, needs_gradient):
    scores = column(float("nan"), 0.5).requires_grad_(needs_gradient)
    objective = OBJECTIVES[name]
    for loss in (objective.real_loss, objective.fake_loss, objective.generator_loss):
        found = loss(scores)
        assert found.isnan().tolist() == [[True], [False]]
        assert found[1].item() == loss(column(0.5)).item()


class Toy(nn.Module):
    """A critic with a known gradient: f(x) = a·x + ½ b |x|² has a + b x."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, images):
        x = images.flatten(1)
        return (x @ self.a + self.b * x.square().sum(dim=1) / 2).unsqueeze(1)


def test_penalties_and_their_gradients_of_a_critic_with_a_known_gradient():
    """Through them one differentiates a second time, by the critic's weights: by hand here."""
    chance = torch.Generator().manual_seed(0)
    x, fake = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64, generator=chance)
    share = torch.rand(5, dtype=torch.float64, generator=chance)
    a, b = torch.randn(12, dtype=torch.float64, generator=chance), torch.tensor(0.7, dtype=torch.float64)

    D = Toy(a, b)
    r1(D, x, fake, share).sum().backward()
    slopes = a + b * x.flatten(1)  # ∇f
    torch.testing.assert_close(r1(D, x, fake, share).detach(), slopes.square().sum(dim=1) / 2)
    torch.testing.assert_close(D.a.grad, slopes.sum(dim=0))
    torch.testing.assert_close(D.b.grad, (slopes * x.flatten(1)).sum())

    D = Toy(a, b)
    one_lipschitz(D, x, fake, share).sum().backward()
    at = share[:, None] * x.flatten(1) + (1 - share[:, None]) * fake.flatten(1)
    slopes = a + b * at
    norms = slopes.norm(dim=1, keepdim=True)
    torch.testing.assert_close(one_lipschitz(D, x, fake, share).detach(), (norms[:, 0] - 1) ** 2)
    torch.testing.assert_close(D.a.grad, (2 * (norms - 1) * slopes / norms).sum(dim=0))
    torch.testing.assert_close(D.b.grad, (2 * (norms - 1) * (slopes * at).sum(dim=1, keepdim=True) / norms).sum())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_certain_costs_next_to_nothing_where_the_objective_says_what_that_is(name):
    objective = OBJECTIVES[name]
    if objective.certain is None:
        assert name == "wasserstein"  # only differences mean something
        return
    real, fake = map(torch.tensor, objective.certain)
    assert 0 <= objective.real_loss(real) < 0.12
    assert 0 <= objective.fake_loss(fake) < 0.12
