"""Names that people give → names of files and folders."""

import hashlib
import re
from pathlib import Path

from gan_core.storage import project_root
from gan_core.tracking.store import sqlite_file

LONGEST = 80


def safe_name(name: str) -> str:
    """The name as a file name: as it is where that is harmless, else what is left of it with a digest.

    Letters, digits, `.`, `_`, `-`, `+` are harmless, but for a dot or dash in front. No two names share one.
    """
    kept = re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).lstrip(".-")[:LONGEST]
    if kept and kept == name:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kept or 'sweep'}-{digest}"


def report_folder(uri: str, sweep: str) -> Path:
    """Where a sweep's report goes: beside an SQLite store, as artifacts do, else in the project's folder."""
    file = sqlite_file(uri)
    return (file.parent if file else project_root()) / "reports" / safe_name(sweep)
