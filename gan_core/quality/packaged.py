"""Which image sets have a judge in the package; found out without PyTorch."""

from pathlib import Path

PACKAGED = {name: Path(__file__).parent / f"judge_{name}.safetensors" for name in ("mnist", "digits")}


def has_judge(dataset: str) -> bool:
    """Whether the package has a judge for the set; else one is trained on first use."""
    return dataset in PACKAGED
