"""A file read from its first to its last record, as (key, value) pairs ready for Kafka."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from app.errors import UsageError
from app.tools.producing.amounts import Rounding
from app.tools.producing.columns import KNOWN, Plan, make_plan
from app.tools.producing.records import Converter, raw_key
from app.tools.producing.sources import JsonSource, MalformedRecordError, Source, open_source
from app.tools.producing.verdicts import verdict

#: Kafka key, value, event time in epoch milliseconds.
Item = tuple[bytes | None, bytes, int]
#: Bytes that Kafka's framing, the key and a header may add to a value.
ROOM_BYTES = 1_024
#: What the column of verdicts is called in rows of a table: no field can have this name.
_VERDICT = "\0verdict"


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
        until_ms: int | None = None,
        verdicts: "_Verdicts | None" = None,
    ) -> None:
        """`take` reads and converts the next record; see `open_reading` for the others."""
        self.bad = 0
        self.first_bad: str | None = None
        labels = verdicts.column if verdicts else None
        dropped = converter.dropped if converter else []
        self.left_out = [name for name in dropped if name != labels]
        self._converter = converter
        self._source = source
        self._take = take
        self._skip = skip
        self._limit = limit
        self._skip_bad = skip_bad
        self._largest = largest
        self._until_ms = until_ms
        self._verdicts = verdicts

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

    def labelled(self) -> Iterator[tuple[bytes | None, bytes, int, bool]]:
        """As `timed`, and whether the record was fraud; for a file opened with a label column."""
        assert self._verdicts is not None
        for key, value, event_ms in self.timed():
            yield key, value, event_ms, self._verdicts.last

    def _items(self) -> Iterator[Item]:
        for _ in range(self._skip):
            try:
                next(self._source)
            except MalformedRecordError:
                continue
            except StopIteration:
                return
        take, largest = self._take, self._largest - ROOM_BYTES
        until_ms = self._until_ms
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
            if until_ms is not None and item[2] >= until_ms:
                return
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
    until_ms: int | None = None,
    label: str | None = None,
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
        until_ms: end before the first record of this event time or later, epoch milliseconds.
        label: column that says what was fraud, for `Reading.labelled`; every record must have a verdict.

    Raises:
        UsageError: the file or a column does not exist, or the options do not fit the file.
    """
    with open_source(path) as source:
        converter, verdicts = None, None
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
            if label is not None:
                verdicts = _Verdicts(path, source, label)
                plan = verdicts.taken_from(plan)
            converter = Converter(plan)
            take = _converted(source, converter, verdicts)
        yield Reading(
            source,
            take,
            converter,
            skip=skip,
            limit=limit,
            skip_bad=skip_bad,
            largest=largest,
            until_ms=until_ms,
            verdicts=verdicts,
        )


def _raw(source: JsonSource) -> Callable[[], Item]:
    def take() -> Item:
        line = source.raw()
        return raw_key(line), line, 0

    return take


class _Verdicts:
    """Takes the verdict out of each row before a record is made of it: a record never carries its label.

    Attributes:
        column: what the file calls it.
        last: the verdict of the row taken last.
    """

    def __init__(self, path: Path, source: Source, column: str) -> None:
        if column not in source.columns and source.columns:
            have = f"its columns are {', '.join(source.columns)}"
            msg = f"--with-labels {column}: {path} has no column {column}; {have}"
            raise UsageError(msg)
        self.last = False
        self.column = column
        self._json = isinstance(source, JsonSource)

    def taken_from(self, plan: Plan) -> Plan:
        """The plan under which rows still have the verdict when they come here.

        Raises:
            UsageError: the column is a field of the record.
        """
        field = plan.targets.get(self.column)
        if field in KNOWN:
            msg = f"--with-labels {self.column}: that column is the record's {field}"
            raise UsageError(msg)
        kept = None if self._json else _VERDICT  # rows of JSON are renamed later
        return replace(plan, targets={**plan.targets, self.column: kept})

    def take(self, row: Any) -> None:
        """Move the verdict from the row to `last`."""
        if self._json:
            raw = row[1].pop(self.column, None)
            value = None if raw is None else msgspec.json.decode(raw)
        else:
            value = row.pop(_VERDICT, None)
        self.last = verdict(value, self.column)


def _converted(
    source: Source, converter: Converter, verdicts: _Verdicts | None
) -> Callable[[], Item]:
    convert: Callable[[Any], Item] = (
        converter.json_row if isinstance(source, JsonSource) else converter.table_row
    )
    source.rename(converter.targets)

    def take() -> Item:
        return convert(next(source))

    def take_labelled() -> Item:
        assert verdicts is not None
        row = next(source)
        verdicts.take(row)
        return convert(row)

    return take_labelled if verdicts else take
