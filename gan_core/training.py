"""One training: D against G, step by step; what happens comes as events. Whoever iterates is in control."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.config import RunConfig
from gan_core.errors import NonFiniteLossError, UserError
from gan_core.events import EpochEnd, Event, Reached, Samples, Trained, TrainState
from gan_core.fast_mlp import FastStep, supports
from gan_core.losses import OBJECTIVES
from gan_core.networks import Generator, build_models, generate, to_unit_range
from gan_core.optimizers import OPTIMIZERS
from gan_core.rng import run_stream, stream

SAMPLES = 64  # images on a sample sheet
NOISE_BLOCK = 32  # steps whose noise is drawn at once


def train(config: RunConfig, images: Tensor, resume: TrainState | None = None) -> Iterator[Event]:
    """Train on `images` (uint8, N×C×H×W) and yield what happens.

    Samples of epoch 0; for each epoch EpochEnd, Reached, and Samples where due; Trained. `resume` is the state
    that a Reached of the same config gave: then that Reached is the first event, and what follows is what
    would have followed without the break.

    The same config and images give the same weights, bit for bit, on the same machine and number of threads.
    To stop iterating stops the training. Raises UserError if a batch is larger than the image set, and
    NonFiniteLossError at the end of the first epoch in which a loss is infinite or not a number.
    """
    require_device(config.device)
    if config.batch_size > len(images):
        raise UserError(f"batch_size should be at most {len(images)}, the number of images, got {config.batch_size}")
    G, D = build_models(config)
    kind = FastStep if supports(config, PlainStep) else PlainStep
    steps = kind(config, G.to(config.device), D.to(config.device))
    its_G = steps.average  # G itself, unless it is a mean over the steps that counts
    images = images.to(config.device)
    due, z_fixed = sample_epochs(config.epochs), fixed_noise(config.z_dim)
    pair = nn.ModuleDict({"G": G, "D": D, **({"average": its_G} if its_G is not G else {})})

    def state(epoch: int) -> TrainState:
        weights = {name: tensor.cpu().clone() for name, tensor in pair.state_dict().items()}
        return TrainState(epoch, weights, steps.optimizer_state())

    reached = 0
    if resume is None:
        yield Samples(0, generate(its_G, z_fixed))
    else:
        reached = resume.epoch
        pair.load_state_dict(resume.weights)
        steps.load_optimizer_state(resume.optimizers)
    for epoch in range(max(reached, 1), config.epochs + 1):
        if epoch > reached:
            started = time.perf_counter()
            order = image_order(config, epoch, len(images)).to(config.device).split(config.batch_size)
            record = steps.epoch(images, order, noise(config, epoch), mixing(config, epoch)).cpu()
            D_losses, G_losses, real_scores, fake_scores = record.numpy()
            seconds = time.perf_counter() - started
            yield EpochEnd(epoch, D_losses, G_losses, real_scores, fake_scores, len(images), seconds)
            refuse_non_finite(epoch, record)
        yield Reached(epoch, its_G, partial(state, epoch))
        if epoch in due:
            yield Samples(epoch, generate(its_G, z_fixed))
    yield Trained(its_G.cpu().eval())


def require_device(device: str) -> None:
    """Raise UserError if there is no such device here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device should be cpu here: PyTorch finds no GPU, got 'cuda'")


