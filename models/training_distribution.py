"""The distribution of a model's training data, kept in its manifest: what drift is measured against. Pure.

Each feature has bins at quantiles, counted by time of day and by weekday or weekend. A stream of one night is so
compared with the nights of training, and not with all of it.

How much windows of `WINDOW` transactions differ from the whole although nothing has changed is measured on the
training data, too: cards and terminals recur, so that rows are no independent draws. The design effect (Kish 1965) is
the mean of what is found over what independent rows would give; limits are multiplied by it, which is the first-order
correction of Rao and Scott (1981) to a chi-squared test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: Of the field `distribution`: another one is not read.
VERSION = 1
#: Transactions that are looked at together, and how many of the newest their cards and terminals are counted in.
WINDOW, IDS_WINDOW = 5_000, 2_500
#: Bounds of bins: tenths, and a hundredth at each end.
_QUANTILES = (0.01, *(tenth / 10 for tenth in range(1, 10)), 0.99)
#: Six hours by weekday or weekend.
STRATA, _PART_HOURS = 8, 6
_HOURS = 24
_SATURDAY = 5
#: A stratum counts as much as so many rows of the whole beside its own: few rows are no distribution.
_BORROWED = 50.0
#: The share of an empty bin: its logarithm has to be a number.
_LEAST = 1e-4
#: Bins that hold less than this of the training rows give no degree of freedom.
_EMPTY = 1e-3
#: Local time changes at multiples of a quarter of an hour.
_QUARTER_MS = 900_000
#: What training never saw at all counts as three of its rows: the upper bound of 95 % (rule of three).
_RULE_OF_THREE = 3.0

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]


class Bins(BaseModel):
    """How one feature, or the score, is distributed.

    Attributes:
        bounds: rising, separated by spaces; bin i holds values above bound i - 1 and up to bound i, one more bin the
            values above the last, and one the missing ones.
        counts: rows by stratum (separated by semicolons) and bin (by spaces).
        effect: design effect of windows; at least 1.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    bounds: str
    counts: str
    effect: float = Field(ge=1, allow_inf_nan=False)

    @cached_property
    def edges(self) -> Floats:
        """The bounds as numbers."""
        return np.array([float(number) for number in self.bounds.split()])

    @cached_property
    def table(self) -> Floats:
        """The counts, shape (strata, bins)."""
        rows = [[float(number) for number in part.split()] for part in self.counts.split(";")]
        table = np.array(rows)
        if table.shape != (STRATA, len(self.edges) + 2):
            msg = f"counts have the shape {table.shape}"
            raise ValueError(msg)
        return table

    @cached_property
    def whole(self) -> Floats:
        """Share of each bin in all training rows."""
        shares: Floats = self.table.sum(axis=0) / self.rows
        return shares

    @property
    def rows(self) -> float:
        """Training rows."""
        return float(max(1.0, self.table.sum()))

    @property
    def freedom(self) -> int:
        """Degrees of freedom: bins that training rows are in, less one; at least 1."""
        return max(1, int((self.whole >= _EMPTY).sum()) - 1)

    @cached_property
    def _by_stratum(self) -> Floats:
        mixed: Floats = self.table + _BORROWED * self.whole
        return mixed / mixed.sum(axis=1, keepdims=True)

    def codes(self, values: npt.ArrayLike) -> Codes:
        """The bin of each value."""
        found = np.asarray(values, np.float64)
        bins = np.searchsorted(self.edges, found, "left")
        return np.where(np.isnan(found), len(self.edges) + 1, bins).astype(np.uint8)

    def expected(self, strata: Codes) -> Floats:
        """Share of each bin among training rows of the same times of day and week."""
        mix = np.bincount(strata, minlength=STRATA) / len(strata)
        shares: Floats = mix @ self._by_stratum
        return shares

    def found(self, codes: Codes) -> Floats:
        """Share of each bin."""
        return np.bincount(codes, minlength=len(self.edges) + 2) / len(codes)

    def psi(self, codes: Codes, strata: Codes) -> float:
        """Population stability index against training rows of the same times; 0 where they are spread alike."""
        return psi_of(self.expected(strata), self.found(codes))


def psi_of(expected: Floats, found: Floats) -> float:
    """Population stability index of two lists of shares."""
    expected, found = np.maximum(expected, _LEAST), np.maximum(found, _LEAST)
    return float(((found - expected) * np.log(found / expected)).sum())


