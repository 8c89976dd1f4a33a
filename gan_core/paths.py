"""Where things lie when the user does not say."""

from pathlib import Path


def project_root() -> Path:
    """The folder of pyproject.toml when this is a checkout; for an installed copy, the current folder."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
