"""Kernel distance: the squared maximum mean discrepancy of two sets of features under a cubic kernel."""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 500  # features whose products with themselves are held at once


class KernelMoments(NamedTuple):
    """Sums over N×d features, from which every mean of the kernel follows; tensors are float64.

    size: N. first: d, Σx. second: d×d, Σ x⊗x. third: d(d+1)/2×d, Σ x⊗x⊗x; it is symmetric in its first two
    indices i and j, so only i ≤ j are kept, row by row. own: Σ k(x, x).
    """

    size: int
    first: Tensor
    second: Tensor
    third: Tensor
    own: float


def kernel_moments(features: Tensor) -> KernelMoments:
    """The sums over N×d features; N is 2 or more."""
    features = features.to(torch.float64)
    width = features.shape[1]
    third = features.new_zeros(width * (width + 1) // 2, width)
    squares = features.new_empty(len(third), BLOCK)
    for block in features.split(BLOCK):
        turned, products = block.T.contiguous(), squares[:, : len(block)]  # d×n, d(d+1)/2×n
        start = 0
        for i in range(width):
            torch.mul(turned[i:], turned[i], out=products[start : start + width - i])
            start += width - i
        third.addmm_(products, block)
    own = (features.square().sum(dim=1) / width + 1).pow(3).sum().item()
    return KernelMoments(len(features), features.sum(dim=0), features.T @ features, third, own)


def kernel_distance(a: KernelMoments, b: KernelMoments) -> float:
    """The unbiased estimate of MMD² with the kernel k(x, y) = (x·y / d + 1)³.

    About 0, of either sign, for sets of one distribution. Bińkowski et al. (2018),
    https://arxiv.org/abs/1801.01401, average over random subsets of pairs. Here all N² pairs count, in N·d³
    steps instead of N²·d: (x·y)^m is the product of the m-fold tensor powers of x and of y, so the sum over
    pairs follows from sums over single samples.
    """
    within_a = (_pairs(a, a) - a.own) / (a.size * (a.size - 1))
    within_b = (_pairs(b, b) - b.own) / (b.size * (b.size - 1))
    return within_a + within_b - 2 * _pairs(a, b) / (a.size * b.size)


def _pairs(a: KernelMoments, b: KernelMoments) -> float:
    """Σ over x of a and y of b of k(x, y), by (t + 1)³ = 1 + 3t + 3t² + t³ with t = x·y / d."""
    width = len(a.first)
    linear = (a.first * b.first).sum().item() / width
    square = (a.second * b.second).sum().item() / width**2
    i, j = torch.triu_indices(width, width)
    twice = torch.where(i == j, 1.0, 2.0).to(a.third.dtype)  # i < j stands for j, i too
    cube = (twice @ (a.third * b.third).sum(dim=1)).item() / width**3
    return a.size * b.size + 3 * linear + 3 * square + cube
