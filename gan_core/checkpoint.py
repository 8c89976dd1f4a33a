"""A run's whole state on disk: what its training resumes from, and its events so far.

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
from gan_core.events import Baselines, EpochEnd, Evaluated, Samples, TrainState
from gan_core.locks import hold
from gan_core.storage import StoragePath, write_whole

FORMAT = "gan-grid checkpoint"
VERSION = 2
KEPT = 2  # so that there is one before a damaged one
SUFFIX = ".checkpoint"
LOCK_PATIENCE = 60.0  # seconds for the process that trained the run before to be gone

RecordedEvent = Baselines | Samples | EpochEnd | Evaluated


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


class DamagedError(Exception):
    """A file is no whole checkpoint."""


class CheckpointFolder:
    """The checkpoints of one run, the last few; and the lock that says who trains it."""

    def __init__(self, folder: StoragePath, config: RunConfig) -> None:
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
        """Write it whole or not at all, then remove all but the last KEPT. Raises OSError."""
        content = encode(checkpoint, self.config)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"epoch_{checkpoint.state.epoch:07d}{SUFFIX}", content)
        self.prune(KEPT)

    def prune(self, kept: int) -> None:
        """Remove all but the last `kept`, and what a kill in the middle of a write has left."""
        for old in [*self._files()[kept:], *self.folder.glob(f".*{SUFFIX}.*")]:
            old.unlink(missing_ok=True)

    def load(self, say: Callable[[str], object]) -> Checkpoint | None:
        """The newest that is whole and not beyond the config's epochs; None if there is none.

        A damaged file is reported to `say` and removed: it would count as one of those kept. Raises UserError
        for a checkpoint of another config or of another version of this program.
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

    def take_over(self, other: StoragePath) -> None:
        """Where there is none yet, copy those of the run whose folder is `other`. Raises OSError."""
        if self._files():
            return
        for path in _by_name(other.glob(f"*{SUFFIX}")):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / path.name, path.read_bytes())

    def _files(self) -> list[StoragePath]:
        return _by_name(self.folder.glob(f"*{SUFFIX}"))[::-1]


def _by_name(files: Iterable[StoragePath]) -> list[StoragePath]:
    return sorted(files, key=lambda file: file.name)


def encode(checkpoint: Checkpoint, config: RunConfig) -> bytes:
    """The checkpoint of a run of `config` as the content of a file."""
    ends = checkpoint.epoch_ends
    samples = [entry.event.images for entry in checkpoint.events if isinstance(entry.event, Samples)]
    tensors = {
        **{f"weights.{name}": tensor for name, tensor in checkpoint.state.weights.items()},
        **{f"optimizers.{name}": tensor for name, tensor in checkpoint.state.optimizers.items()},
    }
    if ends:
        tensors["iterations"] = torch.from_numpy(np.stack([_iterations(end) for end in ends]))
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
        "events": json.dumps([[*_described(entry.event), entry.at] for entry in checkpoint.events]),
    }
    body = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=about)
    return f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode() + body


def decode(content: bytes, config: RunConfig, name: str) -> Checkpoint:
    """The checkpoint that `encode` wrote for a run of `config`; `name` is the file's, for messages.

    Raises DamagedError if it is not whole, UserError if it is of another config or another version.
    """
    head, _, body = content.partition(b"\n")
    if head != f"sha256 {hashlib.sha256(body).hexdigest()}".encode():
        raise DamagedError("it is not whole")
    try:
        about = _metadata(body)
        if about["format"] != FORMAT:
            raise DamagedError("it is no checkpoint")
        if (version := int(about["version"])) != VERSION:
            newer = version > VERSION
            raise UserError(
                f"the checkpoint {name} was written by {'a newer' if newer else 'an older'} version of this "
                f"program (format {version}, this one reads {VERSION}): "
                f"{'update it' if newer else 'finish the run with that one'}, or start anew with --again"
            )
        if about["config_hash"] != config.config_hash:
            raise UserError(f"the checkpoint {name} is of another config ({about['config']}): remove it or start anew")
        tensors = load(body)
        state = TrainState(int(about["epoch"]), _part("weights.", tensors), _part("optimizers.", tensors))
        events = list(_events(json.loads(about["events"]), int(about["images"]), tensors))
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"it cannot be understood: {type(error).__name__}") from error
    checkpoint = Checkpoint(state, events)
    epochs = [end.epoch for end in checkpoint.epoch_ends]
    if state.epoch != len(epochs) or epochs != list(range(1, len(epochs) + 1)):
        raise DamagedError(f"it does not have each of its {state.epoch} epochs")
    return checkpoint


def _metadata(body: bytes) -> Mapping[str, str]:
    length = int.from_bytes(body[:8], "little")
    if length > len(body) - 8:
        raise DamagedError("it is not whole")
    about: Mapping[str, str] = json.loads(body[8 : 8 + length])["__metadata__"]
    return about


def _iterations(end: EpochEnd) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.stack([end.discriminator_losses, end.generator_losses, end.real_scores, end.fake_scores])


def _described(event: RecordedEvent) -> tuple[str, Any]:
    """The event's kind, and what of it is no tensor."""
    match event:
        case Baselines():
            return "baselines", dataclasses.asdict(event)
        case Samples(epoch):
            return "samples", epoch
        case EpochEnd():
            return "epoch", event.epoch
        case Evaluated():
            return "evaluated", {**dataclasses.asdict(event), "class_shares": event.class_shares.tolist()}


def _events(described: list[list[Any]], images: int, tensors: Mapping[str, Tensor]) -> Iterator[TimedEvent]:
    sheets = deque(tensors.get("samples", ()))
    iterations = deque(tensors["iterations"].numpy() if "iterations" in tensors else ())
    seconds = deque(tensors["seconds"].tolist() if "seconds" in tensors else ())
    event: RecordedEvent
    for kind, value, at in described:
        match kind:
            case "baselines":
                event = Baselines(**value)
            case "samples":
                event = Samples(value, sheets.popleft())
            case "epoch":
                D_losses, G_losses, real_scores, fake_scores = iterations.popleft()
                event = EpochEnd(value, D_losses, G_losses, real_scores, fake_scores, images, seconds.popleft())
            case "evaluated":
                event = Evaluated(**{**value, "class_shares": np.array(value["class_shares"])})
            case _:
                raise DamagedError(f"it has an event of the kind {kind!r}")
        yield TimedEvent(event, at)


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
