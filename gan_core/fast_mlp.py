"""The step of `training.PlainStep` for the network "mlp" with its gradients written out: faster.

Beside its matrix products a step costs what is done around them. So here G makes the fakes of both halves in
one product (it does not change in between), nothing is computed that is not used (D's gradients in G's
half), every result goes into a buffer that is kept from step to step, and losses are computed once an epoch,
from D's probabilities. The derivatives of the activations and of the cross-entropy are PyTorch's kernels, the
ones that autograd calls: the clamp at −100 and the lost gradient of a saturated sigmoid come out alike.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gan_core.architectures import LEAK, PIXELS
from gan_core.compat import MEAN, backward_kernels, optimizer_functions
from gan_core.config import RunConfig
from gan_core.networks import build_models
from gan_core.optimizers import OPTIMIZERS

BACKWARD = backward_kernels()
# By optimizer: which of its options are taken into account here.
KNOWN_OPTIONS: dict[str, tuple[str, ...]] = {
    "SGD": ("momentum",),
    "RMSprop": ("momentum", "alpha", "eps", "weight_decay"),
    "Adam": ("betas", "eps", "weight_decay", "fused"),
    "AdamW": ("betas", "eps", "weight_decay", "fused"),
}
# Added to D's logits, they make its probabilities go from 0 over all that matters to 1.
PROBED_LOGITS = (-200.0, -60.0, -28.0, -4.0, 0.0, 8.0, 28.0)


def supports(config: RunConfig, plain: Callable[..., Any]) -> bool:
    """Whether `FastStep` trains this config as `plain` (training.PlainStep) does, to rounding.

    No for what it does not know: a device, an optimizer, an option of one, other layers. And no where the two
    differ when both take steps of a tiny pair, at probabilities of D from 0 to 1: so a change of the
    objective, of the layers or of the plain step is never without effect.
    """
    entry, h, z = OPTIMIZERS[config.optimizer], config.hidden_dim, config.z_dim
    with torch.device("meta"):  # shapes without memory
        shapes = [[tuple(p.shape) for p in module.parameters()] for module in build_models(config)]
    return (
        config.device == "cpu"
        and entry.torch_class in KNOWN_OPTIONS
        and set(entry.options).issubset(KNOWN_OPTIONS[entry.torch_class])
        and shapes == [[(h, z), (h,), (PIXELS, h), (PIXELS,)], [(h, PIXELS), (h,), (1, h), (1,)]]
        and all(_agree(config, plain, logit) for logit in PROBED_LOGITS)
    )


def _agree(config: RunConfig, plain: Callable[..., Any], logit: float) -> bool:
    """Whether both steps take a tiny pair to the same weights, and give the same losses and scores."""
    tiny = dataclasses.replace(
        config, optimizer="sgd", learning_rate=1.0, momentum=0.0, hidden_dim=8, z_dim=2, batch_size=4, seed=0
    )
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8, generator=chance)
    z = torch.randn(2, 2, 4, 2, generator=chance)
    ends = []
    for kind in (partial(plain, make_optimizer=_Descent), FastStep):
        G, D = build_models(tiny)
        parameters = [*G.parameters(), *D.parameters()]
        parameters[-1].data.add_(logit)
        try:
            with torch.random.fork_rng(devices=[]):  # layers may draw from the global generator
                record = kind(tiny, G, D).epoch(images, torch.arange(6).split(4), iter(z))
        except Exception:  # what it is will be seen where the plain step trains
            return False
        ends.append([record, *(p.detach() for p in parameters)])
    return all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(*ends, strict=True))


class _Descent:
    """SGD with rate 1 for the plain step of a probe: PyTorch's own takes seconds to make, see compat.py."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)

    def zero_grad(self) -> None:
        for p in self._parameters:
            p.grad = torch.zeros_like(p)

    def step(self) -> None:
        for p in self._parameters:
            p.data.sub_(p.grad)  # type: ignore[arg-type]  # zero_grad has set it


