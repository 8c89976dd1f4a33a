"""Random streams: one seed gives each use of chance a stream of its own.

So no change in how one stream is used can shift another, and two runs of a seed share what a stream gives
unless a field on which it depends differs. Nothing here needs PyTorch until a stream is drawn from.
"""

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from gan_core.architectures import NETWORKS, fields_of
from gan_core.config import RunConfig

if TYPE_CHECKING:
    import torch


class Stream(NamedTuple):
    """What the draws of a stream depend on: fields of RunConfig, by name, and "epoch"."""

    key: tuple[str, ...]  # its seed is made from these, in this order
    amount: tuple[str, ...] = ()  # these say how many numbers are drawn at once, and so which
    only_with: str = ""  # a field: where it is 0 nothing is drawn


STREAMS = {
    "init-G": Stream(("seed",), ("network",)),  # first weights; and on the fields that G is made from
    "init-D": Stream(("seed",), ("network",)),  # first weights; and on the fields that D is made from
    "order": Stream(("seed", "epoch"), ("dataset",)),  # of the real images
    # z of both halves of each step
    "noise": Stream(("seed", "epoch", "z_dim"), ("batch_size", "discriminator_steps")),
    # between which images the penalty on D's gradient is taken
    "mixing": Stream(("seed", "epoch"), ("batch_size", "discriminator_steps"), only_with="gradient_penalty"),
    "samples": Stream(("z_dim",)),  # z of the sample sheets
    "evaluation": Stream(("z_dim",), ("dataset",)),  # z of the images that are scored
}


def depends_on(name: str, network: str) -> frozenset[str]:
    """The fields of RunConfig on which the draws of a stream depend, in runs of `network`."""
    key, amount, _ = STREAMS[name]
    _, init, which = name.partition("init-")
    layers = fields_of(getattr(NETWORKS[network], which)) if init else ()
    return frozenset({*key, *amount, *layers} - {"epoch"})


def run_stream(name: str, config: RunConfig, epoch: int = 0) -> "torch.Generator":
    """A CPU generator at the start of a run's stream, one of STREAMS, in an epoch where these have their own."""
    return stream(name, *(epoch if field == "epoch" else getattr(config, field) for field in STREAMS[name].key))


def stream(name: str, *key: int) -> "torch.Generator":
    """A CPU generator at the start of the stream of this name and key."""
    import torch

    return torch.Generator().manual_seed(stream_seed(name, *key))


def stream_seed(name: str, *key: int) -> int:
    """A seed in [0, 2**63) for the stream `name`, told from every other (name, key) by a hash."""
    text = "/".join([name, *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
