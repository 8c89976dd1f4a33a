"""The training step with its gradients written out: the mathematics of `trainer.PlainStep` in fewer passes.

Beside its matrix products a step costs what is done around them. So here G makes the fakes of both halves in
one product (it does not change in between), nothing is computed that is not used (D's gradients in G's
half), every result goes into a buffer that is kept from step to step, and losses are computed once an epoch,
from D's probabilities. The derivatives of the activations and of the cross-entropy are PyTorch's kernels, the
ones that autograd calls: the clamp at −100 and the lost gradient of a saturated sigmoid come out alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.adam import adam

from gan_core.config import RunConfig
from gan_core.networks import LEAK, PIXELS, Discriminator, Generator
from gan_core.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    load_optimizer_state,
    of_network,
    optimizer_state,
    prefixed,
)

# Autograd's own kernels, which have no public Python name. They take the gradient by the result, and the
# result, and make the gradient by the input.
_leaky_relu_backward: Any = torch.ops.aten.leaky_relu_backward.grad_input
_tanh_backward: Any = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward: Any = torch.ops.aten.sigmoid_backward.grad_input
_cross_entropy_backward: Any = torch.ops.aten.binary_cross_entropy_backward.grad_input
_MEAN = 1  # what reduction="mean" is called in there


class FastStep:
    """Trains G and D, in place, with the losses of `gan_core.losses`."""

    def __init__(self, config: RunConfig, G: Generator, D: Discriminator) -> None:
        """config: the run's; G and D: as `build_models` makes them from it."""
        self._G = _Network(G, config)
        self._D = _Network(D, config)
        self._config = config
        self._buffers: dict[int, _Buffers] = {}  # by the number of real images: the last batch can be smaller

    @torch.inference_mode()
    def epoch(self, images: Tensor, order: Sequence[Tensor], noise: Iterator[Tensor]) -> Tensor:
        """One pass over the images; the same as `PlainStep.epoch`."""
        pixels = images.flatten(1)
        sizes = [len(batch) for batch in order]
        probabilities = torch.empty(3 * sum(sizes), 1)  # a step's stand together: n of x, 2n of its fakes
        steps = torch.split_with_sizes(probabilities, [3 * n for n in sizes])
        for n, batch, z, p in zip(sizes, order, noise, steps, strict=False):
            if n not in self._buffers:
                self._buffers[n] = _Buffers(n, self._config)
            self._step(self._buffers[n], pixels, batch, z[:, :n].reshape(2 * n, -1), p)
        n = sizes[0]
        full = 3 * n * sizes.count(n)
        parts = (probabilities[:full].view(-1, 3, n), probabilities[full:].view(-1, 3, sizes[-1]))
        return torch.cat([_figures(part) for part in parts], dim=1)

    def optimizer_state(self) -> dict[str, Tensor]:
        """The same as `PlainStep.optimizer_state`, all of a network's weights taken as one parameter."""
        return prefixed(G=self._G.optimizer.state(), D=self._D.optimizer.state())

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """The same as `PlainStep.load_optimizer_state`."""
        self._G.optimizer.load(of_network("G", state))
        self._D.optimizer.load(of_network("D", state))

    def _step(self, at: "_Buffers", pixels: Tensor, batch: Tensor, z: Tensor, p: Tensor) -> None:
        """Update D, then G. z: 2n×z_dim, D's half first. p: 3n×1, to hold D(x), D(G(z_D)) and D(G(z_G))."""
        G, D, n = self._G, self._D, at.n
        torch.index_select(pixels, 0, batch, out=at.pixels)
        at.x.copy_(at.pixels).div_(127.5).sub_(1.0)  # to_unit_range
        leaky_relu_(G.first.forward(z, out=at.h_G), LEAK)
        G.second.forward(at.h_G, out=at.fakes)
        np.tanh(at.fakes_numpy, out=at.fakes_numpy)  # as exact as PyTorch's, in a sixth of the time

        half = at.D_half
        self._judge(half, p[: 2 * n])
        D.second.backward(half.d_out, half.h)
        D.first.backward(half.d_h, half.x)
        D.update()

        half = at.G_half
        self._judge(half, p[2 * n :])
        torch.mm(half.d_h, D.first.W, out=at.d_fake)
        _tanh_backward(at.d_fake, half.x, grad_input=at.d_fake)
        h_G = at.h_G[n:]
        torch.mm(at.d_fake, G.second.W, out=at.d_hG)
        _leaky_relu_backward(at.d_hG, h_G, LEAK, True, grad_input=at.d_hG)
        G.second.backward(at.d_fake, h_G)
        G.first.backward(at.d_hG, z[n:])
        G.update()

    def _judge(self, half: "_Half", p: Tensor) -> None:
        """D's probabilities of half.x into p, and the gradients of the half's loss by D's two sums."""
        D = self._D
        leaky_relu_(D.first.forward(half.x, out=half.h), LEAK)
        D.second.forward(half.h, out=p).sigmoid_()
        _cross_entropy_backward(half.weight, p, half.target, None, _MEAN, grad_input=half.d_out)
        _sigmoid_backward(half.d_out, p, grad_input=half.d_out)
        torch.mul(half.d_out, D.second.W, out=half.d_h)
        _leaky_relu_backward(half.d_h, half.h, LEAK, True, grad_input=half.d_h)


