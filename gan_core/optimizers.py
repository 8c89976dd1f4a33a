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


def optimizer_state(optimizer: "optim.Optimizer") -> dict[str, "Tensor"]:
    """Copies of the optimizer's running tensors on the CPU, by `<number of the parameter>.<name>`."""
    return {
        f"{number}.{name}": tensor.detach().cpu().clone()
        for number, of_parameter in optimizer.state_dict()["state"].items()
        for name, tensor in of_parameter.items()
    }


def load_optimizer_state(optimizer: "optim.Optimizer", state: Mapping[str, "Tensor"]) -> None:
    """Set the running tensors to those that `optimizer_state` gave."""
    of_parameters: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        number, _, name = key.partition(".")
        of_parameters.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": of_parameters, "param_groups": optimizer.state_dict()["param_groups"]})


def join_states(**states: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The states of several networks as one: each tensor is known as `<network>.<name>`."""
    return {f"{network}.{name}": tensor for network, state in states.items() for name, tensor in state.items()}


def state_of(network: str, joined: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """One network's state from what `join_states` made."""
    prefix = f"{network}."
    return {name.removeprefix(prefix): tensor for name, tensor in joined.items() if name.startswith(prefix)}
