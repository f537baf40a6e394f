"""Models as the scoring stage takes them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from app.domain.changes import Challenger
from app.errors import UsageError

#: Raised for a model that does not fit; the others by our code or a library that meets what it does not expect.
_OF_THE_MODEL = (
    UsageError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, ImportError,
)  # fmt: skip


class Model(Protocol):
    """A loaded model, as scoring needs it (models/holder.py)."""

    @property
    def hash(self) -> str:
        """Names the artifact in rows and records."""

    @property
    def version(self) -> str:
        """Name and version, for people."""

    @property
    def threshold(self) -> float:
        """Score from which it calls a transaction fraud."""

    @property
    def baseline(self) -> Mapping[str, float]:
        """Median of each of its features in training, by name."""

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Scores in [0, 1], shape (n,), of features of shape (n, k); no row depends on others."""

    def reasons(self, rows: np.ndarray) -> list[list[str]]:
        """What moved each score most, in words; no row depends on others."""

    @property
    def anomaly_threshold(self) -> float | None:
        """Anomaly score from which a transaction is flagged; None when it has no such scores."""

    def anomalies(self, rows: np.ndarray) -> np.ndarray | None:
        """How odd the rows are, in [0, 1], as `score`; None when it cannot tell."""


class UnloadableModel:
    """Stands for a challenger that this worker cannot load: it has no scores.

    Args:
        model_hash: of the model.
        reason: why it cannot be loaded.
    """

    threshold = 1.0
    anomaly_threshold = None
    baseline: Mapping[str, float] = {}

    def __init__(self, model_hash: str, reason: str) -> None:
        self.hash = self.version = model_hash
        self.reason = reason

    def score(self, rows: np.ndarray) -> np.ndarray:
        """No scores."""
        return np.full(len(rows), np.nan)

    def reasons(self, rows: np.ndarray) -> list[list[str]]:
        """No reasons."""
        return [[] for _ in rows]

    def anomalies(self, _: np.ndarray) -> None:
        """No anomaly scores."""


def is_refused(error: Exception) -> bool:
    """Whether a model that could not be loaded never will be here: damaged, does not fit, written by other libraries.

    Anything else may pass: a server or a disk that does not answer, too little memory, a replica that lags behind.
    """
    return isinstance(error, _OF_THE_MODEL)


class Beside(NamedTuple):
    """A challenger with its loaded model."""

    challenger: Challenger
    model: Model

    @property
    def threshold(self) -> float:
        """Score from which it calls a transaction fraud."""
        own = self.challenger.threshold
        return self.model.threshold if own is None else own


class Judges(NamedTuple):
    """The models that score a transaction.

    Attributes:
        model: decides, but for the canary's cards.
        threshold: score from which it calls a transaction fraud.
        beside: the challengers, in the order in which they began.
    """

    model: Model
    threshold: float
    beside: tuple[Beside, ...] = ()


class ModelNeeded(NamedTuple):
    """What has to be obtained before the next transaction can be scored.

    Attributes:
        hash: of the model.
        challenger: it decides nothing: whoever obtains it may find that it cannot be loaded.
    """

    hash: str
    challenger: bool = False

    def __str__(self) -> str:
        """As pages and commands show it."""
        return f"model {self.hash[:16]}"


def rearranged(
    matrix: np.ndarray, names: Sequence[str], wanted: Sequence[str], baseline: Mapping[str, float]
) -> np.ndarray:
    """The columns of a matrix in another order; a column that it lacks has the model's baseline.

    Args:
        matrix: (n, k) float64.
        names: of its columns.
        wanted: names of the columns of the result, in order.
        baseline: the value of a feature that is unknown; 0 where there is none.
    """
    at = {name: place for place, name in enumerate(names)}
    made = np.empty((len(matrix), len(wanted)))
    for place, name in enumerate(wanted):
        made[:, place] = matrix[:, at[name]] if name in at else baseline.get(name, 0.0)
    return made
