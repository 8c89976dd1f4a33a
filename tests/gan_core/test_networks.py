from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gan_core.architectures import NETWORKS
from gan_core.config import RunConfig
from gan_core.data import DATASETS
from gan_core.networks import build_models, generate, to_pixels, to_unit_range, training_cost


def pair(**settings):
    return build_models(RunConfig(**settings))


@pytest.fixture
def any_images(monkeypatch):
    """Sets of any size and colours."""
    for size in (28, 32):
        for channels in (1, 3):
            its = SimpleNamespace(size=60_000, image_size=size, channels=channels)
            monkeypatch.setitem(DATASETS, f"{size}x{channels}", its)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (28, 3), (32, 1), (32, 3)])
@pytest.mark.parametrize(("z_dim", "hidden_dim"), [(100, 32), (20, 16), (1, 1)])
@pytest.mark.parametrize("more", [{}, {"spectral_norm": True}, {"gradient_penalty": 1.0}], ids=str)
def test_shapes_and_ranges(network, size, channels, z_dim, hidden_dim, more, any_images):
    G, D = pair(dataset=f"{size}x{channels}", network=network, z_dim=z_dim, hidden_dim=hidden_dim, **more)
    images = G(10 * torch.randn(7, z_dim))
    assert images.shape == (7, channels, size, size)
    assert images.abs().max() <= 1
    assert D(images).shape == (7, 1)


def example_generator(nz, ngf, nc):
    """PyTorch's DCGAN example, github.com/pytorch/examples, dcgan/main.py, without the layer that makes 64×64 of 32×32."""
    return nn.Sequential(
        nn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False), nn.BatchNorm2d(ngf * 4), nn.ReLU(True),
        nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf * 2), nn.ReLU(True),
        nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),
        nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


def example_discriminator(ndf, nc):
    return nn.Sequential(
        nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 2), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 4), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(ndf * 4, 1, 4, 1, 0, bias=False),
    )  # fmt: skip


def test_dcgan_is_pytorchs_example(any_images):
    """At 32×32 in colour: the same weights make the same images and the same outputs."""
    G, D = pair(dataset="32x3", network="dcgan", z_dim=100)
    theirs_G, theirs_D = example_generator(100, 64, 3), example_discriminator(64, 3)  # 64 as there, by default
    for ours, theirs in ((G, theirs_G), (D, theirs_D)):
        assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
        for mine, its in zip(theirs.parameters(), ours.parameters(), strict=True):
            mine.data.copy_(its.data)
    assert sum(p.numel() for p in G.parameters()) == 100 * 256 * 16 + 256 * 128 * 16 + 128 * 64 * 16 + 64 * 3 * 16 + 896
    z = torch.randn(5, 100)
    torch.testing.assert_close(G(z), theirs_G(z[:, :, None, None]))
    torch.testing.assert_close(D(G(z)), theirs_D(G(z)).flatten(1))


def test_dcgan_begins_as_its_paper_says():
    for module in pair(network="dcgan", gradient_penalty=0.0):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.weight.mean().abs() < 0.002
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            elif isinstance(layer, nn.BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1, abs=0.01)
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3)
                assert not layer.bias.any()


def kinds(module):
    return {type(layer).__name__ for layer in module.modules()}


def test_a_penalty_on_single_images_goes_with_no_normalization_over_images():
    assert "BatchNorm2d" in kinds(pair(network="dcgan")[1])
    penalized = kinds(pair(network="dcgan", objective="wasserstein")[1])
    assert "GroupNorm" in penalized
    assert "BatchNorm2d" not in penalized
    spectral = kinds(pair(network="dcgan", spectral_norm=True)[1])
    assert not spectral & {"GroupNorm", "BatchNorm2d"}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_spectrally_normalized_D_has_a_largest_singular_value_of_one(network):
    D = pair(network=network, spectral_norm=True, hidden_dim=16)[1]
    for _ in range(50):
        D(torch.randn(2, 1, 28, 28))
    layers = [layer for layer in D.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) == {"mlp": 2, "dcgan": 4}[network]
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_a_generator_is_looked_at_as_it_is_used_and_left_as_it_was():
    G, _ = pair(network="dcgan", hidden_dim=4)
    G.train()
    for _ in range(30):
        G(torch.randn(64, 100))
    one, many = torch.randn(1, 100), torch.randn(64, 100)
    together = generate(G, torch.cat([one, many]))
    assert (together[:1].int() - generate(G, one).int()).abs().max() <= 1  # whatever else is in the batch
    assert together.is_contiguous()
    assert G.training


def test_parameter_counts_of_the_reports_network():
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in pair()]
    assert counts == [100 * 128 + 128 + 128 * 784 + 784, 784 * 128 + 128 + 128 + 1] == [114_064, 100_609]


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


def test_a_longer_run_costs_more_and_the_default_grid_begins_with_its_longest():
    """Adam before SGD; of one optimizer, the larger z first."""
    runs = [RunConfig(optimizer=optimizer, z_dim=z) for optimizer in ("sgd", "adam") for z in (20, 50, 100, 200)]
    in_turn = sorted(runs, key=training_cost, reverse=True)
    assert [(run.optimizer, run.z_dim) for run in in_turn] == [
        (optimizer, z) for optimizer in ("adam", "sgd") for z in (200, 100, 50, 20)
    ]


def test_cost_by_hand():
    sgd = training_cost(RunConfig(epochs=10))
    assert sgd == 10 * 60_000 * (114_064 + 100_609)
    assert training_cost(RunConfig(epochs=20)) == 2 * sgd
    assert training_cost(RunConfig(epochs=10, dataset="digits")) == sgd * DATASETS["digits"].size / 60_000
    assert training_cost(RunConfig(epochs=10, optimizer="adam")) == 1.25 * sgd
    assert training_cost(RunConfig(epochs=10, optimizer="adam", batch_size=32)) == 1.5 * sgd
    assert training_cost(RunConfig(epochs=10, optimizer="rmsprop", batch_size=16)) == 1.5 * sgd
