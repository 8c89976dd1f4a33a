"""The optimizers that a run can use; another one is one more line in the table."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from gan_core.config import RunConfig


class OptimizerChoice(NamedTuple):
    """A class of torch.optim by name, the learning rate where none is given, options that make it faster.

    `tensors`: how many tensors as large as a parameter it keeps of each, so how much work a step of it is.
    """

    name: str
    learning_rate: float
    tensors: int
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def make(self) -> type["torch.optim.Optimizer"]:
        """The class itself."""
        from torch import optim  # takes seconds to import, and the table is read before any training

        found: type[torch.optim.Optimizer] = getattr(optim, self.name)
        return found


OPTIMIZERS = {
    "sgd": OptimizerChoice("SGD", 0.03, 0),  # 0.3 collapses this network within two epochs
    "adam": OptimizerChoice("Adam", 2e-4, 2, {"fused": True}),
    "adamw": OptimizerChoice("AdamW", 2e-4, 2, {"fused": True}),
    "rmsprop": OptimizerChoice("RMSprop", 2e-4, 1),
}


def build_optimizer(
    config: "RunConfig", parameters: Iterable["torch.nn.Parameter"]
) -> "torch.optim.Optimizer":
    """The run's optimizer over `parameters`, at the run's learning rate, else with PyTorch's defaults."""
    # Every class in the table takes lr; the common base class's signature does not say so.
    choice = OPTIMIZERS[config.optimizer]
    return choice.make(parameters, lr=config.learning_rate, **choice.options)  # type: ignore[call-arg]


def optimizer_state(optimizer: "torch.optim.Optimizer") -> dict[str, "torch.Tensor"]:
    """Copies of the optimizer's running tensors on the CPU, by `<parameter's place>.<name>`."""
    return {
        f"{place}.{name}": tensor.detach().cpu().clone()
        for place, of_parameter in optimizer.state_dict()["state"].items()
        for name, tensor in of_parameter.items()
    }


def load_optimizer_state(optimizer: "torch.optim.Optimizer", state: Mapping[str, "torch.Tensor"]) -> None:
    """Take up where `optimizer_state` was asked for."""
    of_parameters: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        place, _, name = key.partition(".")
        of_parameters.setdefault(int(place), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": of_parameters, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def prefixed(**states: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """One state of several networks': their names before the tensors' own."""
    return {
        f"{network}.{name}": tensor for network, state in states.items() for name, tensor in state.items()
    }


def of_network(network: str, state: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """A network's part of what `prefixed` made."""
    begin = f"{network}."
    return {name.removeprefix(begin): tensor for name, tensor in state.items() if name.startswith(begin)}


def training_cost(config: "RunConfig") -> float:
    """How long a run takes, in a unit of its own: enough to tell which of two takes longer."""
    weights = config.hidden_dim * (config.z_dim + 2 * 784)  # of G and D
    return weights * (1 + 0.2 * OPTIMIZERS[config.optimizer].tensors) * config.epochs
