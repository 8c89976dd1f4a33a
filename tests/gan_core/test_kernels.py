"""The kernels against float64 and PyTorch's own, over the whole range of float32."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gan_core import kernels
from gan_core.architectures import LEAK
from gan_core.config import make_config
from gan_core.fast_mlp import SLOPES, FastStep, supports
from gan_core.losses import OBJECTIVES
from gan_core.networks import build_models, to_unit_range
from gan_core.optimizers import OPTIMIZERS as REGISTRY
from gan_core.training import PlainStep, image_order, noise

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
ROWS, UNITS = 3, 21  # of which the last ones are no whole vector
MATRICES = arrays.arrays(np.float32, (ROWS, UNITS), elements=FLOATS)
VECTORS = arrays.arrays(np.float32, UNITS, elements=FLOATS)
USUAL = st.floats(-30, 30, width=32)
EDGES = np.float32(
    [0, -0.0, 1e-45, -1e-40, 1.1754944e-38, 0.015583749, 0.6270911, 8.99, 9.01, 9.5, 88.8, 3.4e38, np.inf]
)


@pytest.fixture(autouse=True, scope="module")
def _prepared():
    kernels.prepare()


def ulps(found, right):
    """How far `found` is from `right` (float64), in steps of float32 at `right`."""
    step = np.spacing(np.abs(right).astype(np.float32)).astype(np.float64)
    return np.abs(found.astype(np.float64) - right) / step


def tanh(x):
    padded = np.resize(x, (1, len(x))).copy()
    kernels.tanh(padded, np.full(len(x), -0.0, np.float32))  # −0 + −0 is −0
    return padded[0]


def with_opposites(bits):
    """The floats of these bits, their opposites, and EDGES."""
    positive = bits.astype(np.int32).view(np.float32)
    return np.concatenate([positive, -positive, EDGES, -EDGES])


@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(np.arange(0, 0x7F800000, 4099), id="some"),
        # Below, tanh x is x to rounding, and above it is 1.
        *(pytest.param(np.arange(e << 23, (e + 1) << 23), marks=pytest.mark.slow) for e in range(112, 131)),
    ],
)
def test_tanh_is_within_2_ulp_of_the_exact_one_and_of_pytorchs(bits):
    x = with_opposites(bits)
    found = tanh(x)
    assert ulps(found, np.tanh(x.astype(np.float64))).max() < 2
    assert ulps(found, torch.from_numpy(x).tanh().numpy().astype(np.float64)).max() <= 2
    assert np.abs(found).max() == 1
    assert np.array_equal(np.signbit(found), np.signbit(x))


def test_tanh_is_no_less_where_its_argument_is_greater():
    x = np.sort(np.random.default_rng(0).normal(0, 2, 100_000).astype(np.float32))
    assert (np.diff(tanh(x).astype(np.float64)) >= -2 * np.spacing(np.abs(tanh(x))[1:])).all()


@settings(deadline=None)
@given(MATRICES, VECTORS)
def test_activations_are_pytorchs(x, bias):
    with np.errstate(all="ignore"):
        summed = torch.from_numpy(x + bias)
    for kernel, right in (
        (kernels.tanh, torch.tanh(summed)),
        (kernels.leaky_relu, torch.nn.functional.leaky_relu(summed, LEAK)),
    ):
        found = x.copy()
        kernel(found, bias)
        torch.testing.assert_close(torch.from_numpy(found), right, rtol=5e-7, atol=1e-44, equal_nan=True)


@settings(deadline=None)
@given(MATRICES, arrays.arrays(np.float32, (ROWS, UNITS), elements=USUAL))
def test_gradients_of_activations_are_autograds(gradient, x):
    for kernel, function in (
        (kernels.tanh_gradient, torch.tanh),
        (kernels.leaky_relu_gradient, lambda x: torch.nn.functional.leaky_relu(x, LEAK)),
    ):
        argument = torch.from_numpy(x.copy()).requires_grad_()
        result = function(argument)
        result.backward(torch.from_numpy(gradient))
        found, sums = gradient.copy(), np.empty(UNITS, np.float32)
        kernel(found, result.detach().numpy(), sums)
        torch.testing.assert_close(torch.from_numpy(found), argument.grad, rtol=1e-6, atol=1e-44, equal_nan=True)
        with np.errstate(all="ignore"):
            one_by_one = found[0] + found[1] + found[2]
        np.testing.assert_array_equal(sums, one_by_one)


@settings(deadline=None)
@given(arrays.arrays(np.uint8, (5, UNITS)), arrays.arrays(np.int64, ROWS, elements=st.integers(0, 4)))
def test_images_are_to_unit_range_to_the_bit(pixels, batch):
    found = np.empty((ROWS, UNITS), np.float32)
    kernels.to_unit_range(pixels, batch, found)
    assert np.array_equal(found, to_unit_range(torch.from_numpy(pixels[batch])).numpy())


def classified(h, bias, w, w_bias, real):
    rows = len(h)
    p, h_gradient, gradient = np.empty(rows, np.float32), np.empty_like(h), np.empty(rows, np.float32)
    activation = h.copy()
    losses = kernels.TAKEN_FOR_REAL, kernels.TAKEN_FOR_GENERATED
    kernels.classify(activation, bias, w, np.float32([w_bias]), real, *losses, 0.0, p, h_gradient, gradient)
    others = np.empty(UNITS, np.float32), np.empty(UNITS, np.float32), np.empty(1, np.float32)
    kernels.classifier_gradients(h_gradient, activation, gradient, *others)
    return p, h_gradient, *others


def by_autograd(h, bias, w, w_bias, real, dtype):
    tensors = [torch.tensor(each, dtype=dtype) for each in (h, bias, w, [w_bias])]
    h, bias, w, w_bias = (each.requires_grad_() for each in tensors)
    p = torch.sigmoid(torch.nn.functional.leaky_relu(h + bias, LEAK) @ w + w_bias)
    target = torch.zeros(len(h), dtype=dtype)
    target[:real] = 1
    (torch.nn.functional.binary_cross_entropy(p, target) * (len(h) / real)).backward()
    return [p.detach(), *(each.grad for each in (h, bias, w, w_bias))]


@pytest.mark.parametrize("rows_of_fakes", [0, 2])
@settings(deadline=None)
@given(
    arrays.arrays(np.float32, (4, UNITS), elements=st.floats(-2, 2, width=32)),
    arrays.arrays(np.float32, UNITS, elements=st.floats(-1, 1, width=32)),
    arrays.arrays(np.float32, UNITS, elements=st.floats(-1, 1, width=32)),
    st.floats(-15, 15, width=32),
)
def test_ds_probabilities_and_the_losss_gradients_are_exact_to_rounding(rows_of_fakes, h, bias, w, w_bias):
    h = h[: 2 + rows_of_fakes]
    found = classified(h, bias, w, w_bias, 2)
    right = by_autograd(h, bias, w, w_bias, 2, torch.float64)
    assume(np.abs(h + bias).min() > 1e-5)  # at the kink of the leaky ReLU rounding may choose the slope
    assume((right[0] > 1e-4).all() and (right[0] < 1 - 1e-4).all())  # where float32 has 1 − p; see the next test
    for ours, exact in zip(found, right, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours).double(), exact, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("logit", [-np.inf, -200, -104, -60, -30, -28, -26, 0, 12, 16.5, 17.5, 28, 100, np.inf, np.nan])
@pytest.mark.parametrize("real", [1, 2])
def test_at_the_ends_the_gradient_fades_as_pytorchs_does(logit, real):
    h, w = np.ones((2, UNITS), np.float32), np.full(UNITS, 0.5, np.float32)
    bias, w_bias = np.zeros(UNITS, np.float32), np.float32(logit - UNITS * 0.5)
    found = classified(h, bias, w, w_bias, real)
    if np.isnan(logit):
        assert all(np.isnan(each).all() for each in found)
        return
    for ours, theirs in zip(found, by_autograd(h, bias, w, w_bias, real, torch.float32), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=2e-6, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_of_each_loss_is_autograds(name, smoothing):
    """By D's output, at outputs from far below to far above, at the kinks and beyond the clamp."""
    objective = OBJECTIVES[name]
    outputs = [-np.inf, -200, -40, -5, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 5, 17, 40, 200, np.inf, np.nan]
    of_real, of_fake, of_G = SLOPES[name]
    h, w = np.zeros((2, UNITS), np.float32), np.zeros(UNITS, np.float32)
    for output in outputs:
        for pair, losses in (
            ((of_real, of_fake), (objective.real_loss, objective.fake_loss)),
            ((of_G, of_G), (objective.generator_loss, objective.generator_loss)),
        ):
            score, gradient = np.empty(2, np.float32), np.empty(2, np.float32)
            kernels.classify(h.copy(), w, w, np.float32([output]), 1, *pair, smoothing, score, h.copy(), gradient)
            at = torch.full((2,), float(output), requires_grad=True)
            scores = at.sigmoid() if objective.probability else at
            loss = losses[0](scores[:1])
            if smoothing:
                loss = (1 - smoothing) * loss + smoothing * losses[1](scores[:1])
            (loss + losses[1](scores[1:])).sum().backward()
            torch.testing.assert_close(torch.from_numpy(score), scores.detach(), rtol=1e-6, atol=1e-37, equal_nan=True)
            if np.isnan(output) and name in ("hinge", "wasserstein"):
                continue  # a step does not depend on such a score: that it is no number is seen in the loss
            torch.testing.assert_close(torch.from_numpy(gradient), at.grad, rtol=1e-5, atol=1e-37, equal_nan=True)


