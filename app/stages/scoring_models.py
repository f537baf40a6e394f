"""Models, as the scoring stage uses them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from app.domain.challengers import Challenger
from app.domain.changes_in_force import EarlierModel, RevertibleChange
from app.errors import UsageError
from models.signing import SignatureError

T = TypeVar("T")

#: `UsageError` is raised for a model that does not fit; the others by code that meets unexpected contents.
_OF_THE_MODEL = (
    UsageError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, ImportError,
)  # fmt: skip


class Model(Protocol):
    """A loaded model, as scoring needs it (models/model_loader.py)."""

    @property
    def hash(self) -> str:
        """Identifies the artifact in rows and records."""

    @property
    def version(self) -> str:
        """Name and version, for people."""

    @property
    def threshold(self) -> float:
        """Lowest score at which it flags a transaction as fraud."""

    @property
    def baseline(self) -> Mapping[str, float]:
        """Training median of each of its features, by name."""

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Scores in [0, 1], shape (n,), for features of shape (n, k); each row is independent of the others."""

    def reasons(self, rows: np.ndarray) -> list[list[str]]:
        """The top reasons for each score, in words; each row is independent of the others."""

    @property
    def anomaly_threshold(self) -> float | None:
        """Lowest anomaly score at which a transaction is flagged; None without anomaly scores."""

    def anomalies(self, rows: np.ndarray) -> np.ndarray | None:
        """Anomaly scores in [0, 1], shape (n,); None without anomaly scores."""


class UnloadableModel:
    """Stands in for a challenger that this worker cannot load; it has no scores.

    Args:
        model_hash: hash of the model.
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

    Anything else may pass: a server or a disk that does not answer, too little memory, a replica that lags behind, a
    signature that is missing.
    """
    return isinstance(error, _OF_THE_MODEL) and not isinstance(error, SignatureError)


class LoadedChallenger(NamedTuple):
    """A challenger with its loaded model."""

    challenger: Challenger
    model: Model

    @property
    def threshold(self) -> float:
        """Lowest score at which it flags a transaction as fraud."""
        own = self.challenger.threshold
        return self.model.threshold if own is None else own


class DecisionInputs(NamedTuple):
    """What decides at an offset: hash of the current model, threshold (None: its own), and the rest as in `InForce`."""

    model: str
    threshold: float | None
    challengers: tuple[Challenger, ...] = ()
    fallbacks: tuple[EarlierModel, ...] = ()
    since: RevertibleChange | None = None


class TallyKey(NamedTuple):
    """The key under which decisions are counted for the guard.

    Attributes:
        model: hash of the current model.
        threshold: replaces its own; None: its own.
        since: the newest change, while it may be reverted.
        judged: whether the change is judged by these counts.
    """

    model: str
    threshold: float | None = None
    since: RevertibleChange | None = None
    judged: bool = True


class FallbackModel(NamedTuple):
    """An earlier model, with its loaded model; None while that is not loaded."""

    earlier: EarlierModel
    model: Model | None


class ScoringModels(NamedTuple):
    """The models that score a transaction.

    Attributes:
        model: decides, except for the canary's cards.
        threshold: lowest score at which it flags a transaction as fraud.
        beside: the challengers, oldest first.
        fallbacks: if `model` returns no score, the first of them that returns one decides.
        epoch: the key under which decisions are counted.
    """

    model: Model
    threshold: float
    beside: tuple[LoadedChallenger, ...] = ()
    fallbacks: tuple[FallbackModel, ...] = ()
    epoch: TallyKey = TallyKey("")


class ModelNeeded(NamedTuple):
    """A model that must be loaded before the next transaction can be scored.

    Attributes:
        hash: hash of the model.
        challenger: whether it is a challenger or an earlier model: the stream continues without it if it can never be
            loaded.
    """

    hash: str
    challenger: bool = False

    def __str__(self) -> str:
        """As pages and commands show it."""
        return f"model {self.hash[:16]}"


class FallbackNeededError(Exception):
    """An earlier model has to decide a row and is not loaded yet: the block is computed again once it is."""

    def __init__(self, model_hash: str) -> None:
        super().__init__(model_hash)
        self.needed = ModelNeeded(model_hash, challenger=True)


def judges_of(
    decides: DecisionInputs,
    model: Callable[[str], Model | None],
    challenger: Callable[[str], Model | None],
) -> ScoringModels | ModelNeeded:
    """The models that score, or the first of them that is not loaded yet.

    Earlier models are loaded in the background; a block waits for one only if a row needs it.

    Args:
        decides: the model, threshold and challengers in force.
        model: returns the loaded model of a hash; None while it is not loaded.
        challenger: the same for challengers; a stand-in for one that can never be loaded.
    """
    champion = model(decides.model)
    if champion is None:
        return ModelNeeded(decides.model)
    beside = []
    for one in decides.challengers:
        loaded = challenger(one.hash)
        if loaded is None:
            return ModelNeeded(one.hash, challenger=True)
        beside.append(LoadedChallenger(one, loaded))
    fallbacks = tuple(FallbackModel(one, challenger(one.hash)) for one in decides.fallbacks)
    threshold = champion.threshold if decides.threshold is None else decides.threshold
    epoch = TallyKey(decides.model, decides.threshold, decides.since)
    return ScoringModels(champion, threshold, tuple(beside), fallbacks, epoch)


def rearranged(
    matrix: np.ndarray, names: Sequence[str], wanted: Sequence[str], baseline: Mapping[str, float]
) -> np.ndarray:
    """The columns of a matrix in another order; a missing column gets the model's baseline.

    Args:
        matrix: (n, k) float64.
        names: names of its columns.
        wanted: names of the columns of the result, in order.
        baseline: values of missing features; 0 for one without a baseline.
    """
    at = {name: place for place, name in enumerate(names)}
    made = np.empty((len(matrix), len(wanted)))
    for place, name in enumerate(wanted):
        made[:, place] = matrix[:, at[name]] if name in at else baseline.get(name, 0.0)
    return made


def of_each_row(
    rows: np.ndarray,
    function: Callable[[np.ndarray], Sequence[T | None]],
    fatal: tuple[type[Exception], ...] = (),
) -> tuple[Sequence[T | None], str]:
    """A function's result for each row: None for a row for which it raises, independent of the other rows.

    Args:
        rows: (n, k) float64.
        function: returns n results for n rows.
        fatal: errors that are not caught.

    Returns:
        The results, and the text of the last error; empty without one.
    """
    if not len(rows):
        return [], ""
    try:
        return function(rows), ""
    except fatal:
        raise
    except Exception as error:
        if len(rows) == 1:
            return [None], f"{type(error).__name__}: {error}"
    half = len(rows) // 2
    one, two = (of_each_row(part, function, fatal) for part in (rows[:half], rows[half:]))
    return [*one[0], *two[0]], two[1] or one[1]


def checked(scores: np.ndarray, number: int) -> list[float | None]:
    """The scores; None for values that are not between 0 and 1."""
    found = np.asarray(scores, np.float64).reshape(number)
    fine = (found >= 0) & (found <= 1)
    return [score if good else None for score, good in zip(found.tolist(), fine, strict=True)]
