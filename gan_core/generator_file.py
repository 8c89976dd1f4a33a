"""A trained G as one file: its weights and what is needed to build it again. No code is run to load it."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gan_core.atomic import write_atomically
from gan_core.errors import UserError
from gan_core.models import Generator

GENERATOR_FILE = "generator.safetensors"  # among a run's files
FORMAT = "gan-grid generator 1"


def save_generator(G: Generator, path: Path) -> None:
    """Write G's weights, z_dim and hidden_dim to `path` (safetensors), whole or not at all."""
    shape = {"format": FORMAT, "z_dim": str(G.z_dim), "hidden_dim": str(G.hidden_dim)}
    write_atomically(path, save(G.state_dict(), metadata=shape))


def load_generator(path: Path | str) -> Generator:
    """The generator that `save_generator` wrote: `load_generator(path)(torch.randn(64, z_dim))` gives images.

    Raises UserError if the file is missing or is not such a generator.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shape = file.metadata() or {}
            if shape.get("format") != FORMAT:
                raise UserError(f"{path} holds no generator of this project (format {shape.get('format')!r})")
            G = Generator(int(shape["z_dim"]), int(shape["hidden_dim"]))
            G.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no iterator)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load a generator from {path}: {error}") from error
    return G.eval()
