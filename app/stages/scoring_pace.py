"""How many transactions a model may score in one go, so that a slow model does not stop everything else of a worker."""

import math

#: While the speed of a model is not known.
_FIRST = 20


class ScoringPace:
    """The speed of the current model, and what follows from it for the size of micro-batches.

    While a micro-batch is scored, a worker fetches and commits nothing, and forwards no revert. With a model that takes
    20 ms per transaction, a micro-batch took seconds, and the revert of that model 50.

    Args:
        longest_seconds: how long scoring a micro-batch may take, as far as that is known before.
    """

    def __init__(self, longest_seconds: float = math.inf) -> None:
        self._longest_seconds = longest_seconds
        self._model = ""
        self._seconds = 0.0

    def took(self, model_hash: str, scored: int, seconds: float) -> None:
        """Note how long a model took for a number of transactions."""
        self._model, self._seconds = model_hash, seconds / scored

    def room(self, model_hash: str) -> float:
        """Number of transactions, at least one, that a model may score in one go."""
        if self._longest_seconds == math.inf:
            return math.inf
        if self._model != model_hash:
            return _FIRST
        return max(1.0, self._longest_seconds / max(self._seconds, 1e-9))
