"""How good the images of a generator are: a fixed classifier, and scores on its features."""

from pathlib import Path

PACKAGED = {name: Path(__file__).parent / f"classifier_{name}.safetensors" for name in ("mnist", "digits")}


def has_classifier(dataset: str) -> bool:
    """Whether the package has a classifier for the set; if not, one is trained on first use."""
    return dataset in PACKAGED
