import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_core.architectures import NETWORKS, Network, mlp_discriminator, mlp_generator
from gan_core.config import RunConfig
from gan_core.data import DATASETS
from gan_core.evaluation.scores import evaluation_images
from gan_core.losses import OBJECTIVES
from gan_core.networks import build_models
from gan_core.rng import STREAMS, depends_on, run_stream, stream, stream_seed
from gan_core.training import fixed_noise, image_order, noise

KEYS = st.lists(st.integers(0, 2**63), max_size=3)


@given(st.text(st.characters(categories=["Ll"])), KEYS)
def test_a_stream_is_known_by_its_name_and_key(name, key):
    assert torch.equal(torch.rand(4, generator=stream(name, *key)), torch.rand(4, generator=stream(name, *key)))


@given(KEYS, KEYS)
def test_other_keys_and_names_are_other_streams(one, other):
    assert (stream_seed("a", *one) == stream_seed("a", *other)) == (one == other)
    assert stream_seed("a", *one) != stream_seed("b", *other)


def test_streams_stay_what_they_are():
    # A change here would change every result for a given seed.
    assert stream_seed("order", 0, 1) == 4473484566461243327
    config = RunConfig(seed=3, z_dim=7)
    for name, key in {
        "init-G": (3,), "init-D": (3,), "order": (3, 2), "noise": (3, 2, 7), "samples": (7,), "evaluation": (7,)
    }.items():  # fmt: skip
        assert run_stream(name, config, epoch=2).initial_seed() == stream_seed(name, *key)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Recorder(torch.nn.Module):
    """A G that keeps the z that it is given."""

    def __init__(self, z_dim):
        super().__init__()
        self.z_dim, self.seen = z_dim, []
        self.parameter = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z):
        self.seen.append(z)
        return z


def evaluation_noise(config):
    G = Recorder(config.z_dim)
    evaluation_images(G, 599 if config.dataset == "digits" else 10_000)  # as many as there are test images
    return torch.cat(G.seen)


# What the program draws from each stream, by its own functions.
DRAWS = {
    "init-G": lambda config: weights(build_models(config)[0]),
    "init-D": lambda config: weights(build_models(config)[1]),
    "order": lambda config: image_order(config, 1, DATASETS[config.dataset].size),
    "noise": lambda config: next(noise(config, 1)),
    "samples": lambda config: fixed_noise(config.z_dim),
    "evaluation": evaluation_noise,
}
CONFIG = RunConfig(z_dim=5, hidden_dim=8, batch_size=16)
OTHERS = {
    "dataset": "digits", "optimizer": "adam", "learning_rate": 0.5, "momentum": 0.5, "objective": "other",
    "network": "other", "z_dim": 6, "hidden_dim": 9, "batch_size": 17, "epochs": 99, "device": "cuda", "seed": 1,
}  # fmt: skip


@pytest.fixture
def others(monkeypatch):
    """Another objective, and another network: whose D depends on z_dim as well."""

    def discriminator(hidden_dim, z_dim):
        return torch.nn.Sequential(*mlp_discriminator(hidden_dim), torch.nn.Linear(1, z_dim))

    def generator(z_dim):
        return mlp_generator(z_dim, 3)

    monkeypatch.setitem(OBJECTIVES, "other", OBJECTIVES["non-saturating"])
    monkeypatch.setitem(NETWORKS, "other", Network(generator, discriminator))


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("field", OTHERS)
def test_a_streams_draws_change_with_the_fields_declared_and_no_other(name, field, others):
    for config in (CONFIG, dataclasses.replace(CONFIG, network="other")):
        if getattr(config, field) == OTHERS[field]:
            continue
        other = dataclasses.replace(config, **{field: OTHERS[field]})
        changed = not torch.equal(DRAWS[name](config), DRAWS[name](other))
        assert changed == (field in depends_on(name, config.network))


def test_a_seed_decides_D_and_the_order_whatever_is_usually_swept():
    for field in ("optimizer", "learning_rate", "z_dim"):
        assert field not in depends_on("init-D", "mlp") | depends_on("order", "mlp")


def test_the_names_are_read_without_pytorch(command):
    done = command("-c", "import sys, gan_core.rng, gan_core.events; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
