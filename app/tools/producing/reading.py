"""A file read from its first to its last record, as (key, value) pairs ready for Kafka."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from app.errors import UsageError
from app.tools.producing.amounts import Rounding
from app.tools.producing.columns import make_plan
from app.tools.producing.records import Converter, raw_key
from app.tools.producing.sources import JsonSource, MalformedRecordError, Source, open_source

#: Kafka key, value, event time in epoch milliseconds.
Item = tuple[bytes | None, bytes, int]
#: Bytes that Kafka's framing, the key and a header may add to a value.
ROOM_BYTES = 1_024


class Reading:
    """One pass over a file.

    Attributes:
        bad: malformed records left out so far.
        first_bad: what was wrong with the first of them, None before it.
        left_out: columns that are not sent.
    """

    def __init__(
        self,
        source: Source,
        take: Callable[[], Item],
        converter: Converter | None,
        *,
        skip: int,
        limit: int | None,
        skip_bad: bool,
        largest: int,
    ) -> None:
        """`take` reads and converts the next record; see `open_reading` for the others."""
        self.bad = 0
        self.first_bad: str | None = None
        self.left_out = converter.dropped if converter else []
        self._converter = converter
        self._source = source
        self._take = take
        self._skip = skip
        self._limit = limit
        self._skip_bad = skip_bad
        self._largest = largest

    @property
    def size(self) -> int:
        """What `position` reaches at the end."""
        return self._source.size

    @property
    def rounded(self) -> int:
        """Records so far with an amount that was rounded."""
        return self._converter.rounded if self._converter else 0

    def position(self) -> int:
        """How far the file is read: bytes, or rows of Parquet."""
        return self._source.position()

    def timed(self) -> Iterator[Item]:
        """Kafka key, value and event time (epoch milliseconds) of each record.

        Raises:
            UsageError: a malformed record, or the file is damaged; the text names the line.
        """
        return islice(self._items(), self._limit)

    def pairs(self) -> Iterator[tuple[bytes | None, bytes]]:
        """Kafka key and value of each record; raises as `timed` does."""
        for key, value, _event_ms in self.timed():
            yield key, value

    def _items(self) -> Iterator[Item]:
        for _ in range(self._skip):
            try:
                next(self._source)
            except MalformedRecordError:
                continue
            except StopIteration:
                return
        take, largest = self._take, self._largest - ROOM_BYTES
        while True:
            try:
                item = take()
                if len(item[1]) > largest:
                    fault = f"{len(item[1]):,} bytes, more than FRAUDSTREAM_MAX_MESSAGE_BYTES takes"
                    raise MalformedRecordError(None, fault)
            except StopIteration:
                return
            except MalformedRecordError as error:
                text = self._source.place(error)
                if not self._skip_bad:
                    hint = "" if error.general else " (--skip-bad leaves such lines out)"
                    raise UsageError(text + hint) from error
                self.bad += 1
                self.first_bad = self.first_bad or text
                continue
            yield item


@contextmanager
def open_reading(
    path: Path,
    *,
    raw: bool = False,
    mapping: Mapping[str, str] | None = None,
    drop: Iterable[str] = (),
    only_known: bool = False,
    run: str = "",
    zone: ZoneInfo | None = None,
    rounding: Rounding | None = None,
    skip: int = 0,
    limit: int | None = None,
    skip_bad: bool = False,
    largest: int = 1_048_576,
) -> Iterator[Reading]:
    """Open a file for one pass.

    Args:
        path: .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet.
        raw: pass JSON lines on byte for byte; their event time counts as 0.
        mapping: field of the record -> column of the file.
        drop: columns to leave out.
        only_known: leave out columns that the input record does not define.
        run: prefix of transaction ids, "" for none.
        zone: time zone of event times that name none; None refuses them.
        rounding: rounds amounts; None leaves them as they are.
        skip: records to leave out at the beginning.
        limit: records to read at most.
        skip_bad: count malformed records instead of raising.
        largest: bytes that Kafka takes for one record.

    Raises:
        UsageError: the file or a column does not exist, or the options do not fit the file.
    """
    with open_source(path) as source:
        converter = None
        if raw:
            if not isinstance(source, JsonSource):
                msg = f"--raw is for JSON lines, and {path} is not"
                raise UsageError(msg)
            take = _raw(source)
        else:
            plan = make_plan(
                path,
                source.columns,
                mapping=mapping,
                drop=drop,
                only_known=only_known,
                run=run,
                zone=zone,
                rounding=rounding,
            )
            converter = Converter(plan)
            take = _converted(source, converter)
        yield Reading(
            source, take, converter, skip=skip, limit=limit, skip_bad=skip_bad, largest=largest
        )


def _raw(source: JsonSource) -> Callable[[], Item]:
    def take() -> Item:
        line = source.raw()
        return raw_key(line), line, 0

    return take


def _converted(source: Source, converter: Converter) -> Callable[[], Item]:
    convert: Callable[[Any], Item] = (
        converter.json_row if isinstance(source, JsonSource) else converter.table_row
    )
    source.rename(converter.targets)

    def take() -> Item:
        return convert(next(source))

    return take
