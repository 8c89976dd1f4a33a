"""What a run leaves behind as plain files: the folder, the generator's file, the figures."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.events import EpochEnd, Samples, Trained
from gan_core.networks import build_models, load_generator, save_generator
from gan_core.plots import envelope, plot_losses, running_mean, sample_sheet
from gan_core.run_folder import RunFolder
from gan_core.training import fixed_noise, generate, train

CONFIG = RunConfig(dataset="digits", z_dim=5, hidden_dim=8, epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def events(digits):
    return list(train(CONFIG, digits.images[:100]))


@pytest.fixture
def folder(tmp_path, events):
    record = RunFolder(tmp_path / "run", CONFIG, "a run")
    for event in events:
        record.log(event)
    record.close("FINISHED")
    return tmp_path / "run"


def test_a_run_leaves_exactly_these_files(folder):
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "config.json", "generator.safetensors", "losses.npz", "losses.png", "metrics.csv",
        *(f"samples/epoch_000{epoch}.png" for epoch in range(4)), "status.json",
    ]  # fmt: skip


def test_every_iterations_losses_are_there(folder, events):
    ends = [event for event in events if isinstance(event, EpochEnd)]
    with np.load(folder / "losses.npz") as arrays:
        assert np.array_equal(arrays["discriminator"], np.stack([end.discriminator_losses for end in ends]))
        assert np.array_equal(arrays["generator"], np.stack([end.generator_losses for end in ends]))
        assert arrays["generator"].shape == (3, 4)  # epochs × iterations


def test_metrics_are_a_row_an_epoch(folder, events):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    for row, end in zip(rows, ends, strict=True):
        assert {name: float(value) for name, value in row.items() if name != "epoch"} == end.metrics()


def test_the_config_makes_the_run_again(folder):
    settings = json.loads((folder / "config.json").read_text())
    assert settings.pop("config_hash") == CONFIG.config_hash
    assert RunConfig(**settings) == CONFIG


def test_the_generator_comes_back_and_makes_the_last_sheet(folder, events):
    G = load_generator(folder / "generator.safetensors")
    trained = events[-1]
    assert isinstance(trained, Trained)
    z = fixed_noise(5)
    assert torch.equal(G(z), trained.generator(z))
    assert G(z).shape == (64, 1, 28, 28)
    with Image.open(folder / "samples" / "epoch_0003.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(sample_sheet(generate(G, z))))


def test_a_failed_run_keeps_its_reason_and_traceback(tmp_path, events):
    record = RunFolder(tmp_path / "run", CONFIG, "a run")
    record.log(events[1])
    record.close("FAILED", "it broke", "Traceback: …")
    assert json.loads((tmp_path / "run" / "status.json").read_text()) == {
        "status": "FAILED",
        "failure_reason": "it broke",
    }
    assert (tmp_path / "run" / "traceback.txt").read_text() == "Traceback: …"


def test_a_folder_in_use_is_refused_and_left_alone(folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="is not empty"):
        RunFolder(folder, CONFIG, "another")
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the output folder"):
        RunFolder(tmp_path / "file" / "run", CONFIG, "a run")


@pytest.mark.parametrize("content", [b"", b"no generator", b"\x80\x04K\x01.", "cut"])
def test_what_is_no_whole_generator_is_refused(tmp_path, content):
    path = tmp_path / "generator.safetensors"
    with pytest.raises(UserError, match="cannot load"):
        load_generator(path)
    save_generator(build_models(CONFIG)[0], path)
    path.write_bytes(path.read_bytes()[:-10] if content == "cut" else content)
    with pytest.raises(UserError, match="cannot load a generator"):
        load_generator(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_other_peoples_weights_are_refused(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no generator of this project"):
        load_generator(tmp_path / "other.safetensors")


def with_metadata(path, **changes):
    """The generator's file as another program or version might have written it."""
    with safe_open(path, framework="pt") as file:
        about = {**file.metadata(), **changes}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {name: text for name, text in about.items() if text is not None})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "conv"}, "of the network 'conv', which is none of mlp, dcgan: add it to gan_core.architectures"),
        ({"format": "gan-grid generator 2"}, "no generator of this project .format 'gan-grid generator 2'"),
        ({"z_dim": "6"}, "cannot load a generator"),
        ({"z_dim": "many"}, "cannot load a generator"),
        ({"z_dim": '"5"'}, "cannot load a generator"),
        ({"hidden_dim": None}, "cannot load a generator"),
    ],
)
def test_a_generator_that_cannot_be_built_again_is_refused(tmp_path, changes, said):
    path = tmp_path / "generator.safetensors"
    save_generator(build_models(CONFIG)[0], path)
    with_metadata(path, **changes)
    with pytest.raises(UserError, match=said):
        load_generator(path)


