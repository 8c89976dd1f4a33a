"""How long a training step takes: the usual loop, our plain step, our fast step, and the least it could take.

The least is a step's matrix products alone, float32, into buffers that are kept. All that is compared takes
turns in one process, a few steps each, so that a busy machine slows all alike: trust the ratios (each taken
within a round, then the median over rounds, with quartiles) above the microseconds. With one thread these are
CPU time, so that waiting for a core does not count; with two they are by the clock. A turn has as many steps as
noise is drawn for at once, so that each turn draws it once.

A processor with AVX-512 behaves nearly as one without in the environment ATEN_CPU_CAPABILITY=avx2
MKL_ENABLE_INSTRUCTIONS=AVX2 NUMBA_CPU_NAME=haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR".
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from gan_core import kernels
from gan_core.config import RunConfig, make_config
from gan_core.data import load_images
from gan_core.fast_mlp import FastStep
from gan_core.machine import products
from gan_core.networks import build_models, to_unit_range
from gan_core.optimizers import OPTIMIZERS
from gan_core.storage import default_data_dir
from gan_core.training import NOISE_BLOCK, PlainStep, image_order, mixing, noise

PIXELS = 28 * 28
Steps = Callable[[int], object]  # does as many steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="turns that each one takes (60)")
    parser.add_argument("--steps", type=int, default=NOISE_BLOCK, help="steps in a turn (32)")
    modes = parser.add_mutually_exclusive_group()
    for mode, what in (
        ("profile", "where a step's time goes, operation by operation"),
        ("dcgan", "the plain step of the network dcgan, and of what the fast step does not know of the mlp"),
        ("larger", "larger batches and hidden layers"),
        ("threads", "one thread against two"),
        ("collapsed", "runs whose D is saturated, with and without denormal numbers"),
        ("parts", "the parts of a step, and what else they could be made of"),
    ):
        modes.add_argument(f"--{mode}", action="store_true", help=what)
    args = parser.parse_args()

    torch.set_num_threads(1)  # as a sweep trains
    kernels.prepare()
    images = load_images("mnist").images
    say_where(args)
    if args.profile:
        show_profile(images)
    elif args.dcgan:
        compare_dcgan(images, args)
    elif args.larger:
        compare_larger(images, args)
    elif args.threads:
        compare_threads(images, args)
    elif args.collapsed:
        compare_denormals(images, args)
    elif args.parts:
        compare_parts(images, args)
    else:
        compare(images, args)
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}")


def say_where(args: argparse.Namespace) -> None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")] or [platform.processor()]
    vectors = f"PyTorch {torch.backends.cpu.get_cpu_capability()}, {numba.config.CPU_NAME or get_host_cpu_name()}"
    print(
        f"{names[0]}, {os.cpu_count()} cores ({vectors}), torch {torch.__version__}; "
        f"{args.rounds} rounds of {args.steps} steps; load average {os.getloadavg()[0]:.1f} at the start\n"
    )


def compare(images: Tensor, args: argparse.Namespace) -> None:
    print("µs a step, median of the rounds; ratios: median (quartiles)\n")
    print("| optimizer | z_dim | usual | plain | fast | least | usual / fast | fast / least | plain / least |")
    print("|---|---|---|---|---|---|---|---|---|")
    for optimizer in OPTIMIZERS:
        for z_dim in (20, 100, 200) if optimizer in ("sgd", "adam") else (100,):
            config = make_config(optimizer=optimizer, z_dim=z_dim)
            times = take_turns(
                {
                    "usual": usual_loop(config),
                    "plain": ours(PlainStep, config, images),
                    "fast": ours(FastStep, config, images),
                    **both_products(config),
                },
                args.rounds,
                args.steps,
            )
            least = fewest(times)
            print(
                f"| {optimizer} | {z_dim} | {middle(times['usual'])} | {middle(times['plain'])} "
                f"| {middle(times['fast'])} | {middle(least)} | {ratio(times['usual'], times['fast'])} "
                f"| {ratio(times['fast'], least)} | {ratio(times['plain'], least)} |",
                flush=True,
            )


def take_turns(
    contestants: dict[str, Steps], rounds: int, steps: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """For each, µs a step in every round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-2, rounds):  # two to warm up
        for name, take in contestants.items():
            started = clock()
            take(steps)
            if turn >= 0:
                times[name].append((clock() - started) / steps * 1e6)
    return times


