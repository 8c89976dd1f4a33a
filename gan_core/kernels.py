"""The element-wise parts of a training step, each in one pass over its arrays, as machine code that numba makes.

LLVM makes it for the processor at hand, whatever its vectors are; it is kept on disk and made once. Arrays are
float32 and C-contiguous, and what a kernel gives lies in one of its arguments. A nan stays a nan.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numba import njit

from gan_core.architectures import LEAK

# A product and a sum are rounded once where the processor can (contract); nothing is reordered, but for one sum.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(inline="always", **OPTIONS)
reordered: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(
    error_model="numpy", fastmath={"contract", "reassoc"}
)
ALL: dict[str, Any] = {}  # the kernels by name
_signatures: dict[str, str] = {}

F, U = np.float32, np.uint32
ZERO, HALF, ONE, TWO, SLOPE = F(0), F(0.5), F(1), F(2), F(LEAK)
HALF_RANGE = F(127.5)
LEAST_SLOPE = F(1e-12)  # PyTorch's floor in the gradient of the cross-entropy
# The losses of losses.py by number, those of a probability first.
TAKEN_FOR_REAL, TAKEN_FOR_GENERATED, UNNOTICED, NEAR_ONE, NEAR_ZERO, ABOVE_ONE, BELOW_MINUS_ONE, HIGH, LOW = range(9)
SIGN, EXPONENT_BIAS, MANTISSA_BITS = U(0x80000000), U(127), U(23)
CERTAIN = F(9.5)  # from about 9 on tanh rounds to 1
ROUND = F(1.5 * 2**23)  # added and taken away again, it rounds a number to the next whole one
PER_LN2, LN2_HIGH, LN2_LOW = F(1 / math.log(2)), F(0.693359375), F(math.log(2) - 0.693359375)
# r goes from −0.3·ln 2 to 0.7·ln 2: were it −0.5·ln 2, rounding eʳ − 1 would show in 2eʳ − 1.
OFF_CENTRE = F(0.2)
# (eʳ − 1 − r)/r² there: interpolated at 400 Chebyshev nodes, degree 5; the error of eʳ − 1 is below 1e-9 of it.
EXP0, EXP1, EXP2 = F(0.49999999874614653), F(0.1666666845781284), F(0.041666874249123284)
EXP3, EXP4, EXP5 = F(0.008332049204368926), F(0.001385672237603584), F(0.00022108569617719325)


def kernel(signature: str) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Compile the function for arguments of these types, in numba's notation, once `prepare` is called."""

    def compiled(function: Callable[..., Any]) -> Callable[..., None]:
        try:
            made: Any = njit(cache=True, **OPTIONS)(function)
        except RuntimeError:  # numba finds no folder in which it may keep the code
            made = njit(**OPTIONS)(function)
        ALL[function.__name__], _signatures[function.__name__] = made, f"void({signature})"
        return made  # type: ignore[no-any-return]

    return compiled


@inlined
def tanh_of(x: Any) -> Any:
    """tanh x = (e²ˣ − 1)/(e²ˣ + 1) of |x|, with its sign; within 2 ulp."""
    sign = U(F(x).view(U) & SIGN)
    y = abs(x)
    y = CERTAIN if y > CERTAIN else y
    y += y
    shifted = F((y * PER_LN2 - OFF_CENTRE) + ROUND)
    n = shifted - ROUND  # y = n·ln 2 + r
    power = U((F(shifted).view(U) + EXPONENT_BIAS) << MANTISSA_BITS).view(F)  # 2ⁿ: n stands in the last bits
    r = (y - n * LN2_HIGH) - n * LN2_LOW
    series = ((((EXP5 * r + EXP4) * r + EXP3) * r + EXP2) * r + EXP1) * r + EXP0
    grown = (series * (r * r) + r) * power + (power - ONE)  # eʸ − 1
    denominator = grown + TWO
    lost = grown - (denominator - TWO)  # by rounding the denominator
    large = y > ONE
    t = (TWO if large else grown) / denominator
    t = ONE - t if large else t - t * (lost * (HALF - HALF * t))
    return U(F(t).view(U) | sign).view(F)