class PlainStep:
    """The training step as one writes it down with autograd: what is changed here is what trains.

    A config that `fast_mlp.supports` is trained by its FastStep, which is the same step in fewer passes. G and
    D are changed in place; all that is given lies on their device, but for the noise.
    """

    def __init__(self, config: RunConfig, G: Generator, D: nn.Module, make_optimizer: Any = None) -> None:
        """G, D: as `build_models` makes them; make_optimizer: rate, parameters → optimizer, by default the config's."""
        make = make_optimizer or partial(OPTIMIZERS[config.optimizer].build, settings=dataclasses.asdict(config))
        self.config, self.objective = config, OBJECTIVES[config.objective]
        self.G, self.D = G.train(), D.train()
        self.average = deepcopy(G).requires_grad_(False) if config.ema else G
        self.G_parameters = list(G.parameters())
        self.G_optimizer = make(config.learning_rate, parameters=self.G_parameters)
        self.D_optimizer = make(config.discriminator_learning_rate or config.learning_rate, parameters=D.parameters())
        self.optimizers = {"G": self.G_optimizer, "D": self.D_optimizer}

    def epoch(
        self, images: Tensor, order: Sequence[Tensor], noise: Iterator[Tensor], mixing: Iterator[Tensor]
    ) -> Tensor:
        """One pass over `images` (uint8, N×C×H×W), in batches of the indices in `order` (int64).

        A step takes discriminator_steps of the batches, k. `noise` gives (k + 1)×(n or more)×z_dim, float32, for
        batches of n, `mixing` k×(n or more). Returns 4×steps, float32: losses of D and of G, mean scores of real
        and of fake images, those of D as means over its k updates.
        """
        k, steps = self.config.discriminator_steps, []
        for first, z, mix in zip(range(0, len(order), k), noise, mixing, strict=False):
            batches = [to_unit_range(images[batch]) for batch in order[first : first + k]]
            steps.append(self._step(batches, z.to(images.device), mix.to(images.device)))
        return torch.stack(steps, dim=1)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Copies of the optimizers' running tensors on the CPU, by `<network>.<number of the parameter>.<name>`."""
        return {
            f"{network}.{number}.{name}": tensor.detach().cpu().clone()
            for network, optimizer in self.optimizers.items()
            for number, of_parameter in optimizer.state_dict()["state"].items()
            for name, tensor in of_parameter.items()
        }

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Set them to what `optimizer_state` gave."""
        parts: dict[str, dict[int, dict[str, Tensor]]] = {"G": {}, "D": {}}
        for key, tensor in state.items():
            network, number, name = key.split(".")
            parameter = self.optimizers[network].param_groups[0]["params"][int(number)]
            # PyTorch's fused updates expect the order of the parameter's memory.
            kept = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
            parts[network].setdefault(int(number), {})[name] = kept
        for network, optimizer in self.optimizers.items():
            optimizer.load_state_dict({**optimizer.state_dict(), "state": parts[network]})

    def _step(self, batches: Sequence[Tensor], z: Tensor, mix: Tensor) -> Tensor:
        """batches: up to k, each n×C×H×W; z: (k + 1)×(n or more)×z_dim, the last for G; mix: k×(n or more)."""
        *z_D, z_G = z
        seen = []

        # D: minimise its losses of D(x) and D(G(z)); "non-saturating": −log D(x) − log(1 − D(G(z)))
        for x, z_fake, at in zip(batches, z_D, mix, strict=False):
            n = len(x)
            with torch.no_grad():
                fake = self.G(z_fake[:n])
            real_score, fake_score = self._score(x), self._score(fake)  # n×1
            real_loss = self.objective.smoothed_real_loss(real_score, self.config.label_smoothing)
            D_loss = real_loss.mean() + self.objective.fake_loss(fake_score).mean()
            if weight := self.config.gradient_penalty:
                D_loss = D_loss + weight * self.objective.penalty(self.D, x, fake, at[:n]).mean()
            self.D_optimizer.zero_grad()
            D_loss.backward()
            self.D_optimizer.step()
            seen.append(torch.stack([D_loss, real_score.mean(), fake_score.mean()]).detach())

        # G: minimise its loss of D(G(z)); "non-saturating": −log D(G(z))
        G_loss = self.objective.generator_loss(self._score(self.G(z_G[: len(batches[-1])]))).mean()
        self.G_optimizer.zero_grad()
        # D's own gradients are not wanted here.
        G_loss.backward(inputs=self.G_parameters)
        self.G_optimizer.step()
        if self.average is not self.G:
            self._follow()

        D_loss, real_score, fake_score = torch.stack(seen).mean(dim=0)
        return torch.stack([D_loss, G_loss.detach(), real_score, fake_score])

    def _score(self, images: Tensor) -> Tensor:
        """n×C×H×W → n×1."""
        output: Tensor = self.D(images)
        return output.sigmoid() if self.objective.probability else output

    @torch.no_grad()
    def _follow(self) -> None:
        """The mean moves towards G; what normalizations have seen is taken as it is."""
        for mean, now in zip(self.average.parameters(), self.G_parameters, strict=True):
            mean.lerp_(now, 1 - self.config.ema)
        for kept, seen in zip(self.average.buffers(), self.G.buffers(), strict=True):
            kept.copy_(seen)


def refuse_non_finite(epoch: int, record: Tensor) -> None:
    """Raise NonFiniteLossError that names the first iteration whose loss is not finite, if there is one."""
    bad = (~record[:2].isfinite()).nonzero()  # rows of (which loss, step)
    if len(bad):
        which, step = min(bad.tolist(), key=lambda at: at[1])
        loss = f"the loss of the {('discriminator', 'generator')[which]} is {record[which, step].item()}"
        where = f"at epoch {epoch}, iteration {step + 1}"
        raise NonFiniteLossError(f"{loss} {where}; a smaller learning rate may help")


def image_order(config: RunConfig, epoch: int, count: int) -> Tensor:
    """The order of an epoch's images, the same for all runs of a seed: a permutation of 0..count−1, int64."""
    return torch.randperm(count, generator=run_stream("order", config, epoch))


def noise(config: RunConfig, epoch: int) -> Iterator[Tensor]:
    """The noise of an epoch's steps: for each, k + 1 times batch_size×z_dim from N(0, 1), the last for G's half."""
    generator, passes = run_stream("noise", config, epoch), config.discriminator_steps + 1
    while True:
        yield from torch.randn(NOISE_BLOCK, passes, config.batch_size, config.z_dim, generator=generator)


def mixing(config: RunConfig, epoch: int) -> Iterator[Tensor]:
    """For each of an epoch's steps k×batch_size from U(0, 1): between which images a penalty is taken."""
    generator = run_stream("mixing", config, epoch)
    while True:
        yield from torch.rand(NOISE_BLOCK, config.discriminator_steps, config.batch_size, generator=generator)


def fixed_noise(z_dim: int) -> Tensor:
    """The z of every sample sheet, 64×z_dim: the same for all runs of a z_dim, whatever their seed."""
    return torch.randn(SAMPLES, z_dim, generator=stream("samples", z_dim))


def sample_epochs(epochs: int) -> set[int]:
    """The epochs after which a sample sheet is made: 1, 2, 5, each tenth of the run, and the last."""
    return {epoch for epoch in (1, 2, 5) if epoch < epochs} | {-(-epochs * tenth // 10) for tenth in range(1, 11)}
