"""What D and G minimise, by the name of the objective; another objective is one more entry.

A loss is a function of D's scores (float32, any shape) and gives one of each score: an objective has one for real
images, one for generated ones, and G's. What a score is, the objective says: the probability that an image is
real, or D's output as it is. PyTorch is imported where it is needed: it takes seconds, and the names are checked
before any training.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    Loss = Callable[[Tensor], Tensor]
    Penalty = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def taken_for_real(p: "Tensor") -> "Tensor":
    """−log p, in nats, of the probability that an image is real.

    The logarithm is clamped at −100 (`torch.nn.BCELoss`), so a D that is certain and wrong costs 100, not
    infinity; there the sigmoid has no gradient left: so a collapsed run shows.
    """
    return _cross_entropy(p, 1.0)


def taken_for_generated(p: "Tensor") -> "Tensor":
    """−log(1 − p), in nats; clamped in the same way."""
    return _cross_entropy(p, 0.0)


def _cross_entropy(p: "Tensor", label: float) -> "Tensor":
    from torch.nn.functional import binary_cross_entropy

    if not p.requires_grad:  # as FastStep records it: quicker, and it may differ in the last bit
        return -(p.log() if label else p.neg().log1p()).clamp(min=-100)
    # PyTorch raises on nan; here nan in is nan out, so that the training can say which loss broke, and when.
    if (unknown := p.isnan()).any():
        return _cross_entropy(p.nan_to_num(), label).where(~unknown, p)
    return binary_cross_entropy(p, p.new_full(p.shape, label), reduction="none")


def unnoticed(p: "Tensor") -> "Tensor":
    """log(1 − p): what D gains is what G loses."""
    return -taken_for_generated(p)


def near_one(score: "Tensor") -> "Tensor":
    """½ (D(x) − 1)²."""
    return (score - 1).square() / 2


def near_zero(score: "Tensor") -> "Tensor":
    """½ D(x)²."""
    return score.square() / 2


def above_one(score: "Tensor") -> "Tensor":
    """max(0, 1 − D(x))."""
    return (1 - score).relu()


def below_minus_one(score: "Tensor") -> "Tensor":
    """max(0, 1 + D(x))."""
    return (1 + score).relu()


def high(score: "Tensor") -> "Tensor":
    """−D(x)."""
    return -score


def low(score: "Tensor") -> "Tensor":
    """D(x)."""
    return score


def r1(D: "nn.Module", x: "Tensor", *_: "Tensor") -> "Tensor":
    """½ ‖∇D(x)‖² at the real images x (n×C×H×W), D's output before any sigmoid: n, to be weighted by γ.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018,
    https://arxiv.org/abs/1801.04406.
    """
    return _gradient(D, x).square().sum(dim=1) / 2


def one_lipschitz(D: "nn.Module", x: "Tensor", fake: "Tensor", share: "Tensor") -> "Tensor":
    """(‖∇D(x̂)‖ − 1)² at points x̂ between real and generated images (n×C×H×W): n, to be weighted by λ.

    share (n): how far each x̂ is on the way from the generated image to the real one, 0 to 1. Gulrajani et al.,
    "Improved Training of Wasserstein GANs", 2017, https://arxiv.org/abs/1704.00028.
    """
    lengths: Tensor = _gradient(D, fake.lerp(x, share.view(-1, 1, 1, 1))).norm(dim=1)
    return (lengths - 1).square()


def _gradient(D: "nn.Module", images: "Tensor") -> "Tensor":
    """∇D(x) for each image, n×(C·H·W), through which one can differentiate once more."""
    import torch

    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


class Objective(NamedTuple):
    """The losses of D and of G, and what goes with them."""

    real_loss: "Loss"  # of D(x)
    fake_loss: "Loss"  # of D(G(z)); D minimises the sum of both means
    generator_loss: "Loss"  # of D(G(z))
    score: str = "D's output, without bounds"  # what `score/real` and `score/fake` are the means of
    probability: bool = False  # whether D's output goes through a sigmoid
    # D is nearly certain where its mean scores are above the first of real images, below the other of generated ones.
    certain: tuple[float, float] | None = None
    labels: bool = False  # whether images have labels, 1 and 0, which can be smoothed
    penalty: "Penalty" = r1  # on D's gradient: of D, real and generated images (n×C×H×W), and n numbers 0..1
    gradient_penalty: float = 0.0  # its weight where none is given

    def smoothed_real_loss(self, score: "Tensor", smoothing: float) -> "Tensor":
        """What real images cost D where a share of each, `smoothing`, counts as generated: a label of 1 − smoothing.

        Salimans et al., "Improved Techniques for Training GANs", 2016, https://arxiv.org/abs/1606.03498.
        """
        loss = self.real_loss(score)
        return (1 - smoothing) * loss + smoothing * self.fake_loss(score) if smoothing else loss


PROBABILITY = "the probability that D gives to an image of being real"
TARGET = "D's output, which aims at 1 for real images and at 0 for generated ones"
MARGIN = "D's output, which aims at 1 or more for real images and at -1 or less for generated ones"
# Adam at 3e-3 has 0.95 and 0.05 with the network "mlp" on MNIST, SGD at 0.03 about 0.7 and 0.3.
CERTAIN = (0.9, 0.1)
CRITIC = "the critic's output, of which only differences mean something: real minus fake estimates a distance"

OBJECTIVES = {
    # Goodfellow et al., "Generative Adversarial Nets", 2014, section 3: https://arxiv.org/abs/1406.2661
    "non-saturating": Objective(
        taken_for_real, taken_for_generated, taken_for_real, PROBABILITY, True, certain=CERTAIN, labels=True
    ),
    # The same, equation 1.
    "minimax": Objective(
        taken_for_real, taken_for_generated, unnoticed, PROBABILITY, True, certain=CERTAIN, labels=True
    ),
    # Mao et al., "Least Squares Generative Adversarial Networks", 2017: https://arxiv.org/abs/1611.04076
    "least-squares": Objective(near_one, near_zero, near_one, TARGET, certain=CERTAIN, labels=True),
    # Lim and Ye, "Geometric GAN", 2017: https://arxiv.org/abs/1705.02894
    # A dcgan's D on MNIST had 1.5 and -1.5 when its loss was a tenth of that of chance. At 1.2 and -1.2 the loss was a
    # quarter of it, and G got better (docs/results.md).
    "hinge": Objective(above_one, below_minus_one, high, MARGIN, certain=(1.5, -1.5)),
    # Arjovsky et al., "Wasserstein GAN", 2017: https://arxiv.org/abs/1701.07875, with the penalty of its successor.
    "wasserstein": Objective(high, low, high, CRITIC, penalty=one_lipschitz, gradient_penalty=10.0),
}