def middle(times: list[float]) -> str:
    return f"{statistics.median(times):.0f}"


def ratio(of: list[float], to: list[float]) -> str:
    low, mid, high = statistics.quantiles((a / b for a, b in zip(of, to, strict=True)), n=4)
    return f"{mid:.2f} ({low:.2f}–{high:.2f})"


def usual_loop(config: RunConfig) -> Steps:
    """The loop as tutorials write it: images one by one through a DataLoader, BCELoss, .item() each step."""
    transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])
    dataset = MNIST(default_data_dir(), train=True, transform=transform)
    G, without_sigmoid = (each.to(memory_format=torch.contiguous_format) for each in build_models(config))
    D = nn.Sequential(without_sigmoid, nn.Sigmoid())
    make: Any = getattr(torch.optim, OPTIMIZERS[config.optimizer].torch_class)
    D_optimizer = make(D.parameters(), lr=config.learning_rate)
    G_optimizer = make(G.parameters(), lr=config.learning_rate)
    criterion = nn.BCELoss()

    def batches() -> Iterator[Tensor]:
        while True:
            for x, _ in DataLoader(dataset, batch_size=config.batch_size, shuffle=True, drop_last=True):
                yield x

    real_images = batches()

    def take(steps: int) -> None:
        for _ in range(steps):
            x = next(real_images)
            real, fake = torch.ones(len(x), 1), torch.zeros(len(x), 1)

            D_optimizer.zero_grad()
            p_real = D(x)
            p_fake = D(G(torch.randn(len(x), config.z_dim)).detach())
            D_loss = criterion(p_real, real) + criterion(p_fake, fake)
            D_loss.backward()
            D_optimizer.step()

            G_optimizer.zero_grad()
            G_loss = criterion(D(G(torch.randn(len(x), config.z_dim))), real)
            G_loss.backward()
            G_optimizer.step()
            [D_loss.item(), G_loss.item(), p_real.mean().item(), p_fake.mean().item()]

    return take


def ours(kind: type[PlainStep] | type[FastStep], config: RunConfig, images: Tensor) -> Steps:
    return through_batches(kind(config, *build_models(config)), config, images)


