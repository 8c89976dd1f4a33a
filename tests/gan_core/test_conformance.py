"""What holds of every optimizer, objective and network, and of one that somebody adds to a registry."""

import dataclasses
import hashlib
from functools import partial, wraps
from itertools import islice
from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gan_core import fast_mlp
from gan_core.architectures import NETWORKS, Network, mlp_discriminator, mlp_generator
from gan_core.checkpoint import Checkpoint, TimedEvent, decode, encode
from gan_core.config import FIELDS, RunConfig
from gan_core.data import DATASETS
from gan_core.evaluation.scores import evaluation_images
from gan_core.events import EpochEnd, Reached, Samples, Trained
from gan_core.fast_mlp import FastStep, supports
from gan_core.losses import OBJECTIVES, Objective, taken_for_real
from gan_core.networks import build_models, generate, load_generator, save_generator
from gan_core.optimizers import OPTIMIZERS, OptimizerEntry
from gan_core.training import PlainStep, image_order, mixing, noise, train


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


# Not in the registry: the Jensen-Shannon divergence's bound of Nowozin et al., "f-GAN", 2016.
SHANNON = Objective(
    lambda score: -(log(2) - nn.functional.softplus(-score)),
    lambda score: -log(2) + nn.functional.softplus(score),
    lambda score: -(log(2) - nn.functional.softplus(-score)),
)
ADDED = {
    "optimizer": {
        "momentum": OptimizerEntry("SGD", 0.01, 1, {"momentum": 0.9}),
        "heavy": OptimizerEntry("SGD", 0.01, 1, fields={"momentum": 0.9}),
        "moving": OptimizerEntry("RMSprop", 2e-4, 2, fields={"momentum": 0.5}),
        "half": OptimizerEntry("Adam", 2e-4, 2, fields={"beta1": 0.5}),
        "decaying-sgd": OptimizerEntry("SGD", 0.01, 0, {"weight_decay": 0.1}),
        "radford": OptimizerEntry("Adam", 2e-4, 2, {"betas": (0.5, 0.999)}),  # Radford et al., 2016
        "amsgrad": OptimizerEntry("Adam", 2e-4, 3, {"amsgrad": True}),
        "decaying": OptimizerEntry("AdamW", 2e-4, 2, {"weight_decay": 0.5, "eps": 1e-6}),
        "centered": OptimizerEntry("RMSprop", 2e-4, 2, {"centered": True}),
        "slow": OptimizerEntry("RMSprop", 2e-4, 1, {"alpha": 0.5}),
        "nadam": OptimizerEntry("NAdam", 2e-4, 2),
    },
    "objective": {"shannon": SHANNON},
    "network": {"deep": Network(deep_generator, mlp_discriminator), "steep": leaky(0.5)},
}
REGISTRIES = {"optimizer": OPTIMIZERS, "objective": OBJECTIVES, "network": NETWORKS}
ENTRIES = [(field, name) for field in REGISTRIES for name in (*REGISTRIES[field], *ADDED[field])]
# What a run may have beside: alone, and all of it.
OPTIONS = {
    "two-rates": {"discriminator_learning_rate": 0.01},
    "decay": {"weight_decay": 0.1},
    "smoothed": {"label_smoothing": 0.1},
    "several-D-steps": {"discriminator_steps": 3},
    "mean-of-G": {"ema": 0.7},
    "spectral": {"spectral_norm": True},
    "R1": {"gradient_penalty": 1.0},
    "all": {
        "discriminator_learning_rate": 0.01, "weight_decay": 0.1, "label_smoothing": 0.1, "discriminator_steps": 2,
        "ema": 0.7, "spectral_norm": True, "gradient_penalty": 0.5,
    },
}  # fmt: skip
CASES = {
    **{f"{field}-{name}": {field: name} for field, name in ENTRIES},
    **{f"dcgan-{name}": {"network": "dcgan", "objective": name, "optimizer": "adam"} for name in OBJECTIVES},
    **{
        f"{network}-{name}": {"network": network, **its}
        for network in ("mlp", "dcgan")
        for name, its in OPTIONS.items()
    },
    **{f"colour-{network}": {"network": network, "dataset": "colour"} for network in ("mlp", "dcgan")},
    "wasserstein-without-penalty": {"objective": "wasserstein", "spectral_norm": True, "gradient_penalty": 0.0},
}
FAST_ENTRIES = {
    *OPTIMIZERS, *OBJECTIVES, "mlp", "radford", "decaying", "decaying-sgd", "slow", "momentum", "heavy", "moving", "half",
} - {"wasserstein"}  # fmt: skip
FAST = (
    {f"{field}-{name}" for field, name in ENTRIES if name in FAST_ENTRIES}
    | {f"mlp-{name}" for name in ("two-rates", "decay", "smoothed", "mean-of-G")}
    | {"colour-mlp"}
)
each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def added(monkeypatch):
    for field, entries in ADDED.items():
        for name, entry in entries.items():
            monkeypatch.setitem(REGISTRIES[field], name, entry)
    monkeypatch.setitem(DATASETS, "colour", SimpleNamespace(size=1797, image_size=32, channels=3))


