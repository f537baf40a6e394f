"""A file of labels as (key, value) pairs for the topic `labels`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from app.errors import UsageError
from app.tools.producing.sources import (
    CsvSource,
    JsonSource,
    MalformedRecordError,
    ParquetSource,
    Source,
    open_source,
)
from app.tools.producing.times import with_zone
from app.tools.producing.verdicts import verdict

REQUIRED = ("transaction_id", "is_fraud")
FIELDS = (*REQUIRED, "labelled_at", "card_id", "terminal_id", "event_time")


class LabelReading:
    """One pass over a file of labels; as `Reading`, for what has that many columns."""

    bad = rounded = 0
    first_bad: str | None = None

    def __init__(
        self,
        source: Source,
        columns: dict[str, str],
        *,
        run: str,
        zone: ZoneInfo | None,
        now_ms: int,
        skip: int,
        limit: int | None,
    ) -> None:
        """`columns`: field of the label -> column of the file. See `open_labels` for the others."""
        self.left_out = [name for name in source.columns if name not in columns.values()]
        self._source = source
        self._columns = columns
        self._prefix = f"{run}-" if run else ""
        self._zone = zone
        self._now_ms = now_ms
        self._span = (skip, None if limit is None else skip + limit)

    @property
    def size(self) -> int:
        """What `position` reaches at the end."""
        return self._source.size

    def position(self) -> int:
        """How far the file is read: bytes, or rows of Parquet."""
        return self._source.position()

    def pairs(self) -> Iterator[tuple[bytes | None, bytes]]:
        """Kafka key (the transaction_id) and value of each label.

        Raises:
            UsageError: a malformed label, or the file is damaged; the text names the line.
        """
        return islice(self._pairs(), *self._span)

    def _pairs(self) -> Iterator[tuple[bytes | None, bytes]]:
        source = self._source
        if not isinstance(source, JsonSource):
            source.rename({name: name for name in source.columns})
        try:
            for row in source:
                yield self._pair(_plain(source, row))
        except MalformedRecordError as error:
            raise UsageError(source.place(error)) from error

    def _pair(self, row: Mapping[str, Any]) -> tuple[bytes, bytes]:
        found = {field: row.get(column) for field, column in self._columns.items()}
        label = {name: value for name, value in found.items() if value is not None and value != ""}
        for name in REQUIRED:
            if name not in label:
                raise MalformedRecordError(self._columns[name], "is empty")
        for name in ("transaction_id", "card_id", "terminal_id"):
            if name in label:
                label[name] = str(label[name])
        label["transaction_id"] = self._prefix + label["transaction_id"]
        label["is_fraud"] = verdict(label["is_fraud"], self._columns["is_fraud"])
        label.setdefault("labelled_at", self._now_ms)
        for name in ("labelled_at", "event_time"):
            if name in label:
                label[name] = self._moment(name, label[name])
        return label["transaction_id"].encode(), orjson.dumps(label)

    def _moment(self, name: str, value: Any) -> Any:
        """As the record takes it: text with a zone, or epoch milliseconds."""
        if isinstance(value, str) and not value.isdecimal():
            try:
                return with_zone(value, self._zone)
            except ValueError as error:
                raise MalformedRecordError(self._columns[name], str(error)) from error
        return int(value)


@contextmanager
def open_labels(
    path: Path,
    *,
    mapping: Mapping[str, str],
    run: str = "",
    zone: ZoneInfo | None = None,
    now_ms: int,
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[LabelReading]:
    """Open a file of labels: CSV, JSON lines (both also gzipped) or Parquet.

    Args:
        path: the file.
        mapping: field of the label -> column of the file; others have their field's name.
        run: prefix of transaction ids.
        zone: time zone of moments that name none; None refuses them.
        now_ms: `labelled_at` of labels that have none, epoch milliseconds.
        skip: labels left out at the beginning.
        limit: labels taken at most.

    Raises:
        UsageError: no such file, or a column is missing.
    """
    for field in mapping:
        if field not in FIELDS:
            msg = f"--map {field}={mapping[field]}: a label has no field {field}; there are {', '.join(FIELDS)}"
            raise UsageError(msg)
    with open_source(path) as source:
        have = f"its columns are {', '.join(source.columns)}"
        columns = {
            field: mapping.get(field, field)
            for field in FIELDS
            if field in mapping or field in source.columns
        }
        for field, column in columns.items():
            if column not in source.columns:
                msg = f"--map {field}={column}: {path} has no column {column}; {have}"
                raise UsageError(msg)
        missing = [field for field in REQUIRED if field not in columns]
        if missing and source.columns:
            options = " ".join(f"--map {field}=COLUMN" for field in missing)
            msg = f"{path} has no column for {', '.join(missing)}: give {options}; {have}"
            raise UsageError(msg)
        yield LabelReading(
            source, columns, run=run, zone=zone, now_ms=now_ms, skip=skip, limit=limit
        )


def _plain(source: Source, row: Any) -> Mapping[str, Any]:
    if isinstance(source, JsonSource):
        fields: dict[str, Any] = orjson.loads(row[0])
        return fields
    assert isinstance(source, CsvSource | ParquetSource)
    return dict(row)
