"""The step of `training.PlainStep` for the network "mlp" with its gradients written out: faster.

Beside its matrix products a step costs what is done around them. So here G makes the fakes of both halves in
one product (it does not change in between), nothing is computed that is not used (D's gradients in G's
half), every result goes into a buffer that is kept from step to step, all between two products is one pass
over the numbers (kernels.py), and losses are computed once an epoch, from D's probabilities.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gan_core import kernels
from gan_core.config import RunConfig
from gan_core.losses import OBJECTIVES
from gan_core.networks import Generator, build_models
from gan_core.optimizers import OPTIMIZERS, SETTABLE

Array = NDArray[Any]
# By optimizer: which of its options are taken into account here.
KNOWN_OPTIONS: dict[str, tuple[str, ...]] = {
    "SGD": ("momentum", "weight_decay"),
    "RMSprop": ("momentum", "alpha", "eps", "weight_decay"),
    "Adam": ("betas", "eps", "weight_decay", "fused"),
    "AdamW": ("betas", "eps", "weight_decay", "fused"),
}
# By objective: what `kernels.slope_of` gives for its loss of real images, of generated ones, and for G's.
SLOPES = {
    "non-saturating": (kernels.TAKEN_FOR_REAL, kernels.TAKEN_FOR_GENERATED, kernels.TAKEN_FOR_REAL),
    "minimax": (kernels.TAKEN_FOR_REAL, kernels.TAKEN_FOR_GENERATED, kernels.UNNOTICED),
    "least-squares": (kernels.NEAR_ONE, kernels.NEAR_ZERO, kernels.NEAR_ONE),
    "hinge": (kernels.ABOVE_ONE, kernels.BELOW_MINUS_ONE, kernels.HIGH),
    "wasserstein": (kernels.HIGH, kernels.LOW, kernels.HIGH),
}
# Added to D's outputs, they make its probabilities go from 0 over all that matters to 1.
PROBED = {True: (-200.0, -60.0, -28.0, -4.0, 0.0, 8.0, 28.0), False: (-3.0, -0.9, 0.0, 0.9, 3.0)}


def supports(config: RunConfig, plain: Callable[..., Any]) -> bool:
    """Whether `FastStep` trains this config as `plain` (training.PlainStep) does, to rounding.

    No for what it does not know: a device, an optimizer, an option of one, other layers. And no where the two
    differ when both take steps of a tiny pair, at probabilities of D from 0 to 1: so a change of the
    objective, of the layers or of the plain step is never without effect.
    """
    entry, h, z, pixels = OPTIMIZERS[config.optimizer], config.hidden_dim, config.z_dim, config.pixels
    with torch.device("meta"):  # shapes without memory
        shapes = [[tuple(p.shape) for p in module.parameters()] for module in build_models(config)]
    return (
        config.device == "cpu"
        and config.objective in SLOPES
        and config.discriminator_steps == 1
        and not config.gradient_penalty
        and entry.torch_class in KNOWN_OPTIONS
        and set(entry.options).issubset(KNOWN_OPTIONS[entry.torch_class])
        and shapes == [[(h, z), (h,), (pixels, h), (pixels,)], [(h, pixels), (h,), (1, h), (1,)]]
        and all(_agree(config, plain, output) for output in PROBED[OBJECTIVES[config.objective].probability])
    )


def _agree(config: RunConfig, plain: Callable[..., Any], output: float) -> bool:
    """Whether both steps take a tiny pair to the same weights, and give the same losses and scores."""
    rate = 1.0 if OBJECTIVES[config.objective].probability else 0.01  # others have no bounds
    plainest: dict[str, Any] = {**dict.fromkeys(SETTABLE), **OPTIMIZERS["sgd"].fields}
    tiny = dataclasses.replace(
        config, **plainest, optimizer="sgd", learning_rate=rate, discriminator_learning_rate=rate,
        hidden_dim=8, z_dim=2, batch_size=4, seed=0,
    )  # fmt: skip
    chance = torch.Generator().manual_seed(0)
    shape = config.channels, config.image_size, config.image_size
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=chance)
    z, mixing = torch.randn(2, 2, 4, 2, generator=chance), torch.rand(2, 1, 4, generator=chance)
    ends = []
    for kind in (partial(plain, make_optimizer=_Descent), FastStep):
        G, D = build_models(tiny)
        parameters = [*G.parameters(), *D.parameters()]
        parameters[-1].data.add_(output)
        try:
            with torch.random.fork_rng(devices=[]):  # layers may draw from the global generator
                record = kind(tiny, G, D).epoch(images, torch.arange(6).split(4), iter(z), iter(mixing))
        except Exception:  # what it is will be seen where the plain step trains
            return False
        ends.append([record, *(p.detach() for p in parameters)])
    return all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(*ends, strict=True))


class _Descent:
    """SGD for the plain step of a probe: to make PyTorch's own takes seconds."""

    def __init__(self, learning_rate: float, parameters: Iterable[nn.Parameter]) -> None:
        self._rate, self._parameters = learning_rate, list(parameters)

    def zero_grad(self) -> None:
        for p in self._parameters:
            p.grad = torch.zeros_like(p)

    def step(self) -> None:
        for p in self._parameters:
            p.data.sub_(p.grad, alpha=self._rate)  # type: ignore[arg-type]  # zero_grad has set it