@pytest.fixture
def images(digits, case):
    gray = digits.images[:40]  # two batches of 16 and one of 8
    if CASES[case].get("dataset") != "colour":
        return gray
    return torch.cat([nn.functional.pad(each, (2, 2, 2, 2)) for each in (gray, gray // 2, 255 - gray)], dim=1)


def tiny(case="optimizer-sgd", **settings):
    return RunConfig(
        **{"dataset": "digits", "z_dim": 5, "hidden_dim": 8, "batch_size": 16, "epochs": 4} | CASES[case] | settings
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
                for tensor in G.state_dict().values():
                    found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@each_case
def test_the_same_config_gives_the_same_bits_whatever_else_draws_by_chance(case, images):
    torch.manual_seed(1)
    first = digest(train(tiny(case), images))
    torch.manual_seed(2)
    assert digest(train(tiny(case), images)) == first
    assert digest(train(tiny(case, seed=1), images)) != first


@each_case
def test_a_training_resumes_from_any_epoch_as_if_unbroken(case, images):
    config = tiny(case)
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


@each_case
def test_the_generators_file_makes_the_same_images(case, images, tmp_path):
    *_, trained = train(tiny(case, epochs=1), images)
    save_generator(trained.generator, tmp_path / "G.safetensors")
    found = load_generator(tmp_path / "G.safetensors")
    z = torch.randn(7, 5)
    assert found(z).shape == (7, *images.shape[1:])
    assert found(z).abs().max() <= 1
    assert torch.equal(found(z), trained.generator.eval()(z))
    assert (found.z_dim, found.network) == (5, tiny(case).network)


@each_case
def test_to_look_at_a_generator_changes_nothing(case, images):
    """Its weights, and what its normalizations have seen, stay as they are; so does what follows."""
    config = tiny(case, epochs=2)
    looked = []
    for event in train(config, images):
        looked.append(event)
        if isinstance(event, Reached):
            before = {name: tensor.clone() for name, tensor in event.generator.state_dict().items()}
            first = evaluation_images(event.generator, 20)
            generate(event.generator, torch.randn(2, 5))
            assert torch.equal(evaluation_images(event.generator, 20), first)
            assert first.shape == (20, *images.shape[1:])
            after = event.generator.state_dict()
            assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert digest(looked) == digest(train(config, images))


def one_run(kind, config, images):
    """The pair after `config.epochs`, what is known of all iterations, and the state of the optimizers."""
    G, D = build_models(config)
    steps = kind(config, G, D)
    record = [
        steps.epoch(images, image_order(config, epoch, 40).split(16), noise(config, epoch), mixing(config, epoch))
        for epoch in range(1, config.epochs + 1)
    ]
    steps.raw_G = G  # beside the mean of its weights
    return steps.average, D, torch.cat(record, dim=1), steps


@each_case
def test_it_is_trained_by_the_plain_step_or_by_one_that_does_the_same(case, images):
    config = tiny(case)
    G, D, record, steps = one_run(PlainStep, config, images)
    events = list(train(config, images))
    assert supports(config, PlainStep) == (case in FAST)
    losses = np.concatenate([end.generator_losses for end in ends(events)])
    if case not in FAST:
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


@each_case
@pytest.mark.parametrize("kinds", [(PlainStep, FastStep), (FastStep, PlainStep)])
def test_either_step_resumes_from_the_others_state(case, kinds, images):
    """A training may be cut off and resumed by a program whose loss, say, is another."""
    if case not in FAST:
        return
    config = tiny(case, epochs=1)
    _, D, _, steps = one_run(kinds[0], config, images)
    G = steps.raw_G
    other_G, other_D = build_models(config)
    other_G.load_state_dict(G.state_dict())
    other_D.load_state_dict(D.state_dict())
    others = kinds[1](config, other_G, other_D)
    others.load_optimizer_state(steps.optimizer_state())
    for each in (steps, others):
        each.epoch(images, image_order(config, 2, 40).split(16), noise(config, 2), mixing(config, 2))
    torch.testing.assert_close(weights(G), weights(other_G), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weights(D), weights(other_D), rtol=1e-3, atol=1e-5)


def straight_line(config, images, make_optimizer, losses, slope=None):
    """The step as it is described, one thing after another; the last G's weights, and the losses of D and of G.

    losses: what a real image, a generated one, and G cost, of D's output; and the penalty's kind. slope: of the mlp's
    leaky ReLUs, which is then written out.
    """
    G, D = build_models(config)
    if slope:
        made = (
            nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(slope), nn.Linear(8, 784), nn.Tanh()),
            nn.Sequential(nn.Linear(784, 8), nn.LeakyReLU(slope), nn.Linear(8, 1)),
        )
        for mine, given in zip(made, (G, D), strict=True):
            for parameter, start in zip(mine.parameters(), given.parameters(), strict=True):
                parameter.data.copy_(start.data)
        G, D = made
        images = images.flatten(1)
    real_loss, fake_loss, loss_of_G, penalty = losses
    G_optimizer = make_optimizer(G.parameters(), lr=config.learning_rate)
    D_optimizer = make_optimizer(D.parameters(), lr=config.discriminator_learning_rate or config.learning_rate)
    mean = [p.detach().clone() for p in G.parameters()]
    k, s, seen = config.discriminator_steps, config.label_smoothing, []
    for epoch in range(1, config.epochs + 1):
        batches = iter(image_order(config, epoch, 40).split(16))
        for z, epsilon in zip(noise(config, epoch), mixing(config, epoch), strict=False):
            D_losses = []
            for batch, z_D, e in zip(islice(batches, k), z, epsilon, strict=False):
                n = len(batch)
                x = (images[batch].float() / 255 - 0.5) / 0.5
                fake = G(z_D[:n]).detach()
                real_output, fake_output = D(x), D(fake)
                loss = (1 - s) * real_loss(real_output).mean() + s * fake_loss(real_output).mean()
                loss = loss + fake_loss(fake_output).mean()
                if config.gradient_penalty:
                    share = e[:n].view(-1, 1, 1, 1)
                    at = (share * x + (1 - share) * fake if penalty == "WGAN-GP" else x).requires_grad_()
                    (slopes,) = torch.autograd.grad(D(at).sum(), at, create_graph=True)
                    norms = slopes.reshape(n, -1).norm(2, dim=1)
                    of_norm = (norms - 1) ** 2 if penalty == "WGAN-GP" else norms**2 / 2
                    loss = loss + config.gradient_penalty * of_norm.mean()
                D_optimizer.zero_grad()
                loss.backward()
                D_optimizer.step()
                D_losses.append(loss.item())
            if not D_losses:
                break
            G_loss = loss_of_G(D(G(z[k][:n]))).mean()
            G_optimizer.zero_grad()
            G_loss.backward()
            G_optimizer.step()
            for average, p in zip(mean, G.parameters(), strict=True):
                average.mul_(config.ema).add_((1 - config.ema) * p.detach())
            seen.append([np.mean(D_losses), G_loss.item()])
    return torch.cat([p.flatten() for p in mean]), np.array(seen).T


softplus, relu = nn.functional.softplus, nn.functional.relu
LOSSES = {
    "non-saturating": (lambda f: softplus(-f), softplus, lambda f: softplus(-f), "R1"),
    "minimax": (lambda f: softplus(-f), softplus, lambda f: -softplus(f), "R1"),
    "least-squares": (lambda f: (f - 1) ** 2 / 2, lambda f: f**2 / 2, lambda f: (f - 1) ** 2 / 2, "R1"),
    "hinge": (lambda f: relu(1 - f), lambda f: relu(1 + f), lambda f: -f, "R1"),
    "wasserstein": (lambda f: -f, lambda f: f, lambda f: -f, "WGAN-GP"),
    "shannon": (lambda f: softplus(-f) - log(2), lambda f: softplus(f) - log(2), lambda f: softplus(-f) - log(2), "R1"),
}


SGD, RMSPROP, ADAM, ADAMW = torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam, torch.optim.AdamW
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
    "nadam": torch.optim.NAdam,
}
RATES = {"sgd": 0.01, "momentum": 0.01, "heavy": 0.01, "decaying-sgd": 0.01}


def expected_of(config):
    """What trains where these entries are chosen: the optimizer, the losses, the mlp's slope."""
    make = EXPECTED_OPTIMIZER.get(config.optimizer, SGD)
    if config.weight_decay and config.optimizer in ("sgd", "adam"):
        make = partial(make, weight_decay=config.weight_decay)
    plain = config.network in ("mlp", "steep") and not (config.spectral_norm or config.gradient_penalty)
    return make, LOSSES[config.objective], (0.5 if config.network == "steep" else 0.2) if plain else None


# Of which config each of these is a change that has to show.
USUAL = {
    **{key: {"optimizer": "sgd"} for key in ("momentum", "heavy", "decaying-sgd")},
    **{key: {"optimizer": "rmsprop"} for key in ("moving", "centered", "slow")},
    **{key: {"optimizer": "adam"} for key in ("half", "radford", "amsgrad", "nadam")},
    "decaying": {"optimizer": "adamw"}, "steep": {"network": "mlp"}, "least-squares": {"objective": "non-saturating"},
    "hinge": {"objective": "non-saturating"}, "minimax": {"objective": "non-saturating"},
    "wasserstein": {"gradient_penalty": 0.0, "spectral_norm": True},
    **{name: {field: FIELDS[field].default for field in its if field in ("label_smoothing", "discriminator_steps", "ema")}
       | {field: 0.0 for field in its if field in ("weight_decay", "gradient_penalty")}
       | {field: 0.05 for field in its if field == "discriminator_learning_rate"}
       | {field: False for field in its if field == "spectral_norm"} for name, its in OPTIONS.items()},
}  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("network-deep", "colour-mlp"))])
def test_what_is_chosen_is_what_trains(case, images):
    rate = RATES.get(CASES[case].get("optimizer", "sgd"), 1e-3)
    config = tiny(case, learning_rate=rate, epochs=2 if "dcgan" in case else 4)
    events = list(train(config, images))
    found = weights(events[-1].generator)
    way = found - weights(build_models(config)[0])
    expected, losses = straight_line(config, images, *expected_of(config))
    assert (found - expected).norm() < 0.02 * way.norm()
    for ours, theirs in zip(("discriminator_losses", "generator_losses"), losses, strict=True):
        np.testing.assert_allclose(
            np.concatenate([getattr(end, ours) for end in ends(events)]), theirs, rtol=2e-3, atol=1e-4
        )
    name = case.partition("-")[2]
    if name in USUAL:
        usual = tiny(case, **{"learning_rate": rate, "epochs": config.epochs, **USUAL[name]})
        assert (found - straight_line(usual, images, *expected_of(usual))[0]).norm() > 2 * (found - expected).norm()


