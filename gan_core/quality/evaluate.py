"""How good a generator is."""

from gan_core.models import Generator
from gan_core.quality.reference import Reference
from gan_core.quality.scores import Evaluation, evaluation_images, score_images


def evaluate(G: Generator, reference: Reference, quick: bool = False) -> Evaluation:
    """The scores of as many images of G as the reference has test images (for MNIST 10,000).

    They come from evaluation noise which depends on G's z_dim alone and which no training uses, so the
    same weights give the same scores. `quick`: only QUICK_SCORES, whose values are the same.
    """
    images = evaluation_images(G, reference.count)
    return score_images(images, reference.judge.network, reference.real, quick)
