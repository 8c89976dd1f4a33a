import pytest
import torch
from torchmetrics.image.inception import InceptionScore

from gan_core.evaluation.class_scores import inception_score


def test_certain_and_even_is_the_number_of_classes():
    certain = torch.eye(10).repeat(7, 1).log()
    assert inception_score(certain) == pytest.approx(10)


def test_one_class_or_no_opinion_is_one():
    assert inception_score(torch.eye(10)[[3] * 8].log()) == pytest.approx(1)
    assert inception_score(torch.full((8, 10), 0.1).log()) == pytest.approx(1)


def test_halves_of_two_classes():
    # Certain of two classes, a quarter and three quarters: exp of the entropy of the shares.
    certain = torch.eye(10)[[0, 1, 1, 1]].log()
    shares = torch.tensor([0.25, 0.75]).double()
    assert inception_score(certain) == pytest.approx((-(shares * shares.log()).sum()).exp().item())


def test_agrees_with_torchmetrics_on_logits():
    logits = 4 * torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert inception_score(logits.log_softmax(dim=1)) == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_nan_is_not_hidden():
    assert torch.tensor(inception_score(torch.full((4, 10), torch.nan))).isnan()
