"""What becomes of fields that fraudstream does not know, and of refused records, before anything is passed on."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from app.domain.card_number_masking import without_card_numbers
from app.domain.json_text import raw_fields, write_object

Action = Literal["hash", "keep"]
#: Hexadecimal digits of a hashed value: 128 bits.
_DIGITS = 32


@dataclass(frozen=True)
class Privacy:
    """The rules of a deployment.

    Attributes:
        mask: whether card numbers are masked in what is passed on of unknown fields, and in dead letters.
        fields: what becomes of single fields: `hash`: a keyed hash stands for the value; `keep`: not masked.
        key: of the hash.
        own: names of fields that fraudstream needs as they are.
    """

    mask: bool = True
    fields: Mapping[str, Action] = field(default_factory=dict)
    key: bytes = field(default=b"", repr=False)
    own: frozenset[str] = frozenset()

    def of_body(self, body: bytes, fields: Mapping[str, Any]) -> bytes:
        """A valid record's JSON object as it is passed on; `fields`: its values."""
        named = bool(self.fields) and not self.fields.keys().isdisjoint(fields)
        if not named and not (self.mask and without_card_numbers(body) is not body):
            return body
        changed = {name: self._of(name, bytes(raw)) for name, raw in raw_fields(body).items()}
        return write_object(changed)

    def of_letter(self, value: bytes) -> bytes:
        """A refused record's bytes, a key or a reason as dead letters have them; the same object if nothing changes."""
        return without_card_numbers(value) if self.mask else value

    def _of(self, name: str, raw: bytes) -> Any:
        if name in self.own:
            return msgspec.Raw(raw)
        action = self.fields.get(name)
        if action == "hash":
            return hmac.digest(self.key, raw, "sha256").hex()[:_DIGITS]
        return msgspec.Raw(raw if action == "keep" or not self.mask else without_card_numbers(raw))


#: Nothing is changed.
AS_IT_CAME = Privacy(mask=False)
