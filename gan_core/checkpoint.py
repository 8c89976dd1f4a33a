"""A run's whole state on disk: what its training resumes from, and its events so far.

A file holds a digest, then safetensors with JSON among its metadata: nothing in it is executed to read it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
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
from gan_core.events import Baselines, EpochEnd, Evaluated, Machine, Samples, TrainState
from gan_core.locks import hold
from gan_core.storage import StoragePath, write_whole

FORMAT = "gan-grid checkpoint"
VERSION = 3
READABLE = (2, 3)  # in 2 there is nothing of machines
KEPT = 2  # so that there is one before a damaged one
SUFFIX = ".checkpoint"
LOCK_PATIENCE = 60.0  # seconds for the process that trained the run before to be gone

RecordedEvent = Baselines | Samples | EpochEnd | Evaluated | Machine
KINDS = {Baselines: "baselines", Samples: "samples", EpochEnd: "epoch", Evaluated: "evaluated", Machine: "machine"}


class TimedEvent(NamedTuple):
    """An event, and when it was: milliseconds since 1970."""

    event: RecordedEvent
    at: int


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run after an epoch: its state, and its events up to that epoch's EpochEnd, in order."""

    state: TrainState
    events: list[TimedEvent]

    @property
    def epoch_ends(self) -> list[EpochEnd]:
        """The EpochEnd of each epoch so far."""
        return [entry.event for entry in self.events if isinstance(entry.event, EpochEnd)]

    @property
    def machine(self) -> str | None:
        """The kind of machine that has trained it last; None where that was not recorded."""
        return next((entry.event.kind for entry in reversed(self.events) if isinstance(entry.event, Machine)), None)


class DamagedError(Exception):
    """A file is no whole checkpoint."""


