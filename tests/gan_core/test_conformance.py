"""What holds of every optimizer, objective and network, and of one that somebody adds to a registry."""

import dataclasses
import hashlib
from functools import partial, wraps

import numpy as np
import pytest
import torch
from torch import nn

from gan_core import fast_mlp
from gan_core.architectures import NETWORKS, Network, mlp_discriminator, mlp_generator
from gan_core.checkpoint import Checkpoint, TimedEvent, decode, encode
from gan_core.config import RunConfig
from gan_core.events import EpochEnd, Reached, Samples, Trained
from gan_core.fast_mlp import FastStep, supports
from gan_core.losses import OBJECTIVES, Objective, discriminator_loss, generator_loss
from gan_core.networks import build_models, load_generator, save_generator
from gan_core.optimizers import OPTIMIZERS, OptimizerEntry
from gan_core.training import PlainStep, image_order, noise, train


def deep_generator(z_dim, hidden_dim):
    wide = mlp_generator(z_dim, hidden_dim)
    return nn.Sequential(nn.Linear(z_dim, z_dim), nn.ELU(), *wide)


def leaky(slope):
    """The mlp with another slope: the same weights, other activations."""

    def steep(make):
        @wraps(make)  # the parameters' names are what a network is made from
        def layers(*args, **fields):
            made = make(*args, **fields)
            for each in made:
                if isinstance(each, nn.LeakyReLU):
                    each.negative_slope = slope
            return made

        return layers

    return Network(steep(mlp_generator), steep(mlp_discriminator))


# Mao et al., "Least Squares Generative Adversarial Networks", 2017.
LEAST_SQUARES = Objective(
    lambda p_real, p_fake: ((p_real - 1).square().mean() + p_fake.square().mean()) / 2,
    lambda p_fake: (p_fake - 1).square().mean() / 2,
)
ADDED = {
    "optimizer": {
        "momentum": OptimizerEntry("SGD", 0.01, 1, {"momentum": 0.9}),
        "heavy": OptimizerEntry("SGD", 0.01, 1, momentum=0.9),
        "moving": OptimizerEntry("RMSprop", 2e-4, 2, momentum=0.5),
        "half": OptimizerEntry("Adam", 2e-4, 2, momentum=0.5),
        "decaying-sgd": OptimizerEntry("SGD", 0.01, 0, {"weight_decay": 0.1}),
        "radford": OptimizerEntry("Adam", 2e-4, 2, {"betas": (0.5, 0.999)}),  # Radford et al., 2016
        "amsgrad": OptimizerEntry("Adam", 2e-4, 3, {"amsgrad": True}),
        "decaying": OptimizerEntry("AdamW", 2e-4, 2, {"weight_decay": 0.5, "eps": 1e-6}),
        "centered": OptimizerEntry("RMSprop", 2e-4, 2, {"centered": True}),
        "slow": OptimizerEntry("RMSprop", 2e-4, 1, {"alpha": 0.5}),
        "nadam": OptimizerEntry("NAdam", 2e-4, 2),
    },
    "objective": {"least-squares": LEAST_SQUARES},
    "network": {"deep": Network(deep_generator, mlp_discriminator), "steep": leaky(0.5)},
}
REGISTRIES = {"optimizer": OPTIMIZERS, "objective": OBJECTIVES, "network": NETWORKS}
ENTRIES = [(field, name) for field in REGISTRIES for name in (*REGISTRIES[field], *ADDED[field])]
FAST = {*OPTIMIZERS, *OBJECTIVES, *NETWORKS, "radford", "decaying", "slow", "momentum", "heavy", "moving", "half"}
each_entry = pytest.mark.parametrize(("field", "name"), ENTRIES)


@pytest.fixture(autouse=True)
def added(monkeypatch):
    for field, entries in ADDED.items():
        for name, entry in entries.items():
            monkeypatch.setitem(REGISTRIES[field], name, entry)


@pytest.fixture(scope="module")
def images(digits):
    return digits.images[:40]  # two batches of 16 and one of 8


