"""Events → plain files in a folder: the record of a run without a store, and a tracker's artifacts."""

import csv
import dataclasses
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gan_core import metric_names as names
from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.events import Baselines, Diagnosis, EpochEnd, Evaluated, Event, Samples, Trained
from gan_core.networks import save_generator
from gan_core.plots import plot_losses, sample_sheet
from gan_core.storage import write_whole

STATUS_FILE = "status.json"
CHECKPOINTS = "checkpoint"  # a folder among a run's files, until it has finished


class RunFolder:
    """Writes a run's files, most of them as their events come.

    config.json, metrics.csv, samples/epoch_*.png, quality.json, generator.safetensors, losses.npz,
    losses.png, status.json, and of a run that broke, traceback.txt.
    """

    def __init__(self, folder: Path, config: RunConfig, title: str) -> None:
        """Make `folder` if need be, or continue the record of a run of this config that was cut off there.

        Raises UserError if something else is in it or it cannot be written.
        """
        check_output(folder, config)
        self.folder = folder
        self._title = title
        self._epochs: list[EpochEnd] = []
        self._quality: dict[str, Any] = {}
        self._health: dict[str, str | int] = {}
        with writing_to(folder):
            # First: by this file a run that is cut off right after is known.
            self._write_json(names.CONFIG_FILE, _settings(config))
            for name in (names.METRICS_TABLE, STATUS_FILE):
                (folder / name).unlink(missing_ok=True)  # a resumed run replays its events from the first epoch on

    def log(self, event: Event, at: int = 0) -> None:
        """Write what the event brings."""
        match event:
            case Samples(epoch, images):
                png = io.BytesIO()
                sample_sheet(images).save(png, format="png", compress_level=1)
                write_whole(self.folder / names.sheet_name(epoch), png.getvalue())
            case EpochEnd():
                self._epochs.append(event)
                row = {"epoch": event.epoch, **event.metrics()}
                with (self.folder / names.METRICS_TABLE).open("a", newline="") as file:
                    table = csv.DictWriter(file, row)
                    if event.epoch == 1:
                        table.writeheader()
                    table.writerow(row)
            case Trained(generator):
                save_generator(generator, self.folder / names.GENERATOR_FILE)
            case Baselines():
                self._quality = {**dataclasses.asdict(event), "evaluations": []}
            case Evaluated(epoch, scores, shares):
                found = {"epoch": epoch, "scores": scores, "class_shares": shares.tolist()}
                self._quality["evaluations"].append(found)
            case Diagnosis(health, reason, epoch):
                self._health = {"health": health, "health_reason": reason, "health_since_epoch": epoch}
                self._quality.update(self._health)
        if isinstance(event, Baselines | Evaluated | Diagnosis):
            self._write_json(names.QUALITY_FILE, self._quality)

    def behind(self) -> float:
        """Nothing waits: files are written at once."""
        return 0.0

    def close(self, status: str, reason: str = "", trace: str = "") -> None:
        """Write the losses of every iteration as arrays and as a figure; how the run ended; its traceback."""
        why = {"failure_reason": reason} if reason else {}
        self._write_json(STATUS_FILE, {"status": status, **why, **self._health})
        if self._epochs:
            D_losses = np.stack([epoch.discriminator_losses for epoch in self._epochs])
            G_losses = np.stack([epoch.generator_losses for epoch in self._epochs])
            arrays, picture = io.BytesIO(), io.BytesIO()
            np.savez_compressed(arrays, discriminator=D_losses, generator=G_losses)  # each epochs × iterations
            write_whole(self.folder / names.LOSSES_ARRAYS, arrays.getvalue())
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name may have emojis in it
                plot_losses(self._epochs, self._title).savefig(
                    picture, format="png", dpi=120, pil_kwargs={"compress_level": 1}
                )
            write_whole(self.folder / names.LOSSES_PICTURE, picture.getvalue())
        if trace:
            write_whole(self.folder / names.TRACEBACK_FILE, trace.encode())

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_whole(self.folder / name, json.dumps(content, indent=2).encode())


def check_output(folder: Path, config: RunConfig) -> None:
    """Raise UserError unless `folder` is new, empty, or has an unfinished run of `config` in it."""
    with writing_to(folder):
        # A run that is killed at its very beginning leaves its checkpoints' folder, or a file half written.
        taken = folder.exists() and any(
            path.name != CHECKPOINTS and not path.name.startswith(f".{names.CONFIG_FILE}.") for path in folder.iterdir()
        )
    if taken and not _was_cut_off(folder, config):
        raise UserError(f"the output folder {folder} is not empty: choose another")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """In the block, an OSError becomes a UserError that names the output folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to the output folder {folder}: {error}") from error


def _settings(config: RunConfig) -> dict[str, Any]:
    return {**dataclasses.asdict(config), "config_hash": config.config_hash}


def _was_cut_off(folder: Path, config: RunConfig) -> bool:
    """Whether the folder has a run of this config in it that has not finished."""
    try:
        if json.loads((folder / names.CONFIG_FILE).read_text(encoding="utf-8")) != _settings(config):
            return False
        status = folder / STATUS_FILE
        return not status.exists() or json.loads(status.read_text(encoding="utf-8"))["status"] != "FINISHED"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