@reordered
def dot(a: Any, b: Any) -> Any:
    """The only sum over a row, so the only one that has to be reordered to be fast."""
    total = ZERO
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@kernel("u1[:,::1], i8[::1], f4[:,::1]")
def to_unit_range(pixels: Any, batch: Any, x: Any) -> None:
    """The images (uint8, N×pixels) of these indices (n) as floats in [-1, 1], to x (n×pixels)."""
    for row in range(len(batch)):
        image, out = pixels[batch[row]], x[row]
        for i in range(len(out)):
            out[i] = F(image[i]) / HALF_RANGE - ONE


@kernel("f4[:,::1], f4[::1]")
def leaky_relu(h: Any, bias: Any) -> None:
    """LeakyReLU(h + bias), in place; h: rows×units."""
    for row in range(len(h)):
        out = h[row]
        for i in range(len(bias)):
            v = out[i] + bias[i]
            out[i] = v if v > ZERO else v * SLOPE


@kernel("f4[:,::1], f4[::1]")
def tanh(x: Any, bias: Any) -> None:
    """tanh(x + bias), in place; x: rows×units."""
    for row in range(len(x)):
        out = x[row]
        for i in range(len(bias)):
            out[i] = tanh_of(out[i] + bias[i])


@kernel("f4[:,::1], f4[:,::1], f4[::1]")
def leaky_relu_gradient(gradient: Any, h: Any, bias_gradient: Any) -> None:
    """The gradient by LeakyReLU's result h becomes the one by its argument, rows×units; its sum over rows is kept."""
    bias_gradient[:] = ZERO
    for row in range(len(h)):
        out, result = gradient[row], h[row]
        for i in range(len(bias_gradient)):
            out[i] *= ONE if result[i] > ZERO else SLOPE
            bias_gradient[i] += out[i]


@kernel("f4[:,::1], f4[:,::1], f4[::1]")
def tanh_gradient(gradient: Any, x: Any, bias_gradient: Any) -> None:
    """The gradient by tanh's result x becomes the one by its argument, rows×units; its sum over rows is kept."""
    bias_gradient[:] = ZERO
    for row in range(len(x)):
        out, result = gradient[row], x[row]
        for i in range(len(bias_gradient)):
            out[i] *= ONE - result[i] * result[i]
            bias_gradient[i] += out[i]


@inlined
def slope_of(loss: Any, output: Any, weight: Any) -> Any:
    """The derivative of a loss of losses.py by D's output, with the image's weight in the mean.

    Of the cross-entropies, as PyTorch has it, it fades where p(1 − p) is below 1e-12.
    """
    if loss <= UNNOTICED:
        p = sigmoid_of(output)
        slope = (ONE - p) * p
        error = p - ONE if loss == TAKEN_FOR_REAL else p
        by_output = weight * error / (LEAST_SLOPE if slope < LEAST_SLOPE else slope) * slope
        return -by_output if loss == UNNOTICED else by_output
    if loss == NEAR_ONE:
        return weight * (output - ONE)
    if loss == NEAR_ZERO:
        return weight * output
    if loss == ABOVE_ONE:
        return -weight if output < ONE else ZERO
    if loss == BELOW_MINUS_ONE:
        return weight if output > -ONE else ZERO
    return weight if loss == LOW else -weight


@inlined
def sigmoid_of(x: Any) -> Any:
    """1 / (1 + e⁻ˣ)."""
    return ONE / (ONE + F(math.exp(-x)))


@kernel("f4[:,::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, f4, f4[::1], f4[:,::1], f4[::1]")
def classify(
    h: Any, bias: Any, w: Any, w_bias: Any, real: Any, real_loss: Any, fake_loss: Any, smoothing: Any,
    score: Any, h_gradient: Any, gradient: Any,
) -> None:  # fmt: skip
    """D behind its first product h (rows×units): scores of LeakyReLU(h + bias)·w + w_bias, and the loss's gradients.

    The loss is the mean of real_loss over the first `real` rows, a share `smoothing` of it of fake_loss, and of
    fake_loss over the others, if there are any, as many. gradient: by D's outputs (rows); h_gradient: by h + bias.
    The activation is in h.
    """
    weight = ONE / F(real)
    for row in range(len(h)):
        out, out_gradient = h[row], h_gradient[row]
        for i in range(len(bias)):
            v = out[i] + bias[i]
            out[i] = v if v > ZERO else v * SLOPE
        output = dot(out, w) + w_bias[0]
        g = slope_of(real_loss if row < real else fake_loss, output, weight)
        if row < real and smoothing > ZERO:
            g = (ONE - smoothing) * g + smoothing * slope_of(fake_loss, output, weight)
        score[row] = sigmoid_of(output) if real_loss <= UNNOTICED else output
        gradient[row] = g
        for i in range(len(bias)):
            out_gradient[i] = g * w[i] * (ONE if out[i] > ZERO else SLOPE)


