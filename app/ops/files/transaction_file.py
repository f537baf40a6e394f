"""A file of transactions from its first to its last record, as (key, value) pairs ready for Kafka."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.ops.files.columns import KNOWN, ColumnPlan, FileOptions
from app.ops.files.doubtful_ids import DoubtfulIds
from app.ops.files.file_pass import FilePass
from app.ops.files.file_source import MalformedRecordError, Source
from app.ops.files.json_lines import JsonSource, value_of
from app.ops.files.label_columns import is_answer, usual_label
from app.ops.files.opening import open_rows, open_source
from app.ops.files.rows_to_records import Converter
from app.ops.files.suffixes import file_format
from app.ops.files.verdict_columns import verdict
from app.wire.input_records import MAX_RECORD_BYTES, RecordRules, parse_transaction

#: Kafka key, value, event time in epoch milliseconds.
Item = tuple[bytes | None, bytes, int]
#: Bytes that Kafka's framing, the key and a header may add to a value.
ROOM_BYTES = 1_024
#: What the column of verdicts is called in rows of a table: no field can have this name.
_VERDICT = "\0verdict"
#: Reason code of the stream -> option that helps.
_HINTS = {"amount_precision": " (--round-amounts rounds amounts)"}


class TransactionPass(FilePass[Item]):
    """One pass over a file of transactions."""

    def __init__(
        self,
        source: Source,
        take: Callable[[], Item],
        *,
        skip: int,
        limit: int | None,
        skip_bad: bool,
        until_ms: int | None = None,
        maker: "_Maker | None" = None,
    ) -> None:
        """See `open_reading`."""
        super().__init__(source, take, skip=skip, limit=limit, skip_bad=skip_bad)
        self._until_ms = until_ms
        self._maker = maker
        if maker:
            self.left_out = [name for name in maker.plan.dropped if name != maker.label]

    @property
    def rounded(self) -> int:  # noqa: D102
        return self._maker.converter.rounded if self._maker else 0

    @property
    def resolved(self) -> int:  # noqa: D102
        return self._maker.converter.moments.resolved if self._maker else 0

    @property
    def refunds(self) -> int:  # noqa: D102
        return self._maker.refunds if self._maker else 0

    @property
    def answers(self) -> list[str]:  # noqa: D102
        if self._maker is None:
            return []
        found = (*self._maker.plan.answers, *sorted(self._maker.converter.hidden))
        return [name for name in found if name != self._maker.label]

    @property
    def warnings(self) -> list[str]:  # noqa: D102
        return self._maker.suspects.warnings() if self._maker else []

    def timed(self) -> Iterator[Item]:
        """Kafka key, value and event time (epoch milliseconds) of each record; raises as `items` does."""
        for item in self.items():
            if self._until_ms is not None and item[2] >= self._until_ms:
                return
            yield item

    def pairs(self) -> Iterator[tuple[bytes | None, bytes]]:
        """Kafka key and value of each record; raises as `items` does."""
        for key, value, _event_ms in self.timed():
            yield key, value

    def labelled(self) -> Iterator[tuple[bytes | None, bytes, int, bool | None]]:
        """As `timed`, and whether the record was fraud (None: no label); for a file opened with a label column."""
        assert self._maker is not None
        for key, value, event_ms in self.timed():
            yield key, value, event_ms, self._maker.verdict


@contextmanager
def open_reading(
    path: Path,
    options: FileOptions | None = None,
    *,
    rules: RecordRules | None = None,
    clock: Callable[[], int] | None = None,
    skip: int = 0,
    limit: int | None = None,
    skip_bad: bool = False,
    until_ms: int | None = None,
    label: str | None = None,
) -> Iterator[TransactionPass]:
    """Open a file for one pass.

    Args:
        path: .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet.
        options: how it is read.
        rules: the deployment's: what the stream would refuse is malformed. None: no such check.
        clock: the present, epoch milliseconds.
        skip: records to leave out at the beginning.
        limit: records to read at most.
        skip_bad: count malformed records instead of raising.
        until_ms: end before the first record of this event time or later, epoch milliseconds.
        label: column with the label, for `TransactionPass.labelled`; every record must have one. "": the recipe's
            column, or one of the usual names.

    Raises:
        UsageError: the file or a column does not exist, or the options do not fit the file.
    """
    with open_rows(path, options or FileOptions()) as (source, plan):
        maker = _Maker(source, plan, rules, clock or _now_ms, label)
        yield TransactionPass(
            source,
            maker.take,
            skip=skip,
            limit=limit,
            skip_bad=skip_bad,
            until_ms=until_ms,
            maker=maker,
        )


@contextmanager
def open_raw(
    path: Path,
    *,
    keep: tuple[str, ...] = (),
    largest: int = MAX_RECORD_BYTES,
    skip: int = 0,
    limit: int | None = None,
    skip_bad: bool = False,
) -> Iterator[TransactionPass]:
    """Open JSON lines to be sent byte for byte, whatever they are; their event time counts as 0.

    Args:
        path: .jsonl or .jsonl.gz.
        keep: label fields to send all the same.
        largest: bytes of a record that Kafka takes.
        skip: lines to leave out at the beginning.
        limit: lines to read at most.
        skip_bad: count lines that cannot be sent instead of raising.

    Raises:
        UsageError: the file does not exist or holds no JSON lines.
    """
    with open_source(path) as source:
        if not file_format(path).startswith(".jsonl"):
            msg = f"--raw is for JSON lines, and {path} is not"
            raise UsageError(msg)

        def take() -> Item:
            line = source.raw() if isinstance(source, JsonSource) else next(source)
            _check_size(line, largest)
            return raw_key(line, keep), line, 0

        yield TransactionPass(source, take, skip=skip, limit=limit, skip_bad=skip_bad)


class _Maker:
    """Makes the next record, and looks at it as the stream will.

    Attributes:
        plan: what becomes of each column.
        converter: makes records of rows.
        suspects: ids that are probably none.
        label: column of verdicts, None without one.
        verdict: of the record made last; None for a refund.
        refunds: made so far.
    """

    def __init__(
        self,
        source: Source,
        plan: ColumnPlan,
        rules: RecordRules | None,
        clock: Callable[[], int],
        label: str | None,
    ) -> None:
        self.label = None if label is None else _label_column(source, plan, label)
        if self.label and not source.gives_json:  # rows of JSON are renamed later
            plan = replace(plan, targets={**plan.targets, self.label: _VERDICT})
        self.plan = plan
        self.converter = Converter(plan)
        self.suspects = DoubtfulIds()
        self.verdict: bool | None = False
        self.refunds = 0
        self._source = source
        self._rules = rules
        self._clock = clock
        self._largest = (rules.max_bytes if rules else MAX_RECORD_BYTES) - ROOM_BYTES
        converter = self.converter
        self._convert: Callable[[Any], Item] = (
            converter.json_row if source.gives_json else converter.table_row
        )
        source.rename(plan.targets)

    def take(self) -> Item:
        """The next record.

        Raises:
            StopIteration: there is none.
            MalformedRecordError: its row cannot become a transaction.
        """
        row = next(self._source)
        if self.label:
            self.verdict = self._taken(row)
        item = self._convert(row)
        _check_size(item[1], self._largest)
        if self._rules:
            self._check(item)
        return item

    def _taken(self, row: Any) -> bool:
        """The verdict, which is taken out of the row: a record never carries its label."""
        assert self.label
        if self._source.gives_json:
            raw = row[1].pop(self.label, None)
            return verdict(None if raw is None else value_of(raw), self.label)
        return verdict(row.pop(_VERDICT, None), self.label)

    def _check(self, item: Item) -> None:
        key, value, _event_ms = item
        assert self._rules
        try:
            transaction = parse_transaction(value, key, self._clock(), self._rules)
        except DeadRecordError as dead:
            raise MalformedRecordError(None, f"{dead}{_HINTS.get(dead.reason, '')}") from dead
        if transaction.minor < 0:  # a refund is not scored, so it has no label either
            self.verdict = None
            self.refunds += 1
        self.suspects.look(transaction, (self._source.unit, self._source.line))


def _check_size(value: bytes, largest: int) -> None:
    if len(value) > largest:
        fault = f"{len(value):,} bytes, more than FRAUDSTREAM_MAX_MESSAGE_BYTES allows"
        raise MalformedRecordError(None, fault)


def _label_column(source: Source, plan: ColumnPlan, label: str) -> str:
    recipe, columns = plan.options.recipe, source.columns
    if not columns:
        return label or "is_fraud"
    found = label or (recipe.label if recipe else usual_label(columns))
    have = f"its columns are {', '.join(filter(None, columns))}"
    if found is None:
        msg = f"--with-labels: which column of {source.path} is the label? {have}"
        raise UsageError(msg)
    if found not in columns:
        msg = f"--with-labels {found}: {source.path} has no column {found}; {have}"
        raise UsageError(msg)
    if (field := plan.targets.get(found)) in KNOWN:
        msg = f"--with-labels {found}: this column is the record's {field}"
        raise UsageError(msg)
    return found


def raw_key(line: bytes, keep: tuple[str, ...] = ()) -> bytes | None:
    """The Kafka key of a record that is sent as it is: its card_id if it has one.

    Raises:
        MalformedRecordError: the record has a label, in a field that is not in `keep`.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict):
        return None
    name = next((name for name in record if is_answer(name) and name not in keep), None)
    if name is not None:
        fault = f"is a label, and --raw would send it: produce without --raw, or use --keep {name}"
        raise MalformedRecordError(name, fault, general=True)
    card = record.get("card_id")
    return card.encode() if isinstance(card, str) and card else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
