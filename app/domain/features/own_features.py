"""Fields and features that a deployment adds in a file of its own; see docs/extending.md.

The file is declarative, so it is read twice: here it becomes features as those of `card.py` are, for the plan; the
reference implementation evaluates the same declarations over raw transactions.
"""

import re
import struct
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

from app.domain.features.feature import (
    ExplainedTransaction,
    Feature,
    Stage,
    window_length_ms,
    window_name,
)
from app.domain.features.row_queries import RowQuery
from app.domain.transaction import DeadRecordError

Kind = Literal["text", "integer", "number", "boolean"]
Compute = Literal["distinct", "share", "count"]
#: Longest text of a field, bytes.
MAX_TEXT_BYTES = 1_024
_SOURCE = "this deployment"
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_READ: dict[str, Callable[[str], Any]] = {
    "integer": int,
    "number": float,
    "boolean": lambda text: _TRUTH[text.lower()],
}
_UNITS = {"distinct": "values", "share": "ratio", "count": "transactions"}
_FIELD = {"type": ("text", "integer", "number", "boolean"), "default": None, "meaning": str}
_FEATURE = {
    "of": ("card", "terminal"),
    "compute": ("distinct", "share", "count"),
    "field": str,
    "windows": list,
    "equals": None,
    "phrase": str,
}
_OPTIONAL = {"meaning", "equals", "phrase"}


@dataclass(frozen=True, slots=True)
class OwnField:
    """An optional field of the input record.

    Attributes:
        name: in the record, and of its column.
        kind: type of its values.
        default: what a record has that lacks it, or has null.
        meaning: for people.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str = ""

    def value(self, record: Mapping[str, Any]) -> Any:
        """What a record says.

        Raises:
            DeadRecordError: that is of another type.
        """
        value = record.get(self.name)
        if value is None:
            return self.default
        if not self.accepts(value):
            msg = f"{self.name} is {str(value)[:80]!r}, which is not of type {self.kind}"
            raise DeadRecordError("invalid_field", msg)
        return value

    def from_file(self, value: Any) -> Any:
        """What a column of a file says, where everything may be text.

        Raises:
            DeadRecordError: that is of another type.
        """
        if isinstance(value, str) and self.kind != "text":
            try:
                value = _READ[self.kind](value.strip()) if value.strip() else None
            except (ValueError, KeyError):
                msg = f"{self.name} is {value[:80]!r}, which is not of type {self.kind}"
                raise DeadRecordError("invalid_field", msg) from None
        return self.value({self.name: value})

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the field's type."""
        if self.kind == "text":
            return (
                type(value) is str and "\0" not in value and len(value.encode()) <= MAX_TEXT_BYTES
            )
        if self.kind == "boolean":
            return type(value) is bool
        if self.kind == "integer":
            return type(value) is int and -(1 << 63) <= value < 1 << 63
        return type(value) in (int, float)

    def code(self, value: Any) -> int:
        """A value as 64 bits: equal values have equal codes. Texts are hashed."""
        if self.kind == "text":
            digest = blake2b(value.encode(), digest_size=8).digest()
            return int.from_bytes(digest, "big", signed=True)
        if self.kind == "number":
            found: int = struct.unpack("<q", struct.pack("<d", float(value) + 0.0))[0]
            return found
        return int(value)


