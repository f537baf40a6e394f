"""One pass over a file: leaves out what it is asked to, counts malformed rows, says what else was found."""

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from app.errors import UsageError
from app.ops.files.file_source import MalformedRecordError, Source

Item = TypeVar("Item")
#: Rows that are looked at after the first one was refused, to know whether leaving it out is a remedy.
_LOOKED_AT = 20


class FilePass(Generic[Item]):
    """Items of a file in turn.

    Attributes:
        bad: malformed rows left out so far.
        first_bad: what was wrong with the first of them, None before it.
        rounded: records so far with an amount that was rounded.
        refunds: records so far with a negative amount.
        resolved: local times so far that occur twice or never, and were decided by an option.
        left_out: columns that are not sent.
        answers: those of them that are not sent because they are labels.
        warnings: sentences about what was accepted and is probably wrong.
    """

    def __init__(
        self,
        source: Source,
        take: Callable[[], Item],
        *,
        skip: int,
        limit: int | None,
        skip_bad: bool,
    ) -> None:
        """`take` reads, converts and checks the next row."""
        self.bad = 0
        self.first_bad: str | None = None
        self.left_out: list[str] = []
        self._good = 0
        self._source = source
        self._take = take
        self._skip = skip
        self._limit = limit
        self._skip_bad = skip_bad

    @property
    def size(self) -> int:
        """What `position` reaches at the end."""
        return self._source.size

    @property
    def rounded(self) -> int:  # noqa: D102
        return 0

    @property
    def resolved(self) -> int:  # noqa: D102
        return 0

    @property
    def refunds(self) -> int:  # noqa: D102
        return 0

    @property
    def answers(self) -> list[str]:  # noqa: D102
        return []

    @property
    def warnings(self) -> list[str]:  # noqa: D102
        return []

    def position(self) -> int:
        """How far the file is read: bytes, or rows of Parquet."""
        return self._source.position()

    def items(self) -> Iterator[Item]:
        """Each item.

        Raises:
            UsageError: a malformed row, or the file is damaged; the text names the line.
        """
        return islice(self._items(), None if self._limit is None else min(self._limit, sys.maxsize))

    def _items(self) -> Iterator[Item]:
        for _ in range(self._skip):
            try:
                next(self._source)
            except MalformedRecordError:
                continue
            except StopIteration:
                return
        while True:
            try:
                item = self._take()
            except StopIteration:
                return
            except MalformedRecordError as error:
                text = self._source.place(error)
                if not self._skip_bad:
                    raise UsageError(text + self._hint(error)) from error
                self.bad += 1
                self.first_bad = self.first_bad or text
                continue
            self._good += 1
            yield item

    def _hint(self, error: MalformedRecordError) -> str:
        """What may help, unless other rows have such faults, too."""
        if error.general or not (self._good or self._some_follow()):
            return ""
        return " (--skip-bad skips such lines)"

    def _some_follow(self) -> bool:
        """Whether one of the next rows is well-formed; the pass is over anyway."""
        for _ in range(_LOOKED_AT):
            try:
                self._take()
            except MalformedRecordError:
                continue
            except (StopIteration, UsageError):
                return False
            return True
        return False
