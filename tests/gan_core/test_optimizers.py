import pytest
import torch

from gan_core.optimizers import OPTIMIZERS, OptimizerEntry


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_learning_rate_and_the_options_reach_the_optimizer(name):
    entry = OPTIMIZERS[name]
    optimizer = entry.build(0.125, 0.25, [torch.nn.Parameter(torch.ones(3))])
    assert type(optimizer).__name__.lower() == name
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.125
    assert (group["betas"][0] if "betas" in group else group["momentum"]) == 0.25
    assert "betas" not in group or group["betas"][1] == 0.999
    assert {option: group[option] for option in entry.options} == entry.options


def test_any_option_of_the_class_can_be_given():
    entry = OptimizerEntry("SGD", 0.1, 1, {"momentum": 0.75, "nesterov": True})
    (group,) = entry.build(0.5, 0.25, [torch.nn.Parameter(torch.ones(3))]).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.75, True)  # where a run cannot set it, the entry does


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_work_of_a_step_is_known(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS[name].build(0.125, 0.0, [parameter])
    parameter.square().sum().backward()
    optimizer.step()
    kept = optimizer.state[parameter].values()
    assert sum(each.shape == parameter.shape for each in kept) == OPTIMIZERS[name].tensors