def tiny(field="optimizer", name="sgd", **settings):
    return RunConfig(
        **{"dataset": "digits", "z_dim": 5, "hidden_dim": 8, "batch_size": 16, "epochs": 4, field: name} | settings
    )


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def digest(events):
    """Of all that a training shows: every iteration, every sheet, the last weights."""
    found = hashlib.sha256()
    for event in events:
        match event:
            case EpochEnd():
                for array in (event.discriminator_losses, event.generator_losses, event.real_scores, event.fake_scores):
                    found.update(array.tobytes())
            case Samples(_, sheet):
                found.update(sheet.numpy().tobytes())
            case Trained(G):
                found.update(weights(G).numpy().tobytes())
    return found.hexdigest()


@each_entry
def test_the_same_config_gives_the_same_bits_whatever_else_draws_by_chance(field, name, images):
    torch.manual_seed(1)
    first = digest(train(tiny(field, name), images))
    torch.manual_seed(2)
    assert digest(train(tiny(field, name), images)) == first
    assert digest(train(tiny(field, name, seed=1), images)) != first


@each_entry
def test_a_training_resumes_from_any_epoch_as_if_unbroken(field, name, images):
    config = tiny(field, name)
    unbroken, states = [], []
    for event in train(config, images):
        unbroken.append(event)
        if isinstance(event, Reached):
            states.append(event.state())
    assert [state.epoch for state in states] == [1, 2, 3, 4]
    for state in states:
        content = encode(Checkpoint(state, [TimedEvent(e, 0) for e in ends(unbroken)[: state.epoch]]), config)
        kept = decode(content, config, "it").state
        assert kept.optimizers.keys() == state.optimizers.keys()
        resumed = list(train(config, images, kept))
        rest = unbroken[-len(resumed) :]
        assert [type(event) for event in resumed] == [type(event) for event in rest]
        assert isinstance(resumed[0], Reached)
        assert resumed[0].epoch == state.epoch
        assert digest(resumed) == digest(rest)


def ends(events):
    return [event for event in events if isinstance(event, EpochEnd)]


@each_entry
def test_the_generators_file_makes_the_same_images(field, name, images, tmp_path):
    *_, trained = train(tiny(field, name, epochs=1), images)
    save_generator(trained.generator, tmp_path / "G.safetensors")
    found = load_generator(tmp_path / "G.safetensors")
    z = torch.randn(7, 5)
    assert found(z).shape == (7, 1, 28, 28)
    assert torch.equal(found(z), trained.generator.eval()(z))
    assert (found.z_dim, found.network) == (5, tiny(field, name).network)


def one_run(kind, config, images):
    """The pair after `config.epochs`, what is known of all iterations, and the state of the optimizers."""
    G, D = build_models(config)
    steps = kind(config, G, D)
    record = [
        steps.epoch(images, image_order(config, epoch, 40).split(16), noise(config, epoch))
        for epoch in range(1, config.epochs + 1)
    ]
    return G, D, torch.cat(record, dim=1), steps


@each_entry
def test_it_is_trained_by_the_plain_step_or_by_one_that_does_the_same(field, name, images):
    config = tiny(field, name)
    G, D, record, steps = one_run(PlainStep, config, images)
    events = list(train(config, images))
    assert supports(config, PlainStep) == (name in FAST)
    losses = np.concatenate([end.generator_losses for end in ends(events)])
    if name not in FAST:
        assert np.array_equal(losses, record[1].numpy())
        assert torch.equal(weights(events[-1].generator), weights(G))
        return
    fast_G, fast_D, fast_record, fast_steps = one_run(FastStep, config, images)
    assert np.array_equal(losses, fast_record[1].numpy())
    assert torch.equal(weights(events[-1].generator), weights(fast_G))
    torch.testing.assert_close(fast_record, record, rtol=1e-4, atol=1e-4)
    start_G, start_D = build_models(config)
    for fast, plain, start in ((fast_G, G, start_G), (fast_D, D, start_D)):
        way = (weights(plain) - weights(start)).square().mean().sqrt()
        assert (weights(fast) - weights(plain)).square().mean().sqrt() < 1e-2 * way
    ours, theirs = fast_steps.optimizer_state(), steps.optimizer_state()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-2, atol=1e-4)


