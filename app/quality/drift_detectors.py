"""The detectors of `app.quality.drift_comparison`: each gives findings, or none. Pure."""

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, norm  # type: ignore[import-untyped]

from app.quality.drift_data import (
    ColumnDrift,
    DriftFinding,
    LabelArrivals,
    ObservedTransactions,
    RecordCounts,
)
from models.training_distribution import (
    IDS_WINDOW,
    WINDOW,
    Bins,
    Codes,
    Distribution,
    Ids,
    Share,
    mean_log,
    psi_of,
)

#: Population stability index from which something is found, and from which a page shows it as moved.
LARGE, MODERATE = 0.25, 0.1
#: Fewer transactions than this say nothing.
LEAST_ROWS = 1_000
#: How often a test finds something in a window of quiet data, if its model of chance is right.
_CHANCE = 1e-6
#: Shares have changed when they are this many times what they were, or less than one part in as many.
_TIMES = 2.0
#: A share changes by at least this much: less is no trouble.
_LEAST_CHANGE = 0.005
#: Shares of records that training says nothing of; dead letters as in the alert FraudstreamDeadLetters.
_MOST = {"dead letters": 0.01, "duplicates": 0.05, "conflicts": 0.01, "late": 0.05, "ahead": 0.01}
#: One card or terminal has too much when it has this many times the largest share of any window of training.
_MOST_TIMES, _MOST_SHARE = 3.0, 0.01
#: Too few different ones: this many standard deviations below the mean, and less than this share of it.
_DEVIATIONS, _FEWER = 6.0, 0.85
#: A feature is constant when one value has this share of the newest rows, and no bin had the second in training.
_CONSTANT, _VARIED = 0.999, 0.9
#: The newest rows say what the size of amounts is now.
_NEWEST = 500
#: An event time this far after its arrival is ahead: clocks of servers agree better.
AHEAD_MS = 10_000
#: Delays that many transactions have alike look like a time zone: multiples of half an hour, give or take.
_ZONE_MS, _ZONE_SLACK_MS, _ZONE_SHARE = 1_800_000, 120_000, 0.9
#: Labels are missed after a day, and after three times the longest pause between two of them.
_SILENT_MS, _SILENT_TIMES = 86_400_000, 3.0
#: Beyond these event times of a window hours are not compared: late ones would stretch it.
_INNER = (0.05, 0.95)
_HOUR_MS, _HOURS = 3_600_000, 24
#: Features that are functions of the event time alone: the detector `hours` compares those times.
CALENDAR = frozenset({"is_night", "is_weekend"})


def psi_limit(bins: Bins, rows: int) -> float:
    """The population stability index that so many quiet rows do not reach, and at least `LARGE`."""
    chance = chi2.isf(_CHANCE, bins.freedom) * bins.effect * (1 / max(1, rows) + 1 / bins.rows)
    return max(LARGE, float(chance))


def column_of(name: str, bins: Bins, codes: Codes, strata: Codes) -> ColumnDrift:
    """A column of a window against training."""
    found = bins.found(codes)
    return ColumnDrift(
        name,
        bins.psi(codes, strata),
        psi_limit(bins, len(codes)),
        float(found[-1]),
        tuple(bins.expected(strata).tolist()),
        tuple(found.tolist()),
    )


def moved_columns(column: ColumnDrift, bins: Bins, rows: int, scale: str) -> list[DriftFinding]:
    """A column that is distributed otherwise, or lacks values; `scale`: the hint for amounts."""
    if column.name in CALENDAR:
        return []
    found = []
    name = column.name
    trained = float(bins.whole[-1])
    if (
        _differs(column.missing, Share(value=trained, effect=1.0), rows)
        and column.missing > trained
    ):
        found.append(
            DriftFinding(
                "missing",
                name,
                column.missing,
                trained,
                f"{name} is missing in {column.missing:.1%} of the transactions (in training: {trained:.1%})",
            )
        )
    if column.psi > column.limit:
        hint = scale if name == "amount" else ""
        found.append(
            DriftFinding(
                "distribution",
                name,
                column.psi,
                column.limit,
                f"{name} is distributed differently from training: PSI {column.psi:.2f}, limit "
                f"{column.limit:.2f}{hint}",
            )
        )
    return found


