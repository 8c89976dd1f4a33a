import pytest
import torch

from gan_core.optimizers import (
    OPTIMIZERS,
    OptimizerEntry,
    join_states,
    load_optimizer_state,
    optimizer_state,
    state_of,
)


def stepped(entry, parameter):
    optimizer = entry.build(0.125, [parameter])
    parameter.square().sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_learning_rate_and_the_options_reach_the_optimizer(name):
    entry = OPTIMIZERS[name]
    optimizer = entry.build(0.125, [torch.nn.Parameter(torch.ones(3))])
    assert type(optimizer).__name__.lower() == name
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.125
    assert {option: group[option] for option in entry.options} == entry.options


def test_any_option_of_the_class_can_be_given():
    entry = OptimizerEntry("SGD", 0.1, 1, {"momentum": 0.75, "nesterov": True})
    (group,) = entry.build(0.5, [torch.nn.Parameter(torch.ones(3))]).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.75, True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_work_of_a_step_is_known(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    kept = stepped(OPTIMIZERS[name], parameter).state[parameter].values()
    assert sum(each.shape == parameter.shape for each in kept) == OPTIMIZERS[name].tensors


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_comes_back(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    state = optimizer_state(stepped(OPTIMIZERS[name], parameter))
    other = OPTIMIZERS[name].build(0.125, [torch.nn.Parameter(torch.ones(3))])
    load_optimizer_state(other, state)
    again = optimizer_state(other)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_joined_states_are_told_apart():
    G, D = {"0.a": torch.zeros(1)}, {"0.a": torch.ones(1), "G.b": torch.ones(2)}
    joined = join_states(G=G, D=D)
    assert sorted(joined) == ["D.0.a", "D.G.b", "G.0.a"]
    assert state_of("G", joined) == G
    assert state_of("D", joined) == D
