"""The optimizers that a run can use, by name; another optimizer is one more entry.

PyTorch is imported where it is needed: it takes seconds, and the names are checked before any training.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn, optim


class OptimizerEntry(NamedTuple):
    """An optimizer of torch.optim, with what a run does not set itself."""

    torch_class: str  # a name in torch.optim
    learning_rate: float  # where none is given
    tensors: int  # as large as a parameter, that it keeps for each one: so how much work a step of it is
    options: Mapping[str, Any] = MappingProxyType({})  # passed to the class

    def build(self, learning_rate: float, parameters: Iterable["nn.Parameter"]) -> "optim.Optimizer":
        """The optimizer over `parameters`; what `options` does not name is PyTorch's default."""
        from torch import optim

        made: optim.Optimizer = getattr(optim, self.torch_class)(parameters, lr=learning_rate, **self.options)
        return made


OPTIMIZERS = {
    "sgd": OptimizerEntry("SGD", 0.03, 0),  # 0.3 collapses this network within two epochs
    "adam": OptimizerEntry("Adam", 2e-4, 2, {"fused": True}),  # fused: faster
    "adamw": OptimizerEntry("AdamW", 2e-4, 2, {"fused": True}),
    "rmsprop": OptimizerEntry("RMSprop", 2e-4, 1),
}


def optimizer_states(**optimizers: "optim.Optimizer") -> dict[str, "Tensor"]:
    """Copies of the running tensors on the CPU, by `<name of the optimizer>.<number of the parameter>.<name>`."""
    return {
        f"{optimizer}.{number}.{name}": tensor.detach().cpu().clone()
        for optimizer, its in optimizers.items()
        for number, of_parameter in its.state_dict()["state"].items()
        for name, tensor in of_parameter.items()
    }


def load_optimizer_states(states: Mapping[str, "Tensor"], **optimizers: "optim.Optimizer") -> None:
    """Set the running tensors to those that `optimizer_states` gave."""
    parts: dict[str, dict[int, dict[str, Tensor]]] = {optimizer: {} for optimizer in optimizers}
    for key, tensor in states.items():
        optimizer, number, name = key.split(".")
        parts[optimizer].setdefault(int(number), {})[name] = tensor
    for optimizer, its in optimizers.items():
        its.load_state_dict({**its.state_dict(), "state": parts[optimizer]})
