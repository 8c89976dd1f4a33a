"""A registered G as MLflow serves it. This file is stored with the weights and imports nothing of the project."""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from safetensors import safe_open

WEIGHTS = "generator"  # the artifact that holds them
LEAK = 0.2  # slope of the leaky ReLU below 0


class ServedGenerator(PythonModel):
    """`gan_core.networks.Generator` in NumPy: a server of two matrix products needs no PyTorch."""

    def load_context(self, context: Any) -> None:
        """Read the weights. A safetensors file holds numbers, and nothing in it is executed."""
        with safe_open(context.artifacts[WEIGHTS], framework="numpy") as file:
            self._weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            about = file.metadata()
        size, channels = int(about.get("image_size", 28)), int(about.get("channels", 1))
        self._shape = channels, size, size

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """z, N×z_dim → images, N×C×H×W in [-1, 1], both float32."""
        # The hint is a plain np.ndarray: MLflow warns of a longer one each time it loads the model.
        hidden = self._linear("layers.0", model_input.astype(np.float32))
        hidden = np.where(hidden > 0, hidden, np.float32(LEAK) * hidden)
        images: NDArray[np.float32] = np.tanh(self._linear("layers.2", hidden))
        return images.reshape(-1, *self._shape)

    def _linear(self, layer: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = inputs @ self._weights[f"{layer}.weight"].T
        outputs += self._weights[f"{layer}.bias"]
        return outputs


set_model(ServedGenerator())
