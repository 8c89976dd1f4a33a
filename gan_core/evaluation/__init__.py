"""How good the images of a generator are: a fixed classifier, and scores on its features."""

from pathlib import Path

# The classifiers that come with the package; for another image set one is trained on first use.
PACKAGED = {name: Path(__file__).parent / f"classifier_{name}.safetensors" for name in ("mnist", "digits")}
