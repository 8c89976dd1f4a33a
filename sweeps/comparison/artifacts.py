"""What a report shows of the runs' files: sample sheets, and the losses of single iterations."""

import hashlib
import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image

from gan_core import metric_names as names
from gan_core.plots import SHEET_SCALE
from sweeps.comparison.records import RunRecord

MOST_COLUMNS = 4
THREADS = 8  # a server answers several at once
LONGEST_NAME = 80  # of a file
ABSENT = (
    MlflowException,
    OSError,
    ValueError,
    KeyError,
    BadZipFile,
)  # a file that is not there, or is broken
Sheets = Mapping[tuple[str, int], bytes]  # (run id, epoch) → PNG


@dataclass(frozen=True)
class Sheet:
    """A sample sheet of the page."""

    run: RunRecord
    epoch: int
    file: str  # beside report.md
    png: bytes | None  # None: there is none
    fd: float | None  # of the run at this epoch


class Artifacts:
    """The files of a sweep's runs. What is not there or cannot be read is left out."""

    def __init__(self, client: MlflowClient) -> None:
        """Read them from the client's store."""
        self._uri = client.tracking_uri

    def sheet_epochs(self, runs: Sequence[RunRecord]) -> dict[str, list[int]]:
        """The epochs after which each run kept a sample sheet, by run id."""

        def ask(run: RunRecord) -> list[int]:
            try:
                found = list_artifacts(f"{run.artifact_uri}/{names.SAMPLES}", tracking_uri=self._uri)
                return sorted(epoch_of(file.path) for file in found)
            except ABSENT:
                return []

        with ThreadPoolExecutor(THREADS) as threads:
            return dict(zip((run.run_id for run in runs), threads.map(ask, runs), strict=True))

    def sheets(self, wanted: Sequence[tuple[RunRecord, int]]) -> Sheets:
        """The sheets of these runs and epochs as PNG, one pixel per pixel of a generated image."""

        def fetch(what: tuple[RunRecord, int]) -> bytes | None:
            run, epoch = what
            try:
                with self._fetched(run, names.sheet_name(epoch)) as path, Image.open(path) as sheet:
                    size = (sheet.width // SHEET_SCALE, sheet.height // SHEET_SCALE)
                    small = sheet.convert("L").resize(size, Image.Resampling.NEAREST)
            except ABSENT:
                return None
            png = io.BytesIO()
            small.save(png, format="png")
            return png.getvalue()

        with ThreadPoolExecutor(THREADS) as threads:
            found = zip(wanted, threads.map(fetch, wanted), strict=True)
            return {(run.run_id, epoch): png for (run, epoch), png in found if png}

    def losses(self, run: RunRecord) -> dict[str, NDArray[np.float32]] | None:
        """The losses of D and of G, epochs × iterations, by `discriminator`, `generator`."""
        try:
            with self._fetched(run, names.LOSSES_ARRAYS) as path, np.load(path) as arrays:
                return {name: np.asarray(arrays[name]) for name in ("discriminator", "generator")}
        except ABSENT:
            return None

    def text(self, run_id: str, name: str) -> str | None:
        """A text file of a run; None if it has none."""
        try:
            with tempfile.TemporaryDirectory(prefix="gan-artifact-") as folder:
                address = f"runs:/{run_id}/{name}"
                return Path(download_artifacts(address, dst_path=folder, tracking_uri=self._uri)).read_text()
        except ABSENT:
            return None

    @contextmanager
    def _fetched(self, run: RunRecord, name: str) -> Iterator[Path]:
        """A copy of a run's artifact, for as long as the block lasts."""
        with tempfile.TemporaryDirectory(prefix="gan-artifact-") as folder:
            # By the artifacts' own address: by the run's id the store is asked for it first.
            address = f"{run.artifact_uri}/{name}"
            yield Path(download_artifacts(address, dst_path=folder, tracking_uri=self._uri))


def epoch_of(path: str) -> int:
    """The epoch in a sheet's path."""
    return int(Path(path).stem.rpartition("_")[2])


def telling_epochs(kept: Iterable[Sequence[int]]) -> list[int]:
    """A few epochs that show the course: the first, the last, and some between that most runs have kept."""
    there = [set(epochs) - {0} for epochs in kept if set(epochs) - {0}]
    if not there:
        return []
    common = sorted(set.intersection(*there) or set.union(*there))
    if len(common) <= MOST_COLUMNS:
        return common
    # Evenly in the logarithm: early epochs change most.
    wanted = np.geomspace(common[0], common[-1], MOST_COLUMNS)
    return sorted({min(common, key=lambda epoch: abs(np.log(epoch / target))) for target in wanted})


def sheet_of(run: RunRecord, epoch: int, png: bytes | None) -> Sheet:
    """A sheet of a run, with its file's name and its distance."""
    # The run's id keeps two runs of one name apart.
    file = f"sheets/{safe_name(f'{run.name}_{run.run_id[:6]}_epoch_{epoch:04d}')}.png"
    return Sheet(run, epoch, file, png, run.history.get(names.FD, {}).get(epoch))


def safe_name(name: str) -> str:
    """The name as a file's name: unchanged where that is harmless, else what is left of it with a digest.

    Harmless are letters, digits, `.`, `_`, `-`, `+`, but no dot or dash in front. No two names share one.
    """
    kept = re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).lstrip(".-")[:LONGEST_NAME]
    if kept and kept == name:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kept or 'sweep'}-{digest}"
