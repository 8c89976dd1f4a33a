"""The optimizers that a run can use, by name; another optimizer is one more entry.

PyTorch is imported where it is needed: it takes seconds, and the names are checked before any training.
"""

from collections.abc import Iterable, Mapping
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