class FastStep:
    """Trains G and D, in place; only for what `supports` names. Its methods are those of `PlainStep`."""

    def __init__(self, config: RunConfig, G: Generator, D: nn.Module) -> None:
        """G, D: as `build_models` makes them."""
        kernels.prepare()
        self.average = deepcopy(G).requires_grad_(False) if config.ema else G
        self._G, self._D = _Network("G", G, config, self.average), _Network("D", D, config)
        self._objective, self._smoothing = OBJECTIVES[config.objective], config.label_smoothing
        self._of_real, self._of_fake, self._of_G = SLOPES[config.objective]
        self._running = self._G.running | self._D.running
        self._width, self._pixels = config.hidden_dim, config.pixels
        self._buffers: dict[int, _Buffers] = {}  # by the number of real images: the last batch can be smaller

    @torch.inference_mode()
    def epoch(
        self, images: Tensor, order: Sequence[Tensor], noise: Iterator[Tensor], mixing: Iterator[Tensor]
    ) -> Tensor:
        """One pass over the images."""
        pixels = images.flatten(1).numpy()
        sizes = [len(batch) for batch in order]
        scores = torch.empty(3 * sum(sizes))  # a step's stand together: n of x, 2n of its fakes
        steps = np.split(scores.numpy(), np.cumsum([3 * n for n in sizes[:-1]]))
        for n, batch, z, score in zip(sizes, order, noise, steps, strict=False):
            if n not in self._buffers:
                self._buffers[n] = _Buffers(n, self._width, self._pixels)
            self._step(self._buffers[n], pixels, batch.numpy(), z[:, :n].reshape(2 * n, -1), score)
        n = sizes[0]
        full = 3 * n * sizes.count(n)
        parts = (scores[:full].view(-1, 3, n), scores[full:].view(-1, 3, sizes[-1]))
        return torch.cat([self._record(part) for part in parts], dim=1)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Copies of both optimizers' running tensors, by name."""
        return {name: part.clone() for name, part in self._running.items()}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Set them to what `optimizer_state` gave."""
        for name, part in self._running.items():
            part.copy_(state[name])

    def _step(self, at: "_Buffers", pixels: Array, batch: Array, z: Tensor, score: Array) -> None:
        """Update D, then G. z: 2n×z_dim, D's half first. score: 3n, to hold those of x, G(z_D) and G(z_G)."""
        G, D, n = self._G, self._D, len(batch)
        kernels.to_unit_range(pixels, batch, at.x.array)
        torch.mm(z, G.W1.t(), out=at.h.tensor)
        kernels.leaky_relu(at.h.array, G.b1)
        torch.mm(at.h.tensor, G.W2.t(), out=at.fakes.tensor)
        kernels.tanh(at.fakes.array, G.b2)

        # D: minimise its losses of D(x) and D(G(z)), as sums over the batch's mean
        x, h, d_h = at.D_images, at.D_h, at.D_dh
        torch.mm(x.tensor, D.W1.t(), out=h.tensor)
        kernels.classify(
            h.array, D.b1, D.w2, D.b2, n, self._of_real, self._of_fake, self._smoothing,
            score[: 2 * n], d_h.array, at.d_out,
        )  # fmt: skip
        kernels.classifier_gradients(d_h.array, h.array, at.d_out, D.db1, D.dw2, D.db2)
        D.follow(D.W1, D.dW1, d_h.tensor, x.tensor)
        D.update()

        # G: minimise its loss of D(G(z))
        x, h, d_h, d_fakes, d_hG = at.G_images, at.G_h, at.G_dh, at.d_fakes, at.d_hG
        torch.mm(x.tensor, D.W1.t(), out=h.tensor)
        kernels.classify(
            h.array, D.b1, D.w2, D.b2, n, self._of_G, self._of_G, 0.0, score[2 * n :], d_h.array, at.d_out
        )  # fmt: skip
        torch.mm(d_h.tensor, D.W1, out=d_fakes.tensor)
        kernels.tanh_gradient(d_fakes.array, x.array, G.db2)
        torch.mm(d_fakes.tensor, G.W2, out=d_hG.tensor)
        kernels.leaky_relu_gradient(d_hG.array, at.h_G.array, G.db1)
        G.follow(G.W2, G.dW2, d_fakes.tensor, at.h_G.tensor)
        G.follow(G.W1, G.dW1, d_hG.tensor, z[n:])
        G.update()
        G.average()

    def _record(self, scores: Tensor) -> Tensor:
        """steps×3×n → 4×steps: the losses of D and G, and the mean scores of real and fake images."""
        objective = self._objective
        real, fake, fooled = scores.unbind(1)
        real_losses = objective.smoothed_real_loss(real, self._smoothing)
        D_losses = real_losses.mean(dim=1) + objective.fake_loss(fake).mean(dim=1)
        return torch.stack([D_losses, objective.generator_loss(fooled).mean(dim=1), real.mean(dim=1), fake.mean(dim=1)])