def constant_features(
    distribution: Distribution, observed: ObservedTransactions
) -> list[DriftFinding]:
    """Features of the newest rows that have one value, and had several in training."""
    found = []
    newest = observed.marks[-LEAST_ROWS:]
    for at, (name, bins) in enumerate(distribution.features.items()):
        share = float(np.bincount(newest[:, at]).max() / len(newest))
        if name not in CALENDAR and share >= _CONSTANT and float(bins.whole.max()) < _VARIED:
            text = f"{name} is the same in the newest {len(newest):,} transactions"
            found.append(DriftFinding("constant", name, share, _CONSTANT, text))
    return found


def scale_hint(distribution: Distribution, observed: ObservedTransactions) -> str:
    """What the amounts' size suggests, where it has changed."""
    newest = observed.amount[-_NEWEST:]
    mean = mean_log(newest[~np.isnan(newest)])
    if distribution.amount is None or mean is None:
        return ""
    times = 10 ** (mean - distribution.amount)
    if 0.8 < times < 1.25:
        return ""
    cents = " (cents instead of whole units of the currency?)" if 80 < times < 125 else ""
    units = " (whole units of the currency instead of cents?)" if 0.008 < times < 0.0125 else ""
    return f"; amounts are {times:.3g} times those of training{cents}{units}"


