"""Models as the scoring stage takes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from app.domain.changes import Challenger, EarlierModel, RevertibleChange
from app.errors import UsageError
from models.signing import SignatureError

T = TypeVar("T")

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
        """Lowest score at which it flags a transaction as fraud."""

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
    """What decides at an offset: the model's hash, the threshold (None: its own), and the rest as in `InForce`."""

    model: str
    threshold: float | None
    challengers: tuple[Challenger, ...] = ()
    fallbacks: tuple[EarlierModel, ...] = ()
    since: RevertibleChange | None = None


class TallyKey(NamedTuple):
    """What is counted together, for the guard.

    Attributes:
        model: hash of the model that decides.
        threshold: replaces its own; None: its own.
        since: the newest change, while it may be reverted.
        judged: whether the change is judged by it.
    """

    model: str
    threshold: float | None = None
    since: RevertibleChange | None = None
    judged: bool = True


class FallbackModel(NamedTuple):
    """A model that decided before: with its loaded model, None while that is not here."""

    earlier: EarlierModel
    model: Model | None


class ScoringModels(NamedTuple):
    """The models that score a transaction.

    Attributes:
        model: decides, but for the canary's cards.
        threshold: score from which it calls a transaction fraud.
        beside: the challengers, in the order in which they began.
        fallbacks: where `model` gives no score, the first of them that gives one decides.
        epoch: under which it is counted.
    """

    model: Model
    threshold: float
    beside: tuple[LoadedChallenger, ...] = ()
    fallbacks: tuple[FallbackModel, ...] = ()
    epoch: TallyKey = TallyKey("")


class ModelNeeded(NamedTuple):
    """What has to be obtained before the next transaction can be scored.

    Attributes:
        hash: of the model.
        challenger: it decides nothing, or only where another one gives no score: whoever obtains it may find that
            it cannot be loaded.
    """

    hash: str
    challenger: bool = False

    def __str__(self) -> str:
        """As pages and commands show it."""
        return f"model {self.hash[:16]}"


class FallbackNeededError(Exception):
    """A row is decided by an earlier model that is not here: what was computed with it is computed again."""

    def __init__(self, model_hash: str) -> None:
        super().__init__(model_hash)
        self.needed = ModelNeeded(model_hash, challenger=True)


def judges_of(
    decides: DecisionInputs,
    model: Callable[[str], Model | None],
    challenger: Callable[[str], Model | None],
) -> ScoringModels | ModelNeeded:
    """The models that score, or the first of them that is not here.

    The earlier models are obtained beside: they are waited for where a row needs them.

    Args:
        decides: what decides.
        model: gives the loaded model of a hash; None while it is not here.
        challenger: the same; a stand-in for one that cannot be loaded.
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


def of_each_row(
    rows: np.ndarray,
    function: Callable[[np.ndarray], Sequence[T | None]],
    fatal: tuple[type[Exception], ...] = (),
) -> tuple[Sequence[T | None], str]:
    """What a function gives of each row: None where it raises, whatever it makes of other rows.

    Args:
        rows: (n, k) float64.
        function: gives n results of n rows.
        fatal: errors that are raised.

    Returns:
        The results, and the last error that it raised; empty without one.
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
    """Scores, None for what is not between 0 and 1."""
    found = np.asarray(scores, np.float64).reshape(number)
    fine = (found >= 0) & (found <= 1)
    return [score if good else None for score, good in zip(found.tolist(), fine, strict=True)]
