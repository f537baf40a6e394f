"""Drift of stored predictions: one scan of them, two of the labels.

Rows become bins while they are read, so that a transaction takes some 100 bytes, whatever features it has.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from cassandra.cluster import Session

from app.cassandra.label_queries import scan_arrivals, scan_verdicts
from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.prediction_rows import epoch_ms
from app.domain.prediction_flags import CONFLICTING, LATE
from app.domain.transaction import hash_id
from app.durations import DAY_MS
from app.quality.drift_comparison import (
    DriftReport,
    LabelArrivals,
    ObservedTransactions,
    bin_features,
    compare,
    together,
)
from app.quality.verdicts import FRAUD, UNKNOWN, Verdicts
from app.settings import Settings
from models.training_distribution import Distribution, windows_of

_COLUMNS = (
    "transaction_id", "card_id", "terminal_id", "event_time", "received_at", "amount_minor", "score", "is_fraud",
    "flags", "features", "model_version", "shadow_scores", "shadow_flagged",
)  # fmt: skip
_CHUNK = 5_000
#: Ages of transactions for which the share with a label is reported, days.
_AGES = (1, 7, 30)
#: How far back pauses between labels are looked for.
_PAUSES_MS = 30 * DAY_MS

Progress = Callable[[int], None]
#: The distribution of a model by name and version; None: it has none.
Finder = Callable[[str], Distribution | None]
#: Place of a row, the score that a model gave it, and whether it flags it.
Said = tuple[int, float, bool]


class ModelBins:
    """What one model said of transactions, as bins; in the order in which they were read.

    Args:
        distribution: of its training data.
        unit: minor units of one unit of the currency.

    Attributes:
        names: of the features.
    """

    def __init__(self, distribution: Distribution, unit: int) -> None:
        self.names = tuple(distribution.features)
        self._distribution, self._unit = distribution, unit
        self._parts: list[ObservedTransactions] = []
        self._verdicts: list[np.ndarray] = []

    def add(
        self,
        rows: Sequence[Mapping[str, Any]],
        features: np.ndarray,
        said: Sequence[Said],
        verdicts: np.ndarray,
    ) -> None:
        """Take transactions.

        Args:
            rows: fields of `predictions`, with moments as epoch milliseconds.
            features: (n, k), in the order of the distribution's.
            said: of each what the model says.
            verdicts: of each what its label says.
        """
        distribution = self._distribution
        self._parts.append(
            ObservedTransactions(
                *bin_features(distribution, features),
                distribution.score.codes([score for _, score, _ in said]),
                np.array([flagged for _, _, flagged in said], bool),
                np.array([row["amount_minor"] for row in rows], np.float64) / self._unit,
                np.array([row["event_time_ms"] for row in rows], np.int64),
                np.array([row["received_at"] for row in rows], np.int64),
                np.array([number_of(row["card_id"]) for row in rows], np.int64),
                np.array([number_of(row["terminal_id"]) for row in rows], np.int64),
                np.array([LATE in (row["flags"] or ()) for row in rows], bool),
                np.array([CONFLICTING in (row["flags"] or ()) for row in rows], bool),
            )
        )
        self._verdicts.append(verdicts)

    def ordered(self) -> tuple[ObservedTransactions, np.ndarray]:
        """All of them in the order of their arrival, and their verdicts; to be called once."""
        every, self._parts = together(self._parts), []
        order = np.lexsort((every.card, every.event_time_ms, every.received_ms))
        return every.take(order), np.concatenate(self._verdicts)[order]


def matrix(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """Features of shape (n, k); NaN where a row has none of that name."""
    found = np.full((len(rows), len(names)), np.nan)
    for at, row in enumerate(rows):
        features = row["features"] or {}
        found[at] = [np.nan if (one := features.get(name)) is None else one for name in names]
    return found


def number_of(identifier: str | None) -> int:
    """A number for an identifier; 0 for none."""
    return int.from_bytes(hash_id(identifier), "big") >> 1 if identifier else 0


def stored_drift(
    session: Session,
    settings: Settings,
    find: Finder,
    *,
    now_ms: int,
    from_ms: int | None = None,
    to_ms: int | None = None,
    progress: Progress = lambda _count: None,
) -> dict[str, Any]:
    """How stored predictions differ from the training data of the models that scored them.

    Args:
        session: to read with.
        settings: keyspace and currency.
        find: gives the distribution of a model.
        now_ms: the time, epoch milliseconds: until then labels are waited for.
        from_ms: event times from here on; None: from the first.
        to_ms: event times below it; None: to the last.
        progress: told now and then how many predictions were read.

    Returns:
        JSON-ready: `transactions` and `labels`, and under `models` by name and version what `summary` returns, or None
        for a model without a training distribution.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: a table is missing.
    """
    verdicts = Verdicts(scan_verdicts(session, settings))
    arrivals = np.sort(np.fromiter(scan_arrivals(session, settings), np.int64))
    until_ms = now_ms if to_ms is None else min(now_ms, to_ms)
    scan = scan_predictions(session, settings, _COLUMNS, from_ms=from_ms, to_ms=to_ms)
    rows = _as_dicts(scan, progress)
    seen: dict[str, ModelBins | None] = {}
    unit, count, ages = 10**settings.minor_unit_digits, 0, _Ages(until_ms)
    while chunk := list(islice(rows, _CHUNK)):
        count += len(chunk)
        said = verdicts.of([(row["event_time_ms"], row["transaction_id"]) for row in chunk])
        ages.add(np.array([row["event_time_ms"] for row in chunk], np.int64), said)
        for model, places in by_model(chunk).items():
            if model not in seen:
                found = find(model)
                seen[model] = None if found is None else ModelBins(found, unit)
            if (one := seen[model]) is not None:
                at = [place for place, _, _ in places]
                some = [chunk[place] for place in at]
                one.add(some, matrix(some, one.names), places, said[at])
    arrived = label_arrivals(arrivals[arrivals < until_ms], until_ms)
    models: dict[str, Any] = {}
    for model, one in sorted(seen.items()):
        distribution = None if one is None else find(model)
        if one is None or distribution is None:
            models[model] = None
            continue
        models[model] = summary(distribution, *one.ordered(), arrived)
    return {
        "transactions": count,
        "labels": {
            "known": len(verdicts),
            "silent_ms": arrived[0],
            "labelled_share": ages.shares(),
        },
        "models": models,
    }


def summary(
    distribution: Distribution,
    observed: ObservedTransactions,
    verdicts: np.ndarray,
    arrived: tuple[int | None, int] = (None, 0),
) -> dict[str, Any]:
    """A period against training: columns over all of it, findings over its windows.

    Args:
        distribution: of the training data.
        observed: transactions in the order of their arrival.
        verdicts: of each: `UNKNOWN`, `GENUINE` or `FRAUD`.
        arrived: since the last label, and the longest pause between two before, milliseconds.

    Returns:
        JSON-ready: `transactions`, `windows`, `columns` (see `drift.Column`), `fraud_share` among labels, and
        `findings`: each as in its worst window, with `windows` that have it and `newest`: whether the last one has.
    """
    parts = windows_of(len(observed))
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        labels = _labels(verdicts[part], arrived if last else (None, 0))
        for one in compare(distribution, observed.take(part), labels=labels).findings:
            key = one.detector, one.subject
            found = worst.setdefault(
                key, {**one._asdict(), "rank": one.rank, "windows": 0, "newest": False}
            )
            if one.value > found["value"]:
                found |= {**one._asdict(), "rank": one.rank}
            found["windows"] += 1
            found["newest"] |= last
    whole = compare(distribution, observed)
    known = _labels(verdicts, (None, 0))
    return {
        "transactions": len(observed),
        "windows": len(parts),
        "columns": columns_of(whole),
        "fraud_share": known.frauds / known.known if known.known else None,
        "trained_fraud_share": distribution.shares["fraud"].value,
        "findings": _in_order(worst.values()),
    }


def _in_order(findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is there now, then what is over; causes first."""
    ordered = sorted(findings, key=lambda one: (not one["newest"], one["rank"]))
    return [{name: value for name, value in one.items() if name != "rank"} for one in ordered]


