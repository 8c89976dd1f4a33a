"""Where things lie when the user does not say."""

from pathlib import Path

from gan_core.errors import UserError


def project_root() -> Path:
    """The folder of pyproject.toml when this is a checkout; for an installed copy, the current folder."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def expanded(path: Path) -> Path:
    """The path made absolute, `~` taken for the home folder. Raises UserError if there is no such folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"there is no home folder for {path.parts[0]}: write the path out") from error
