import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gan_core.config import make_config
from gan_core.machine import kind_of_machine, least_step_seconds, products


class Products(TorchDispatchMode):
    """Counts the multiplications in the matrix products that are done within it."""

    def __init__(self):
        super().__init__()
        self.counted = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.mm.out):
            (rows, inner), (_, columns) = args[0].shape, args[1].shape
            self.counted.append(rows * inner * columns)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("apart", "count"), [(False, 9), (True, 11)])
def test_the_floor_has_the_products_of_a_step(apart, count):
    n, h, z, pixels = 3, 5, 2, 784
    config = make_config(batch_size=n, hidden_dim=h, z_dim=z)
    with Products() as seen:
        products(config, apart)(2)
    first, second = 2 * n * h * (z + pixels), n * h * (8 * pixels + z)  # G's forward passes; all others
    assert sum(seen.counted) == 2 * (first + second)
    assert len(seen.counted) == 2 * count


def test_the_floor_is_known_for_the_mlp_on_a_cpu():
    config = make_config(batch_size=2, hidden_dim=4)
    assert least_step_seconds(config) > 0
    assert least_step_seconds(dataclasses.replace(config, device="cuda")) is None


def test_another_instruction_set_is_another_kind_of_machine(command):
    ask = "from gan_core.machine import kind_of_machine; print(kind_of_machine())"
    same = command("-c", ask).stdout.strip()
    other = command("-c", ask, ATEN_CPU_CAPABILITY="default").stdout.strip()
    assert same == kind_of_machine()
    assert f" torch-{torch.__version__.partition('+')[0]}" in same
    assert other == same.replace(torch.backends.cpu.get_cpu_capability(), "DEFAULT")
    assert other != same