def through_batches(runner: PlainStep | FastStep, config: RunConfig, images: Tensor) -> Steps:
    """Goes through the images in order, epoch after epoch, without the smaller last batches."""

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for epoch in itertools.count(1):
            order = image_order(config, epoch, len(images))
            whole = order[: len(order) // config.batch_size * config.batch_size].view(-1, config.batch_size)
            yield from zip(whole, noise(config, epoch), mixing(config, epoch), strict=False)

    upcoming = batches()

    def take(steps: int) -> None:
        # Drawing noise and order is a part of a run, so of what is timed here.
        order, zs, mix = zip(*itertools.islice(upcoming, steps), strict=True)
        runner.epoch(images, order, iter(zs), iter(mix))

    return take


def both_products(config: RunConfig) -> dict[str, Steps]:
    """A step's products, G's two forward passes apart (11 products) or in one (9)."""
    return {"11 products": products(config, apart=True), "9 products": products(config, apart=False)}


def fewest(times: dict[str, list[float]]) -> list[float]:
    return min(times["11 products"], times["9 products"], key=statistics.median)


def compare_dcgan(images: Tensor, args: argparse.Namespace) -> None:
    print("Adam, z_dim 100; µs a step of 64 images, median of the rounds; ratios: median (quartiles)\n")
    print("| network | hidden_dim | what else | usual | plain | least | usual / plain | plain / least |")
    print("|---|---|---|---|---|---|---|---|")
    options: tuple[dict[str, Any], ...] = (
        {}, {"objective": "hinge"}, {"objective": "wasserstein"}, {"gradient_penalty": 1.0}, {"spectral_norm": True},
        {"ema": 0.999},
    )  # fmt: skip
    for network, hidden_dim in (("dcgan", 32), ("dcgan", 128), ("mlp", 128)):
        for more in options if hidden_dim != 128 or network == "mlp" else ({},):
            config = make_config(network=network, hidden_dim=hidden_dim, optimizer="adam", beta1=0.5, **more)
            plainest = make_config(network=network, hidden_dim=hidden_dim)
            least = convolutions(plainest) if network == "dcgan" else products(plainest, apart=False)
            # Against the loop of the first objective: what is added to it is added here.
            contestants = {"usual": usual_loop(config), "plain": ours(PlainStep, config, images), "least": least}
            times = take_turns(contestants, args.rounds, args.steps)
            added = ", ".join(f"{name} {value}" for name, value in more.items()) or "–"
            print(
                f"| {network} | {hidden_dim} | {added} | {middle(times['usual'])} | {middle(times['plain'])} "
                f"| {middle(times['least'])} | {ratio(times['usual'], times['plain'])} "
                f"| {ratio(times['plain'], times['least'])} |",
                flush=True,
            )


def convolutions(config: RunConfig) -> Steps:
    """A step's convolutions alone, forward and backward."""
    G, D = (nn.Sequential(*map(without_the_rest, module.modules())) for module in build_models(config))
    x, z = torch.ones(config.batch_size, 1, 28, 28), torch.ones(config.batch_size, config.z_dim)
    of_G, of_D = list(G.parameters()), list(D.parameters())

    def take(steps: int) -> None:
        for _ in range(steps):
            with torch.no_grad():
                fake = G(z)
            (D(x).sum() + D(fake).sum()).backward(inputs=of_D)
            D(G(z)).sum().backward(inputs=of_G)

    return take


def without_the_rest(layer: nn.Module) -> nn.Module:
    kept = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Unflatten | nn.Flatten)
    return layer if kept else nn.Identity()


