"""Slices of time: what is learned from, what chooses, what judges."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.errors import TooFewSamplesError, UsageError

#: Shares of the rows that are learned from and that choose; the newest rest judges.
TRAIN_SHARE, VALID_SHARE = 0.6, 0.2
#: So much of the end of a training period chooses the parameters; a quarter of it if that is less.
VALIDATION_MS = 7 * 86_400_000

Labels = npt.NDArray[np.bool_]


class Split(NamedTuple):
    """Three slices of time, oldest first, as masks over the rows."""

    train: Labels
    valid: Labels
    test: Labels


@dataclass(frozen=True)
class Periods:
    """When to learn and when to judge, epoch milliseconds; each beginning is in its period, each end is not.

    Attributes:
        train_from, train_to: transactions that are learned from.
        test_from, test_to: transactions that judge.
        delay_ms: how long a label takes to come: what is learned from was known when the test begins.
    """

    train_from: int
    train_to: int
    test_from: int
    test_to: int
    delay_ms: int

    def later(self, weeks: int) -> "Periods":
        """The same so many weeks later, judged by a week."""
        shift = weeks * VALIDATION_MS
        return Periods(
            self.train_from + shift,
            self.train_to + shift,
            self.test_from + shift,
            self.test_from + shift + VALIDATION_MS,
            self.delay_ms,
        )


def split_by_periods(event_time_ms: np.ndarray, fraud: Labels, periods: Periods) -> Split:
    """Slices of given periods; the end of the training period chooses.

    The label delay lies between the train slice and it, if the period is long enough. What is learned from in
    the end is all of the training period: `in_training`.

    Raises:
        UsageError: the periods are not in order, or labels would not have come.
        TooFewSamplesError: a slice has no frauds.
    """
    known_to = periods.test_from - periods.delay_ms
    if not periods.train_from < periods.train_to:
        msg = "--train-to must be after --train-from"
        raise UsageError(msg)
    if not periods.test_from < periods.test_to:
        msg = "--test-to must be after --test-from"
        raise UsageError(msg)
    if periods.train_to > known_to:
        msg = (
            "--test-from must be at least --delay after --train-to: otherwise labels of the last training "
            "days would not have arrived when the test begins"
        )
        raise UsageError(msg)
    length = min(VALIDATION_MS, (periods.train_to - periods.train_from) // 4)
    valid_from = periods.train_to - length
    # as before the test: labels of the last days were not known when the slice that chooses began
    known_to = valid_from - periods.delay_ms
    if known_to - periods.train_from < length:
        known_to = valid_from  # too short a period for that: better choose by more than by nothing
    split = Split(
        _between(event_time_ms, periods.train_from, known_to),
        _between(event_time_ms, valid_from, periods.train_to),
        _between(event_time_ms, periods.test_from, periods.test_to),
    )
    names = ("training period", "end of the training period", "test period")
    _check_frauds(split, fraud, names)
    return split


def in_training(event_time_ms: np.ndarray, periods: Periods) -> Labels:
    """(n,) which transactions are in the training period."""
    return _between(event_time_ms, periods.train_from, periods.train_to)


def _between(event_time_ms: np.ndarray, begin: int, end: int) -> Labels:
    inside: Labels = (event_time_ms >= begin) & (event_time_ms < end)
    return inside


def _check_frauds(split: Split, fraud: Labels, names: tuple[str, ...]) -> None:
    for name, rows in zip(names, split, strict=True):
        labels = fraud[rows]
        if not labels.any() or labels.all():
            msg = (
                f"the {name} of the transactions contain {np.count_nonzero(labels)} frauds in "
                f"{len(labels)}: each part needs both frauds and genuine transactions; use more transactions"
            )
            raise TooFewSamplesError(msg)


def split_by_time(event_time_ms: np.ndarray, fraud: Labels) -> Split:
    """The oldest 60 % to learn from, the next 20 % to choose with, the newest 20 % to judge by.

    Transactions of the same millisecond stay together.

    Raises:
        TooFewSamplesError: a slice has no frauds, or nothing else.
    """
    count = len(event_time_ms)
    if not count:
        msg = "there are no transactions to train on"
        raise TooFewSamplesError(msg)
    ordered = np.sort(event_time_ms)
    first = ordered[int(count * TRAIN_SHARE)]
    second = ordered[int(count * (TRAIN_SHARE + VALID_SHARE))]
    split = Split(
        event_time_ms < first,
        (event_time_ms >= first) & (event_time_ms < second),
        event_time_ms >= second,
    )
    _check_frauds(split, fraud, ("oldest 60 %", "next 20 %", "newest 20 %"))
    return split
