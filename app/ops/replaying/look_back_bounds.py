"""Which transactions a replay is asked for, how far back it has to read for them, and what is lacking there. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.display import iso
from app.domain.features import Catalogue
from app.durations import format_duration
from app.errors import UsageError
from app.settings import Settings
from app.stages.deployed_features import card_horizon_ms, catalogue_of, terminal_horizon_ms
from app.windows.window_row import NEVER

_ALWAYS = 1 << 62


@dataclass(frozen=True)
class Bound:
    """One end of a range: an event time, or an offset in each partition of `transactions`.

    Attributes:
        text: as it was written.
        time_ms: event time, epoch milliseconds; None: it is offsets.
        offsets: by partition; with `everywhere`, one for all.
        everywhere: the offset of partitions that are not named; None: they take no part.
    """

    text: str
    time_ms: int | None = None
    offsets: dict[int, int] | None = None
    everywhere: int | None = None

    def offset(self, partition: int) -> int | None:
        """The offset in one partition; None: it takes no part."""
        assert self.offsets is not None
        return self.offsets.get(partition, self.everywhere)


class ReplayRange:
    """The transactions between two bounds: the first included, the second not.

    Args:
        begin: where they begin.
        end: where they end; None: at the end of the log.
        partitions: of `transactions`.

    Raises:
        UsageError: nothing can be between them.

    Attributes:
        begin, end: see above.
        from_ms: event time from which on they are, None where the beginning is an offset.
    """

    def __init__(self, begin: Bound, end: Bound | None, partitions: int) -> None:
        self.begin, self.end = begin, end
        self.from_ms = begin.time_ms
        low: list[int] = [-_ALWAYS] * partitions
        high: list[int] = [_ALWAYS] * partitions
        self._first_ms, self._end_ms = -_ALWAYS, _ALWAYS
        for bound in (begin,) if end is None else (begin, end):
            for number in bound.offsets or ():
                if number >= partitions:
                    msg = f"{bound.text}: partition {number} does not exist: there are {partitions}"
                    raise UsageError(msg)
        if begin.time_ms is None:
            low = [_or(begin.offset(number), _ALWAYS) for number in range(partitions)]
        else:
            self._first_ms = begin.time_ms
        if end is not None:
            if end.time_ms is None:
                high = [_or(end.offset(number), -_ALWAYS) for number in range(partitions)]
            else:
                self._end_ms = end.time_ms
        if self._first_ms >= self._end_ms or all(
            first >= last for first, last in zip(low, high, strict=True)
        ):
            msg = f"--from {begin.text} is not before --to {end.text if end else 'the end'}"
            raise UsageError(msg)
        self._low, self._high = low, high

    def __contains__(self, record: tuple[int, int, int]) -> bool:
        """Whether a record is asked for: partition, offset, event time."""
        partition, offset, time_ms = record
        return (
            self._first_ms <= time_ms < self._end_ms
            and self._low[partition] <= offset < self._high[partition]
        )

    def mask(self, partition: int, offsets: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
        """As `in`, for many records of one partition: (n,) bool of (n,) offsets and (n,) event times."""
        inside: np.ndarray = (times_ms >= self._first_ms) & (times_ms < self._end_ms)
        return inside & (offsets >= self._low[partition]) & (offsets < self._high[partition])

    def check_kept(self, topic: str, begins: Sequence[int], ends: Sequence[int]) -> None:
        """Refuse offsets that are not in the log.

        Args:
            topic: its name, for the message.
            begins: first offset of each partition that retention has left.
            ends: the offset after the last record of each.

        Raises:
            UsageError: the range begins before or after what is kept.
        """
        if self.begin.time_ms is not None:
            return
        for number, (first, end) in enumerate(zip(begins, ends, strict=True)):
            low = self._low[number]
            if low < first:
                msg = (
                    f"--from {self.begin.text}: offset {low} of {topic}/{number} was deleted by retention; "
                    f"the earliest is {first}"
                )
                raise UsageError(msg)
            if low != _ALWAYS and number in (self.begin.offsets or ()) and low >= end:
                msg = f"--from {self.begin.text}: {topic}/{number} ends at offset {end}"
                raise UsageError(msg)


@dataclass(frozen=True)
class LookBack:
    """How far before a moment there may be records that decide a feature, milliseconds.

    Attributes:
        terminals_ms: what terminals look back to.
        cards_ms: what cards do, for the transactions that terminals look back to.
    """

    terminals_ms: int
    cards_ms: int

    @classmethod
    def of(cls, settings: Settings) -> "LookBack":
        """The horizons of a deployment's features."""
        terminals = max(terminal_horizon_ms(settings), card_horizon_ms(settings))
        # Of the transactions that a terminal looks back to, its state holds whether the amount was high for
        # the card, where that is computed: so their cards' habits have to be known, too.
        flags = card_horizon_ms(settings) if _tells_high(catalogue_of(settings)) else 0
        return cls(terminals, terminals + flags)


@dataclass(frozen=True)
class RetainedRange:
    """What retention has left of the two topics.

    Attributes:
        reach: how far back records decide a feature.
        where: topic and partition of which the most was deleted.
        from_ms: every transaction of a later event time is there; `NEVER`: all there ever were.
    """

    reach: LookBack
    where: str = ""
    from_ms: int = NEVER

    @property
    def full_from_ms(self) -> int:
        """Event time from which on windows are full."""
        return self.from_ms + self.reach.cards_ms

    @property
    def terminals_from_ms(self) -> int:
        """As `from_ms`, of transactions of which also is known whether the amount was high for the card."""
        return self.from_ms + self.reach.cards_ms - self.reach.terminals_ms

    def missing_ms(self, from_ms: int, *, allowed: bool) -> int:
        """How much the windows of a transaction lack, 0 where they are full.

        Args:
            from_ms: its event time.
            allowed: it was said that short windows will do.

        Raises:
            UsageError: they are short, and that was not allowed.
        """
        missing = max(0, self.full_from_ms - from_ms)
        if missing and not allowed:
            msg = (
                f"{self.where} begins at {iso(self.from_ms)}: of the {_days(self.reach.cards_ms)} that windows look "
                f"back before --from, {_days(missing)} are missing. The earliest --from with full windows is "
                f"{iso(self.full_from_ms)}; --allow-short-windows continues without it"
            )
            raise UsageError(msg)
        return missing


def _tells_high(catalogue: Catalogue) -> bool:
    return "amount_over_card_median" in catalogue.names


def _or(value: int | None, other: int) -> int:
    return other if value is None else value


def _days(ms: int) -> str:
    day = 86_400_000
    return f"{ms / day:.1f} d" if ms % day and ms > day else format_duration(ms)