def compare_larger(images: Tensor, args: argparse.Namespace) -> None:
    print("SGD, z_dim 100; µs a step, median of the rounds; ratios: median (quartiles)\n")
    print("| batch_size | hidden_dim | fast | least | fast / least | plain / least |\n|---|---|---|---|---|---|")
    for batch_size, hidden_dim in itertools.product((64, 256, 1024), (128, 512, 1024)):
        config = make_config(batch_size=batch_size, hidden_dim=hidden_dim)
        contestants = {
            "plain": ours(PlainStep, config, images),
            "fast": ours(FastStep, config, images),
            **both_products(config),
        }
        smaller = batch_size * hidden_dim // (64 * 128)
        times = take_turns(contestants, max(args.rounds // 3, 2), max(args.steps // smaller, 1))
        least = fewest(times)
        print(
            f"| {batch_size} | {hidden_dim} | {middle(times['fast'])} | {middle(least)} "
            f"| {ratio(times['fast'], least)} | {ratio(times['plain'], least)} |",
            flush=True,
        )


def compare_threads(images: Tensor, args: argparse.Namespace) -> None:
    def on(threads: int, steps: Steps) -> Steps:
        def take(count: int) -> None:
            torch.set_num_threads(threads)
            steps(count)

        return take

    print("SGD, z_dim 100, fast step; µs a step, median of the rounds; ratio: median (quartiles)\n")
    print("| batch_size | hidden_dim | 1 thread | 2 threads | 1 thread / 2 threads |\n|---|---|---|---|---|")
    for batch_size, hidden_dim in ((64, 128), (256, 128), (64, 1024), (1024, 1024)):
        config = make_config(batch_size=batch_size, hidden_dim=hidden_dim)
        contestants = {str(n): on(n, ours(FastStep, config, images)) for n in (1, 2)}
        smaller = batch_size * hidden_dim // (64 * 128)
        steps = max(args.steps // smaller, 1)
        times = take_turns(contestants, max(args.rounds // 3, 2), steps, time.perf_counter)
        print(
            f"| {batch_size} | {hidden_dim} | {middle(times['1'])} | {middle(times['2'])} "
            f"| {ratio(times['1'], times['2'])} |",
            flush=True,
        )


def compare_denormals(images: Tensor, args: argparse.Namespace) -> None:
    """A saturated run has no gradient, so an optimizer's running means decay into the denormal numbers."""

    def collapsed(config: RunConfig, flush: bool) -> Steps:
        G, D = build_models(config)
        steps = through_batches(FastStep(config, G, D), config, images)

        def take(count: int) -> None:
            torch.set_flush_denormal(flush)
            steps(count)
            torch.set_flush_denormal(False)

        steps(100)
        with torch.no_grad():
            list(D.parameters())[-1].add_(200.0)
        take(2000)
        return take

    print("µs a step, median of the rounds; ratio: median (quartiles)\n")
    print("| optimizer | as it is | denormals as 0 | as it is / denormals as 0 |\n|---|---|---|---|")
    for optimizer in OPTIMIZERS:
        config = make_config(optimizer=optimizer)
        kept, flushed = take_turns(
            {str(flush): collapsed(config, flush) for flush in (False, True)}, args.rounds, args.steps
        ).values()
        print(f"| {optimizer} | {middle(kept)} | {middle(flushed)} | {ratio(kept, flushed)} |", flush=True)


def show_profile(images: Tensor) -> None:
    """Prints each operation's own time. PyTorch's profiler adds about a µs to each call: see calls, too."""

    def recorded(name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            with record_function(f"kernels.{name}"):
                kernel(*arguments)

        return call

    ours_recorded = {name: recorded(name, kernel) for name, kernel in kernels.ALL.items()}
    kinds: tuple[type[PlainStep] | type[FastStep], ...] = (PlainStep, FastStep)
    for optimizer, kind in itertools.product(("sgd", "adam"), kinds):
        config = make_config(optimizer=optimizer)
        take = ours(kind, config, images)
        take(50)
        steps = 640  # a multiple of the steps whose noise is drawn at once
        unwatched = take_turns({"": take}, 5, steps)[""]
        with patch.multiple(kernels, **ours_recorded), profile(activities=[ProfilerActivity.CPU]) as seen:
            take(steps)
        rows = sorted(
            ((e.self_cpu_time_total / steps, e.count / steps, e.key) for e in seen.key_averages()),
            reverse=True,
        )
        products = sum(took for took, _, name in rows if name in ("aten::mm", "aten::addmm", "aten::addmm_"))
        print(f"\n{kind.__name__}, {optimizer}: {middle(unwatched)} µs unwatched, {products:.0f} products\n")
        print("| µs a step | calls | operation |\n|---|---|---|")
        for took, calls, name in rows:
            if took >= 1:
                print(f"| {took:.1f} | {calls:.1f} | {name} |")
        rest = sum(took for took, _, _ in rows if took < 1)
        print(f"| {rest:.1f} | | below 1 µs each |\n| {sum(r[0] for r in rows):.0f} | | all, watched |")


def compare_parts(images: Tensor, args: argparse.Namespace) -> None:
    """Times single operations in the sizes of batch 64, z_dim 100: what was taken, and what else there is."""
    n, h = 64, 128
    fakes, kept = torch.randn(2 * n, PIXELS), torch.empty(2 * n, PIXELS)
    fakes_numpy, kept_numpy = fakes.numpy(), kept.numpy()
    pixels = images.flatten(1)
    batches = itertools.cycle(torch.randperm(len(images)).split(n)[:-1])
    floats = to_unit_range(pixels)
    x, x_pixels = torch.empty(n, PIXELS), torch.empty(n, PIXELS, dtype=torch.uint8)
    W, dW, d, bias = (
        torch.randn(PIXELS, h),
        torch.empty(PIXELS, h),
        torch.randn(2 * n, h),
        torch.randn(PIXELS),
    )
    halves = {t: t.bfloat16() for t in (W, d, fakes)}
    W_half = W.bfloat16()
    generator = torch.Generator().manual_seed(0)
    minus_one = torch.tensor(-1.0)
    bias_numpy, x_numpy, pixels_numpy = bias.numpy(), x.numpy(), pixels.numpy()
    adams = [np.random.default_rng(0).random(PIXELS * h, np.float32) for _ in range(4)]
    scalars = (0.1, 0.999, 0.001, 1e-6, 1.0, 1e-8, 0.0, 1.0)

    def optimizer(kind: type[torch.optim.Optimizer], **options: Any) -> Callable[[], object]:
        weights = nn.Parameter(torch.randn(PIXELS * h))
        weights.grad = torch.randn(PIXELS * h)
        return kind([weights], lr=1e-6, **options).step  # type: ignore[call-arg]

    def tanh_by_sigmoid() -> None:  # 2σ(2x) − 1; the factor 2 inside comes free with the product before
        torch.sigmoid(fakes, out=kept)
        torch.add(minus_one, kept, alpha=2, out=kept)

    def gather_bytes() -> None:
        torch.index_select(pixels, 0, next(batches), out=x_pixels)
        x.copy_(x_pixels).div_(127.5).sub_(1.0)

    parts: dict[str, Callable[[], object]] = {
        "tanh of 128×784 and bias: kernel (taken)": lambda: kernels.tanh(kept_numpy, bias_numpy),
        "tanh of 128×784: numpy": lambda: np.tanh(fakes_numpy, out=kept_numpy),
        "tanh of 128×784: torch": lambda: torch.tanh(fakes, out=kept),
        "tanh of 128×784: 2σ(2x) − 1": tanh_by_sigmoid,
        "64 images: kernel (taken)": lambda: kernels.to_unit_range(pixels_numpy, next(batches).numpy(), x_numpy),
        "64 images: bytes, then to floats in place": gather_bytes,
        "64 images: from floats in [-1, 1]": lambda: torch.index_select(floats, 0, next(batches), out=x),
        "noise 2×64×100": lambda: torch.randn(2, n, 100, generator=generator),
        "noise 32×2×64×100 (taken), for 32 steps": lambda: torch.randn(32, 2, n, 100, generator=generator),
        "128×128·128×784 and bias: addmm": lambda: torch.addmm(bias, d, W.t(), out=kept),
        "128×128·128×784: mm (taken)": lambda: torch.mm(d, W.t(), out=kept),
        "128×128·128×784: oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(d, W, bias, "none", [], ""),
        "128×128·128×784: bfloat16": lambda: torch.mm(halves[d], halves[W].t()),
        "784×128·128×128: mm into a gradient": lambda: torch.mm(fakes.t(), d, out=dW),
        "784×128·128×128: added to the weights (taken for SGD)": lambda: W.addmm_(fakes.t(), d, alpha=-1e-9),
        "100,352 weights to bfloat16": lambda: W_half.copy_(W),
        "100,352 gradients from bfloat16": lambda: dW.copy_(W_half),
        "SGD, 100,352 weights": optimizer(torch.optim.SGD),
        "SGD, fused": optimizer(torch.optim.SGD, fused=True),
        "SGD by hand: W −= lr·gradient": lambda: W.add_(dW, alpha=-1e-9),
        "Adam, 100,352 weights: kernel (taken)": lambda: kernels.adam(*adams, *scalars),
        "Adam, 100,352 weights": optimizer(torch.optim.Adam),
        "Adam, foreach": optimizer(torch.optim.Adam, foreach=True),
        "Adam, fused": optimizer(torch.optim.Adam, fused=True),
        "RMSprop, 100,352 weights": optimizer(torch.optim.RMSprop),
    }

    def repeat(part: Callable[[], object]) -> Steps:
        @torch.inference_mode()
        def take(count: int) -> None:
            for _ in range(count):
                part()

        return take

    times = take_turns({name: repeat(part) for name, part in parts.items()}, args.rounds, args.steps)
    print("| part | µs, median (quartiles) |\n|---|---|")
    for name, took in times.items():
        low, mid, high = statistics.quantiles(took, n=4)
        print(f"| {name} | {mid:.1f} ({low:.1f}–{high:.1f}) |")


if __name__ == "__main__":
    main()
