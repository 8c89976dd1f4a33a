"""A registered G as MLflow serves it. This file is stored with the weights and imports nothing of the project."""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from safetensors import safe_open

WEIGHTS = "generator"  # the artifact that holds them
LEAK = 0.2  # slope of the leaky ReLU below 0
EPS = 1e-5  # of a batch normalization

Array = NDArray[np.float32]


class ServedGenerator(PythonModel):
    """`gan_core.networks.Generator` in NumPy: a server of a few products needs no PyTorch."""

    def load_context(self, context: Any) -> None:
        """Read the weights. A safetensors file holds numbers, and nothing in it is executed."""
        with safe_open(context.artifacts[WEIGHTS], framework="numpy") as file:
            self._weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            about = file.metadata()
        self._network = about.get("network", "mlp")  # version 0.1.0 knew no other
        self._size, self._channels = int(about.get("image_size", 28)), int(about.get("channels", 1))

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Array:
        """z, N×z_dim → images, N×C×H×W in [-1, 1], both float32."""
        # The hint is a plain np.ndarray: MLflow warns of a longer one each time it loads the model.
        z = model_input.astype(np.float32)
        images = self._dcgan(z) if self._network == "dcgan" else self._mlp(z)
        return images.reshape(-1, self._channels, self._size, self._size)

    def _mlp(self, z: Array) -> Array:
        hidden = self._linear("layers.0", z)
        return np.tanh(self._linear("layers.2", np.where(hidden > 0, hidden, np.float32(LEAK) * hidden)))

    def _dcgan(self, z: Array) -> Array:
        maps = z[:, :, None, None]
        for layer, stride, padding in ((1, 1, 0), (4, 2, 1), (7, 2, 1)):
            grown = _grown(maps, self._weights[f"layers.{layer}.weight"], stride, padding)
            maps = np.maximum(self._normalized(f"layers.{layer + 1}", grown), 0)
        return np.tanh(_grown(maps, self._weights["layers.10.weight"], 2, 1))

    def _linear(self, layer: str, inputs: Array) -> Array:
        outputs: Array = inputs @ self._weights[f"{layer}.weight"].T
        outputs += self._weights[f"{layer}.bias"]
        return outputs

    def _normalized(self, layer: str, maps: Array) -> Array:
        """By what a batch normalization has seen in training."""
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, variance = (self._weights[f"{layer}.{name}"][:, None, None] for name in names)
        normalized: Array = (maps - mean) * (weight / np.sqrt(variance + np.float32(EPS))) + bias
        return normalized


def _grown(maps: Array, weight: Array, stride: int, padding: int) -> Array:
    """A transposed convolution: maps N×in×h×w, weight in×out×k×k → N×out×H×W, H = (h − 1)·stride + k − 2·padding."""
    n, _, height, width = maps.shape
    _, out, k, _ = weight.shape
    parts = np.tensordot(maps, weight, axes=(1, 0))  # N×h×w×out×k×k
    whole = np.zeros((n, out, (height - 1) * stride + k, (width - 1) * stride + k), np.float32)
    for i in range(k):
        for j in range(k):
            at = whole[:, :, i : i + height * stride : stride, j : j + width * stride : stride]
            at += parts[..., i, j].transpose(0, 3, 1, 2)
    inside = slice(padding, -padding if padding else None)
    return whole[:, :, inside, inside]


set_model(ServedGenerator())
