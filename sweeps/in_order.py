"""Ray Tune as a queue: each run is handed out when there is room for it."""

from collections.abc import Iterable
from typing import Any

from ray.tune.search import Searcher


class InOrder(Searcher):
    """Suggests the configs in their order: as many trials are to be asked for.

    Tune's own grid search copies the whole grid for each trial that it makes of it: the time for n runs grows
    with n².
    """

    def __init__(self, configs: Iterable[dict[str, Any]]) -> None:
        """`configs`: one for each trial, asked for one by one."""
        super().__init__()
        self._configs = iter(configs)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves it so as to restore an experiment, which is not how a sweep goes on."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The config of the next trial; None if there is no more."""
        return next(self._configs, None)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing is learnt from it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""
