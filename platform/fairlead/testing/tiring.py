"""A sampler as a user may bring one along, for tests: it works for a while, and then it does not."""

from typing import Any

import optuna


class Tiring(optuna.samplers.RandomSampler):
    """Proposes ``after`` points of one parameter and then raises."""

    def __init__(self, after: int) -> None:
        super().__init__(seed=0)
        self._after, self._left = after, after

    def sample_independent(self, *given: Any, **named: Any) -> Any:
        """One more."""
        if self._left == 0:
            raise RuntimeError(f"tired after {self._after}")
        self._left -= 1
        return super().sample_independent(*given, **named)
