import pytest
import torch

from gan_core.config import RunConfig
from gan_core.optimizers import OPTIMIZERS, build_optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_axis_reaches_the_optimizer(name):
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = build_optimizer(RunConfig(optimizer=name, learning_rate=0.125), [parameter])
    assert type(optimizer) is OPTIMIZERS[name].make
    assert optimizer.param_groups[0]["lr"] == 0.125
    assert optimizer.param_groups[0]["params"] == [parameter]


def test_names_are_the_classes_of_torch():
    assert {name: choice.make.__name__.lower() for name, choice in OPTIMIZERS.items()} == {
        name: name for name in OPTIMIZERS
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_work_of_a_step_is_known(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(RunConfig(optimizer=name), [parameter])
    parameter.sum().backward()
    optimizer.step()
    kept = [each for each in optimizer.state[parameter].values() if each.shape == parameter.shape]
    assert len(kept) == OPTIMIZERS[name].tensors
