"""Make input records of rows, and say what keeps a row from being one in the words of its file.

Missing columns, times without a zone, text where an amount belongs are found here. Whether what comes out
is acceptable is decided by the parser of the stream (`app.wire.input_records`), which readers ask afterwards.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from app.ops.files.amount_rounding import MONEY, PLAIN_AMOUNT, amount_text
from app.ops.files.columns import KNOWN, REQUIRED, ColumnPlan
from app.ops.files.file_ids import ID_FIELDS, id_text
from app.ops.files.file_source import MalformedRecordError
from app.ops.files.file_times import EventTimeError, EventTimeReader
from app.ops.files.json_lines import JsonNumber, value_of

#: Kafka key, value, event time in epoch milliseconds.
Item = tuple[bytes, bytes, int]
_VERSION = re.compile(r"\d{1,9}(\.0+)?", re.ASCII)


class Converter:
    """Rows of one file -> Kafka key, value and event time (epoch milliseconds).

    Attributes:
        rounded: records with an amount that was rounded, so far.
        moments: reads the times.
        hidden: columns that the plan did not know, left out because they are labels.
    """

    def __init__(self, plan: ColumnPlan) -> None:
        options = plan.options
        self.rounded = 0
        self.moments = EventTimeReader(options.times)
        self.hidden: set[str] = set()
        self._plan = plan
        self._rounding = options.rounding
        self._prefix = f"{options.run}-" if options.run else ""
        self._pseudonym = options.pseudonym
        self._passes = plan.passes
        self._encode = msgspec.json.Encoder().encode

    def table_row(self, row: dict[str, Any]) -> Item:
        """Convert a row of a table (already renamed): text as of CSV, or any Python values.

        Empty fields are left out, and so is NaN.

        Raises:
            MalformedRecordError: a field that every record needs is missing or unreadable.
        """
        record = {
            name: value
            for name, value in row.items()
            # as `is_missing`, which would be called for each field of each row
            if value is not None and value != "" and (type(value) is not float or value == value)  # noqa: PLR0124
        }
        for name in ID_FIELDS:
            if name in record and type(record[name]) is not str:
                record[name] = self._id(name, record[name])
        try:
            record["transaction_id"] = self._prefix + record["transaction_id"]
            rounded = self._money(record)
            record["event_time"], event_ms = self._moment(record["event_time"])
            if self._pseudonym is not None:
                record["card_id"] = self._pseudonym(record["card_id"])
            key = record["card_id"].encode()
            if "schema_version" in record:
                record["schema_version"] = self._version(record["schema_version"])
            for name, value in record.items():
                if type(value) is JsonNumber:
                    record[name] = orjson.Fragment(str(value))
            value = orjson.dumps(record, default=_plain)
        except KeyError as error:
            raise self._malformed(error.args[0], "is empty") from error
        except UnicodeError as error:
            raise MalformedRecordError(None, "not UTF-8 text") from error
        except (orjson.JSONEncodeError, RecursionError) as error:
            raise self._unwritable(record, error) from error
        self.rounded += rounded
        return key, value, event_ms

    def _unwritable(self, record: Mapping[str, Any], error: Exception) -> MalformedRecordError:
        if "surrogates" in str(error):
            return MalformedRecordError(None, "not UTF-8 text")
        for name, value in record.items():
            try:
                orjson.dumps(value, default=_plain)
            except (orjson.JSONEncodeError, RecursionError):
                column = self._plan.columns.get(name, name)
                kind = type(value).__name__
                fault = f"cannot be written as text or JSON ({kind}): --drop {shlex.quote(column)} leaves it out"
                return MalformedRecordError(column, fault, general=True)
        return MalformedRecordError(None, f"not JSON: {error}")

    def _money(self, record: dict[str, Any]) -> bool:
        """Write the amounts of a table's row as their very digits, never via a float; whether one was rounded."""
        rounding, rounded = self._rounding, False
        for name in MONEY:
            if name in record or name == "amount":
                amount = record[name]
                if not (type(amount) is str and PLAIN_AMOUNT.fullmatch(amount)):
                    amount = self._amount(name, amount)
                if rounding and rounding.concerns(name, record.get("currency")):
                    whole = rounding.apply(amount)
                    if whole is not None:
                        amount, rounded = whole, True
                record[name] = orjson.Fragment(amount)
        return rounded

    def json_row(self, row: tuple[bytes, dict[str, msgspec.Raw]]) -> Item:
        """Convert a line of JSON; what needs no change keeps its very bytes.

        Raises:
            MalformedRecordError: a field that every record needs is missing or unreadable.
        """
        line, source = row
        targets = self._plan.targets
        same = self._passes and targets.keys() >= source.keys()
        record: dict[str, Any] = source if same else self._renamed(source)
        for name in REQUIRED:
            if name not in record:
                raise self._malformed(name, "is missing")
        changes: dict[str, Any] = {}
        card = ""
        for name in ID_FIELDS:
            if name not in record:
                continue
            value = value_of(record[name])
            if value is None and name not in REQUIRED:
                continue
            text = self._id(name, self._given(name, value))
            if name == "transaction_id" and self._prefix:
                text = self._prefix + text
            elif name == "card_id":
                card = text = text if self._pseudonym is None else self._pseudonym(text)
            if value != text or type(value) is not str:  # numbers become text
                changes[name] = text
        amount = self._given("amount", value_of(record["amount"]))
        if not PLAIN_AMOUNT.fullmatch(str(amount)):
            changes["amount"] = msgspec.Raw(self._amount("amount", amount).encode())
        rounded = self._round(record, changes) if self._rounding else False
        moment = self._given("event_time", value_of(record["event_time"]))
        number = type(moment) is JsonNumber
        when, event_ms = self._moment(str(moment) if number else moment)
        if (str(when) if number else when) != moment:
            changes["event_time"] = when
        self.rounded += rounded
        if same and not changes:
            return card.encode(), line, event_ms
        return card.encode(), self._encode({**record, **changes}), event_ms

    def _round(self, record: Mapping[str, Any], changes: dict[str, Any]) -> bool:
        """Round the amounts of a JSON record; whether there was need to."""
        rounding = self._rounding
        assert rounding is not None
        currency = value_of(record["currency"]) if "currency" in record else None
        rounded = False
        for name in MONEY:
            raw = changes.get(name, record.get(name))
            if raw is None or bytes(raw) == b"null" or not rounding.concerns(name, currency):
                continue
            whole = rounding.apply(self._amount(name, value_of(raw)))
            if whole is not None:
                changes[name] = msgspec.Raw(whole.encode())
                rounded = True
        return rounded

    def _renamed(self, source: dict[str, msgspec.Raw]) -> dict[str, Any]:
        plan = self._plan
        record = {}
        for name, value in source.items():
            target = plan.targets.get(name)
            if name not in plan.targets:  # a field that the first records lacked
                hidden = plan.hides(name)
                if hidden:
                    self.hidden.add(name)
                known = (*KNOWN, *plan.options.own)
                unwanted = hidden or (plan.options.only_known and name not in known)
                target = None if unwanted else name
            if target is not None:
                record[target] = value
        return record

    def _given(self, name: str, value: Any) -> str:
        """The text of a JSON string or number."""
        if isinstance(value, str) and value:
            return value
        if value is None or value == "":
            raise self._malformed(name, "is empty" if value == "" else "is null")
        raise self._malformed(name, f"{_short(value)} is neither text nor number")

    def _id(self, name: str, value: Any) -> str:
        try:
            text = id_text(value)
        except ValueError as error:
            raise self._malformed(name, str(error)) from error
        if text is None:
            raise self._malformed(name, "is empty")
        return text

    def _amount(self, name: str, value: object) -> str:
        try:
            return amount_text(value)
        except ValueError as error:
            raise self._malformed(name, str(error)) from error

    def _version(self, value: object) -> int:
        text = str(value)
        if not _VERSION.fullmatch(text):
            fault = f"{_short(text)} is not a whole number, or out of range"
            raise self._malformed("schema_version", fault)
        return int(float(text))

    def _moment(self, value: Any) -> tuple[str | int, int]:
        try:
            return self.moments.read(value)
        except EventTimeError as error:
            raise self._malformed("event_time", str(error), general=error.general) from error

    def _malformed(self, name: str, fault: str, *, general: bool = False) -> MalformedRecordError:
        return MalformedRecordError(self._plan.columns.get(name, name), fault, general=general)


def _plain(value: Any) -> str:
    """Values of Parquet that JSON has no type for."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _short(value: object) -> str:
    if isinstance(value, orjson.Fragment):
        return "an object or array"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