class Share(BaseModel):
    """How often something is so.

    Attributes:
        value: share of the training rows.
        effect: design effect of windows; at least 1.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    value: float = Field(ge=0, le=1)
    effect: float = Field(ge=1, allow_inf_nan=False)


class Ids(BaseModel):
    """Cards or terminals in a window of `IDS_WINDOW` transactions.

    Attributes:
        different: how many there are, on average.
        deviation: standard deviation of that.
        most: largest share of one of them in any window.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    different: float
    deviation: float
    most: float


class Distribution(BaseModel):
    """What training data looked like.

    Attributes:
        version: of this form.
        rows: training rows that are described: those whose windows were full.
        timezone: of hours.
        hours: mean number of transactions of each hour, 24 of weekdays, then 24 of weekends, separated by spaces.
        features: by name.
        score: of transactions that the model has not learned from.
        amount: mean logarithm (base 10) of the amount; None: amount is no feature.
        shares: `flagged` (scores from the threshold on), `fraud` (among labels), `no_terminal`.
        ids: `card_id`, `terminal_id`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = VERSION
    rows: int
    timezone: str
    hours: str
    features: dict[str, Bins]
    score: Bins
    amount: float | None = None
    shares: dict[str, Share]
    ids: dict[str, Ids]

    @cached_property
    def hourly(self) -> Floats:
        """`hours` as numbers."""
        mean = np.array([float(number) for number in self.hours.split()])
        if len(mean) != 2 * _HOURS:
            msg = f"there are {len(mean)} hours"
            raise ValueError(msg)
        return mean

    def clock(self) -> "LocalTime":
        """Hours and weekends as training had them."""
        return LocalTime(self.timezone)


def read_distribution(manifest: Any) -> Distribution | None:
    """The training distribution of a manifest; None if it has none that this release reads."""
    fields: Mapping[str, Any] | None = manifest.distribution
    if not fields or fields.get("version") != VERSION:
        return None
    try:
        read = Distribution.model_validate(fields)
        _ = read.hourly
        for bins in (read.score, *read.features.values()):
            _ = bins.table
    except (ValidationError, ValueError):
        return None
    return read


class LocalTime:
    """Hour and weekend of moments.

    Args:
        timezone: IANA name.
    """

    def __init__(self, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)

    def slots(self, event_time_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The hour of each moment: 0 to 23 on weekdays, 24 to 47 at weekends."""
        quarters, which = np.unique(event_time_ms // _QUARTER_MS, return_inverse=True)
        slots = []
        for quarter in quarters.tolist():
            moment = datetime.fromtimestamp(quarter * _QUARTER_MS / 1000, UTC)
            local = moment.astimezone(self._zone)
            slots.append(local.hour + _HOURS * (local.weekday() >= _SATURDAY))
        return np.array(slots, np.int64)[which]


def strata_of(slots: npt.NDArray[np.int64]) -> Codes:
    """The stratum of each hour of `LocalTime.slots`."""
    parts = slots % _HOURS // _PART_HOURS + STRATA // 2 * (slots // _HOURS)
    return parts.astype(np.uint8)


@dataclass(frozen=True)
class Described:
    """What a distribution is made of, row i of every array being transaction i, oldest first.

    Attributes:
        names: of the features.
        features: (n, k).
        scores: (n,) of the model; NaN where it has learned from the transaction.
        fraud: (n,) labels.
        event_time_ms: (n,) epoch milliseconds.
        card_id: (n,) identifiers.
        terminal_id: (n,) identifiers, empty where there is none; None: they are not known.
    """

    names: Sequence[str]
    features: Floats
    scores: Floats
    fraud: npt.NDArray[np.bool_]
    event_time_ms: npt.NDArray[np.int64]
    card_id: np.ndarray
    terminal_id: np.ndarray | None = None


def describe(
    data: Described, *, threshold: float, warm_up_ms: int, timezone: str
) -> dict[str, Any]:
    """The distribution of training data, for the manifest.

    Args:
        data: at least one transaction.
        threshold: score from which a transaction is flagged.
        warm_up_ms: how far back features look: transactions of the first so many milliseconds are left out, as their
            windows were filling, unless fewer than `WINDOW` others remain.
        timezone: of hours, as the features have it.
    """
    times = data.event_time_ms
    full = times >= times.min() + warm_up_ms
    if np.count_nonzero(full) < WINDOW:
        full = np.ones(len(times), bool)
    clock = LocalTime(timezone)
    slots = clock.slots(times)
    strata = strata_of(slots)
    features = {
        name: _bins(data.features[full, column], strata[full])
        for column, name in enumerate(data.names)
    }
    unseen = ~np.isnan(data.scores)
    flagged = data.scores[unseen] >= threshold
    shares = {"flagged": _share(flagged), "fraud": _share(data.fraud[full])}
    ids = {"card_id": _ids(data.card_id[full])}
    if data.terminal_id is not None:
        terminals = data.terminal_id[full]
        shares["no_terminal"] = _share(terminals == "")
        if (terminals != "").any():
            ids["terminal_id"] = _ids(terminals[terminals != ""])
    amount = None
    if "amount" in data.names:
        amount = mean_log(data.features[full, list(data.names).index("amount")])
    return Distribution(
        rows=int(full.sum()),
        timezone=timezone,
        hours=_hours(clock, slots[full], times[full]),
        features=features,
        score=_bins(data.scores[unseen], strata[unseen]),
        amount=None if amount is None else round(amount, 5),
        shares=shares,
        ids=ids,
    ).model_dump(mode="json")


def mean_log(amounts: Floats) -> float | None:
    """Mean logarithm (base 10) of positive amounts; None without any."""
    positive = amounts[amounts > 0]
    return float(np.log10(positive).mean()) if len(positive) else None


def windows_of(rows: int, window: int = WINDOW) -> list[slice]:
    """Consecutive windows of so many rows; what is left over at the beginning is in none, unless it is all."""
    begin = rows % window if rows >= window else 0
    return [slice(at, at + window) for at in range(begin, rows, window)]


def _bins(values: Floats, strata: Codes) -> Bins:
    known = values[~np.isnan(values)]
    bounds: list[float] = []
    if len(known):
        # values that occur, so that many equal ones lie on one side
        bounds = np.unique(np.quantile(known, _QUANTILES, method="lower")).tolist()
    made = Bins(bounds=" ".join(map(repr, bounds)), counts="", effect=1.0)
    codes = made.codes(values)
    table = np.zeros((STRATA, len(bounds) + 2), np.int64)
    np.add.at(table, (strata, codes), 1)
    text = ";".join(" ".join(map(str, row)) for row in table.tolist())
    made = Bins(bounds=made.bounds, counts=text, effect=1.0)
    parts = windows_of(len(values))
    psi = [made.psi(codes[part], strata[part]) for part in parts]
    rows = min(WINDOW, len(values))
    alone = made.freedom * (1 / rows + 1 / made.rows)
    effect = max(1.0, float(np.mean(psi)) / alone)
    return Bins(bounds=made.bounds, counts=text, effect=round(effect, 3))


def _share(so: npt.NDArray[np.bool_]) -> Share:
    value = float(so.mean()) if len(so) else 0.0
    expected = max(value, _RULE_OF_THREE / max(1, len(so)))
    expected = min(expected, 1.0)
    parts = windows_of(len(so))
    found = np.array([so[part].mean() for part in parts])
    alone = expected * (1 - expected) / min(WINDOW, max(1, len(so)))
    squares = float(((found - value) ** 2).mean()) if len(found) else 0.0
    effect = max(1.0, squares / alone) if alone else 1.0
    return Share(value=value, effect=round(effect, 3))


def _ids(ids: np.ndarray) -> Ids:
    different, most = [], []
    for part in windows_of(len(ids), IDS_WINDOW):
        _, counts = np.unique(ids[part], return_counts=True)
        different.append(len(counts))
        most.append(counts.max() / counts.sum())
    return Ids(
        different=float(np.mean(different)),
        deviation=round(float(np.std(different)), 3),
        most=round(float(np.max(most)), 6),
    )


def _hours(clock: LocalTime, slots: npt.NDArray[np.int64], times: npt.NDArray[np.int64]) -> str:
    """Mean number of transactions in an hour of each kind; of the other days where training had no such hour."""
    counts = np.bincount(slots, minlength=2 * _HOURS).astype(np.float64)
    hour_ms = 4 * _QUARTER_MS
    # every hour from the first transaction to the last, with transactions or without
    every = np.arange(times.min() // hour_ms, times.max() // hour_ms + 1) * hour_ms
    often = np.bincount(clock.slots(every), minlength=2 * _HOURS).astype(np.float64)
    mean = np.divide(counts, often, out=np.zeros_like(counts), where=often > 0)
    for slot in range(2 * _HOURS):
        other = (slot + _HOURS) % (2 * _HOURS)
        if not often[slot] and often[other]:
            mean[slot] = mean[other]
    return " ".join(repr(round(one, 3)) for one in mean.tolist())
