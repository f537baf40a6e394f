"""What becomes of fields that fraudstream does not know, and of refused records, before anything is passed on."""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import msgspec

from app.domain.card_number_masking import without_card_numbers
from app.domain.debezium import is_envelope, is_wrapped
from app.domain.json_text import load_object, raw_fields, write_object
from app.domain.transaction import DeadRecordError

Action = Literal["hash", "keep"]
#: Hexadecimal digits of a hashed value: 128 bits.
_DIGITS = 32
#: Where an envelope has its rows.
_ROWS = frozenset({"payload", "before", "after"})


@dataclass(frozen=True)
class Privacy:
    """The rules of a deployment.

    Attributes:
        mask: whether card numbers are masked in what is passed on of unknown fields, and in dead letters.
        fields: what becomes of single fields: `hash`: a keyed hash stands for the value; `keep`: not masked.
        key: of the hash.
        own: names of fields that fraudstream needs as they are.
        dropped: names of fields that dead letters do not keep; of valid records they are left out before.
        keep_unparsed: whether dead letters keep values in which no fields can be found.
    """

    mask: bool = True
    fields: Mapping[str, Action] = field(default_factory=dict)
    key: bytes = field(default=b"", repr=False)
    own: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    keep_unparsed: bool = True

    def of_body(self, body: bytes, fields: Mapping[str, Any]) -> bytes:
        """A valid record's JSON object as it is passed on; `fields`: its values."""
        named = bool(self.fields) and not self.fields.keys().isdisjoint(fields)
        if not named and not (self.mask and without_card_numbers(body) is not body):
            return body
        changed = {name: self._of(name, bytes(raw)) for name, raw in raw_fields(body).items()}
        return write_object(changed)

    def of_text(self, text: bytes) -> bytes:
        """A key or a reason as dead letters have it; the same object if nothing changes."""
        return without_card_numbers(text) if self.mask else text

    def of_letter(self, value: bytes) -> "KeptValue":
        """A refused record's bytes as its dead letter has them."""
        found = self._object(value)
        if found is None:
            if value and not self.keep_unparsed:
                return KeptValue(None, is_private=True)
            return self._masked(value)
        names = set[str]()
        kept = _rewritten(*found, self._in_letter, names)
        if names.isdisjoint(self._named):
            return self._masked(value)  # as it came, to the last space
        hashed = any(self.fields.get(name) == "hash" for name in names)
        is_masked = hashed or kept != _rewritten(*found, self._in_comparison, set())
        return KeptValue(kept, is_masked=is_masked, is_private=True)

    def compared(self, value: bytes | None) -> bytes | None:
        """What a refused record and its dead letter have in common, whichever rules the letter was written by.

        Without the fields that these rules drop or hash, and with all card numbers masked. It is not the same where
        other rules have left out more: `digest` differs then.
        """
        found = self._object(value)
        if found is not None:
            names = set[str]()
            rest = _rewritten(*found, self._in_comparison, names)
            value = value if names.isdisjoint(self._named) else rest
        elif value and not self.keep_unparsed:
            return None
        return value and without_card_numbers(value)

    @cached_property
    def digest(self) -> bytes:
        """Differs where other rules would leave something else of a refused record."""
        rules = repr((sorted(self._named), self.keep_unparsed))
        return sha256(rules.encode()).hexdigest()[:16].encode()

    @cached_property
    def _named(self) -> frozenset[str]:
        return self.dropped | self.fields.keys()

    def _object(self, value: bytes | None) -> tuple[Mapping[str, Any], bytes] | None:
        """Fields and text of a JSON object; None for whatever is none, has fields in doubt, or needs no look."""
        if not self._named and self.keep_unparsed:
            return None
        try:
            return load_object(value)
        except DeadRecordError:
            return None

    def _masked(self, value: bytes) -> "KeptValue":
        kept = self.of_text(value)
        return KeptValue(kept, is_masked=kept is not value)

    def _of(self, name: str, raw: bytes) -> Any:
        if name in self.own:
            return msgspec.Raw(raw)
        action = self.fields.get(name)
        if action == "hash":
            return hmac.digest(self.key, raw, "sha256").hex()[:_DIGITS]
        return msgspec.Raw(raw if action == "keep" or not self.mask else without_card_numbers(raw))

    def _in_letter(self, name: str, raw: bytes) -> Any:
        if name in self.dropped:
            return _GONE
        if name in self.fields:
            return self._of(name, raw)
        return msgspec.Raw(self.of_text(raw))  # ids too: nothing is kept under them

    def _in_comparison(self, name: str, raw: bytes) -> Any:
        gone = name in self.dropped or self.fields.get(name) == "hash"
        return _GONE if gone else msgspec.Raw(raw)


@dataclass(frozen=True)
class KeptValue:
    """What a dead letter keeps of a refused record.

    Attributes:
        value: its bytes; None if they are dropped.
        is_masked: whether some are others than came: the record cannot be sent back.
        is_private: whether rules for single fields, or for values without any, have acted on it.
    """

    value: bytes | None
    is_masked: bool = False
    is_private: bool = False


_GONE = object()


def _rewritten(
    fields: Mapping[str, Any], body: bytes, of: Callable[[str, bytes], Any], names: set[str]
) -> bytes:
    """An object with other values for its fields, or an envelope for those of its rows; their names go to `names`."""
    rows = _ROWS if is_wrapped(fields) or is_envelope(fields) else frozenset()
    changed = {}
    for name, raw in raw_fields(body).items():
        if not rows:
            names.add(name)
            if (value := of(name, bytes(raw))) is not _GONE:
                changed[name] = value
        elif name in rows and isinstance(fields[name], dict):
            changed[name] = msgspec.Raw(_rewritten(fields[name], bytes(raw), of, names))
        else:
            changed[name] = raw
    return write_object(changed)


#: Nothing is changed.
AS_IT_CAME = Privacy(mask=False)