def test_a_generator_of_version_0_1_is_of_the_network_that_it_knew(tmp_path):
    path = tmp_path / "generator.safetensors"
    G = build_models(CONFIG)[0]
    save_generator(G, path)
    with_metadata(path, network=None)
    assert torch.equal(load_generator(path)(fixed_noise(5)), G(fixed_noise(5)))


def test_a_sheet_shows_the_images_in_order():
    images = torch.stack([torch.full((1, 28, 28), shade, dtype=torch.uint8) for shade in range(64)])
    sheet = np.asarray(sample_sheet(images))
    assert sheet.shape == (2 * (8 * 30 + 2), 2 * (8 * 30 + 2))
    centres = sheet[2 * (2 + 14) :: 60, 2 * (2 + 14) :: 60]
    assert np.array_equal(centres.ravel(), np.arange(64))


def test_a_sheet_of_images_in_colour_has_their_colours_and_size():
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    images[:, 0], images[:, 1] = torch.arange(64).view(64, 1, 1), 200
    sheet = sample_sheet(images)
    assert (sheet.mode, sheet.size) == ("RGB", (2 * (8 * 34 + 2), 2 * (8 * 34 + 2)))
    centres = np.asarray(sheet)[2 * (2 + 16) :: 68, 2 * (2 + 16) :: 68].reshape(64, 3)
    assert np.array_equal(centres, [(shade, 200, 0) for shade in range(64)])


def test_running_mean_and_envelope():
    values = np.array([1, 2, 3, 4, 8], np.float32)
    np.testing.assert_allclose(running_mean(values, 2), np.convolve(values, [0.5, 0.5], "valid"))
    low, high, at = envelope(values, np.arange(5.0), spans=2)
    assert (low.tolist(), high.tolist(), at.tolist()) == ([1, 3], [2, 8], [0, 2])


def test_the_figure_shows_both_losses(events):
    figure = plot_losses(events, "a run")
    axes = figure.axes[0]
    faint, G_line, _, D_line = axes.lines
    assert (G_line.get_label(), D_line.get_label()) == ("G", "D")
    losses = np.concatenate([event.generator_losses for event in events if isinstance(event, EpochEnd)])
    np.testing.assert_allclose(faint.get_ydata(), losses)  # every iteration
    np.testing.assert_allclose(G_line.get_ydata(), running_mean(losses, 4))
    np.testing.assert_allclose(G_line.get_xdata()[[0, -1]], [1, 3])


def test_the_figure_of_a_long_run_shows_the_envelope_of_its_iterations():
    D_losses, G_losses, *_ = chance = np.random.default_rng(0).random((4, 3000), dtype=np.float32)
    axes = plot_losses([EpochEnd(1, *chance, 1, 1.0)]).axes[0]
    assert [line.get_label() for line in axes.lines] == ["G", "D"]
    for shade, losses in zip(axes.collections, (G_losses, D_losses), strict=True):
        heights = shade.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (losses.min(), losses.max())


def test_samples_before_training_are_epoch_0(folder, events):
    assert isinstance(events[0], Samples)
    with Image.open(folder / "samples" / "epoch_0000.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(sample_sheet(events[0].images)))
