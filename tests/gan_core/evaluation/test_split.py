import pytest
import torch

from gan_core.data import load_images, load_split
from gan_core.errors import UserError


def test_digits_are_split_into_two_that_make_the_whole():
    train, test = load_split("digits", "train"), load_split("digits", "test")
    assert (len(train.images), len(test.images)) == (1198, 599)
    assert test.images.shape[1:] == (1, 28, 28)
    assert (test.images.dtype, test.labels.dtype) == (torch.uint8, torch.int64)
    whole = load_images("digits").images
    assert torch.equal(test.images, whole[::3])
    assert torch.equal(train.images[0::2], whole[1::3])
    assert torch.equal(train.images[1::2], whole[2::3])


def test_both_splits_of_the_digits_have_each_class_in_like_shares():
    train, test = (load_split("digits", split).labels.bincount(minlength=10).double() for split in ("train", "test"))
    assert (train / train.sum() - test / test.sum()).abs().max() < 0.025


def test_labels_belong_to_the_images():
    # The mean zero has a hole where the mean one has its stroke.
    test = load_split("digits", "test")
    centre = [test.images[test.labels == label, 0, 12:16, 13:15].double().mean() for label in (0, 1)]
    assert centre[0] < 60
    assert centre[1] > 180


def test_digest_covers_the_labels():
    assert load_split("digits", "test").digest == load_split("digits", "test").digest
    assert load_split("digits", "test").digest != load_split("digits", "train").digest


@pytest.mark.parametrize(("name", "split", "wrong"), [("digits", "dev", "split"), ("letters", "test", "dataset")])
def test_unknown_names_are_refused(name: str, split: str, wrong: str):
    with pytest.raises(UserError, match=f"{wrong} should be one of"):
        load_split(name, split)


@pytest.mark.slow
def test_mnist():
    train, test = load_split("mnist", "train"), load_split("mnist", "test")
    assert torch.equal(train.images, load_images("mnist").images)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
