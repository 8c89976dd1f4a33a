import dataclasses
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from gan_core import waiting
from gan_core.data import ImageKey, LabelledImages, load_images
from gan_core.errors import UserError
from gan_core.evaluation import PACKAGED
from gan_core.evaluation import train_classifier as module
from gan_core.evaluation.classifier import Classifier, accuracy, extract_features, load_classifier
from gan_core.evaluation.train_classifier import classifier_for, moved, scale_features, train_classifier
from gan_core.networks import to_unit_range
from gan_core.rng import stream

DIGITS = load_images("digits")
TRAIN, TEST = DIGITS.splits["train"], DIGITS.splits["test"]


@pytest.fixture
def trained(short_training, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data sets for which a classifier has been trained, one entry each time."""
    trained: list[str] = []
    really_train = module.train_classifier

    def train_classifier(data, seed=0):
        trained.append(data.name)
        return really_train(data, seed)

    monkeypatch.setattr(module, "train_classifier", train_classifier)
    return trained


@pytest.mark.parametrize(("dataset", "accuracy"), [("mnist", 0.992), ("digits", 0.985)])
def test_the_packaged_classifier_is_what_its_record_says(dataset, accuracy):
    record = json.loads(PACKAGED[dataset].with_suffix(".json").read_text())
    content = PACKAGED[dataset].read_bytes()
    assert record["dataset"] == dataset
    assert len(content) < 1_000_000
    assert hashlib.sha256(content).hexdigest() == record["weights_sha256"]
    assert record["recipe"] == dataclasses.asdict(module.RECIPE)
    assert record["test_accuracy"] >= accuracy


@pytest.mark.parametrize("dataset", ["digits", pytest.param("mnist", marks=pytest.mark.slow)])
def test_the_packaged_classifier_is_as_good_as_its_record_says(dataset):
    data = load_images(dataset)
    classifier = classifier_for(data, Path("/nowhere"))  # needs no cache
    assert accuracy(classifier, data.splits["test"]) == classifier.record["test_accuracy"]


def test_a_classifier_is_trained_once_and_kept(cache: Path, trained, capsys):
    first = classifier_for(DIGITS, cache)
    said = capsys.readouterr().err
    second = classifier_for(DIGITS, cache)
    assert trained == ["digits"]
    assert said.startswith("training a classifier for digits, once")
    assert f"{first.record['test_accuracy']:.2%} of 599 test images right" in said
    assert second.record == first.record
    assert all(map(torch.equal, extract_features(first, TEST.images), extract_features(second, TEST.images)))
    assert accuracy(second, TEST) == first.record["test_accuracy"]


def test_training_is_the_same_each_time_and_leaves_the_global_generator_alone(short_training):
    torch.manual_seed(1)
    one = module.train_classifier(DIGITS)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    other, different = module.train_classifier(DIGITS), module.train_classifier(DIGITS, seed=1)
    assert torch.equal(one.head.weight, other.head.weight)
    assert not torch.equal(one.head.weight, different.head.weight)


def test_a_set_smaller_than_a_batch_trains_no_classifier():
    few = dataclasses.replace(DIGITS, splits={"train": TRAIN._replace(images=TRAIN.images[:127]), "test": TEST})
    with pytest.raises(UserError, match="needs at least 128 training images, digits has 127"):
        module.train_classifier(few)


def test_several_at_once_train_one(cache: Path, trained):
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(classifier_for, [DIGITS] * 4, [cache] * 4)
        assert len({classifier.record["weights_sha256"] for classifier in found}) == 1
    assert trained == ["digits"]


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_a_damaged_classifier_is_trained_again(cache: Path, trained, ending: str):
    before = classifier_for(DIGITS, cache)
    (kept,) = cache.glob(f"classifier-digits-*{ending}")
    kept.write_bytes(kept.read_bytes()[:-9])
    after = classifier_for(DIGITS, cache)
    assert trained == ["digits", "digits"]
    assert after.record["weights_sha256"] == before.record["weights_sha256"]
    assert not list(cache.glob(".*"))  # nothing half-written is left behind


def test_another_recipe_or_other_images_are_another_classifier(cache: Path, trained, monkeypatch):
    classifier_for(DIGITS, cache)
    other = TEST._replace(labels=TEST.labels.flip(0))
    classifier_for(dataclasses.replace(DIGITS, splits={"train": TRAIN, "test": other}), cache)
    monkeypatch.setattr(module, "RECIPE", dataclasses.replace(module.RECIPE, shift=1))
    classifier_for(DIGITS, cache)
    assert len(trained) == 3


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, short_training):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    with pytest.raises(UserError, match="cannot keep the classifier of digits in"):
        classifier_for(DIGITS, blocked / "cache")


def test_a_damaged_package_is_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGED", {"digits": tmp_path / "gone.safetensors"})
    with pytest.raises(UserError, match="missing or damaged"):
        classifier_for(DIGITS, tmp_path)


def test_features_are_those_of_the_network_in_blocks():
    classifier = load_classifier(PACKAGED["digits"])
    images = TEST.images[:300]  # more than a block
    features, log_probabilities = extract_features(classifier, images)
    expected, logits = classifier(to_unit_range(images))
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(log_probabilities, logits.log_softmax(dim=1))


def test_scaling_the_features_keeps_the_logits():
    torch.manual_seed(0)
    classifier = Classifier({}).requires_grad_(False)
    _, before = extract_features(classifier, TRAIN.images)
    scale_features(classifier, TRAIN.images)
    features, after = extract_features(classifier, TRAIN.images)
    assert features.square().mean().item() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(after, before)


def test_moved_images_are_shifts():
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 14, 10] = 200
    shifted = moved(image.expand(400, -1, -1, -1), stream("test"))
    assert shifted.shape == (400, 1, 28, 28)
    places = {(int(y) - 14, int(x) - 10) for y, x in shifted[:, 0].nonzero()[:, 1:]}
    assert places == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_the_command_writes_a_classifier_that_loads(tmp_path: Path, short_training, capsys):
    out = tmp_path / "mine.safetensors"
    assert module.main(["--dataset", "digits", "--out", str(out), "--seed", "3"]) == 0
    record = load_classifier(out).record
    assert record["command"] == "python -m gan_core.evaluation.train_classifier --dataset digits --seed 3"
    assert f"{record['test_accuracy']:.2%}" in capsys.readouterr().out


def test_the_command_puts_no_new_classifier_into_the_package(capsys):
    assert module.main(["--dataset", "fashion-mnist"]) == 2
    assert "name a file with --out" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (28, 3), (32, 1), (32, 3)])
def test_a_classifier_is_as_its_images_are(tmp_path: Path, shapes, monkeypatch, size, channels):
    monkeypatch.setattr(module, "RECIPE", dataclasses.replace(module.RECIPE, least_steps=150))
    data = load_images(ImageKey(f"folder:{shapes}", size, channels), tmp_path)
    classifier = classifier_for(data, tmp_path / "quality")
    assert (classifier.record["classes"], classifier.record["shape"]) == (2, [channels, size, size])
    assert classifier.record["recipe"]["network"] == "conv 16, conv 32, linear 64, linear 2"
    assert f"--dataset 'folder:{shapes}' --image-size {size} --channels {channels} " in classifier.record["command"]
    assert accuracy(classifier, data.splits["test"]) == classifier.record["test_accuracy"] > 0.9
    features, log_probabilities = extract_features(classifier, data.images)
    assert (features.shape, log_probabilities.shape) == ((len(data.images), 64), (len(data.images), 2))
    (kept,) = (tmp_path / "quality").glob("classifier-my shapes-*.safetensors")
    again = load_classifier(kept)
    assert all(torch.equal(one, other) for one, other in zip(classifier.parameters(), again.parameters(), strict=True))


def test_too_few_test_images_are_refused():
    few = {"train": TRAIN, "test": LabelledImages(*(tensor[:9] for tensor in TEST))}
    with pytest.raises(UserError, match="scores need at least 10 test images, digits has 9"):
        train_classifier(dataclasses.replace(DIGITS, splits=few))


def test_a_long_training_is_told(tmp_path: Path, short_training, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "TELL_EVERY", 0.0)
    monkeypatch.setattr(module, "RECIPE", dataclasses.replace(module.RECIPE, least_steps=18))
    train_classifier(DIGITS)
    told = r"^training a classifier for digits, epochs: 1 of 2, about \d+ s left$"
    assert re.search(told, capsys.readouterr().err, re.M)


def test_the_command_makes_a_folders_classifier(tmp_path: Path, short_training, shapes, capsys):
    out = tmp_path / "mine.safetensors"
    words = ["--dataset", f"folder:{shapes}", "--out", str(out), "--data-dir", str(tmp_path), "--image-size", "32"]
    assert module.main([*words, "--channels", "1"]) == 0
    assert load_classifier(out).record["shape"] == [1, 32, 32]
    assert module.main([*words, "--channels", "2"]) == 2
    assert f"channels of folder:{shapes} is 1 or 3, got 2" in capsys.readouterr().err
