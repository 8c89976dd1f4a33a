"""Random streams: one seed gives each use of chance a stream of its own.

So two runs with one seed share D's first weights and the order of the real images whatever their optimizer
and z_dim, and no change in how one stream is used can shift another.
"""

import hashlib

import torch


def stream_seed(name: str, *key: int) -> int:
    """A seed in [0, 2**63) for the stream `name`, told from every other (name, key) by a hash."""
    text = "/".join([name, *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def stream(name: str, *key: int) -> torch.Generator:
    """A CPU generator at the start of the stream `name`."""
    return torch.Generator().manual_seed(stream_seed(name, *key))