# What somebody might write into losses.py: the fast step must not go on with what it knows.
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("non-saturating", {"real_loss": lambda p: 0.999 * taken_for_real(p)}),
        ("non-saturating", {"generator_loss": lambda p: (1 - p).log()}),
        ("non-saturating", {"generator_loss": lambda p: taken_for_real(p.clamp(min=1e-8))}),
        ("non-saturating", {"generator_loss": lambda p: -p.log().clamp(min=-50)}),
        ("non-saturating", {"fake_loss": lambda p: p}),
        ("non-saturating", {"generator_loss": lambda p: 1 / 0}),
        ("minimax", {"generator_loss": taken_for_real}),
        ("least-squares", {"real_loss": lambda f: (f - 0.9) ** 2 / 2}),
        ("least-squares", {"fake_loss": lambda f: f**2}),
        ("hinge", {"real_loss": lambda f: (0.5 - f).relu()}),
        ("hinge", {"generator_loss": lambda f: (1 - f).relu()}),
        ("hinge", {"probability": True}),
    ],
)
def test_a_changed_objective_is_never_without_effect(name, change, monkeypatch):
    config = tiny(objective=name)
    assert supports(config, PlainStep)
    monkeypatch.setitem(OBJECTIVES, name, OBJECTIVES[name]._replace(**change))
    assert not supports(config, PlainStep)


