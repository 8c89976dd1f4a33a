import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from gan_core.config import RunConfig
from gan_core.errors import NonFiniteLossError, UserError
from gan_core.events import EpochEnd, Reached, Samples, Trained
from gan_core.networks import build_models
from gan_core.optimizers import OPTIMIZERS
from gan_core.training import PlainStep, fixed_noise, generate, image_order, noise, sample_epochs, train


def tiny(**settings):
    return RunConfig(
        **{"dataset": "digits", "z_dim": 5, "hidden_dim": 8, "batch_size": 16, "epochs": 2, **settings}
    )


def images_of(n, seed=0):
    return torch.randint(
        0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def weights(G):
    return torch.cat([parameter.detach().flatten() for parameter in G.parameters()])


def straight_line_reference(config, images):
    """The report's loop as it describes it: plain modules, BCELoss against labels N×1, one at a time."""
    G0, D0 = build_models(config)
    G = nn.Sequential(
        nn.Linear(config.z_dim, config.hidden_dim),
        nn.LeakyReLU(0.2),
        nn.Linear(config.hidden_dim, 784),
        nn.Tanh(),
    )
    D = nn.Sequential(
        nn.Linear(784, config.hidden_dim), nn.LeakyReLU(0.2), nn.Linear(config.hidden_dim, 1), nn.Sigmoid()
    )
    for mine, given in ((G, G0), (D, D0)):
        for parameter, start in zip(mine.parameters(), given.parameters(), strict=True):
            parameter.data.copy_(start.data)
    kind = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    G_optimizer = kind[config.optimizer](G.parameters(), lr=config.learning_rate)
    D_optimizer = kind[config.optimizer](D.parameters(), lr=config.learning_rate)
    criterion = nn.BCELoss()
    G_losses, D_losses = [], []
    for epoch in range(1, config.epochs + 1):
        draws = noise(config, epoch)
        for batch in image_order(config.seed, epoch, len(images)).split(config.batch_size):
            n = len(batch)
            z_D, z_G = next(draws)
            x = (images[batch].reshape(n, 784).float() / 255 - 0.5) / 0.5
            ones, zeros = torch.ones(n, 1), torch.zeros(n, 1)

            D_optimizer.zero_grad()
            D_loss = criterion(D(x), ones) + criterion(D(G(z_D[:n]).detach()), zeros)
            D_loss.backward()
            D_optimizer.step()

            G_optimizer.zero_grad()
            G_loss = criterion(D(G(z_G[:n])), ones)
            G_loss.backward()
            G_optimizer.step()
            D_losses.append(D_loss.item())
            G_losses.append(G_loss.item())
    return G, D_losses, G_losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_step_is_the_reports(optimizer):
    config = tiny(optimizer=optimizer, learning_rate=0.01 if optimizer == "sgd" else 1e-3)
    images = images_of(16 * 4 + 5)  # the last batch is smaller
    G, D_losses, G_losses = straight_line_reference(config, images)
    events = list(train(config, images))
    ends = of_kind(events, EpochEnd)
    np.testing.assert_allclose(
        np.concatenate([end.discriminator_losses for end in ends]), D_losses, rtol=1e-4
    )
    np.testing.assert_allclose(np.concatenate([end.generator_losses for end in ends]), G_losses, rtol=1e-4)
    torch.testing.assert_close(weights(events[-1].generator), weights(G), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights(G), weights(build_models(config)[0]), atol=1e-3)  # it has moved


def test_events_come_in_order():
    events = list(train(tiny(epochs=3), images_of(40)))
    assert [(type(event), getattr(event, "epoch", None)) for event in events] == [
        (Samples, 0),
        (EpochEnd, 1), (Reached, None), (Samples, 1),
        (EpochEnd, 2), (Reached, None), (Samples, 2),
        (EpochEnd, 3), (Reached, None), (Samples, 3),
        (Trained, None),
    ]  # fmt: skip
    for end in of_kind(events, EpochEnd):
        assert end.images == 40
        for figures in (end.discriminator_losses, end.generator_losses, end.real_scores, end.fake_scores):
            assert figures.shape == (3,)
            assert figures.dtype == np.float32
        assert end.seconds > 0
    sheet = of_kind(events, Samples)[0].images
    assert sheet.shape == (64, 1, 28, 28)
    assert sheet.dtype == torch.uint8


def test_metrics_are_means_and_spreads_of_the_iterations():
    end = of_kind(train(tiny(epochs=1), images_of(40)), EpochEnd)[0]
    metrics = end.metrics()
    assert metrics["loss/generator"] == pytest.approx(sum(end.generator_losses) / 3)
    assert metrics["loss_std/generator"] == pytest.approx(np.std(end.generator_losses), rel=1e-5)
    assert metrics["score/real"] == pytest.approx(sum(end.real_scores) / 3)
    assert metrics["time/images_per_second"] == pytest.approx(40 / end.seconds)
    assert sorted(metrics) == [
        "loss/discriminator", "loss/generator", "loss_std/discriminator", "loss_std/generator",
        "score/fake", "score/real", "time/epoch_seconds", "time/images_per_second",
    ]  # fmt: skip


def test_the_same_config_gives_the_same_bits(digits):
    def digest(config):
        G = list(train(config, digits.images))[-1].generator
        return hashlib.sha256(weights(G).numpy().tobytes()).hexdigest()

    config = RunConfig(dataset="digits", optimizer="adam", epochs=2)
    assert digest(config) == digest(config)
    assert digest(config) != digest(RunConfig(dataset="digits", optimizer="adam", epochs=2, seed=1))


def test_what_else_draws_by_chance_does_not_matter():
    config, images = tiny(), images_of(40)
    torch.manual_seed(1)
    first = list(train(config, images))[-1]
    torch.manual_seed(2)
    events = []
    for event in train(config, images):
        torch.rand(3)
        events.append(event)
    assert torch.equal(weights(first.generator), weights(events[-1].generator))


@pytest.mark.parametrize(
    ("field", "one", "other"),
    [
        ("optimizer", "sgd", "adam"),
        ("learning_rate", 0.01, 0.02),
        ("z_dim", 5, 6),
        ("hidden_dim", 8, 9),
        ("batch_size", 16, 15),
        ("seed", 0, 1),
    ],
)
def test_every_setting_reaches_the_training(field, one, other):
    images = images_of(64)
    first, second = (
        of_kind(train(tiny(**{"learning_rate": 0.01, field: value}), images), EpochEnd)[-1]
        for value in (one, other)
    )
    assert not np.array_equal(first.generator_losses, second.generator_losses)


def test_the_order_of_images_depends_on_the_seed_and_the_epoch_alone():
    order = image_order(0, 1, 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, image_order(0, 1, 1000))
    assert not torch.equal(order, image_order(0, 2, 1000))
    assert not torch.equal(order, image_order(1, 1, 1000))


def test_noise_is_the_same_for_a_z_dim_whatever_the_optimizer():
    one = next(noise(tiny(optimizer="sgd"), 1))
    assert one.shape == (2, 16, 5)
    assert torch.equal(one, next(noise(tiny(optimizer="adam"), 1)))
    assert not torch.equal(one, next(noise(tiny(), 2)))
    assert not torch.equal(one, next(noise(tiny(seed=1), 1)))
    assert not torch.equal(one[0], one[1])


def test_noise_is_standard_normal_and_never_repeats():
    steps = [step for step, _ in zip(noise(RunConfig(), 1), range(100), strict=False)]
    draws = torch.stack(steps)
    assert draws.mean().abs() < 0.005  # 1.28 million draws: five standard errors
    assert (draws.std() - 1).abs() < 0.005
    assert len({step.sum().item() for step in steps}) == 100


def test_sample_sheets_are_of_one_z_for_all_seeds():
    assert torch.equal(fixed_noise(20), fixed_noise(20))
    G = build_models(tiny())[0]
    assert torch.equal(
        of_kind(train(tiny(epochs=1), images_of(16)), Samples)[0].images, generate(G, fixed_noise(5))
    )


def test_sheets_are_made_over_the_course_of_training():
    assert sorted(sample_epochs(100)) == [1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert sorted(sample_epochs(1)) == [1]
    assert sorted(sample_epochs(3)) == [1, 2, 3]
    for epochs in range(1, 200):
        assert max(sample_epochs(epochs)) == epochs
        assert min(sample_epochs(epochs)) >= 1


def test_a_loss_that_is_not_finite_ends_the_run_after_its_epoch_is_told():
    events = []
    with pytest.raises(NonFiniteLossError, match=r"the loss of the \w+ is \S+ at epoch 1, iteration \d"):
        events.extend(train(tiny(learning_rate=1e30), images_of(160)))
    # extend() keeps what came before the exception
    assert [type(event) for event in events] == [Samples, EpochEnd]


def test_sgd_at_the_reports_rate_collapses_to_the_clamp_and_goes_on():
    ends = of_kind(train(RunConfig(dataset="digits", learning_rate=30.0, epochs=3), _digit_like()), EpochEnd)
    assert len(ends) == 3
    assert ends[-1].generator_losses[-1] in (0, 100)


def _digit_like():
    images = torch.zeros(640, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 4:24, 10:18] = 255
    return images


def test_a_batch_larger_than_the_images_is_refused():
    with pytest.raises(UserError, match="at most 10"):
        next(train(tiny(), images_of(10)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: nothing to refuse")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="finds no GPU"):
        next(train(tiny(device="cuda"), images_of(16)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same_to_rounding():
    on_cpu, on_gpu = (
        of_kind(train(tiny(learning_rate=0.01, device=device), images_of(69)), EpochEnd)
        for device in ("cpu", "cuda")
    )
    for one, other in zip(on_cpu, on_gpu, strict=True):
        np.testing.assert_allclose(one.generator_losses, other.generator_losses, rtol=1e-3)


def test_to_stop_iterating_stops_the_training():
    run = train(tiny(epochs=1_000_000), images_of(16))
    assert isinstance(next(run), Samples)
    assert isinstance(next(run), EpochEnd)
    run.close()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_goes_on_from_any_epoch_as_if_unbroken(optimizer):
    config, images = tiny(optimizer=optimizer, epochs=5), images_of(40)
    unbroken = list(train(config, images))
    states = []
    for event in train(config, images):
        if isinstance(event, Reached):
            states.append(event.state())
    assert [state.epoch for state in states] == [1, 2, 3, 4, 5]
    for state in states:
        rest = list(train(config, images, state))
        assert [type(event) for event in rest] == [type(event) for event in unbroken[-len(rest) :]]
        assert torch.equal(weights(rest[-1].generator), weights(unbroken[-1].generator))
        later = of_kind(unbroken, EpochEnd)[state.epoch :]
        for ours, theirs in zip(of_kind(rest, EpochEnd), later, strict=True):
            assert np.array_equal(ours.discriminator_losses, theirs.discriminator_losses)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_plain_step_goes_on_as_well(optimizer):
    config, images = tiny(optimizer=optimizer), images_of(40)

    def epoch(step, number):
        step.epoch(images, image_order(0, number, 40).split(16), noise(config, number))

    G, D = build_models(config)
    step = PlainStep(config, G, D)
    epoch(step, 1)
    again_G, again_D = build_models(config)
    again_G.load_state_dict(G.state_dict())
    again_D.load_state_dict(D.state_dict())
    again = PlainStep(config, again_G, again_D)
    again.load_optimizer_state(step.optimizer_state())
    for one in (step, again):
        epoch(one, 2)
    assert torch.equal(weights(G), weights(again_G))
    assert torch.equal(weights(D), weights(again_D))
