import pytest
import torch

from gan_core.architectures import NETWORKS
from gan_core.config import RunConfig
from gan_core.data import DATASETS
from gan_core.networks import build_models, to_pixels, to_unit_range, training_cost


def pair(**settings):
    return build_models(RunConfig(**settings))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("z_dim", "hidden_dim"), [(100, 128), (20, 16), (1, 1)])
def test_shapes_and_ranges(network, z_dim, hidden_dim):
    G, D = pair(network=network, z_dim=z_dim, hidden_dim=hidden_dim)
    images = G(10 * torch.randn(7, z_dim))
    assert images.shape == (7, 1, 28, 28)
    assert images.abs().max() <= 1
    probabilities = D(images)
    assert probabilities.shape == (7, 1)
    assert 0 <= probabilities.min() <= probabilities.max() <= 1


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