class _Network:
    """The two layers of G or D, and `update`: what their optimizer does once the gradients are there.

    The weights lie in one vector, their gradients in another. With SGD without momentum the matrices follow
    their gradients in the product itself. `average` moves the mean of the weights, where there is one.
    """

    def __init__(self, name: str, module: nn.Module, config: RunConfig, average: nn.Module | None = None) -> None:
        parameters = list(module.parameters())
        rate = (config.discriminator_learning_rate if name == "D" else None) or config.learning_rate
        weights = _in_one_vector(module)
        self.average: Callable[[], object] = lambda: None
        if average and average is not module:
            mean = _in_one_vector(average)
            self.average = lambda: mean.lerp_(weights, 1 - config.ema)
        gradient, gradients = torch.zeros_like(weights), [torch.empty_like(p) for p in parameters]
        vector_to_parameters(gradient, gradients)
        self.W1, _, self.W2, _ = (p.detach() for p in parameters)
        self.dW1, _, self.dW2, _ = gradients
        _, self.b1, W2, self.b2 = (p.detach().numpy() for p in parameters)
        _, self.db1, dW2, self.db2 = (g.numpy() for g in gradients)
        self.w2, self.dw2 = W2[0], dW2[0]  # of D, whose second layer is one row
        vectors = [(self.b1, self.db1), (self.b2, self.db2), *([(self.w2, self.dw2)] if name == "D" else [])]
        entry = OPTIMIZERS[config.optimizer]
        options = entry.arguments(rate, dataclasses.asdict(config))
        self.update, kept = _optimizer(entry.torch_class, options, weights.numpy(), gradient.numpy(), vectors)
        sizes = [p.numel() for p in parameters]
        self.running = {  # what the optimizer keeps, by the names that PyTorch gives to it
            f"{name}.{number}.{kind}": tensor.split(sizes)[number].view_as(p) if tensor.dim() else tensor
            for kind, tensor in ((kind, torch.from_numpy(array)) for kind, array in kept.items())
            for number, p in enumerate(parameters)
        }
        self._descent = None if kept else (1 - rate * options["weight_decay"], -rate)

    def follow(self, W: Tensor, gradient: Tensor, d_out: Tensor, x: Tensor) -> None:
        """The gradient by a matrix, of a layer's argument x and of the loss's gradient by its result."""
        if self._descent is None:
            torch.mm(d_out.t(), x, out=gradient)
        else:
            # A product that adds to a matrix is no slower than one that overwrites it: this update is free.
            keep, step = self._descent
            W.addmm_(d_out.t(), x, beta=keep, alpha=step)


