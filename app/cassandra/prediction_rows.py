"""Predictions as Cassandra rows, both ways: JSON record -> packed values, row -> dict. Pure, no I/O.

Which columns there are is the table of app/wire/prediction_fields.py. Packing (`packed_rows.py`) is the worker's share
of the dearest part of the pipeline, so a packed row has its columns in an order that suits it: texts first, then what
may be missing, then what rarely changes as one cached piece, then everything of fixed width with the features, which
one precompiled struct writes at once.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from app.cassandra.packed_rows import UNSET, PackedTable, text_cell, unstorable
from app.cassandra.prediction_columns import DECIMAL, EPOCH, ColumnOrder, size_of
from app.display import iso
from app.domain.features.own_features import NOTHING, OwnCatalogue
from app.domain.json_text import raw_fields, values, write_object
from app.domain.prediction_flags import CONFLICTING
from app.scoring_deployment import is_anothers
from app.settings import Settings
from app.wire.own_features_file import fields_with, own_of
from app.wire.prediction_fields import FIELDS, SHADOW_FLAGGED, SHADOW_SCORES

#: What an input in a foreign currency said, kept in `extra`: the columns are in the deployment's.
_FOREIGN = ("amount", "currency")
#: What orjson makes of a number that is no integer of 64 bits, and of what may have one inside.
_MAY_LACK_DIGITS = frozenset((float, dict, list))
_MILLISECOND = timedelta(milliseconds=1)
_CACHED = 4096


class PackedRows(NamedTuple):
    """Rows ready for the writer.

    Attributes:
        rows: packed values, one per prediction, for the table `predictions`.
        received_at: when the broker appended each source record, epoch milliseconds.
        event_time_ms: event time of each transaction, epoch milliseconds.
        conflicting: packed values for the table `conflicting_predictions`.
    """

    rows: list[bytes]
    received_at: list[int]
    event_time_ms: list[int]
    conflicting: Sequence[bytes] = ()


class RowPacker:
    """Packs the predictions of one deployment.

    Args:
        currency: the deployment's, in which `amount_minor` is.
        minor_unit_digits: digits after its decimal point.
        deployment: whose predictions are packed; None: everybody's.
        own: what the deployment adds: its fields have columns.
        told: is given every record that is packed; None: nobody is.
    """

    def __init__(
        self,
        currency: str,
        minor_unit_digits: int,
        deployment: str | None = None,
        own: OwnCatalogue = NOTHING,
        told: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._told = told
        self._deployment = deployment
        self._currency = currency
        self._digits = minor_unit_digits
        self._order = order_of(own)
        self._read = self._order.read
        self._layouts: dict[str, _Layout] = {}
        self._constants: dict[tuple[str, ...], bytes] = {}

    @classmethod
    def of(
        cls,
        settings: Settings,
        deployment: str | None = None,
        told: Callable[[dict[str, Any]], None] | None = None,
    ) -> "RowPacker":
        """The packer of some settings."""
        return cls(
            settings.currency, settings.minor_unit_digits, deployment, own_of(settings), told
        )

    def pack_many(self, predictions: Iterable[bytes]) -> PackedRows:
        """Rows of prediction records, but for those of another deployment.

        Raises:
            StateError: one is no prediction; the text says which.
        """
        rows: list[bytes] = []
        conflicting: list[bytes] = []
        received: list[int] = []
        event_times: list[int] = []
        for value in predictions:
            packed = self._packed(value)
            if packed is None:
                continue
            row, received_at, event_time_ms, conflicts = packed
            (conflicting if conflicts else rows).append(row)
            received.append(received_at)
            event_times.append(event_time_ms)
        return PackedRows(rows, received, event_times, conflicting)

    def pack(self, value: bytes) -> tuple[bytes, int, int, bool]:
        """The packed row of one record of ours, its `received_at`, its event time, and whether it conflicts.

        Raises:
            StateError: it is no prediction; the text says which.
        """
        packed = self._packed(value)
        assert packed is not None
        return packed

    def _packed(self, value: bytes) -> tuple[bytes, int, int, bool] | None:
        try:
            record = orjson.loads(value)
            if is_anothers(record, self._deployment):
                return None
            packed = self._pack(record, value)
            if self._told is not None:
                self._told(record)
            return packed
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            struct.error,
        ) as error:
            raise unstorable("prediction", error) from None

    def _pack(self, record: dict[str, Any], value: bytes) -> tuple[bytes, int, int, bool]:
        cells, seldom, scalars, features, schema, received, event_ms, flags, is_more = self._read(
            record
        )
        layout = self._layouts.get(schema)
        if layout is None:
            layout = self._add_layout(schema, features)
        constant = self._constants.get(seldom)
        if constant is None:
            constant = self._add_constant(seldom)
        own = record.get("currency")
        foreign = own is not None and own != self._currency
        extra = UNSET
        if foreign or is_more:
            extra = extra_cell(record, value, foreign=foreign, known=self._order.known)
        row = b"".join((*cells, extra, constant, layout.pack(scalars, features)))
        return row, received, event_ms, CONFLICTING in flags

    def _add_layout(self, schema: str, features: Mapping[str, Any]) -> "_Layout":
        if len(self._layouts) >= _CACHED:
            self._layouts.clear()
        layout = self._layouts[schema] = _Layout(features, self._order.codes, self._digits)
        return layout

    def _add_constant(self, texts: tuple[str, ...]) -> bytes:
        if len(self._constants) >= _CACHED:
            self._constants.clear()
        cells = self._constants[texts] = b"".join(map(text_cell, (*texts, self._currency)))
        return cells


class _Layout:
    """Writes the fixed-width end of a row, for one set of feature names.

    The struct takes constants and values by turns: a length (and a feature's name) before each value.
    """

    def __init__(self, names: Iterable[str], fixed: Sequence[str], digits: int) -> None:
        # A frozen map is searched in order when somebody selects one element: features['amount'].
        self._names = sorted(names, key=str.encode)
        self._fixed, self._digits = fixed, digits
        self._count = len(self._names)
        self._values = _values_getter(self._names)
        # A decimal is its scale and an integer; eight bytes are valid where fewer would do.
        constants = [
            struct.pack(">ii", 12, digits) if code == DECIMAL else size_of(code) for code in fixed
        ]
        keys = [text_cell(name) for name in self._names]
        before = struct.pack(">ii", 4 + sum(len(key) + 12 for key in keys), len(keys))
        for key in keys:
            constants.append(before + key + struct.pack(">i", 8))
            before = b""
        codes = [*(code.lower() for code in fixed), *"d" * len(keys)]
        pairs = (f"{len(constant)}s{code}" for constant, code in zip(constants, codes, strict=True))
        # Without any feature, the head of the empty map is still to be written.
        self._pack = struct.Struct(f">{''.join(pairs)}{len(before)}s").pack
        self._template: list[Any] = [before] * (2 * len(codes) + 1)
        self._template[:-1:2] = constants

    def pack(self, scalars: tuple[Any, ...], features: Mapping[str, Any]) -> bytes:
        """Cells from event_time to features; features that are null are left out of the map."""
        if len(features) == self._count:
            parts = self._template[:]
            try:
                parts[1::2] = (*scalars, *self._values(features))
                return self._pack(*parts)
            except (KeyError, struct.error):  # another set of names, or a null among the values
                pass
        known = {name: value for name, value in features.items() if value is not None}
        return _Layout(known, self._fixed, self._digits).pack_known(scalars, known)

    def pack_known(self, scalars: tuple[Any, ...], features: Mapping[str, Any]) -> bytes:
        """As `pack`, for features of these very names without nulls."""
        parts = self._template[:]
        parts[1::2] = (*scalars, *self._values(features))
        return self._pack(*parts)


def row_dict(row: Mapping[str, Any], minor_unit_digits: int) -> dict[str, Any]:
    """A row of `predictions` as JSON can carry it.

    Args:
        row: by column name, as the driver reads it; columns may be missing.
        minor_unit_digits: digits after the decimal point of `amount`, which becomes text.

    Returns:
        Columns by name. Moments become epoch milliseconds (`event_time_ms`, `scored_at`, `received_at`) with
        `event_time` as ISO 8601 beside, `extra` the object it stands for (see
        `json_text.values`), empty collections `[]` and `{}`. What challengers say is missing where there were none.
    """
    shown = dict(row)
    for name in ("received_at", "scored_at"):
        if name in row:
            shown[name] = epoch_ms(row[name])
    if "event_time" in row:
        shown["event_time_ms"] = epoch_ms(row["event_time"])
        shown["event_time"] = iso(shown["event_time_ms"])
    if row.get("amount") is not None:
        shown["amount"] = f"{row['amount']:.{minor_unit_digits}f}"
    if "features" in row:
        shown["features"] = dict(row["features"] or {})
    for name in ("reasons", "flags", "rules"):
        if name in row:
            shown[name] = list(row[name] or ())
    for name, kind in ((SHADOW_SCORES, dict), (SHADOW_FLAGGED, list)):
        if shown.pop(name, None) is not None:  # a challenger was there
            shown[name] = kind(row[name])
    if "extra" in row:
        shown["extra"] = values((row["extra"] or "{}").encode())
    return shown


def epoch_ms(moment: datetime | None) -> int | None:
    """Epoch milliseconds of what the driver reads: UTC without a zone, to the millisecond."""
    return None if moment is None else (moment.replace(tzinfo=UTC) - EPOCH) // _MILLISECOND


def routing_key(row: bytes) -> bytes:
    """The partition key of a packed row that begins with card and month."""
    card_end = 4 + int.from_bytes(row[:4], "big")
    card, month = row[4:card_end], row[card_end + 4 : card_end + 11]
    return b"".join((len(card).to_bytes(2, "big"), card, b"\0\0\7", month, b"\0"))


def extra_cell(
    record: dict[str, Any], value: bytes, *, foreign: bool, known: AbstractSet[str] | None = None
) -> bytes:
    """What an output record says beyond the columns, as JSON text.

    Where a number may have lost digits, values are the text that they came as.

    Args:
        record: the record.
        value: it as it stands on the topic.
        foreign: its currency is not the deployment's: its amount, as it came, is kept here.
        known: the fields that have columns; None: those of a deployment without own ones.
    """
    known = ORDER.known if known is None else known
    extra = {name: value for name, value in record.items() if name not in known}
    if foreign:
        extra |= {name: record[name] for name in _FOREIGN}
    if not extra:
        return UNSET
    if _MAY_LACK_DIGITS.isdisjoint(map(type, extra.values())):
        return text_cell(orjson.dumps(extra).decode())
    raw = raw_fields(value)
    return text_cell(write_object({name: raw[name] for name in extra}).decode())


def _values_getter(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) > 1:  # itemgetter of one name gives no tuple
        getter: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*names)
        return getter
    return lambda features: tuple(features[name] for name in names)


ORDER = ColumnOrder(FIELDS)


class Tables(NamedTuple):
    """The tables of predictions, with the columns of one deployment."""

    predictions: PackedTable
    conflicts: PackedTable


@cache
def _made(own: OwnCatalogue) -> tuple[ColumnOrder, Tables]:
    order = ORDER if own == NOTHING else ColumnOrder(fields_with(own))
    columns, key = order.columns, routing_key
    conflicting = "conflicting prediction"
    return order, Tables(
        # cql/002_predictions.cql
        PackedTable("predictions", columns, "prediction", key),
        # cql/005_conflicting_predictions.cql
        PackedTable("conflicting_predictions", columns, conflicting, key, expires=True),
    )


def order_of(own: OwnCatalogue) -> ColumnOrder:
    """The columns of a deployment in the order of a packed row."""
    return ORDER if own == NOTHING else _made(own)[0]


def tables_of(settings: Settings) -> Tables:
    """The tables with the columns of a deployment."""
    return _made(own_of(settings))[1]


#: The columns of a deployment without own fields.
COLUMNS = ORDER.columns
PREDICTIONS, CONFLICTS = _made(NOTHING)[1]


def moment_of(moment_ms: int) -> datetime:
    """A moment as the driver writes it."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC)