def other_hours(
    distribution: Distribution, observed: ObservedTransactions, slots: npt.NDArray[np.int64]
) -> list[DriftFinding]:
    """The hours of a window against those that training had between its first and its last moment."""
    times = observed.event_time_ms
    begin, end = np.quantile(times, _INNER, method="lower").tolist()
    inside = (times >= begin) & (times <= end)
    starts = np.arange(begin // _HOUR_MS, end // _HOUR_MS + 1) * _HOUR_MS
    long = np.minimum(starts + _HOUR_MS, end + 1) - np.maximum(starts, begin)
    every = distribution.clock().slots(np.maximum(starts, begin))
    weights = distribution.hourly[every] * long
    expected = np.bincount(every % _HOURS, weights, _HOURS).astype(np.float64)
    if not expected.sum():
        return []
    expected = expected / expected.sum()
    found = np.bincount(slots[inside] % _HOURS, minlength=_HOURS) / np.count_nonzero(inside)
    psi = psi_of(expected, found)
    if psi <= LARGE:
        return []
    most, usual = int(found.argmax()), int(expected.argmax())
    return [
        DriftFinding(
            "hours",
            "event_time",
            psi,
            LARGE,
            f"transactions are at other hours of the day than in training: PSI {psi:.2f}, limit {LARGE:.2f}; the most "
            f"frequent hour is {most:02d}:00, in training {usual:02d}:00 ({distribution.timezone})",
        )
    ]


def wrong_clocks(observed: ObservedTransactions) -> list[DriftFinding]:
    """Event times ahead of the arrival, or behind it by a time zone."""
    delay = observed.received_ms - observed.event_time_ms
    found = []
    ahead = float((delay < -AHEAD_MS).mean())
    if ahead > _MOST["ahead"]:
        most = -int(delay.min()) / 1000
        found.append(
            DriftFinding(
                "clock",
                "event_time",
                ahead,
                _MOST["ahead"],
                f"{ahead:.1%} of the event times are after the arrival, by up to {most:,.0f} s: a clock is ahead",
            )
        )
    delay = delay[-LEAST_ROWS:]  # all of one zone, soon after it has changed
    nearest = int(np.rint(np.median(delay) / _ZONE_MS)) * _ZONE_MS
    if nearest > 0:
        alike = float((np.abs(delay - nearest) < _ZONE_SLACK_MS).mean())
        if alike > _ZONE_SHARE:
            found.append(
                DriftFinding(
                    "clock",
                    "event_time",
                    alike,
                    _ZONE_SHARE,
                    f"event times are {nearest / _HOUR_MS:g} hours before the arrival (another time zone?)",
                )
            )
    return found


def other_shares(distribution: Distribution, observed: ObservedTransactions) -> list[DriftFinding]:
    """Shares of flagged, unnamed, late and conflicting transactions."""
    rows, found = len(observed), []
    known = distribution.shares
    flagged = float(observed.flagged.mean())
    trained = known["flagged"]
    if _differs(flagged, trained, rows):
        found.append(
            DriftFinding(
                "flagged",
                "score",
                flagged,
                trained.value,
                f"the model flags {flagged:.2%} of the transactions (in training: {trained.value:.2%})",
            )
        )
    none = float((observed.terminal == 0).mean())
    if "no_terminal" in known and none > known["no_terminal"].value:
        trained = known["no_terminal"]
        if _differs(none, trained, rows):
            found.append(
                DriftFinding(
                    "missing",
                    "terminal_id",
                    none,
                    trained.value,
                    f"{none:.1%} of the transactions have no terminal (in training: {trained.value:.1%})",
                )
            )
    for name, subject, so, text in (
        ("late", "event_time", observed.late, "are late"),
        ("conflicts", "transaction_id", observed.conflicting, "repeat an id with other content"),
    ):
        share = float(so.mean())
        if share > _MOST[name]:
            told = f"{share:.1%} of the transactions {text}, limit {_MOST[name]:.0%}"
            found.append(DriftFinding(name, subject, share, _MOST[name], told))
    return found


def _differs(share: float, trained: Share, rows: int) -> bool:
    """Whether a share is another than in training: more than chance, twice as much or half, and enough to matter."""
    low, high = min(share, trained.value), max(share, trained.value)
    if high < _TIMES * low or high - low < _LEAST_CHANGE:
        return False
    variance = max(trained.value, 3 / WINDOW) * trained.effect / max(1, rows)
    return high - low > float(norm.isf(_CHANCE / 2)) * float(np.sqrt(variance))


def other_ids(distribution: Distribution, observed: ObservedTransactions) -> list[DriftFinding]:
    """Cards and terminals: one that has too much, too few different ones."""
    found = []
    for name, which in (("card_id", observed.card), ("terminal_id", observed.terminal)):
        trained = distribution.ids.get(name)
        named = which[which != 0] if name == "terminal_id" else which
        if trained is None or len(named) < LEAST_ROWS:
            continue
        found += _id_findings(name, trained, named)
    return found


def _id_findings(name: str, trained: Ids, named: npt.NDArray[np.int64]) -> list[DriftFinding]:
    found = []
    _, counts = np.unique(named[-IDS_WINDOW:], return_counts=True)
    most, limit = float(counts.max() / counts.sum()), max(_MOST_TIMES * trained.most, _MOST_SHARE)
    if most > limit:
        text = f"one {name} has {most:.1%} of the newest transactions (in training: at most {trained.most:.2%})"
        found.append(DriftFinding("one value", name, most, limit, text))
    # fewer named ones have fewer different ones
    usual = trained.different * min(1.0, len(named) / IDS_WINDOW)
    fewest = min(usual - _DEVIATIONS * trained.deviation, _FEWER * usual)
    if len(counts) < fewest:
        newest = f"the newest {len(named[-IDS_WINDOW:]):,} transactions"
        text = f"{len(counts):,} different values of {name} in {newest} (in training: {usual:,.0f})"
        found.append(DriftFinding("few values", name, usual / len(counts), usual / fewest, text))
    return found


def bad_records(records: RecordCounts) -> list[DriftFinding]:
    """Refused and repeated records."""
    found: list[DriftFinding] = []
    if records.read < LEAST_ROWS:
        return found
    for reason, count in sorted(records.dead.items()):
        share = count / records.read
        if share > _MOST["dead letters"]:
            text = f"{share:.1%} of the records are refused: {reason}"
            found.append(DriftFinding("dead letters", reason, share, _MOST["dead letters"], text))
    share = records.duplicates / records.read
    if share > _MOST["duplicates"]:
        text = f"{share:.1%} of the records repeat a transaction"
        found.append(DriftFinding("duplicates", "transaction_id", share, _MOST["duplicates"], text))
    return found


def label_arrival(distribution: Distribution, labels: LabelArrivals) -> list[DriftFinding]:
    """Labels that stopped, or say fraud more or less often."""
    found = []
    if labels.silent_ms is not None:
        limit = max(_SILENT_MS, _SILENT_TIMES * labels.pause_ms)
        if labels.silent_ms > limit:
            days = labels.silent_ms / _SILENT_MS
            text = f"no label has arrived for {days:.1f} days"
            found.append(DriftFinding("no labels", "labels", labels.silent_ms, limit, text))
    trained = distribution.shares["fraud"]
    if labels.known >= LEAST_ROWS:
        share = labels.frauds / labels.known
        if _differs(share, trained, labels.known):
            text = f"{share:.2%} of the labels are fraud (in training: {trained.value:.2%})"
            found.append(DriftFinding("fraud share", "labels", share, trained.value, text))
    return found
