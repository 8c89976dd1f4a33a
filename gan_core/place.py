"""Where checkpoints are kept: a folder, or a path in an object store; both used as a `pathlib.Path` is."""

from pathlib import Path

from gan_core.atomic import write_atomically
from gan_core.bucket import Bucket, check_uri
from gan_core.paths import expanded

__all__ = ["Bucket", "Place", "place", "write_whole"]

Place = Path | Bucket


def place(text: str) -> Place:
    """What a path or URI names. Raises UserError for a kind of store that cannot be used."""
    if "://" not in text:
        return expanded(Path(text))
    if text.startswith("file://"):
        return Path(text.removeprefix("file://")).absolute()
    check_uri(text)
    return Bucket(text)


def write_whole(file: Place, content: bytes) -> None:
    """Write the file so that it is there whole or not at all. Raises OSError."""
    if isinstance(file, Bucket):
        file.write_bytes(content)
    else:
        write_atomically(file, content)