@dataclass(frozen=True, slots=True)
class OwnFeature:
    """One aggregation over a card's or terminal's transactions, per window.

    Attributes:
        name: without a window.
        of: `card` or `terminal`.
        compute: `distinct`: number of values of the field; `share`: part of the transactions whose field has a value;
            `count`: how many there are of those. The transaction itself is among them.
        field: name of the field.
        windows: names, such as `7d`.
        equals: the value, for `share` and `count`; None: that of the transaction itself.
        phrase: how an explanation puts it; `{value}` and `{window}` stand for themselves.
    """

    name: str
    of: Stage
    compute: Compute
    field: str
    windows: tuple[str, ...]
    equals: Any = None
    phrase: str = ""

    @property
    def version(self) -> str:
        """Names what is computed, so that no model meets a feature of another meaning."""
        told = repr((self.of, self.compute, self.field, self.equals))
        return blake2b(told.encode(), digest_size=4).hexdigest()

    @property
    def columns(self) -> tuple[str, ...]:
        """Its names, one per window."""
        return tuple(f"{self.name}_{window}" for window in self.windows)

    def _formula(self) -> str:
        whose = f"of the {self.of} in (t - w, t], this one included"
        if self.compute == "distinct":
            return f"number of different values of {self.field} among the transactions {whose}"
        value = "this transaction's value" if self.equals is None else repr(self.equals)
        what = f"transactions {whose}, whose {self.field} is {value}"
        return f"share of the {what}" if self.compute == "share" else f"number of the {what}"

    def _says(self, facts: ExplainedTransaction) -> str:
        if self.phrase:
            return self.phrase.format(value=f"{facts.value:g}", window=facts.window)
        return f"{self.name.replace('_', ' ')} within {facts.window} is {facts.value:g}"

    def feature(self, of_field: OwnField) -> Feature:
        """As the plan takes it."""
        values = f"own_{self.field}_{{w}}"
        wanted = f"{values}[-1]" if self.equals is None else str(of_field.code(self.equals))
        value = {
            "distinct": f"float(len(set({values})))",
            "share": f"{values}.count({wanted}) / len({values})",
            "count": f"float({values}.count({wanted}))",
        }[self.compute]
        return Feature(
            f"{self.name}_{{w}}",
            _UNITS[self.compute],
            self._formula(),
            self.of,
            value,
            self._says,
            _SOURCE,
            version=self.version,
        )


@dataclass(frozen=True)
class OwnCatalogue:
    """What one deployment adds.

    Attributes:
        fields: fields of the input record.
        features: what is computed from them.
        kept: by stage, the fields that it keeps with each transaction; empty: those that its features need.
    """

    fields: tuple[OwnField, ...] = ()
    features: tuple[OwnFeature, ...] = ()
    kept: Mapping[str, tuple[OwnField, ...]] = field(default_factory=dict, hash=False)
    _made: dict[str, Feature] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Make the features, by their names without windows."""
        by_name = {each.name: each for each in self.fields}
        made = {each.name: each.feature(by_name[each.field]) for each in self.features}
        object.__setattr__(self, "_made", made)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name for each in self.features for name in each.columns)

    def only(self, names: Sequence[str]) -> "OwnCatalogue":
        """The same fields, and those of the features that are named: columns that others add are left out."""
        kept = [
            replace(each, windows=tuple(w for w in each.windows if f"{each.name}_{w}" in names))
            for each in self.features
        ]
        kept_by = {stage: self.stage_fields(stage) for stage in ("card", "terminal")}
        return OwnCatalogue(self.fields, tuple(each for each in kept if each.windows), kept_by)

    def find(self, family: str) -> Feature | None:
        """The feature of a name without its window."""
        return self._made.get(family)

    def place(self, family: str) -> int:
        """Where a feature stands among these."""
        return list(self._made).index(family)

    def stage_fields(self, stage: str) -> tuple[OwnField, ...]:
        """The fields that a stage keeps with each transaction: those that its features need, by name."""
        if self.kept:
            return self.kept[stage]
        needed = {each.field for each in self.features if each.of == stage}
        return tuple(sorted((f for f in self.fields if f.name in needed), key=lambda f: f.name))

    def codes(self, stage: str, values: Sequence[Any]) -> tuple[int, ...]:
        """A transaction's values as its row keeps them.

        Args:
            stage: whose row.
            values: of all fields, in order.
        """
        return tuple(f.code(values[at]) for at, f in self._kept[stage])

    @cached_property
    def _kept(self) -> dict[str, list[tuple[int, OwnField]]]:
        places = {each.name: at for at, each in enumerate(self.fields)}
        return {
            stage: [(places[f.name], f) for f in self.stage_fields(stage)]
            for stage in ("card", "terminal")
        }

    def readings(self) -> tuple[RowQuery, ...]:
        """What the features are computed from."""
        return tuple(
            RowQuery(
                stage,
                f"own_{each.name}_{{w}}",
                f"[codes_within(row, t - window, t, {at}) for window in WINDOWS]",
                f"own_{each.name}_{{w}}.append(own[{at}])",
                f"inexact:{stage}_{{w}}",
            )
            for stage in ("card", "terminal")
            for at, each in enumerate(self.stage_fields(stage))
        )


#: A deployment without a file of its own.
NOTHING = OwnCatalogue()


def parse_own(text: str) -> OwnCatalogue:
    """The declarations of a deployment's file (TOML).

    Raises:
        ValueError: it is none; the text says what is wrong.
    """
    try:
        declared = _checked(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        msg = f"it is not TOML: {error}"
        raise ValueError(msg) from None
    fields = tuple(
        OwnField(name, entry["type"], entry["default"], entry.get("meaning", ""))
        for name, entry in declared["fields"].items()
    )
    for each in fields:
        if not each.accepts(each.default):
            msg = f"fields.{each.name}: the default {each.default!r} is not of type {each.kind}"
            raise ValueError(msg)
    kinds = {each.name: each for each in fields}
    features = []
    for name, entry in declared["features"].items():
        of_field, equals = kinds.get(entry["field"]), entry.get("equals")
        if of_field is None:
            msg = f"features.{name}: there is no field {entry['field']!r} in [fields]"
            raise ValueError(msg)
        if of_field.kind == "number":
            msg = f"features.{name}: {of_field.name} is a number; only text, integer and boolean fields can be counted"
            raise ValueError(msg)
        if equals is not None and not of_field.accepts(equals):
            msg = f"features.{name}: equals = {equals!r} is not of type {of_field.kind}"
            raise ValueError(msg)
        windows = tuple(sorted(entry["windows"], key=window_length_ms))
        phrase = entry.get("phrase", "")
        features.append(
            OwnFeature(name, entry["of"], entry["compute"], of_field.name, windows, equals, phrase)
        )
    return OwnCatalogue(fields, tuple(features))


def _checked(declared: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The tables `fields` and `features`, each entry of the right shape.

    Raises:
        ValueError: one is not; the text says which.
    """
    unknown = declared.keys() - {"fields", "features"}
    if unknown:
        msg = f"[{min(unknown)}] is unknown: there are [fields.NAME] and [features.NAME]"
        raise ValueError(msg)
    found = {"fields": declared.get("fields", {}), "features": declared.get("features", {})}
    for table, shape in (("fields", _FIELD), ("features", _FEATURE)):
        for name, entry in found[table].items():
            _check_entry(f"{table}.{name}", entry, shape)
    for name, entry in found["features"].items():
        _check_windows(name, entry)
    return found