def _in_one_vector(module: nn.Module) -> Tensor:
    """Its parameters, which from now on are views of it."""
    parameters = list(module.parameters())
    weights = parameters_to_vector(parameters).detach()
    vector_to_parameters(weights, parameters)
    return weights


def _optimizer(
    name: str, options: Mapping[str, Any], weights: Array, gradient: Array, vectors: Sequence[tuple[Array, Array]]
) -> tuple[Callable[[], object], dict[str, Array]]:
    """The update of a network's weights, and what it keeps from step to step: nothing for SGD without momentum.

    vectors: the weights that are no matrices, each with its gradient.
    """
    rate, decay = options["lr"], options["weight_decay"]
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    if name == "SGD" and not options["momentum"]:
        return lambda: [kernels.descend(*pair, rate, decay) for pair in vectors], {}
    if name == "SGD":
        update = partial(kernels.descend_with_momentum, weights, gradient, first, rate, options["momentum"], decay)
        return update, {"momentum_buffer": first}
    eps, step = options["eps"], np.zeros((), np.float32)
    if name == "RMSprop":
        alpha, momentum = options["alpha"], options["momentum"]

        def update_rmsprop() -> None:
            step[...] += 1
            kernels.rmsprop(weights, gradient, first, second, alpha, 1 - alpha, rate, eps, decay, momentum)

        return update_rmsprop, {"step": step, "square_avg": first, **({"momentum_buffer": second} if momentum else {})}
    beta1, beta2 = options["betas"]
    decay, shrink = (0.0, 1 - rate * decay) if name == "AdamW" else (decay, 1.0)

    def update_adam() -> None:
        step[...] += 1
        corrected, scale = rate / (1 - beta1 ** float(step)), (1 - beta2 ** float(step)) ** -0.5
        kernels.adam(
            weights, gradient, first, second, 1 - beta1, beta2, 1 - beta2, corrected, scale, eps, decay, shrink
        )  # fmt: skip

    return update_adam, {"step": step, "exp_avg": first, "exp_avg_sq": second}


class _Buffer:
    """Memory that both PyTorch's products and the kernels see."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.array = tensor, tensor.numpy()


class _Buffers:
    """The memory of a step with n real images."""

    def __init__(self, n: int, hidden_dim: int, pixels: int) -> None:
        images, h_G = torch.empty(3 * n, pixels), torch.empty(2 * n, hidden_dim)
        self.x, self.fakes = _Buffer(images[:n]), _Buffer(images[n:])  # fakes of D's half, then of G's
        self.D_images, self.G_images = _Buffer(images[: 2 * n]), _Buffer(images[2 * n :])
        self.h, self.h_G = _Buffer(h_G), _Buffer(h_G[n:])
        self.D_h, self.D_dh = (_Buffer(torch.empty(2 * n, hidden_dim)) for _ in range(2))
        self.G_h, self.G_dh, self.d_hG = (_Buffer(torch.empty(n, hidden_dim)) for _ in range(3))
        self.d_fakes = _Buffer(torch.empty(n, pixels))
        self.d_out = np.empty(2 * n, np.float32)
