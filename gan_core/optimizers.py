"""The optimizers that a run can use, by name; another optimizer is one more entry.

PyTorch is imported where it is needed: it takes seconds, and the names are checked before any training.
"""

from collections.abc import Iterable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn, optim


class OptimizerEntry(NamedTuple):
    """An optimizer of torch.optim, with what a run does not set itself."""

    torch_class: str  # a name in torch.optim
    learning_rate: float  # where none is given
    tensors: int  # as large as a parameter, that it keeps for each one: so how much work a step of it is
    options: Mapping[str, Any] = MappingProxyType({})  # passed to the class
    momentum: float | None = None  # or beta1, where none is given; None: a run cannot set it

    def arguments(self, learning_rate: float, momentum: float) -> dict[str, Any]:
        """What the class is called with; what `options` does not name has PyTorch's default."""
        from torch import optim

        known = signature(getattr(optim, self.torch_class)).parameters
        found = {name: each.default for name, each in known.items() if each.default is not each.empty}
        found |= {**self.options, "lr": learning_rate}
        if self.momentum is not None:
            found |= {"betas": (momentum, found["betas"][1])} if "betas" in known else {"momentum": momentum}
        return found

    def build(self, learning_rate: float, momentum: float, parameters: Iterable["nn.Parameter"]) -> "optim.Optimizer":
        """The optimizer over `parameters`."""
        from torch import optim

        made: optim.Optimizer = getattr(optim, self.torch_class)(parameters, **self.arguments(learning_rate, momentum))
        return made


OPTIMIZERS = {
    "sgd": OptimizerEntry("SGD", 0.03, 0, momentum=0.0),  # 0.3 collapses this network within two epochs
    "adam": OptimizerEntry("Adam", 2e-4, 2, {"fused": True}, momentum=0.9),  # fused: faster
    "adamw": OptimizerEntry("AdamW", 2e-4, 2, {"fused": True}, momentum=0.9),
    "rmsprop": OptimizerEntry("RMSprop", 2e-4, 1, momentum=0.0),
}