class _Layer(NamedTuple):
    """A linear layer, x (rows×in) → x·Wᵀ + b (rows×out)."""

    W: Tensor  # out×in
    b: Tensor
    W_gradient: Tensor
    b_gradient: Tensor
    descent: float | None  # the learning rate, if the layer is to follow its gradient at once

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        return torch.addmm(self.b, x, self.W.t(), out=out)

    def backward(self, d_out: Tensor, x: Tensor) -> None:
        """d_out: the loss's gradient by the layer's result, rows×out."""
        torch.sum(d_out, 0, out=self.b_gradient)
        if self.descent is None:
            torch.mm(d_out.t(), x, out=self.W_gradient)
        else:
            # A product that adds to a matrix is no slower than one that overwrites it: this update is free.
            self.W.addmm_(d_out.t(), x, alpha=-self.descent)
            self.b.sub_(self.b_gradient, alpha=self.descent)


class _Network:
    """The two layers of G or D, and `update`: what their optimizer does once the gradients are there.

    With SGD the layers follow their gradients themselves. For the others all weights lie in one vector and
    their gradients in another, to be updated in one go.
    """

    def __init__(self, module: nn.Module, config: RunConfig) -> None:
        parameters = list(module.parameters())
        weights = nn.Parameter(parameters_to_vector(parameters).detach())
        vector_to_parameters(weights.detach(), parameters)  # from now on views of it
        weights.grad = torch.zeros_like(weights)
        gradients = [torch.empty_like(p) for p in parameters]
        vector_to_parameters(weights.grad, gradients)

        self.optimizer = _optimizer(config, weights)
        self.update, descent = self.optimizer.step, self.optimizer.descent
        W1, b1, W2, b2 = [p.detach() for p in parameters]
        self.first = _Layer(W1, b1, gradients[0], gradients[1], descent)
        self.second = _Layer(W2, b2, gradients[2], gradients[3], descent)


class _Optimizer(Protocol):
    """What takes the step along weights.grad."""

    @property
    def descent(self) -> float | None:
        """The rate at which the layers follow their gradients themselves, if they do."""

    @property
    def step(self) -> Callable[[], object]:
        """What takes the step."""

    def state(self) -> dict[str, Tensor]:
        """Copies of its running tensors."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up such a state."""


def _optimizer(config: RunConfig, weights: nn.Parameter) -> _Optimizer:
    """The run's optimizer of a network's weights.

    The optimizers of most runs are not built as PyTorch's objects: the first such object makes it import its
    compiler, which is 80 MB and seconds in every worker, and of no use here.
    """
    make = OPTIMIZERS[config.optimizer].make
    if make is torch.optim.SGD:
        return _Descent(config.learning_rate)
    if issubclass(make, torch.optim.Adam):
        return _Adam(make, config.learning_rate, weights)
    return _Wrapped(build_optimizer(config, [weights]))


