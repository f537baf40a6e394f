"""Make input records of rows, and check what every record needs.

What is checked here is what a person should hear of before millions of records are dead letters:
missing columns, times without a zone, text where an amount belongs. Whether a transaction is
acceptable is decided by the stream alone.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
import orjson

from app.tools.producing.columns import KNOWN, LABEL_COLUMNS, REQUIRED, Plan
from app.tools.producing.sources import MalformedRecordError
from app.tools.simulation.files import LABEL_FIELDS

#: A decimal point further away from a number's first digit than this is a mistake.
_MOST_DIGITS = 30
_MONEY = ("amount", "converted_amount")
_AMOUNT = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
#: A number below this is a time in seconds, not in milliseconds (it would be before March 1973).
_LEAST_MS = 100_000_000_000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- compared with times that name no zone
_MILLISECOND = timedelta(milliseconds=1)


class Converter:
    """Rows of one file -> Kafka key, value and event time (epoch milliseconds).

    Attributes:
        rounded: records with an amount that was rounded, so far.
    """

    def __init__(self, plan: Plan) -> None:
        self.rounded = 0
        self._plan = plan
        self._prefix = f"{plan.run}-" if plan.run else ""
        self._utc = plan.zone is not None and plan.zone.key in {"UTC", "Etc/UTC"}
        self._encode = msgspec.json.Encoder().encode

    @property
    def targets(self) -> Mapping[str, str | None]:
        """Name in the record of each column; None leaves it out."""
        return self._plan.targets

    @property
    def dropped(self) -> list[str]:
        """Columns that are left out."""
        return self._plan.dropped

    def table_row(self, row: dict[str, Any]) -> tuple[bytes, bytes, int]:
        """Convert a row of a table (already renamed): text as of CSV, or any Python values.

        Empty fields are left out.

        Raises:
            MalformedRecordError: a field that every record needs is missing or unreadable.
        """
        record: dict[str, Any] = {k: v for k, v in row.items() if v is not None and v != ""}
        for name in ("transaction_id", "card_id", "terminal_id", "currency"):
            if name in record:
                record[name] = str(record[name])
        rounding, rounded = self._plan.rounding, False
        try:
            record["transaction_id"] = self._prefix + record["transaction_id"]
            for name in _MONEY:
                if name in record or name == "amount":
                    amount = record[name]
                    if not (type(amount) is str and _AMOUNT.fullmatch(amount)):
                        amount = self._amount(name, amount)
                    if rounding and rounding.concerns(name, record.get("currency")):
                        whole = rounding.apply(amount)
                        if whole is not None:
                            amount, rounded = whole, True
                    record[name] = orjson.Fragment(amount)  # the very digits: never via a float
            when = record["event_time"]
            text, event_ms = self._moment(when if type(when) is str else _time_text(when))
            record["event_time"] = text
            key = record["card_id"].encode()
            if "schema_version" in record:
                record["schema_version"] = self._whole(record["schema_version"])
            value = orjson.dumps(record, default=str)
        except KeyError as error:
            raise self._malformed(error.args[0], "is empty") from error
        except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
            raise MalformedRecordError(None, "not UTF-8 text") from error
        self.rounded += rounded
        return key, value, event_ms

    def json_row(self, row: tuple[bytes, dict[str, msgspec.Raw]]) -> tuple[bytes, bytes, int]:
        """Convert a line of JSON; what needs no change keeps its very bytes.

        Raises:
            MalformedRecordError: a field that every record needs is missing or unreadable.
        """
        line, source = row
        targets = self._plan.targets
        same = self._plan.passes and targets.keys() >= source.keys()
        record: dict[str, Any] = source if same else self._renamed(source)
        for name in REQUIRED:
            if name not in record:
                raise self._malformed(name, "is missing")
        changes: dict[str, Any] = {}
        transaction, quoted = self._scalar("transaction_id", record["transaction_id"])
        if self._prefix or not quoted:  # a number: identifiers are text
            changes["transaction_id"] = self._prefix + transaction
        card, quoted = self._scalar("card_id", record["card_id"])
        if not quoted:
            changes["card_id"] = card
        amount, _ = self._scalar("amount", record["amount"])
        if not _AMOUNT.fullmatch(amount):
            changes["amount"] = msgspec.Raw(self._amount("amount", amount).encode())
        rounded = self._round(record, changes) if self._plan.rounding else False
        text, quoted = self._scalar("event_time", record["event_time"])
        when, event_ms = self._moment(text)
        if quoted if isinstance(when, int) else when != text:
            changes["event_time"] = when
        self.rounded += rounded
        if same and not changes:
            return card.encode(), line, event_ms
        return card.encode(), self._encode({**record, **changes}), event_ms

    def _round(self, record: Mapping[str, Any], changes: dict[str, Any]) -> bool:
        """Round the amounts of a JSON record; whether there was need to."""
        rounding = self._plan.rounding
        assert rounding is not None
        currency = msgspec.json.decode(record["currency"]) if "currency" in record else None
        rounded = False
        for name in _MONEY:
            raw = changes.get(name, record.get(name))
            if raw is None or bytes(raw) == b"null" or not rounding.concerns(name, currency):
                continue
            text, _ = self._scalar(name, raw)
            whole = rounding.apply(self._amount(name, text))
            if whole is not None:
                changes[name] = msgspec.Raw(whole.encode())
                rounded = True
        return rounded

    def _renamed(self, source: dict[str, msgspec.Raw]) -> dict[str, Any]:
        targets, only_known = self._plan.targets, self._plan.only_known
        record = {}
        for name, value in source.items():
            # a field that the first records lacked is as any other of its name
            unwanted = name in LABEL_COLUMNS or (only_known and name not in KNOWN)
            target = targets.get(name, None if unwanted else name)
            if target is not None:
                record[target] = value
        return record

    def _scalar(self, name: str, raw: msgspec.Raw) -> tuple[str, bool]:
        """The text of a JSON string or number, and whether it was a string."""
        value = msgspec.json.decode(raw)
        if isinstance(value, str) and value:
            return value, True
        if isinstance(value, int | float) and not isinstance(value, bool):
            return bytes(raw).decode(), False
        fault = "is empty" if value in ("", None) else f"{_short(value)} is neither text nor number"
        raise self._malformed(name, fault)

    def _amount(self, name: str, value: object) -> str:
        try:
            number = Decimal(str(value).strip())
        except InvalidOperation:
            number = Decimal("NaN")
        # "1e999999999" would be written with all its digits
        if (
            isinstance(value, bool)
            or not number.is_finite()
            or abs(number.adjusted()) > _MOST_DIGITS
        ):
            raise self._malformed(name, f"{_short(value)} is not an amount such as 57.10")
        return f"{number:f}"

    def _whole(self, value: object) -> int:
        try:
            return int(str(value))
        except ValueError as error:
            fault = f"{_short(value)} is not a whole number"
            raise self._malformed("schema_version", fault) from error

    def _moment(self, text: str) -> tuple[str | int, int]:
        """An event time as the record carries it, and as epoch milliseconds."""
        if text.isdecimal():
            event_ms = int(text)
            if event_ms < _LEAST_MS:
                fault = f"{_short(text)} is too small for epoch milliseconds: is it in seconds?"
                raise self._malformed("event_time", fault)
            return event_ms, event_ms
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            fault = f"{_short(text)} is no ISO 8601 time such as 2024-05-01T12:00:00Z"
            raise self._malformed("event_time", fault) from error
        if moment.tzinfo is not None:
            same = text[10:11] == "T"
            return text if same else moment.isoformat(), int(moment.timestamp() * 1000)
        if self._plan.zone is None:
            fault = f"{_short(text)} has no time zone: add --assume-zone UTC, or the zone it is in"
            raise self._malformed("event_time", fault, general=True)
        if self._utc:
            usual = text[10:11] in {"T", " "}  # else of the rarer spellings, such as a date alone
            iso = f"{text[:10]}T{text[11:]}" if usual else moment.isoformat()
            return iso + "Z", (moment - _EPOCH) // _MILLISECOND
        moment = moment.replace(tzinfo=self._plan.zone)
        return moment.isoformat(), int(moment.timestamp() * 1000)

    def _malformed(self, name: str, fault: str, *, general: bool = False) -> MalformedRecordError:
        return MalformedRecordError(self._plan.columns.get(name, name), fault, general=general)


def raw_key(line: bytes) -> bytes | None:
    """The Kafka key of a record that is sent as it is: its card_id if it has one.

    Raises:
        MalformedRecordError: the record carries our label fields.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict):
        return None
    labels = [name for name in LABEL_FIELDS if name in record]
    if labels:
        fault = (
            "a label, which --raw would send: simulate with --labels FILE or --no-labels, or "
            "produce without --raw"
        )
        raise MalformedRecordError(labels[0], fault, general=True)
    card = record.get("card_id")
    return card.encode() if isinstance(card, str) and card else None


def _time_text(value: object) -> str:
    """A time that is no text (a Parquet timestamp, a number) as text that `_moment` reads."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone(UTC)
        # as pyarrow gives it: milliseconds are all that counts
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
