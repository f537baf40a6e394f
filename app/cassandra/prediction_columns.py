"""The columns of a prediction in the order of a packed row, and how each is packed. Pure."""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any

from app.cassandra.packed_rows import UNSET, text_cell, texts_cell
from app.wire.prediction_fields import ROW, PredictionField

#: struct codes of the types of fixed width; a decimal is written as 64 bits of minor units behind its scale.
DECIMAL = "Q"
_CODES = {
    "bigint": "q", "timestamp": "q", "int": "i", "double": "d", "boolean": "?", "decimal": DECIMAL,
}  # fmt: skip
_NO_TEXTS = struct.pack(">ii", 4, 0)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
_CACHED = 4096
_double = struct.Struct(">id").pack


class ColumnOrder:
    """The columns in the order of a packed row, and what of a record each is made from.

    The function that reads a record is generated, as `dataclasses` does: a call per column would cost a third more.

    Args:
        fields: the table of fields.

    Attributes:
        columns: their names, in order: those of any length, `extra`, those that rarely change, `currency`, those of
            fixed width, `features`.
        codes: what those of fixed width are in a struct; a decimal is `DECIMAL`.
        read: takes a record apart. Gives the cells of any length, the texts that rarely change, the values of fixed
            width, `features`, `feature_schema`, `received_at`, `event_time_ms` and `flags`, and whether there are
            fields without a column.
        known: fields of a record with a column, or dropped on purpose.
        code: source of `read`, to look at.
    """

    def __init__(self, fields: Sequence[PredictionField]) -> None:
        stored = [f for f in fields if f.cql and f.name not in ("currency", "extra", "features")]
        unset = [f for f in stored if f.optional and f.default is None]
        always = [f for f in stored if f not in unset]
        seldom = [f for f in always if f.seldom]
        fixed = [f for f in always if f.cql in _CODES]
        texts = [f for f in always if f not in seldom and f not in fixed]
        self.columns = (
            *(f.name for f in (*texts, *unset)), "extra",
            *(f.name for f in seldom), "currency",
            *(f.name for f in fixed), "features",
        )  # fmt: skip
        self.codes = [_CODES[f.cql] for f in fixed]
        known = [f for f in fields if f.origin != ROW and (f.cql or f.dropped)]
        self.known = frozenset(f.name for f in known)
        may_lack = [f.name for f in known if f.optional]
        sources = [_source(f) for f in stored if not f.optional]
        required = list(dict.fromkeys((*sources, "features")))
        cells = [_cell(f).format(f"{_source(f)}_") for f in texts]
        cells += [
            f"UNSET if {f.name}_ is None else {_OPTIONAL.get(f.cql, _cell(f)).format(f'{f.name}_')}"
            for f in unset
        ]
        self.code = "\n    ".join((
            "def read(record):",
            f"({', '.join(f'{name}_' for name in required)}) = required(record)",
            *(f"{f.name}_ = record.get({f.name!r}, {f.default!r})" for f in stored if f.optional),
            *(f"if {f.name}_ is None: {f.name}_ = {f.default!r}" for f in stored if f in always and f.optional),
            *(
                f"if {f.name}_ is not True and {f.name}_ is not False: refuse({f.name!r}, {f.name}_)"
                for f in fixed if f.cql == "boolean"
            ),
            "return (",
            f"    ({', '.join(cells)}),",
            f"    ({', '.join(f'{f.name}_' for f in seldom)}),",
            f"    ({', '.join(f'{_source(f)}_' for f in fixed)}),",
            "    features_, feature_schema_, received_at_, event_time_ms_, flags_,",
            f"    len(record) != {len(known) - len(may_lack)}{''.join(f' + ({n!r} in record)' for n in may_lack)},",
            ")",
        ))  # fmt: skip
        names = {**_HELPERS, "required": itemgetter(*required)}
        exec(self.code, names)  # noqa: S102
        self.read: Callable[[dict[str, Any]], tuple[Any, ...]] = names["read"]


def month_of(event_time_ms: int) -> str:
    """The month of a partition: that of the event time in UTC, such as 2026-11."""
    return (EPOCH + timedelta(days=event_time_ms // _DAY_MS)).strftime("%Y-%m")


def size_of(code: str) -> bytes:
    """The length of a value of fixed width, as it precedes the value."""
    return struct.pack(">i", struct.calcsize(f">{code}"))


def _source(field: PredictionField) -> str:
    """The field of a record that a column is made from."""
    return field.source or field.name


def _cell(field: PredictionField) -> str:
    """An expression that packs the value `{0}` that is not among those of fixed width, its length included."""
    if field.name == "month":
        return "month_cell({0} // DAY_MS)"
    if field.cql in _CELLS:
        return _CELLS[field.cql]
    return f"{_CODES[field.cql]}_cell({_width(field.cql)}, {{0}})"


def _width(cql: str) -> int:
    return struct.calcsize(f">{_CODES[cql]}")


def _refuse(name: str, value: Any) -> None:
    msg = f"{name} is of type {type(value).__name__}"
    raise TypeError(msg)


@lru_cache(maxsize=_CACHED)
def _month_cell(day: int) -> bytes:
    return text_cell(month_of(day * _DAY_MS))


def _set_cell(texts: Iterable[str]) -> bytes:
    return texts_cell(sorted(set(texts)))


def _map_cell(values: Mapping[str, float]) -> bytes:
    known = [pair for pair in values.items() if pair[1] is not None]  # a map has no null
    pairs = sorted(known, key=lambda pair: pair[0].encode())
    body = b"".join(text_cell(name) + _double(8, value) for name, value in pairs)
    return struct.pack(">ii", 4 + len(body), len(pairs)) + body


_CELLS = {
    "text": "len(b := {0}.encode()).to_bytes(4), b",
    "frozen<list<text>>": "list_cell({0}) if {0} else NO_TEXTS",
    "frozen<set<text>>": "set_cell({0}) if {0} else NO_TEXTS",
    "frozen<map<text, double>>": "map_cell({0})",
}
#: Instead, where one expression is needed.
_OPTIONAL = {"text": "text_cell({0})"}
_HELPERS: dict[str, Any] = {
    "DAY_MS": _DAY_MS,
    "NO_TEXTS": _NO_TEXTS,
    "UNSET": UNSET,
    "list_cell": texts_cell,
    "map_cell": _map_cell,
    "month_cell": _month_cell,
    "refuse": _refuse,
    "set_cell": _set_cell,
    "text_cell": text_cell,
    **{
        f"{code}_cell": struct.Struct(f">i{code}").pack
        for code in set(_CODES.values())
        if code != "?"
    },
}