class _Descent:
    """SGD: nothing is left to do, and nothing to remember."""

    def __init__(self, rate: float) -> None:
        self.descent: float | None = rate

    def step(self) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        pass


class _Adam:
    """Adam or AdamW, with their defaults, without the bookkeeping of PyTorch's objects: that takes longer."""

    descent: float | None = None

    def __init__(self, make: type[torch.optim.Adam], rate: float, weights: nn.Parameter) -> None:
        gradient = weights.grad
        assert gradient is not None  # it is written to, never replaced
        self._running = {
            "exp_avg": torch.zeros_like(weights),
            "exp_avg_sq": torch.zeros_like(weights),
            "step": torch.zeros(()),
        }
        default = {name: parameter.default for name, parameter in signature(make).parameters.items()}
        self.step = partial(
            adam,
            params=[weights.detach()],
            grads=[gradient],
            exp_avgs=[self._running["exp_avg"]],
            exp_avg_sqs=[self._running["exp_avg_sq"]],
            max_exp_avg_sqs=[],
            state_steps=[self._running["step"]],
            lr=rate,
            beta1=default["betas"][0],
            beta2=default["betas"][1],
            eps=default["eps"],
            weight_decay=default["weight_decay"],
            decoupled_weight_decay=issubclass(make, torch.optim.AdamW),
            amsgrad=False,
            maximize=False,
            fused=True,
        )

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._running.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._running.items():
                tensor.copy_(state[name])


class _Wrapped:
    """An optimizer of PyTorch's as it is."""

    descent: float | None = None

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.step = optimizer.step

    def state(self) -> dict[str, Tensor]:
        return optimizer_state(self._optimizer)

    def load(self, state: Mapping[str, Tensor]) -> None:
        load_optimizer_state(self._optimizer, state)


class _Half:
    """D's or G's half of a step: the images that D classifiers in it, and what D keeps for the gradients."""

    def __init__(self, x: Tensor, target: Tensor, weight: float, hidden_dim: int) -> None:
        """x: rows×784; target: rows×1, 1 where the loss wants 'real'; weight: of their mean in it."""
        self.x, self.target, self.weight = x, target, torch.tensor(weight)
        self.h = torch.empty(len(x), hidden_dim)
        self.d_h = torch.empty(len(x), hidden_dim)
        self.d_out = torch.empty(len(x), 1)


class _Buffers:
    """The memory of a step with n real images."""

    def __init__(self, n: int, config: RunConfig) -> None:
        self.n = n
        self.pixels = torch.empty(n, PIXELS, dtype=torch.uint8)
        images = torch.empty(3 * n, PIXELS)  # real, fakes of D's half, fakes of G's half
        self.x, self.fakes, self.fakes_numpy = images[:n], images[n:], images[n:].numpy()
        self.h_G = torch.empty(2 * n, config.hidden_dim)
        self.d_fake = torch.empty(n, PIXELS)
        self.d_hG = torch.empty(n, config.hidden_dim)
        target = torch.tensor([1.0, 0.0]).repeat_interleave(n)[:, None]
        # D's loss is the sum of two means over n, so twice the mean over 2n.
        self.D_half = _Half(images[: 2 * n], target, 2.0, config.hidden_dim)
        self.G_half = _Half(images[2 * n :], target[:n], 1.0, config.hidden_dim)


def _figures(probabilities: Tensor) -> Tensor:
    """steps×3×n → 4×steps: the losses of D and G, and the mean scores of real and fake images."""
    real, fake, fooled = probabilities.unbind(1)
    D_losses = _cross_entropy(real.log()) + _cross_entropy(fake.neg().log1p())
    return torch.stack([D_losses, _cross_entropy(fooled.log()), real.mean(dim=1), fake.mean(dim=1)])


def _cross_entropy(log_certainty: Tensor) -> Tensor:
    return -log_certainty.clamp_(min=-100).mean(dim=1)
