"""What a consumer makes of batches that cannot be read (`fetch_parsing.py` finds them)."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from app.blocks.faust.decompression import EXPANSION_BYTES
from app.errors import DamagedLogError

#: A batch that does not fit its checksum is fetched so often before that is believed.
_FETCHES = 3


class StoppedPartitionListener(Protocol):
    """Told of partitions that cannot be read further."""

    def __setitem__(self, tp: Any, error: DamagedLogError, /) -> None: ...


class UnreadableBatchPolicy:
    """What a consumer makes of batches that cannot be read.

    Args:
        refused: topics whose records may be refused: there, a stand-in takes the place of what cannot be read.
            Elsewhere it is an error.
        expansion_bytes: what the records of one batch may expand to.
        report: told of what cannot be read: topic and partition, offset, a sentence. None: nobody is.

    Attributes:
        stopped: partitions that cannot be read further, with the reason; None: such a reason is raised.
    """

    def __init__(
        self,
        refused: Iterable[str] = (),
        *,
        expansion_bytes: int = EXPANSION_BYTES,
        report: Callable[[Any, int, str], None] | None = None,
    ) -> None:
        self.expansion_bytes = expansion_bytes
        self.stopped: StoppedPartitionListener | None = None
        self._refused = frozenset(refused)
        self._report = report
        self._fetched: Counter[tuple[Any, int]] = Counter()
        self._skips: dict[Any, list[tuple[int, int]]] = {}

    def note(self, tp: Any, offset: int, message: str) -> None:
        """Something cannot be read.

        Raises:
            DamagedLogError: the topic has no place for that.
        """
        if tp.topic not in self._refused:
            raise DamagedLogError.at(tp, offset, message)
        if self._report is not None:
            self._report(tp, offset, message)

    def confirmed(self, tp: Any, base: int) -> bool:
        """Whether a damaged batch was fetched often enough to believe that it is."""
        self._fetched[tp, base] += 1
        return self._fetched[tp, base] >= _FETCHES

    def skip(self, tp: Any, first: int, last: int) -> None:
        """An operator gives up these offsets."""
        self._skips.setdefault(tp, []).append((first, last))

    def skipped(self, tp: Any, position: int) -> int | None:
        """The last offset of those given up that this one is among; None where it is not."""
        found = (last for first, last in self._skips.get(tp, ()) if first <= position <= last)
        return next(found, None)

    def stop(self, tp: Any, offset: int, what: str) -> None:
        """A partition cannot be read from this offset on.

        Raises:
            DamagedLogError: nobody asks `stopped`.
        """
        error = DamagedLogError.at(tp, offset, what)
        if self.stopped is None or tp.topic not in self._refused:
            raise error
        self.stopped[tp] = error
