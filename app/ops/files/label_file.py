"""A file of labels as (key, value) pairs for the topic `labels`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.ops.files.columns import FileOptions
from app.ops.files.derived_columns import apply_recipe
from app.ops.files.file_ids import ID_FIELDS, id_text, is_missing
from app.ops.files.file_pass import FilePass
from app.ops.files.file_source import MalformedRecordError, Source
from app.ops.files.file_times import EventTimeError, EventTimeReader
from app.ops.files.json_lines import JsonNumber, values_of
from app.ops.files.label_columns import usual_label
from app.ops.files.opening import open_source
from app.ops.files.verdict_columns import verdict
from app.wire.label_records import parse_label

REQUIRED = ("transaction_id", "is_fraud")
FIELDS = (*REQUIRED, "labelled_at", "card_id", "terminal_id", "event_time")

#: Kafka key and value.
Pair = tuple[bytes, bytes]


class LabelPass(FilePass[Pair]):
    """One pass over a file of labels."""

    def __init__(self, source: Source, maker: "_Maker", **span: Any) -> None:
        """See `open_labels`."""
        super().__init__(source, lambda: maker.pair(next(source)), **span)
        self._moments = maker.moments
        used = maker.columns.values()
        self.left_out = [name for name in source.columns if name and name not in used]

    @property
    def resolved(self) -> int:  # noqa: D102
        return self._moments.resolved

    def pairs(self) -> Iterator[Pair]:
        """Kafka key (the transaction_id) and value of each label; raises as `items` does."""
        return self.items()


@dataclass
class _Maker:
    """Makes labels of rows.

    Attributes:
        columns: field of the label -> column of the file.
        moments: reads the times.
        prefix: of transaction ids.
        json: rows are lines of JSON.
        now_ms: the present, epoch milliseconds.
        max_future_skew_ms: how much later than that a label may be.
        pseudonym: makes the pseudonym of a card id; None: card ids stay.
    """

    columns: Mapping[str, str]
    moments: EventTimeReader
    prefix: str
    json: bool
    now_ms: int
    max_future_skew_ms: int
    pseudonym: Callable[[str], str] | None = None

    def pair(self, row: Any) -> Pair:
        """Kafka key and value of a label.

        Raises:
            MalformedRecordError: the row cannot become one.
        """
        values = values_of(row[1]) if self.json else row
        label: dict[str, Any] = {}
        for field, column in self.columns.items():
            value = values.get(column)
            if is_missing(value):
                if field in REQUIRED:
                    raise MalformedRecordError(column, "is empty")
                continue
            try:
                label[field] = self._value(field, column, value)
            except EventTimeError as error:
                raise MalformedRecordError(column, str(error), general=error.general) from error
            except ValueError as error:
                raise MalformedRecordError(column, str(error)) from error
        label.setdefault("labelled_at", self.now_ms)
        label["transaction_id"] = self.prefix + label["transaction_id"]
        try:
            key, body = label["transaction_id"].encode(), orjson.dumps(label)
            parse_label(body, 0, self.now_ms, self.max_future_skew_ms)
        except (UnicodeError, orjson.JSONEncodeError) as error:
            raise MalformedRecordError(None, "not UTF-8 text") from error
        except DeadRecordError as dead:
            raise MalformedRecordError(None, str(dead)) from dead
        return key, body

    def _value(self, field: str, column: str, value: Any) -> Any:
        if field in ID_FIELDS:
            text = id_text(value)
            if text is None:
                raise MalformedRecordError(column, "is empty")
            if field == "card_id" and self.pseudonym is not None:
                return self.pseudonym(text)
            return text
        if field == "is_fraud":
            return verdict(value, column)
        return self.moments.read(str(value) if isinstance(value, JsonNumber) else value)[0]


@contextmanager
def open_labels(
    path: Path,
    options: FileOptions | None = None,
    *,
    now_ms: int,
    max_future_skew_ms: int = 0,
    skip: int = 0,
    limit: int | None = None,
    skip_bad: bool = False,
) -> Iterator[LabelPass]:
    """Open a file of labels: CSV, JSON lines (both also gzipped) or Parquet.

    Args:
        path: the file.
        options: how it is read; fields that `mapping` does not name are columns of their own name.
        now_ms: `labelled_at` of labels that have none, epoch milliseconds.
        max_future_skew_ms: how much later than that a label may be.
        skip: labels left out at the beginning.
        limit: labels taken at most.
        skip_bad: count malformed labels instead of raising.

    Raises:
        UsageError: no such file, or a column is missing.
    """
    options = options or FileOptions()
    with open_source(path) as source:
        if options.recipe:
            apply_recipe(source, options.recipe, options.origin_ms)
        columns = _columns(path, source, options)
        maker = _Maker(
            columns,
            EventTimeReader(options.times),
            f"{options.run}-" if options.run else "",
            source.gives_json,
            now_ms,
            max_future_skew_ms,
            options.pseudonym,
        )
        source.rename({name: name for name in source.columns})
        yield LabelPass(source, maker, skip=skip, limit=limit, skip_bad=skip_bad)


def _columns(path: Path, source: Source, options: FileOptions) -> dict[str, str]:
    mapping, recipe, have = dict(options.mapping), options.recipe, source.columns
    if recipe:  # it is one of transactions, too
        mapping = {name: column for name, column in mapping.items() if name in FIELDS}
        mapping.setdefault("is_fraud", recipe.label)
    elif have and "is_fraud" not in have and (usual := usual_label(have)):
        mapping.setdefault("is_fraud", usual)
    for field in mapping:
        if field not in FIELDS:
            msg = f"--map {field}={mapping[field]}: a label has no field {field}; its fields are {', '.join(FIELDS)}"
            raise UsageError(msg)
    if not have:
        return {field: mapping.get(field, field) for field in FIELDS}
    columns = {
        field: mapping.get(field, field) for field in FIELDS if field in mapping or field in have
    }
    named = f"its columns are {', '.join(filter(None, have))}"
    for field, column in columns.items():
        if column not in have:
            msg = f"--map {field}={column}: {path} has no column {column}; {named}"
            raise UsageError(msg)
    missing = [field for field in REQUIRED if field not in columns]
    if missing:
        pairs = ",".join(f"{field}=COLUMN" for field in missing)
        msg = f"{path} has no column for {', '.join(missing)}: give --map {pairs}; {named}"
        raise UsageError(msg)
    return columns
