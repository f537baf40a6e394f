"""What drift is measured on, and what is found: columns of scored transactions, findings. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.training_distribution import Codes, Distribution


@dataclass(frozen=True)
class ObservedTransactions:
    """Scored transactions, row i of every array being transaction i, in the order of their arrival.

    Attributes:
        codes: (n, k) bins of the features, in the order of the distribution's.
        marks: (n, k) a byte for each value: equal values have equal ones.
        score: (n,) bins of the scores.
        flagged: (n,) whether the model calls it fraud.
        amount: (n,) in major units; NaN: unknown.
        event_time_ms, received_ms: (n,) epoch milliseconds.
        card, terminal: (n,) a number for each; of terminals 0: none.
        late, conflicting: (n,) flags of the stream.
    """

    codes: Codes
    marks: Codes
    score: Codes
    flagged: npt.NDArray[np.bool_]
    amount: npt.NDArray[np.float64]
    event_time_ms: npt.NDArray[np.int64]
    received_ms: npt.NDArray[np.int64]
    card: npt.NDArray[np.int64]
    terminal: npt.NDArray[np.int64]
    late: npt.NDArray[np.bool_]
    conflicting: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.score)

    def take(self, rows: Any) -> "ObservedTransactions":
        """Some of the rows."""
        return ObservedTransactions(*(getattr(self, one.name)[rows] for one in fields(self)))


def together(parts: Sequence[ObservedTransactions]) -> ObservedTransactions:
    """One table of several, one behind the other."""
    columns = (
        np.concatenate([getattr(part, one.name) for part in parts])
        for one in fields(ObservedTransactions)
    )
    return ObservedTransactions(*columns)


def bin_features(
    distribution: Distribution, features: npt.NDArray[np.float64]
) -> tuple[Codes, Codes]:
    """`codes` and `marks` of `ObservedTransactions`, for (n, k) features in the distribution's order."""
    columns = [
        bins.codes(features[:, at]) for at, bins in enumerate(distribution.features.values())
    ]
    bits = np.ascontiguousarray(features, np.float64).view(np.uint64)
    # multiplicative hashing: the highest byte depends on all bits
    marks = ((bits * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(56)).astype(np.uint8)
    return np.stack(columns, axis=1), marks


class RecordCounts(NamedTuple):
    """What became of records beside those that were scored.

    Attributes:
        read: all of them.
        dead: refused ones, by reason.
        duplicates: repeated transactions.
    """

    read: int
    dead: Mapping[str, int]
    duplicates: int


class LabelArrivals(NamedTuple):
    """What arrived on `labels`.

    Attributes:
        known: labels that arrived lately.
        frauds: of these.
        silent_ms: since the last one arrived; None: none ever did.
        pause_ms: the longest time between two of them before.
    """

    known: int
    frauds: int
    silent_ms: int | None
    pause_ms: int


#: What producers send; features follow from it, and scores from them.
_INPUTS = frozenset({"amount", "event_time", "card_id", "terminal_id", "transaction_id", "labels"})


class DriftFinding(NamedTuple):
    """Something that has changed.

    Attributes:
        detector, subject: see the table above.
        value: what was measured.
        limit: from where on it is found.
        text: one sentence.
    """

    detector: str
    subject: str
    value: float
    limit: float
    text: str

    @property
    def rank(self) -> tuple[int, float]:
        """Causes come before what follows from them: inputs, features, scores; then the largest deviation."""
        follows = 2 if self.subject == "score" else int(self.subject not in _INPUTS)
        return follows, -self.value / (self.limit or 1.0)


@dataclass(frozen=True)
class ColumnDrift:
    """A feature, or the score, of some transactions against training.

    Attributes:
        name: of the feature, or `score`.
        psi: population stability index.
        limit: from where on it is a finding.
        missing: share without a value.
        expected, found: share of each bin, the last one missing values.
    """

    name: str
    psi: float
    limit: float
    missing: float
    expected: tuple[float, ...]
    found: tuple[float, ...]


@dataclass(frozen=True)
class DriftReport:
    """One window against training.

    Attributes:
        rows: transactions.
        columns: the score, then each feature.
        findings: what has changed, in the order of `DriftFinding.rank`.
    """

    rows: int
    columns: tuple[ColumnDrift, ...] = ()
    findings: tuple[DriftFinding, ...] = field(default=())