def _check_entry(where: str, entry: Any, shape: dict[str, Any]) -> None:
    if not isinstance(entry, dict):
        msg = f"{where} is not a table"
        raise ValueError(msg)
    unknown = entry.keys() - shape.keys()
    if unknown:
        msg = f"{where}: {min(unknown)} is unknown; the keys are {', '.join(shape)}"
        raise ValueError(msg)
    for key, wanted in shape.items():
        if key not in entry:
            if key in _OPTIONAL:
                continue
            msg = f"{where}: {key} is missing"
            raise ValueError(msg)
        value = entry[key]
        if isinstance(wanted, tuple) and value not in wanted:
            msg = f"{where}: {key} = {value!r}: write one of {', '.join(wanted)}"
            raise ValueError(msg)
        if isinstance(wanted, type) and not isinstance(value, wanted):
            msg = f"{where}: {key} = {value!r} is not of type {wanted.__name__}"
            raise ValueError(msg)


def _check_windows(name: str, entry: dict[str, Any]) -> None:
    windows = entry["windows"]
    for window in windows:
        if not isinstance(window, str) or not re.fullmatch(r"[1-9]\d*(ms|s|m|h|d)", window):
            msg = f"features.{name}: {window!r} is not a window; write one such as 7d"
            raise ValueError(msg)
        if window_name(window_length_ms(window)) != window:
            msg = f"features.{name}: write {window_name(window_length_ms(window))} for {window}"
            raise ValueError(msg)
    if not windows or len({window_length_ms(window) for window in windows}) < len(windows):
        msg = f"features.{name}: windows must contain one or more different windows"
        raise ValueError(msg)
    if entry["compute"] == "distinct" and "equals" in entry:
        msg = f"features.{name}: equals is for share and count"
        raise ValueError(msg)
    try:
        entry.get("phrase", "").format(value=1, window="1d")
    except (KeyError, IndexError, ValueError):
        msg = f"features.{name}: phrase may name {{value}} and {{window}} only"
        raise ValueError(msg) from None