@each_entry
@pytest.mark.parametrize("kinds", [(PlainStep, FastStep), (FastStep, PlainStep)])
def test_either_step_resumes_from_the_others_state(field, name, kinds, images):
    """A training may be cut off and resumed by a program whose loss, say, is another."""
    if name not in FAST:
        return
    config = tiny(field, name, epochs=1)
    G, D, _, steps = one_run(kinds[0], config, images)
    other_G, other_D = build_models(config)
    other_G.load_state_dict(G.state_dict())
    other_D.load_state_dict(D.state_dict())
    others = kinds[1](config, other_G, other_D)
    others.load_optimizer_state(steps.optimizer_state())
    for each in (steps, others):
        each.epoch(images, image_order(config, 2, 40).split(16), noise(config, 2))
    torch.testing.assert_close(weights(G), weights(other_G), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weights(D), weights(other_D), rtol=1e-3, atol=1e-5)


def straight_line(config, images, make_optimizer, D_loss, G_loss, slope):
    """The step as it is described, one thing after another; G's weights, and the losses of D and of G."""
    G0, D0 = build_models(config)
    G = nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(slope), nn.Linear(8, 784), nn.Tanh())
    D = nn.Sequential(nn.Linear(784, 8), nn.LeakyReLU(slope), nn.Linear(8, 1), nn.Sigmoid())
    for mine, given in ((G, G0), (D, D0)):
        for parameter, start in zip(mine.parameters(), given.parameters(), strict=True):
            parameter.data.copy_(start.data)
    G_optimizer, D_optimizer = make_optimizer(G.parameters()), make_optimizer(D.parameters())
    losses = []
    for epoch in range(1, config.epochs + 1):
        for batch, (z_D, z_G) in zip(image_order(config, epoch, 40).split(16), noise(config, epoch), strict=False):
            n = len(batch)
            x = (images[batch].reshape(n, 784).float() / 255 - 0.5) / 0.5
            D_optimizer.zero_grad()
            loss_of_D = D_loss(D(x), D(G(z_D[:n]).detach()))
            loss_of_D.backward()
            D_optimizer.step()
            G_optimizer.zero_grad()
            loss_of_G = G_loss(D(G(z_G[:n])))
            loss_of_G.backward()
            G_optimizer.step()
            losses.append([loss_of_D.item(), loss_of_G.item()])
    return weights(G), np.array(losses).T


def cross_entropy_of_D(p_real, p_fake):
    return -p_real.log().mean() - (1 - p_fake).log().mean()


def cross_entropy_of_G(p_fake):
    return -p_fake.log().mean()


def least_squares_of_D(p_real, p_fake):
    return 0.5 * ((p_real - 1) ** 2).mean() + 0.5 * (p_fake**2).mean()


def least_squares_of_G(p_fake):
    return 0.5 * ((p_fake - 1) ** 2).mean()


SGD, RMSPROP = partial(torch.optim.SGD, lr=0.01), partial(torch.optim.RMSprop, lr=1e-3)
ADAM, ADAMW = partial(torch.optim.Adam, lr=1e-3), partial(torch.optim.AdamW, lr=1e-3)
EXPECTED_OPTIMIZER = {
    "adam": ADAM,
    "adamw": ADAMW,
    "rmsprop": RMSPROP,
    "momentum": partial(SGD, momentum=0.9),
    "heavy": partial(SGD, momentum=0.9),
    "moving": partial(RMSPROP, momentum=0.5),
    "half": partial(ADAM, betas=(0.5, 0.999)),
    "decaying-sgd": partial(SGD, weight_decay=0.1),
    "radford": partial(ADAM, betas=(0.5, 0.999)),
    "amsgrad": partial(ADAM, amsgrad=True),
    "decaying": partial(ADAMW, weight_decay=0.5, eps=1e-6),
    "centered": partial(RMSPROP, centered=True),
    "slow": partial(RMSPROP, alpha=0.5),
    "nadam": partial(torch.optim.NAdam, lr=1e-3),
}