@pytest.mark.parametrize("slope", [0.19, 0.21])
def test_changed_layers_are_never_without_effect(slope, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mlp", leaky(slope))
    assert not supports(tiny(), PlainStep)


def test_a_changed_step_is_never_without_effect():
    class TwiceD(PlainStep):
        def _step(self, batches, z, mix):
            super()._step(batches, z, mix)
            return super()._step(batches, z, mix)

    assert not supports(tiny(), TwiceD)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_fast_step_is_asked_with_the_whole_config(optimizer):
    config = RunConfig(optimizer=optimizer)
    assert supports(config, PlainStep)
    assert supports(dataclasses.replace(config, z_dim=1, hidden_dim=1, batch_size=1, seed=7), PlainStep)
    assert not supports(dataclasses.replace(config, device="cuda"), PlainStep)
    for other in ({"network": "deep"}, {"objective": "shannon"}, {"discriminator_steps": 2}, {"gradient_penalty": 1.0}):
        assert not supports(dataclasses.replace(config, **other), PlainStep)


def test_an_optimizer_unknown_to_the_fast_step_is_not_its_business(monkeypatch):
    monkeypatch.delitem(fast_mlp.KNOWN_OPTIONS, "Adam")
    assert not supports(tiny(optimizer="adam"), PlainStep)
    assert supports(tiny(optimizer="adamw"), PlainStep)
