"""Events → plain files in a folder: the record of a run without a store, and a tracker's artifacts."""

import csv
import dataclasses
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gan_core.config import RunConfig
from gan_core.errors import UserError
from gan_core.events import Baselines, Diagnosis, EpochEnd, Evaluated, Event, Samples, Trained
from gan_core.metric_names import (
    CONFIG_FILE,
    GENERATOR_FILE,
    LOSSES_ARRAYS,
    LOSSES_PICTURE,
    METRICS_TABLE,
    QUALITY_FILE,
    SAMPLES,
    TRACEBACK_FILE,
    sheet_name,
)
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # First: by this file a run that is cut off right after is known.
            write_whole(folder / CONFIG_FILE, json.dumps(_settings(config), indent=2).encode())
            (folder / SAMPLES).mkdir(exist_ok=True)
            for name in (
                METRICS_TABLE,
                STATUS_FILE,
            ):  # a resumed run replays its events from the first epoch on
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to the output folder {folder}: {error}") from error
        self.folder = folder
        self._title = title
        self._epochs: list[EpochEnd] = []
        self._quality: dict[str, Any] = {}
        self._diagnosis: Diagnosis | None = None

    def log(self, event: Event, at: int = 0) -> None:
        """Write what the event brings."""
        match event:
            case Samples(epoch, images):
                png = io.BytesIO()
                sample_sheet(images).save(png, format="png", compress_level=1)
                write_whole(self.folder / sheet_name(epoch), png.getvalue())
            case EpochEnd():
                self._epochs.append(event)
                row = {"epoch": event.epoch, **event.metrics()}
                with (self.folder / METRICS_TABLE).open("a", newline="") as file:
                    table = csv.DictWriter(file, row)
                    if event.epoch == 1:
                        table.writeheader()
                    table.writerow(row)
            case Trained(generator):
                save_generator(generator, self.folder / GENERATOR_FILE)
            case Baselines():
                self._quality = {**dataclasses.asdict(event), "evaluations": []}
                self._write_quality()
            case Evaluated(epoch, scores, class_shares):
                self._quality["evaluations"].append(
                    {"epoch": epoch, "scores": scores, "class_shares": class_shares.tolist()}
                )
                self._write_quality()
            case Diagnosis():
                self._diagnosis = event
                self._quality.update(_health(event))
                self._write_quality()

    def behind(self) -> float:
        """Nothing waits: files are written at once."""
        return 0.0

    def close(self, status: str, reason: str = "", trace: str = "") -> None:
        """Write the losses of every iteration as arrays and as a figure; how the run ended; its traceback."""
        ending = {
            "status": status,
            **({"failure_reason": reason} if reason else {}),
            **(_health(self._diagnosis) if self._diagnosis else {}),
        }
        write_whole(self.folder / STATUS_FILE, json.dumps(ending, indent=2).encode())
        if self._epochs:
            arrays = io.BytesIO()
            np.savez_compressed(
                arrays,
                discriminator=np.stack([epoch.discriminator_losses for epoch in self._epochs]),
                generator=np.stack([epoch.generator_losses for epoch in self._epochs]),
            )
            write_whole(self.folder / LOSSES_ARRAYS, arrays.getvalue())
            picture = io.BytesIO()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name may have emojis in it
                plot_losses(self._epochs, self._title).savefig(picture, format="png", dpi=120)
            write_whole(self.folder / LOSSES_PICTURE, picture.getvalue())
        if trace:
            write_whole(self.folder / TRACEBACK_FILE, trace.encode())

    def _write_quality(self) -> None:
        write_whole(self.folder / QUALITY_FILE, json.dumps(self._quality, indent=2).encode())


def check_output(folder: Path, config: RunConfig) -> None:
    """Raise UserError unless `folder` is new, empty, or has an unfinished run of `config` in it."""
    try:
        # A run that is killed at its very beginning leaves its checkpoints' folder, or a file half written.
        taken = folder.exists() and any(
            path.name != CHECKPOINTS and not path.name.startswith(f".{CONFIG_FILE}.") for path in folder.iterdir()
        )
    except OSError as error:
        raise UserError(f"cannot write to the output folder {folder}: {error}") from error
    if taken and not _was_cut_off(folder, _settings(config)):
        raise UserError(f"the output folder {folder} is not empty: choose another")


def _settings(config: RunConfig) -> dict[str, Any]:
    return {**dataclasses.asdict(config), "config_hash": config.config_hash}


def _was_cut_off(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder has a run of these settings in it that has not finished."""
    try:
        if json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")) != settings:
            return False
        status = folder / STATUS_FILE
        return not status.exists() or json.loads(status.read_text(encoding="utf-8"))["status"] != "FINISHED"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _health(found: Diagnosis) -> dict[str, str | int]:
    return {"health": found.health, "health_reason": found.reason, "health_since_epoch": found.epoch}