@kernel("f4[:,::1], f4[:,::1], f4[::1], f4[::1], f4[::1], f4[::1]")
def classifier_gradients(
    h_gradient: Any, h: Any, gradient: Any, bias_gradient: Any, w_gradient: Any, w_bias_gradient: Any
) -> None:
    """Of what `classify` gave: the loss's gradients by bias, w and w_bias."""
    bias_gradient[:] = ZERO
    w_gradient[:] = ZERO
    w_bias_gradient[0] = ZERO
    for row in range(len(h)):
        of_h, result, g = h_gradient[row], h[row], gradient[row]
        w_bias_gradient[0] += g
        for i in range(len(bias_gradient)):
            bias_gradient[i] += of_h[i]
            w_gradient[i] += g * result[i]


@kernel("f4[::1], f4[::1], f4, f4")
def descend(w: Any, gradient: Any, rate: Any, decay: Any) -> None:
    """A step of SGD."""
    for i in range(len(w)):
        w[i] -= rate * (gradient[i] + decay * w[i])


@kernel("f4[::1], f4[::1], f4[::1], f4, f4, f4")
def descend_with_momentum(w: Any, gradient: Any, kept: Any, rate: Any, momentum: Any, decay: Any) -> None:
    """A step of SGD with momentum, as torch.optim.SGD takes it."""
    for i in range(len(w)):
        kept[i] = momentum * kept[i] + (gradient[i] + decay * w[i])
        w[i] -= rate * kept[i]


@kernel("f4[::1], f4[::1], f4[::1], f4[::1], f4, f4, f4, f4, f4, f4, f4, f4")
def adam(
    w: Any, gradient: Any, mean: Any, square: Any,
    to_mean: Any, keep: Any, to_square: Any, rate: Any, scale: Any, eps: Any, decay: Any, shrink: Any,
) -> None:  # fmt: skip
    """A step of torch.optim.Adam (decay) or AdamW (shrink).

    to_mean: 1 − β₁; keep, to_square: β₂, 1 − β₂; rate: the learning rate by the correction of the mean; scale: one
    by the root of the correction of the squares.
    """
    for i in range(len(w)):
        before = shrink * w[i]
        g = gradient[i] + decay * before
        mean[i] += to_mean * (g - mean[i])
        square[i] = keep * square[i] + to_square * g * g
        w[i] = before - rate * mean[i] / (math.sqrt(square[i]) * scale + eps)


@kernel("f4[::1], f4[::1], f4[::1], f4[::1], f4, f4, f4, f4, f4, f4")
def rmsprop(
    w: Any, gradient: Any, square: Any, kept: Any,
    keep: Any, to_square: Any, rate: Any, eps: Any, decay: Any, momentum: Any,
) -> None:  # fmt: skip
    """A step of torch.optim.RMSprop. keep, to_square: α, 1 − α."""
    for i in range(len(w)):
        g = gradient[i] + decay * w[i]
        square[i] = keep * square[i] + to_square * g * g
        kept[i] = momentum * kept[i] + g / (math.sqrt(square[i]) + eps)
        w[i] -= rate * kept[i]


@cache
def prepare() -> None:
    """Make all kernels, or read them; of processes that start at once the first one makes them.

    Not when this is imported: in a sweep, workers that are still importing when the first run is there are not used.
    """
    folder = next(iter(ALL.values())).stats.cache_path
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder) / "kernels.lock") if folder else nullcontext():
        for name, made in ALL.items():
            made.compile(_signatures[name])
            made.disable_compile()  # else Python's floats would make a second one, in double precision
