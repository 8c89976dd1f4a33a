"""When a run is evaluated, and what follows: beside RunConfig, since no weight depends on it."""

from dataclasses import dataclass

from gan_core.errors import UserError


@dataclass(frozen=True)
class Assessment:
    """When a run is evaluated, and what follows; no weight depends on it. A bad value raises UserError."""

    every: int = 10  # epochs from one evaluation to the next; 0: only at the end
    stop_dead: bool = False  # end a run once it has collapsed

    def __post_init__(self) -> None:
        """Check the values."""
        if self.every < 0:
            raise UserError(f"--evaluate-every should be 0 or more, got {self.every}")

    def __str__(self) -> str:
        """In words, for a plan."""
        often = f"every {self.every} epochs and " if self.every > 1 else "every epoch and " * self.every
        return f"{often}at the end{', a collapsed run ends early' * self.stop_dead}"
