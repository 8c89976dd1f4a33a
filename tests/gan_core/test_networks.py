import pytest
import torch

from gan_core.config import RunConfig
from gan_core.networks import Discriminator, Generator, build_models, to_pixels, to_unit_range


@pytest.mark.parametrize(("z_dim", "hidden_dim"), [(100, 128), (20, 16), (1, 1)])
def test_shapes_and_ranges(z_dim, hidden_dim):
    z = 10 * torch.randn(7, z_dim)
    images = Generator(z_dim, hidden_dim)(z)
    assert images.shape == (7, 1, 28, 28)
    assert images.abs().max() <= 1
    probabilities = Discriminator(hidden_dim)(images)
    assert probabilities.shape == (7, 1)
    assert 0 <= probabilities.min() <= probabilities.max() <= 1


def test_parameter_counts_of_the_reports_network():
    def count(model):
        return sum(parameter.numel() for parameter in model.parameters())

    assert count(Generator(100)) == 100 * 128 + 128 + 128 * 784 + 784 == 114_064
    assert count(Discriminator()) == 784 * 128 + 128 + 128 + 1 == 100_609


def test_outputs_by_hand():
    G, D = Generator(2, 3), Discriminator(3)
    W1, b1, W2, b2 = (parameter.detach() for parameter in G.parameters())
    z = torch.randn(5, 2)
    hidden = z @ W1.T + b1
    expected = torch.tanh(torch.where(hidden > 0, hidden, 0.2 * hidden) @ W2.T + b2)
    torch.testing.assert_close(G(z).detach().flatten(1), expected)
    W1, b1, W2, b2 = (parameter.detach() for parameter in D.parameters())
    x = torch.randn(5, 1, 28, 28)
    hidden = x.reshape(5, 784) @ W1.T + b1
    expected = 1 / (1 + torch.exp(-(torch.where(hidden > 0, hidden, 0.2 * hidden) @ W2.T + b2)))
    torch.testing.assert_close(D(x).detach(), expected)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_one_seed_means_one_D_whatever_the_optimizer_and_z_dim():
    first = weights(build_models(RunConfig(optimizer="sgd", z_dim=20))[1])
    assert torch.equal(first, weights(build_models(RunConfig(optimizer="adam", z_dim=200))[1]))
    assert not torch.equal(first, weights(build_models(RunConfig(seed=1, z_dim=20))[1]))


def test_one_seed_and_z_dim_mean_one_G():
    first = weights(build_models(RunConfig(optimizer="sgd", z_dim=20))[0])
    assert torch.equal(first, weights(build_models(RunConfig(optimizer="adam", z_dim=20))[0]))
    assert not torch.equal(first, weights(build_models(RunConfig(seed=1, z_dim=20))[0]))


def test_the_global_stream_of_chance_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_models(RunConfig())
    assert torch.equal(torch.rand(3), expected)


def test_pixels_scale_as_torchvision_does_and_back():
    from torchvision.transforms import Compose, Normalize, ToTensor

    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    theirs = Compose([ToTensor(), Normalize(0.5, 0.5)])(pixels[0, 0].numpy()).unsqueeze(0)
    torch.testing.assert_close(to_unit_range(pixels), theirs, atol=1e-6, rtol=0)
    assert torch.equal(to_pixels(to_unit_range(pixels)), pixels)
