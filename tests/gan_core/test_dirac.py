"""The Dirac-GAN of Mescheder et al. 2018, section 2: the simplest training, of which it is known what converges.

Real images are one number, 0; G makes θ whatever z is, D is ψ·x. At the equilibrium both are 0.
"""

import math

import pytest
import torch
from torch import nn

from gan_core.config import RunConfig
from gan_core.training import PlainStep


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.0))

    def forward(self, z):
        return self.theta.expand(len(z), 1, 1, 1)


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.psi * x.flatten(1)


def course(steps=1500, **settings):
    """θ after each step, and how far (θ, ψ) is from the equilibrium."""
    config = RunConfig(dataset="digits", learning_rate=0.1, **settings)
    G, D, k = Constant(), Slope(), config.discriminator_steps
    trained, found = PlainStep(config, G, D), []
    for _ in range(steps):
        trained._step([torch.zeros(1, 1, 1, 1)] * k, torch.zeros(k + 1, 1, 1), torch.full((k, 1), 0.5))
        found.append((G.theta.item(), math.hypot(G.theta.item(), D.psi.item())))
    thetas, distances = zip(*found, strict=True)
    return thetas, distances


def test_the_first_gan_circles():
    _, distances = course(objective="minimax")
    assert min(distances) > 1.35
    assert max(distances) < 1.45


def test_the_non_saturating_one_comes_nearer_and_slowly():
    _, distances = course(objective="non-saturating")
    assert distances[100] > distances[500] > distances[-1]
    assert 0.1 < distances[-1] < 0.4


@pytest.mark.parametrize("objective", ["minimax", "non-saturating", "hinge"])
def test_with_r1_it_converges(objective):
    _, distances = course(objective=objective, gradient_penalty=1.0)
    assert distances[-1] < 1e-4


@pytest.mark.parametrize("steps_of_D", [1, 5])
def test_with_the_penalty_of_wgan_gp_it_does_not(steps_of_D):
    """The penalty wants a slope of 1, where the equilibrium has none."""
    thetas, _ = course(objective="wasserstein", gradient_penalty=1.0, discriminator_steps=steps_of_D)
    assert abs(thetas[-1]) > 0.5
