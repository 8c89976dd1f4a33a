import numpy as np
import pytest
import torch

from gan_core.config import RunConfig
from gan_core.errors import NonFiniteLossError, UserError
from gan_core.events import EpochEnd, Reached, Samples, Trained
from gan_core.networks import build_models
from gan_core.training import fixed_noise, generate, image_order, noise, refuse_non_finite, sample_epochs, train


def tiny(**settings):
    return RunConfig(**{"dataset": "digits", "z_dim": 5, "hidden_dim": 8, "batch_size": 16, "epochs": 2, **settings})


def images_of(n, seed=0):
    return torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_events_come_in_order():
    events = list(train(tiny(epochs=3), images_of(40)))
    assert [(type(event), getattr(event, "epoch", None)) for event in events] == [
        (Samples, 0),
        (EpochEnd, 1), (Reached, 1), (Samples, 1),
        (EpochEnd, 2), (Reached, 2), (Samples, 2),
        (EpochEnd, 3), (Reached, 3), (Samples, 3),
        (Trained, None),
    ]  # fmt: skip
    for end in of_kind(events, EpochEnd):
        assert end.images == 40
        for figures in (end.discriminator_losses, end.generator_losses, end.real_scores, end.fake_scores):
            assert figures.shape == (3,)
            assert figures.dtype == np.float32
        assert 0 < end.seconds < 60
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


OTHERS = {"optimizer": "adam", "learning_rate": 0.02, "z_dim": 6, "hidden_dim": 9, "batch_size": 15, "seed": 1}


@pytest.mark.parametrize("field", OTHERS)
def test_every_setting_reaches_the_training(field):
    first, second = (
        of_kind(train(tiny(**{"learning_rate": 0.01, **settings}), images_of(64)), EpochEnd)[-1]
        for settings in ({}, {field: OTHERS[field]})
    )
    assert not np.array_equal(first.generator_losses, second.generator_losses)


def test_the_order_is_a_permutation_of_its_own_for_each_epoch():
    order = image_order(tiny(), 1, 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, image_order(tiny(), 2, 1000))


def test_noise_is_of_its_own_for_each_half_and_epoch():
    one = next(noise(tiny(), 1))
    assert one.shape == (2, 16, 5)
    assert not torch.equal(one, next(noise(tiny(), 2)))
    assert not torch.equal(one[0], one[1])


def test_what_is_drawn_stays_what_it_is():
    """A change here would change every result for a given seed. These shapes show how much is drawn at once."""
    small = noise(tiny(z_dim=1, batch_size=1), 1)
    draws = torch.stack([next(small) for _ in range(70)]).flatten()[[0, 63, 64, 65, 127, 128, 139]]
    expected = [-0.5237, -0.3639, 1.1839, 0.4572, 1.2258, 0.1187, 1.5364]
    assert draws.tolist() == pytest.approx(expected, abs=1e-4)
    odd = noise(tiny(z_dim=5, batch_size=3, seed=4), 2)
    draws = torch.stack([next(odd) for _ in range(34)]).flatten(1)[[0, 0, 31, 32, 33], [0, 29, 29, 0, 29]]
    assert draws.tolist() == pytest.approx([0.3635, 0.4004, -0.2348, -0.2177, -0.8459], abs=1e-4)
    assert fixed_noise(3).flatten()[[0, 7, 191]].tolist() == pytest.approx([-0.2766, -0.6923, -0.0766], abs=1e-4)
    assert image_order(RunConfig(seed=3), 2, 9).tolist() == [7, 8, 6, 4, 5, 1, 3, 2, 0]


def test_noise_is_standard_normal_and_never_repeats():
    steps = [step for step, _ in zip(noise(RunConfig(), 1), range(100), strict=False)]
    draws = torch.stack(steps)
    assert draws.mean().abs() < 0.005  # 1.28 million draws: five standard errors
    assert (draws.std() - 1).abs() < 0.005
    assert len({step.sum().item() for step in steps}) == 100


def test_sample_sheets_are_of_one_z_for_all_seeds():
    assert torch.equal(fixed_noise(20), fixed_noise(20))
    G = build_models(tiny())[0]
    assert torch.equal(of_kind(train(tiny(epochs=1), images_of(16)), Samples)[0].images, generate(G, fixed_noise(5)))


@pytest.mark.parametrize(
    ("epochs", "due"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (5, [1, 2, 3, 4, 5]),
        (6, [1, 2, 3, 4, 5, 6]),
        (25, [1, 2, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25]),
        (100, [1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
        (1234, [1, 2, 5, 124, 247, 371, 494, 617, 741, 864, 988, 1111, 1234]),
    ],
)
def test_sheets_are_made_over_the_course_of_training(epochs, due):
    assert sorted(sample_epochs(epochs)) == due


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([(0, 2, "nan"), (1, 4, "inf")], "the loss of the discriminator is nan at epoch 7, iteration 3;"),
        ([(0, 4, "nan"), (1, 0, "-inf")], "the loss of the generator is -inf at epoch 7, iteration 1;"),
        ([(1, 4, "inf")], "the loss of the generator is inf at epoch 7, iteration 5;"),
        (
            [(2, 0, "nan"), (3, 1, "nan"), (0, 1, "inf")],
            "the loss of the discriminator is inf at epoch 7, iteration 2;",
        ),
    ],
)
def test_the_first_loss_that_is_not_finite_is_named(bad, said):
    record = torch.zeros(4, 5)
    for row, step, value in bad:
        record[row, step] = float(value)
    with pytest.raises(NonFiniteLossError) as raised:
        refuse_non_finite(7, record)
    assert str(raised.value) == f"{said} a smaller learning rate may help"


def test_only_losses_have_to_be_finite():
    refuse_non_finite(7, torch.tensor([[0.0, 1e38], [-1e38, 100.0], [float("nan")] * 2, [float("inf")] * 2]))


def test_a_loss_that_is_not_finite_ends_the_run_after_its_epoch_is_told():
    events = []
    with pytest.raises(NonFiniteLossError, match=r"the loss of the \w+ is \S+ at epoch 1, iteration \d"):
        events.extend(train(tiny(learning_rate=1e30), images_of(160)))
    # extend() keeps what came before the exception
    assert [type(event) for event in events] == [Samples, EpochEnd]


def test_a_collapsed_run_goes_on_at_the_clamp():
    images = torch.zeros(640, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 4:24, 10:18] = 255
    ends = of_kind(train(RunConfig(dataset="digits", learning_rate=30.0, epochs=3), images), EpochEnd)
    assert len(ends) == 3
    assert ends[-1].generator_losses[-1] in (0, 100)


def test_a_batch_larger_than_the_images_is_refused():
    with pytest.raises(UserError, match="batch_size should be at most 15, the number of images, got 16"):
        next(train(tiny(), images_of(15)))
    (end,) = of_kind(train(tiny(epochs=1), images_of(16)), EpochEnd)
    assert end.generator_losses.shape == (1,)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: nothing to refuse")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="finds no GPU"):
        next(train(tiny(device="cuda"), images_of(16)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same_to_rounding():
    on_cpu, on_gpu = (
        of_kind(train(tiny(learning_rate=0.01, device=device), images_of(69)), EpochEnd) for device in ("cpu", "cuda")
    )
    for one, other in zip(on_cpu, on_gpu, strict=True):
        np.testing.assert_allclose(one.generator_losses, other.generator_losses, rtol=1e-3)


def test_to_stop_iterating_stops_the_training():
    run = train(tiny(epochs=1_000_000), images_of(16))
    assert isinstance(next(run), Samples)
    assert isinstance(next(run), EpochEnd)
    run.close()
