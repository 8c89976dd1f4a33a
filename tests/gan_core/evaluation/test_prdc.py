import pytest
import torch
from prdc import compute_prdc
from torch import Tensor

from gan_core.evaluation.scores import DISTANCE_BLOCK as BLOCK
from gan_core.evaluation.scores import prdc, squared_radii


def normal(count: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ours(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    found = prdc(real, fake, squared_radii(real, k), squared_radii(fake, k), k)
    return {name.removeprefix("quality/"): value for name, value in found.items()}


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("shift", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("counts", [(2 * BLOCK + 37, 2 * BLOCK + 37), (BLOCK + 1, 90)])
def test_agrees_with_the_authors_package(counts: tuple[int, int], shift: float, k: int):
    real, fake = normal(counts[0], 8, 0), 0.8 * normal(counts[1], 8, 1) + shift
    assert ours(real, fake, k) == pytest.approx(compute_prdc(real.numpy(), fake.numpy(), k), abs=1e-12)


def test_single_precision_agrees_far_from_the_origin():
    real, fake = normal(400, 8, 0) + 100, 0.8 * normal(400, 8, 1) + 100
    theirs = compute_prdc(real.numpy(), fake.numpy(), 5)
    # A comparison or two out of 160,000 may fall the other way.
    assert ours(real.float(), fake.float()) == pytest.approx(theirs, abs=2 / 400)


def test_the_same_set_twice():
    real = normal(300, 4, 0)
    found = ours(real, real.clone())
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    # Each sample lies in its own ball and, on average, in k others less the one on each ball's edge.
    assert found["density"] == pytest.approx(1)


def test_far_apart_is_nothing():
    assert ours(normal(100, 4, 0), normal(100, 4, 1) + 1000) == dict.fromkeys(
        ("precision", "recall", "density", "coverage"), 0
    )


def test_one_picture_recalls_and_covers_next_to_nothing():
    real = normal(300, 4, 0)
    found = ours(real, real[:1].expand(300, -1))
    assert found["precision"] == 1
    assert found["recall"] == 0
    assert found["coverage"] < 0.05


def test_radius_is_the_distance_to_the_kth_other():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]]).double()
    torch.testing.assert_close(squared_radii(line, k=2).sqrt(), torch.tensor([3.0, 2.0, 3.0, 6.0]).double())


@pytest.mark.slow
def test_gaussians_of_ten_thousand_in_a_thousand_dimensions():
    real, fake = normal(10_000, 1000, 0, torch.float32), normal(10_000, 1000, 1, torch.float32)
    found = ours(real, fake)
    assert found == pytest.approx(compute_prdc(real.numpy(), fake.numpy(), 5), abs=2e-4)
    # What Naeem et al. show for one draw of two such sets. Over ten draws here density went from 0.88 to 1.08
    # (one sample near the middle lies in many balls), the others stayed within 0.03 of one another.
    published = {"precision": 0.477, "recall": 0.471, "coverage": 0.974}
    assert {name: found[name] for name in published} == pytest.approx(published, abs=0.03)
    assert found["density"] == pytest.approx(1.056, abs=0.2)
