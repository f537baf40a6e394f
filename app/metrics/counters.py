"""Recorders: what the sink tells while it works. Cheap, and without a word of Prometheus."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from app.metrics.latency_histogram import FINE_BOUNDS_MS, LatencyHistogram

#: Labels that are kept for their share of fraud.
FRAUD_SHARE_LABELS = 5_000
#: A pause between labels worth keeping, milliseconds, and how many are kept: some weeks of them.
_PAUSE_MS, _PAUSES = 3_600_000, 1_000


class SinkStatus:
    """Whether predictions reach Cassandra: the sink says so, health and metrics read it.

    Args:
        now: epoch seconds.

    Attributes:
        rows: rows written since start.
        written_at: epoch seconds at which the last of them was acknowledged, 0 before any.
        failures: attempts that failed since start.
        reason: why it waits, None while it writes.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.rows = 0
        self.written_at = 0.0
        self.failures = 0
        self.reason: str | None = None

    def written(self, rows: int) -> None:
        """Rows were acknowledged by Cassandra."""
        self.rows += rows
        self.written_at = self._now()
        self.reason = None

    def waiting(self, reason: str) -> None:
        """An attempt failed; the sink tries again.

        Args:
            reason: one line for people.
        """
        self.failures += 1
        self.reason = reason

    def idle(self) -> None:
        """Nothing waits any more: what waited was given up together with its partitions."""
        self.reason = None


#: Scores are counted in so many steps of equal width.
SCORE_STEPS = 20
#: Pairs of model and outcome that are counted apart: nobody promotes so many models while a worker runs.
_MOST_DECISIONS = 60
#: The same of challengers.
_MOST_CHALLENGERS = 20
#: What may become of a transaction with a challenger.
CHALLENGED = ("flagged", "passed", "unscored")


class DecisionCounts:
    """What was decided about stored predictions, and with which scores; since start.

    Attributes:
        counts: by model and outcome: the action, or `flagged` and `passed` in records without one.
        challengers: by a challenger's name and version, transactions that it would have flagged, passed, and those
            that it gave no score.
        scores: number of scores below each multiple of a twentieth, and of those that are 1.
        total: sum of scores.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.challengers: dict[str, dict[str, int]] = {}
        self.scores = [0] * (SCORE_STEPS + 1)
        self.total = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a record of `predictions`."""
        outcome = record.get("action") or ("flagged" if record["is_fraud"] else "passed")
        key = record["model_version"], outcome
        if key not in self.counts and len(self.counts) >= _MOST_DECISIONS:
            key = "other", outcome
        self.counts[key] = self.counts.get(key, 0) + 1
        score = record["score"]
        self.scores[int(score * SCORE_STEPS)] += 1
        self.total += score
        beside = record.get("shadow_scores")
        if beside:
            self._add_challengers(beside, record.get("shadow_flagged") or ())

    def _add_challengers(
        self, scores: Mapping[str, float | None], flagged: Collection[str]
    ) -> None:
        for model, score in scores.items():
            if model not in self.challengers and len(self.challengers) >= _MOST_CHALLENGERS:
                model = "other"  # noqa: PLW2901
            counts = self.challengers.setdefault(model, dict.fromkeys(CHALLENGED, 0))
            counts[
                "unscored" if score is None else "flagged" if model in flagged else "passed"
            ] += 1


class LabelCounts:
    """What labels said, and when they arrived; since start.

    Args:
        clock: epoch seconds.

    Attributes:
        genuine, fraud: labels by verdict.
        received_ms: when the broker appended the newest one, epoch milliseconds; 0 before any.
        first_ms: the same of the first one.
        handled_ms: when this worker had the newest one, epoch milliseconds; 0 before any.
        newest: of the newest ones, when the broker appended them and whether they say fraud.
        pauses: when the broker appended a label that came long after the one before, and how long, milliseconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.genuine = self.fraud = 0
        self.received_ms = self.first_ms = self.handled_ms = 0
        self.newest: deque[tuple[int, bool]] = deque(maxlen=FRAUD_SHARE_LABELS)
        self.pauses: deque[tuple[int, int]] = deque(maxlen=_PAUSES)
        self._clock = clock

    def add(self, labels: Iterable[Any]) -> None:
        """Count some (`app.wire.label_records.LabelRecord`)."""
        before = self.genuine + self.fraud
        for label in labels:
            if label.is_fraud:
                self.fraud += 1
            else:
                self.genuine += 1
            at_ms = label.received_at
            self.newest.append((at_ms, label.is_fraud))
            if at_ms > self.received_ms:
                if self.received_ms and at_ms - self.received_ms >= _PAUSE_MS:
                    self.pauses.append((at_ms, at_ms - self.received_ms))
                self.received_ms = at_ms
                self.first_ms = self.first_ms or at_ms
        if self.genuine + self.fraud > before:
            self.handled_ms = int(self._clock() * 1000)


#: Filled by the sink.
decisions = DecisionCounts()
#: Filled by the stage of labels.
label_counts = LabelCounts()
#: From the broker's append of a transaction to its acknowledged row; filled by the sink.
append_to_row = LatencyHistogram()
#: From a transaction's event time to its acknowledged row: what a customer waits; filled by the sink.
event_to_row = LatencyHistogram(bounds_ms=FINE_BOUNDS_MS)
#: Filled by the sink.
sink_status = SinkStatus()
#: The same of refunds, which have a writer of their own.
refund_status = SinkStatus()
#: Likewise of alerts.
alert_status = SinkStatus()
