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
    fields: Mapping[str, float] = MappingProxyType({})  # those of SETTABLE that a run can set, with their defaults

    def arguments(self, learning_rate: float, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the class is called with; what neither `options` nor `fields` name has PyTorch's default.

        settings: a run's fields by name, of which those in `fields` are taken.
        """
        from torch import optim

        known = signature(getattr(optim, self.torch_class)).parameters
        found = {name: each.default for name, each in known.items() if each.default is not each.empty}
        taken = {name: settings[name] for name in self.fields}
        if "betas" in known:
            usual = zip(BETAS, found["betas"], strict=True)
            found["betas"] = tuple(taken.pop(name, default) for name, default in usual)
        return {**found, **taken, **self.options, "lr": learning_rate}

    def build(
        self, learning_rate: float, settings: Mapping[str, Any], parameters: Iterable["nn.Parameter"]
    ) -> "optim.Optimizer":
        """The optimizer over `parameters`."""
        from torch import optim

        made: optim.Optimizer = getattr(optim, self.torch_class)(parameters, **self.arguments(learning_rate, settings))
        return made


BETAS = ("beta1", "beta2")
SETTABLE = ("momentum", *BETAS, "weight_decay")  # fields of RunConfig that not every optimizer has

_FUSED = {"fused": True}  # faster
_ADAM = {"beta1": 0.9, "beta2": 0.999}
OPTIMIZERS = {
    # At 0.3 the network "mlp" collapses within two epochs.
    "sgd": OptimizerEntry("SGD", 0.03, 0, fields={"momentum": 0.0, "weight_decay": 0.0}),
    "adam": OptimizerEntry("Adam", 2e-4, 2, _FUSED, {**_ADAM, "weight_decay": 0.0}),
    "adamw": OptimizerEntry("AdamW", 2e-4, 2, _FUSED, {**_ADAM, "weight_decay": 0.01}),
    "rmsprop": OptimizerEntry("RMSprop", 2e-4, 1, fields={"momentum": 0.0, "weight_decay": 0.0}),
}