@dataclasses.dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run, the last few; and the lock that says who trains it."""

    folder: StoragePath  # made when something is written
    config: RunConfig  # a checkpoint of another is refused
    images: str = ""  # digest of a folder's images: so is one that was trained on others

    @contextmanager
    def locked(self, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Be the one process that trains the run; a lock ends with its process. Raises UserError if taken."""
        try:
            with hold(self.folder / "lock", patience):
                yield
        except Timeout as error:
            raise UserError(f"another process trains this run: {self.folder / 'lock'} is held") from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it whole or not at all, then remove all but the last KEPT. Raises OSError."""
        file = self.folder / f"epoch_{checkpoint.state.epoch:07d}{SUFFIX}"
        write_whole(file, encode(checkpoint, self.config, self.images))
        self.prune(KEPT)

    def prune(self, kept: int) -> None:
        """Remove all but the last `kept`, and what a kill in the middle of a write has left."""
        for old in [*_newest_first(self.folder)[kept:], *self.folder.glob(f".*{SUFFIX}.*")]:
            old.unlink(missing_ok=True)

    def load(self, say: Callable[[str], object]) -> Checkpoint | None:
        """The newest that is whole and not beyond the config's epochs; None if there is none.

        A damaged file is reported to `say` and removed: it would count as one of those kept. Raises UserError
        for a checkpoint of another config or of another version of this program.
        """
        for path in _newest_first(self.folder):
            try:
                checkpoint = decode(path.read_bytes(), self.config, str(path), self.images)
            except (DamagedError, OSError) as error:
                say(f"the checkpoint {path.name} cannot be used ({error}): going back to the one before it")
            else:
                if checkpoint.state.epoch <= self.config.epochs:
                    return checkpoint
            with suppress(OSError):
                path.unlink()
        return None

    def take_over(self, other: StoragePath) -> None:
        """Where there is none yet, copy those of the run whose folder is `other`. Raises OSError."""
        if _newest_first(self.folder):
            return
        for path in _newest_first(other)[::-1]:
            write_whole(self.folder / path.name, path.read_bytes())


def _newest_first(folder: StoragePath) -> list[StoragePath]:
    return sorted(folder.glob(f"*{SUFFIX}"), key=lambda file: file.name, reverse=True)


def encode(checkpoint: Checkpoint, config: RunConfig, images: str = "") -> bytes:
    """The checkpoint of a run of `config` on these images as the content of a file."""
    state, ends = checkpoint.state, checkpoint.epoch_ends
    samples = [entry.event.images.numpy() for entry in checkpoint.events if isinstance(entry.event, Samples)]
    arrays = [(end.discriminator_losses, end.generator_losses, end.real_scores, end.fake_scores) for end in ends]
    tensors = {
        **{f"weights.{name}": tensor for name, tensor in state.weights.items()},
        **{f"optimizers.{name}": tensor for name, tensor in state.optimizers.items()},
        "iterations": torch.from_numpy(np.array(arrays)),  # float32, epochs × 4 × iterations
        "seconds": torch.tensor([end.seconds for end in ends], dtype=torch.float64),
        "samples": torch.from_numpy(np.array(samples)),  # uint8, sheets × N × C × H × W
    }
    about = {
        "format": FORMAT,
        "version": str(VERSION),
        "config_hash": config.config_hash,
        "config": json.dumps(dataclasses.asdict(config)),
        "epoch": str(state.epoch),
        "images": str(ends[0].images if ends else 0),
        "images_digest": images,
        "events": json.dumps([_described(entry) for entry in checkpoint.events], default=np.ndarray.tolist),
    }
    body = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=about)
    return _digest(body) + b"\n" + body


def decode(content: bytes, config: RunConfig, name: str, images: str = "") -> Checkpoint:
    """The checkpoint that `encode` wrote for a run of `config`; `name` is the file's, for messages.

    Raises DamagedError if it is not whole, UserError if it is of another config, other images or another version.
    """
    head, _, body = content.partition(b"\n")
    if head != _digest(body):
        raise DamagedError("it is not whole")
    try:
        tensors = load(body)
        length = int.from_bytes(body[:8], "little")  # of safetensors' header, which `load` has checked
        about = json.loads(body[8 : 8 + length])["__metadata__"]
        if about["format"] != FORMAT:
            raise DamagedError("it is no checkpoint")
        version = int(about["version"])
        if version not in READABLE:
            age, advice = (
                ("a newer", "update it") if version > VERSION else ("an older", "finish the run with that one")
            )
            raise UserError(
                f"the checkpoint {name} was written by {age} version of this program "
                f"(format {version}, this one reads {VERSION}): {advice}, or start anew with --again"
            )
        if about["config_hash"] != config.config_hash:
            raise UserError(f"the checkpoint {name} is of another config ({about['config']}): remove it or start anew")
        if about.get("images_digest", "") != images:
            raise UserError(
                f"the checkpoint {name} was trained on other images than are in {config.dataset} now: put those back, "
                "or start anew with --again"
            )
        state = TrainState(int(about["epoch"]), _part("weights.", tensors), _part("optimizers.", tensors))
        checkpoint = Checkpoint(state, list(_events(json.loads(about["events"]), int(about["images"]), tensors)))
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"it cannot be understood: {type(error).__name__}") from error
    epochs = [end.epoch for end in checkpoint.epoch_ends]
    if state.epoch != len(epochs) or epochs != list(range(1, len(epochs) + 1)):
        raise DamagedError(f"it does not have each of its {state.epoch} epochs")
    return checkpoint


def _digest(body: bytes) -> bytes:
    return f"sha256 {hashlib.sha256(body).hexdigest()}".encode()


def _described(entry: TimedEvent) -> tuple[str, Any, int]:
    """The event's kind, what of it is no tensor, and its time."""
    event, at = entry
    what = event.epoch if isinstance(event, Samples | EpochEnd) else dataclasses.asdict(event)
    return KINDS[type(event)], what, at


def _events(described: list[list[Any]], images: int, tensors: Mapping[str, Tensor]) -> Iterator[TimedEvent]:
    sheets = list(tensors["samples"])
    iterations, seconds = tensors["iterations"].numpy(), tensors["seconds"].tolist()
    event: RecordedEvent
    for kind, value, at in described:
        match kind:
            case "baselines":
                event = Baselines(**value)
            case "samples":
                event = Samples(value, sheets.pop(0))
            case "epoch":
                D_losses, G_losses, real_scores, fake_scores = iterations[value - 1]
                event = EpochEnd(value, D_losses, G_losses, real_scores, fake_scores, images, seconds[value - 1])
            case "machine":
                event = Machine(**value)
            case "evaluated":
                event = Evaluated(**{**value, "class_shares": np.array(value["class_shares"])})
            case _:
                raise DamagedError(f"it has an event of the kind {kind!r}")
        yield TimedEvent(event, at)


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