def expected_of(name):
    """What trains where the entry of this name is chosen: the optimizer, the losses of D and of G, the slope."""
    losses = cross_entropy_of_D, cross_entropy_of_G
    if name == "least-squares":
        losses = least_squares_of_D, least_squares_of_G
    return EXPECTED_OPTIMIZER.get(name, SGD), *losses, 0.5 if name == "steep" else 0.2


# Of which entry each of those that are added is a change.
USUAL = {
    "momentum": "sgd", "heavy": "sgd", "moving": "rmsprop", "half": "adam", "decaying-sgd": "sgd", "radford": "adam", "amsgrad": "adam", "decaying": "adamw",
    "centered": "rmsprop", "slow": "rmsprop", "nadam": "adam", "least-squares": "non-saturating",
    "steep": "mlp",
}  # fmt: skip


@pytest.mark.parametrize(("field", "name"), [entry for entry in ENTRIES if entry[1] != "deep"])
def test_what_is_registered_is_what_trains(field, name, images):
    config = tiny(field, name, learning_rate=expected_of(name)[0].keywords["lr"])
    events = list(train(config, images))
    found = weights(events[-1].generator)
    way = found - weights(build_models(config)[0])
    expected, losses = straight_line(config, images, *expected_of(name))
    assert (found - expected).norm() < 0.02 * way.norm()
    for ours, theirs in zip(("discriminator_losses", "generator_losses"), losses, strict=True):
        np.testing.assert_allclose(np.concatenate([getattr(end, ours) for end in ends(events)]), theirs, rtol=1e-3)
    if name in ADDED[field]:
        usual, _ = straight_line(config, images, *expected_of(USUAL[name]))
        assert (found - usual).norm() > 2 * (found - expected).norm()


# What somebody might write into losses.py: the fast step must not go on with what it knows.
@pytest.mark.parametrize(
    "objective",
    [
        Objective(lambda p_real, p_fake: 0.999 * cross_entropy_of_D(p_real, p_fake), generator_loss),
        Objective(discriminator_loss, lambda p_fake: (1 - p_fake).log().mean()),
        Objective(discriminator_loss, lambda p_fake: generator_loss(p_fake.clamp(min=1e-8))),
        Objective(discriminator_loss, lambda p_fake: -p_fake.log().clamp(min=-50).mean()),
        Objective(lambda p_real, p_fake: generator_loss(p_real) + p_fake.mean(), generator_loss),
        Objective(lambda p_real, p_fake: generator_loss(p_real) + generator_loss(1 - p_fake) + 1, generator_loss),
        Objective(discriminator_loss, lambda p_fake: 1 / 0),
    ],
)
def test_a_changed_objective_is_never_without_effect(objective, monkeypatch):
    assert supports(tiny(), PlainStep)
    monkeypatch.setitem(OBJECTIVES, "non-saturating", objective)
    assert not supports(tiny(), PlainStep)


@pytest.mark.parametrize("slope", [0.19, 0.21])
def test_changed_layers_are_never_without_effect(slope, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mlp", leaky(slope))
    assert not supports(tiny(), PlainStep)


def test_a_changed_step_is_never_without_effect():
    class TwiceD(PlainStep):
        def _step(self, x, z):
            super()._step(x, z)
            return super()._step(x, z)

    assert not supports(tiny(), TwiceD)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_fast_step_is_asked_with_the_whole_config(optimizer):
    config = RunConfig(optimizer=optimizer)
    assert supports(config, PlainStep)
    assert supports(dataclasses.replace(config, z_dim=1, hidden_dim=1, batch_size=1, seed=7), PlainStep)
    assert not supports(dataclasses.replace(config, device="cuda"), PlainStep)
    assert not supports(dataclasses.replace(config, network="deep"), PlainStep)
    assert not supports(dataclasses.replace(config, objective="least-squares"), PlainStep)


def test_an_optimizer_unknown_to_the_fast_step_is_not_its_business(monkeypatch):
    monkeypatch.delitem(fast_mlp.KNOWN_OPTIONS, "Adam")
    assert not supports(tiny(name="adam"), PlainStep)
    assert supports(tiny(name="adamw"), PlainStep)