def columns_of(found: DriftReport) -> list[dict[str, Any]]:
    """The columns of a comparison, JSON-ready."""
    return [asdict(column) for column in found.columns]


def label_arrivals(arrivals: np.ndarray, now_ms: int) -> tuple[int | None, int]:
    """Since the last label, and the longest pause between two before, milliseconds.

    Args:
        arrivals: epoch milliseconds, rising.
        now_ms: the time.
    """
    if not len(arrivals):
        return None, 0
    lately = arrivals[arrivals > arrivals[-1] - _PAUSES_MS]
    pause = int(np.diff(lately).max()) if len(lately) > 1 else 0
    return int(now_ms - arrivals[-1]), pause


class _Ages:
    """The share of transactions with a label, by age."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._all: defaultdict[int, int] = defaultdict(int)
        self._known: defaultdict[int, int] = defaultdict(int)

    def add(self, event_time_ms: np.ndarray, verdicts: np.ndarray) -> None:
        known = verdicts != UNKNOWN
        for days in _AGES:
            old = event_time_ms <= self._now_ms - days * DAY_MS
            self._all[days] += int(old.sum())
            self._known[days] += int((old & known).sum())

    def shares(self) -> dict[str, float | None]:
        """By age in days, of those that are at least as old; None without any."""
        return {
            f"{days}d": self._known[days] / self._all[days] if self._all[days] else None
            for days in _AGES
        }


def _labels(verdicts: np.ndarray, arrived: tuple[int | None, int]) -> LabelArrivals:
    known = int((verdicts != UNKNOWN).sum())
    return LabelArrivals(known, int((verdicts == FRAUD).sum()), *arrived)


def by_model(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Said]]:
    """What each model says of rows: the one that decided, and those beside it."""
    found: defaultdict[str, list[Said]] = defaultdict(list)
    for at, row in enumerate(rows):
        found[row["model_version"]].append((at, row["score"], row["is_fraud"]))
        flagged = row["shadow_flagged"] or ()
        for model, score in (row["shadow_scores"] or {}).items():
            if score is not None:
                found[model].append((at, score, model in flagged))
    return found


def _as_dicts(rows: Iterator[Any], progress: Progress) -> Iterator[dict[str, Any]]:
    for number, values in enumerate(rows):
        if number % _CHUNK == 0:
            progress(number)
        row = dict(zip(_COLUMNS, values, strict=True))
        row["event_time_ms"] = epoch_ms(row["event_time"])
        row["received_at"] = epoch_ms(row["received_at"]) or row["event_time_ms"]
        # the driver looks a key up in its map by serializing it: one look-up each is enough
        row["features"] = dict(row["features"] or {})
        yield row