STEPS = arrays.arrays(np.float32, (4, UNITS), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=True))
OPTIMIZERS = {
    "SGD": {},
    "SGD with decay": {"weight_decay": 0.1},
    "SGD with momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"betas": (0.5, 0.99), "eps": 1e-8},
    "Adam with decay": {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.1},
    "AdamW": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
    "RMSprop": {"alpha": 0.99, "eps": 1e-8},
    "RMSprop with momentum": {"alpha": 0.9, "eps": 1e-8, "momentum": 0.5, "weight_decay": 0.01},
}


def our_step(name, rate, w, gradient, first, second, step):
    options = {"eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0, **OPTIMIZERS[name]}
    eps, decay, momentum = options["eps"], options["weight_decay"], options["momentum"]
    if name == "SGD with momentum":
        kernels.descend_with_momentum(w, gradient, first, rate, momentum, decay)
    elif name.startswith("SGD"):
        kernels.descend(w, gradient, rate, decay)
    elif name.startswith("RMSprop"):
        alpha = options["alpha"]
        kernels.rmsprop(w, gradient, first, second, alpha, 1 - alpha, rate, eps, decay, momentum)
    else:
        beta1, beta2 = options["betas"]
        decay, shrink = (0, 1 - rate * decay) if name == "AdamW" else (decay, 1)
        corrected, scale = rate / (1 - beta1**step), (1 - beta2**step) ** -0.5
        kernels.adam(w, gradient, first, second, 1 - beta1, beta2, 1 - beta2, corrected, scale, eps, decay, shrink)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(deadline=None)
@given(arrays.arrays(np.float32, UNITS, elements=st.floats(-2, 2, width=32)), STEPS)
def test_a_kernel_takes_the_optimizers_steps(name, w, steps):
    exact = torch.nn.Parameter(torch.from_numpy(w).double())
    optimizer = getattr(torch.optim, name.split()[0])([exact], lr=0.01, **OPTIMIZERS[name])
    w, first, second = w.copy(), np.zeros(UNITS, np.float32), np.zeros(UNITS, np.float32)
    decay, cancelled = OPTIMIZERS[name].get("weight_decay", 0.0), np.zeros(UNITS, bool)
    for step, gradient in enumerate(steps, 1):
        decayed = decay * exact.detach().numpy()
        cancelled |= np.abs(gradient + decayed) < 1e-3 * np.abs(decayed)
        our_step(name, 0.01, w, gradient, first, second, step)
        exact.grad = torch.from_numpy(gradient).double()
        optimizer.step()
    # Where a gradient is as small as eps, its square is none: there the step is anything up to the rate. So it is
    # where a gradient and the decay cancel out but for rounding.
    seen = ((np.abs(steps) > 1e-4).all(axis=0) | (steps == 0).all(axis=0)) & ~cancelled | name.startswith("SGD")
    np.testing.assert_allclose(w[seen], exact.detach().numpy()[seen], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_hides_no_nan_and_no_infinity(name):
    for bad in (np.nan, np.inf):
        w, gradient, first, second = np.ones((4, UNITS), np.float32)
        gradient[5] = bad
        our_step(name, 0.01, w, gradient, first, second, 1)
        assert not np.isfinite(w[5])
        assert np.isfinite(np.delete(w, 5)).all()


MADE = """
import json
from gan_core import kernels
kernels.prepare()
made = [made.stats for made in kernels.ALL.values()]
print(json.dumps([sum(sum(getattr(one, kind).values()) for one in made) for kind in ("cache_misses", "cache_hits")]))
"""


def test_of_processes_that_start_at_once_one_compiles_and_the_others_read(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", MADE], env=environment, stdout=subprocess.PIPE) for _ in range(3)
    ]
    found = [process.communicate()[0] for process in processes]
    count = len(kernels.ALL)
    assert sorted(found) == [f"[0, {count}]\n".encode()] * 2 + [f"[{count}, 0]\n".encode()]


def test_without_a_folder_for_the_code_it_is_made_each_time(tmp_path):
    script = (
        "import numba.core.caching as c; c.CacheImpl._locator_classes = []\n"
        "from gan_core import kernels\nkernels.prepare()\nprint('made')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": name, **more} for name in REGISTRY for more in ({}, {"weight_decay": 0.5})]
    + [{"optimizer": "sgd", "momentum": 0.5, "label_smoothing": 0.1}]
    + [{"objective": name} for name in OBJECTIVES if name != "wasserstein"],
    ids=str,
)
def test_a_step_makes_no_other_kernels(settings, digits):
    config = make_config(dataset="digits", hidden_dim=8, batch_size=64, **settings)
    assert supports(config, PlainStep)
    FastStep(config, *build_models(config)).epoch(
        digits.images, image_order(config, 1, 128).split(64), noise(config, 1), iter(())
    )
    assert {name for name, made in kernels.ALL.items() if len(made.signatures) != 1} == set()
