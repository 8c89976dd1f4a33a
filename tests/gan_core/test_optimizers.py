import pytest
import torch

from gan_core.optimizers import OPTIMIZERS, OptimizerEntry


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_learning_rate_and_the_options_reach_the_optimizer(name):
    entry = OPTIMIZERS[name]
    settings = {"momentum": 0.25, "beta1": 0.375, "beta2": 0.5, "weight_decay": 0.0625}
    optimizer = entry.build(0.125, settings, [torch.nn.Parameter(torch.ones(3))])
    assert type(optimizer).__name__.lower() == name
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.0625)
    assert (group["betas"] if "betas" in group else group["momentum"]) in ((0.375, 0.5), 0.25)
    assert set(entry.fields) == {"weight_decay", *(("beta1", "beta2") if "betas" in group else ("momentum",))}
    assert {option: group[option] for option in entry.options} == entry.options


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_nobody_sets_is_pytorchs_default(name):
    theirs = getattr(torch.optim, OPTIMIZERS[name].torch_class)([torch.nn.Parameter(torch.ones(3))], lr=0.5)
    ours = OPTIMIZERS[name].build(0.5, OPTIMIZERS[name].fields, [torch.nn.Parameter(torch.ones(3))])
    assert ours.defaults | {"fused": None} == theirs.defaults | {"fused": None}


def test_any_option_of_the_class_can_be_given():
    entry = OptimizerEntry("SGD", 0.1, 1, {"momentum": 0.75, "nesterov": True})
    (group,) = entry.build(0.5, {"momentum": 0.25}, [torch.nn.Parameter(torch.ones(3))]).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.75, True)  # where a run cannot set it, the entry does


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_work_of_a_step_is_known(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS[name].build(0.125, OPTIMIZERS[name].fields, [parameter])
    parameter.square().sum().backward()
    optimizer.step()
    kept = optimizer.state[parameter].values()
    assert sum(each.shape == parameter.shape for each in kept) == OPTIMIZERS[name].tensors
