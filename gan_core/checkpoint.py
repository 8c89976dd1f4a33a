"""A run's whole state on disk: what its training goes on from, and all that was told of it so far.

A file holds a digest, then safetensors with JSON among its metadata: nothing in it is executed to read it.
"""

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.evaluation.scores import Evaluation
from gan_core.events import Baselines, EpochEnd, Evaluated, Samples, TrainState
from gan_core.locks import hold
from gan_core.storage import Place, write_whole

FORMAT = "gan-grid checkpoint"
VERSION = 1
KEPT = 2  # so that there is one before a damaged one
SUFFIX = ".checkpoint"
LOCK_PATIENCE = 60.0  # seconds for the process that trained the run before to be gone

Told = Baselines | Samples | EpochEnd | Evaluated


class Entry(NamedTuple):
    """An event, and when it was: milliseconds since 1970."""

    event: Told
    at: int


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run after an epoch: its state, and its events up to that epoch's EpochEnd, in order."""

    state: TrainState
    told: list[Entry]

    @property
    def ends(self) -> list[EpochEnd]:
        """The epochs so far."""
        return [entry.event for entry in self.told if isinstance(entry.event, EpochEnd)]


class DamagedError(Exception):
    """A file is no whole checkpoint."""


class CheckpointFolder:
    """The checkpoints of one run, the last few; and the lock that says who trains it."""

    def __init__(self, folder: Place, config: RunConfig) -> None:
        """Nothing is written yet. `config`: the run's; a checkpoint of another is refused."""
        self.folder = folder
        self.config = config

    @contextmanager
    def locked(self, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Be the one process that trains the run; a lock ends with its process. Raises UserError if taken."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with hold(self.folder / "lock", patience):
                yield
        except Timeout as error:
            raise UserError(f"another process trains this run: {self.folder / 'lock'} is held") from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it beside, then rename; then remove all but the last KEPT. Raises OSError."""
        content = encode(checkpoint, self.config)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"epoch_{checkpoint.state.epoch:07d}{SUFFIX}", content)
        self.prune(KEPT)

    def prune(self, kept: int) -> None:
        """Remove all but the last so many, and what a kill in the middle of a write has left."""
        for old in [*self._files()[kept:], *self.folder.glob(f".*{SUFFIX}.*")]:
            old.unlink(missing_ok=True)

    def load(self, say: Callable[[str], object]) -> Checkpoint | None:
        """The newest that is whole and not beyond the config's epochs; None if there is none.

        What is damaged is said and removed: it would count as one of those kept. Raises UserError for a
        checkpoint of another config or of a newer version of this program.
        """
        for path in self._files():
            try:
                checkpoint = decode(path.read_bytes(), self.config, str(path))
            except (DamagedError, OSError) as error:
                say(f"the checkpoint {path.name} cannot be used ({error}): going back to the one before it")
            else:
                if checkpoint.state.epoch <= self.config.epochs:
                    return checkpoint
            with suppress(OSError):
                path.unlink()
        return None

    def take_over(self, other: Place) -> None:
        """Where there is none yet, take those of the run whose folder is `other`. Raises OSError."""
        if self._files():
            return
        for path in _by_name(other.glob(f"*{SUFFIX}")):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / path.name, path.read_bytes())

    def _files(self) -> list[Place]:
        return _by_name(self.folder.glob(f"*{SUFFIX}"))[::-1]


def _by_name(files: Iterable[Place]) -> list[Place]:
    return sorted(files, key=lambda file: file.name)


def encode(checkpoint: Checkpoint, config: RunConfig) -> bytes:
    """The checkpoint of a run of `config` as the content of a file."""
    ends = checkpoint.ends
    samples = [entry.event.images for entry in checkpoint.told if isinstance(entry.event, Samples)]
    tensors = {
        **{f"weights.{name}": tensor for name, tensor in checkpoint.state.weights.items()},
        **{f"optimizers.{name}": tensor for name, tensor in checkpoint.state.optimizers.items()},
    }
    if ends:
        tensors["figures"] = torch.from_numpy(np.stack([_figures(end) for end in ends]))
        tensors["seconds"] = torch.tensor([end.seconds for end in ends], dtype=torch.float64)
    if samples:
        tensors["samples"] = torch.stack(samples)
    about = {
        "format": FORMAT,
        "version": str(VERSION),
        "config_hash": config.config_hash,
        "config": json.dumps(dataclasses.asdict(config)),
        "epoch": str(checkpoint.state.epoch),
        "images": str(ends[0].images if ends else 0),
        "told": json.dumps([[*_kind(entry.event), entry.at] for entry in checkpoint.told]),
    }
    body = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=about)
    return f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode() + body


def decode(content: bytes, config: RunConfig, name: str) -> Checkpoint:
    """The checkpoint that `encode` wrote for a run of `config`; `name` is for what is said of it.

    Raises DamagedError if it is not whole, UserError if it is of another config or a newer version.
    """
    head, _, body = content.partition(b"\n")
    if head != f"sha256 {hashlib.sha256(body).hexdigest()}".encode():
        raise DamagedError("it is not whole")
    try:
        about = _metadata(body)
        if about["format"] != FORMAT:
            raise DamagedError("it is no checkpoint")
        if int(about["version"]) > VERSION:
            raise UserError(
                f"the checkpoint {name} was written by a newer version of this program (format "
                f"{about['version']}, this one knows {VERSION}): update it, or start anew with --again"
            )
        if about["config_hash"] != config.config_hash:
            raise UserError(
                f"the checkpoint {name} is of another config ({about['config']}): remove it or start anew"
            )
        tensors = load(body)
        state = TrainState(int(about["epoch"]), _part("weights.", tensors), _part("optimizers.", tensors))
        told = list(_told(json.loads(about["told"]), int(about["images"]), tensors))
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"it cannot be understood: {type(error).__name__}") from error
    checkpoint = Checkpoint(state, told)
    epochs = [end.epoch for end in checkpoint.ends]
    if state.epoch != len(epochs) or epochs != list(range(1, len(epochs) + 1)):
        raise DamagedError(f"it does not tell of each of its {state.epoch} epochs")
    return checkpoint


def _metadata(body: bytes) -> Mapping[str, str]:
    length = int.from_bytes(body[:8], "little")
    if length > len(body) - 8:
        raise DamagedError("it is not whole")
    about: Mapping[str, str] = json.loads(body[8 : 8 + length])["__metadata__"]
    return about


def _figures(end: EpochEnd) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.stack([end.discriminator_losses, end.generator_losses, end.real_scores, end.fake_scores])


def _kind(event: Told) -> tuple[str, Any]:
    match event:
        case Baselines():
            return "baselines", dataclasses.asdict(event)
        case Samples(epoch):
            return "samples", epoch
        case EpochEnd():
            return "epoch", event.epoch
        case Evaluated(epoch, evaluation, seconds):
            shares = evaluation.class_shares.tolist()
            return "evaluated", {
                "epoch": epoch, "scores": evaluation.scores, "shares": shares, "seconds": seconds,
            }  # fmt: skip


def _told(entries: list[list[Any]], images: int, tensors: Mapping[str, Tensor]) -> Iterator[Entry]:
    sheets = deque(tensors.get("samples", ()))
    figures = deque(tensors["figures"].numpy() if "figures" in tensors else ())
    seconds = deque(tensors["seconds"].tolist() if "seconds" in tensors else ())
    event: Told
    for kind, value, at in entries:
        match kind:
            case "baselines":
                event = Baselines(**value)
            case "samples":
                event = Samples(value, sheets.popleft())
            case "epoch":
                D_losses, G_losses, real_scores, fake_scores = figures.popleft()
                event = EpochEnd(
                    value, D_losses, G_losses, real_scores, fake_scores, images, seconds.popleft()
                )
            case "evaluated":
                evaluation = Evaluation(value["scores"], np.array(value["shares"]))
                event = Evaluated(value["epoch"], evaluation, value["seconds"])
            case _:
                raise DamagedError(f"it tells of {kind!r}")
        yield Entry(event, at)


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
