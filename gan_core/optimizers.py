"""The optimizers that a run can use; another one is one more line in the table."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from gan_core.config import RunConfig


class OptimizerChoice(NamedTuple):
    """A class of torch.optim, the learning rate used where none is given, and options that make it faster."""

    make: type[torch.optim.Optimizer]
    learning_rate: float
    options: Mapping[str, Any] = MappingProxyType({})


OPTIMIZERS = {
    "sgd": OptimizerChoice(torch.optim.SGD, 0.03),  # 0.3 collapses this network within two epochs
    "adam": OptimizerChoice(torch.optim.Adam, 2e-4, {"fused": True}),
    "adamw": OptimizerChoice(torch.optim.AdamW, 2e-4, {"fused": True}),
    "rmsprop": OptimizerChoice(torch.optim.RMSprop, 2e-4),
}


def build_optimizer(config: "RunConfig", parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The run's optimizer over `parameters`, at the run's learning rate, else with PyTorch's defaults."""
    # Every class in the table takes lr; the common base class's signature does not say so.
    choice = OPTIMIZERS[config.optimizer]
    return choice.make(parameters, lr=config.learning_rate, **choice.options)  # type: ignore[call-arg]