class FastStep:
    """Trains G and D, in place; only for what `supports` names. Its methods are those of `PlainStep`."""

    def __init__(self, config: RunConfig, G: nn.Module, D: nn.Module) -> None:
        """G, D: as `build_models` makes them."""
        self._G, self._D = _Network("G", G, config), _Network("D", D, config)
        self._running = self._G.running | self._D.running
        self._hidden_dim = config.hidden_dim
        self._buffers: dict[int, _Buffers] = {}  # by the number of real images: the last batch can be smaller

    @torch.inference_mode()
    def epoch(self, images: Tensor, order: Sequence[Tensor], noise: Iterator[Tensor]) -> Tensor:
        """One pass over the images."""
        pixels = images.flatten(1)
        sizes = [len(batch) for batch in order]
        probabilities = torch.empty(3 * sum(sizes), 1)  # a step's stand together: n of x, 2n of its fakes
        steps = torch.split_with_sizes(probabilities, [3 * n for n in sizes])
        for n, batch, z, p in zip(sizes, order, noise, steps, strict=False):
            if n not in self._buffers:
                self._buffers[n] = _Buffers(n, self._hidden_dim)
            self._step(self._buffers[n], pixels, batch, z[:, :n].reshape(2 * n, -1), p)
        n = sizes[0]
        full = 3 * n * sizes.count(n)
        parts = (probabilities[:full].view(-1, 3, n), probabilities[full:].view(-1, 3, sizes[-1]))
        return torch.cat([_record(part) for part in parts], dim=1)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Copies of both optimizers' running tensors, by name."""
        return {name: part.clone() for name, part in self._running.items()}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Set them to what `optimizer_state` gave."""
        for name, part in self._running.items():
            part.copy_(state[name])

    def _step(self, at: "_Buffers", pixels: Tensor, batch: Tensor, z: Tensor, p: Tensor) -> None:
        """Update D, then G. z: 2n×z_dim, D's half first. p: 3n×1, to hold D(x), D(G(z_D)) and D(G(z_G))."""
        G, D, n = self._G, self._D, len(batch)
        torch.index_select(pixels, 0, batch, out=at.pixels)
        at.x.copy_(at.pixels).div_(127.5).sub_(1.0)  # to_unit_range
        leaky_relu_(G.first.forward(z, out=at.h_G), LEAK)
        G.second.forward(at.h_G, out=at.fakes)
        np.tanh(at.fakes_numpy, out=at.fakes_numpy)  # as exact as PyTorch's, in a sixth of the time

        half = at.D_half
        self._classify(half, p[: 2 * n])
        D.second.backward(half.d_out, half.h)
        D.first.backward(half.d_h, half.x)
        D.update()

        half, h_G = at.G_half, at.h_G[n:]
        self._classify(half, p[2 * n :])
        torch.mm(half.d_h, D.first.W, out=at.d_fake)
        BACKWARD.tanh(at.d_fake, half.x, grad_input=at.d_fake)
        torch.mm(at.d_fake, G.second.W, out=at.d_hG)
        BACKWARD.leaky_relu(at.d_hG, h_G, LEAK, True, grad_input=at.d_hG)
        G.second.backward(at.d_fake, h_G)
        G.first.backward(at.d_hG, z[n:])
        G.update()

    def _classify(self, half: "_Half", p: Tensor) -> None:
        """D's probabilities of half.x into p, and the gradients of the half's loss by D's two sums."""
        D = self._D
        leaky_relu_(D.first.forward(half.x, out=half.h), LEAK)
        D.second.forward(half.h, out=p).sigmoid_()
        BACKWARD.binary_cross_entropy(half.weight, p, half.target, None, MEAN, grad_input=half.d_out)
        BACKWARD.sigmoid(half.d_out, p, grad_input=half.d_out)
        torch.mul(half.d_out, D.second.W, out=half.d_h)
        BACKWARD.leaky_relu(half.d_h, half.h, LEAK, True, grad_input=half.d_h)


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

    The weights lie in one vector, their gradients in another. With SGD without momentum the layers
    follow their gradients themselves, and `update` does nothing.
    """

    def __init__(self, name: str, module: nn.Module, config: RunConfig) -> None:
        parameters = list(module.parameters())
        weights = parameters_to_vector(parameters).detach()
        vector_to_parameters(weights, parameters)  # from now on views of it
        gradient, gradients = torch.zeros_like(weights), [torch.empty_like(p) for p in parameters]
        vector_to_parameters(gradient, gradients)
        self.update, kept = _optimizer(config, weights, gradient)
        sizes = [p.numel() for p in parameters]
        self.running = {  # what the optimizer keeps, by the names that PyTorch gives to it
            f"{name}.{number}.{kind}": tensor.split(sizes)[number].view_as(p) if tensor.dim() else tensor
            for kind, tensor in kept.items()
            for number, p in enumerate(parameters)
        }
        W1, b1, W2, b2 = (p.detach() for p in parameters)
        descent = None if kept else config.learning_rate
        self.first = _Layer(W1, b1, gradients[0], gradients[1], descent)
        self.second = _Layer(W2, b2, gradients[2], gradients[3], descent)


def _optimizer(config: RunConfig, weights: Tensor, gradient: Tensor) -> tuple[Callable[[], object], dict[str, Tensor]]:
    """The update of a network's weights, and what it keeps from step to step: nothing for SGD without momentum.

    Not PyTorch's object, whose making takes seconds (see compat.py) and whose bookkeeping slows each step.
    """
    entry = OPTIMIZERS[config.optimizer]
    options = entry.arguments(config.learning_rate, config.momentum)
    step, first, second = torch.zeros(()), torch.zeros_like(weights), torch.zeros_like(weights)
    if entry.torch_class == "SGD" and not options["momentum"]:
        return lambda: None, {}
    if entry.torch_class == "SGD":

        def update_by_momentum() -> None:
            weights.add_(first.mul_(options["momentum"]).add_(gradient), alpha=-config.learning_rate)

        return update_by_momentum, {"momentum_buffer": first}
    adam, rmsprop = optimizer_functions()
    take: dict[str, Any] = {"params": [weights], "grads": [gradient], "state_steps": [step]}
    take |= {"lr": config.learning_rate, "eps": options["eps"], "weight_decay": options["weight_decay"]}
    if entry.torch_class == "RMSprop":
        moves = options["momentum"] > 0
        take |= {"square_avgs": [first], "grad_avgs": [], "momentum_buffer_list": [second] if moves else []}
        update = partial(rmsprop, **take, alpha=options["alpha"], momentum=options["momentum"], centered=False)
        return update, {"step": step, "square_avg": first, **({"momentum_buffer": second} if moves else {})}
    take |= {"exp_avgs": [first], "exp_avg_sqs": [second], "max_exp_avg_sqs": [], "fused": options["fused"]}
    take |= {"beta1": options["betas"][0], "beta2": options["betas"][1], "amsgrad": False, "maximize": False}
    update = partial(adam, **take, decoupled_weight_decay=entry.torch_class == "AdamW")
    return update, {"step": step, "exp_avg": first, "exp_avg_sq": second}


class _Half:
    """D's or G's half of a step: the images that D classifies in it, and what D keeps for the gradients."""

    def __init__(self, x: Tensor, target: Tensor, weight: float, hidden_dim: int) -> None:
        """x: rows×784; target: rows×1, 1 where the loss wants 'real'; weight: of their mean in it."""
        self.x, self.target, self.weight = x, target, torch.tensor(weight)
        self.h = torch.empty(len(x), hidden_dim)
        self.d_h = torch.empty(len(x), hidden_dim)
        self.d_out = torch.empty(len(x), 1)


class _Buffers:
    """The memory of a step with n real images."""

    def __init__(self, n: int, hidden_dim: int) -> None:
        self.pixels = torch.empty(n, PIXELS, dtype=torch.uint8)
        images = torch.empty(3 * n, PIXELS)  # real, fakes of D's half, fakes of G's half
        self.x, self.fakes, self.fakes_numpy = images[:n], images[n:], images[n:].numpy()
        self.h_G = torch.empty(2 * n, hidden_dim)
        self.d_fake = torch.empty(n, PIXELS)
        self.d_hG = torch.empty(n, hidden_dim)
        target = torch.tensor([1.0, 0.0]).repeat_interleave(n)[:, None]
        # D's loss is the sum of two means over n, so twice the mean over 2n.
        self.D_half = _Half(images[: 2 * n], target, 2.0, hidden_dim)
        self.G_half = _Half(images[2 * n :], target[:n], 1.0, hidden_dim)


def _record(probabilities: Tensor) -> Tensor:
    """steps×3×n → 4×steps: the losses of D and G, and the mean scores of real and fake images."""
    real, fake, fooled = probabilities.unbind(1)
    D_losses = _cross_entropy(real.log()) + _cross_entropy(fake.neg().log1p())
    return torch.stack([D_losses, _cross_entropy(fooled.log()), real.mean(dim=1), fake.mean(dim=1)])


def _cross_entropy(log_certainty: Tensor) -> Tensor:
    return -log_certainty.clamp_(min=-100).mean(dim=1)
