"""Pseudonyms of card ids: a keyed hash that producers send in place of a card number.

A pseudonym is `p`, the key's version, `-`, and the first 32 hexadecimal digits of HMAC-SHA256 of the card id. So any
language makes it, and one card keeps one pseudonym as long as its key.
"""

import hmac
import re
from collections.abc import Mapping

_DIGITS = 32
_FORM = re.compile(r"p[1-9]\d{0,3}-[0-9a-f]{32}", re.ASCII)
_KEY_CHARACTERS = 32


def is_pseudonym(card_id: str) -> bool:
    """Whether an id has the form of a pseudonym."""
    return _FORM.fullmatch(card_id) is not None


class Pseudonyms:
    """Makes pseudonyms.

    Args:
        keys: by version; the highest one is used for what is new.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = dict(sorted(keys.items(), reverse=True))

    def of(self, card_id: str) -> str:
        """The pseudonym of a card; a pseudonym stays as it is."""
        return card_id if is_pseudonym(card_id) else self.all_of(card_id)[0]

    def all_of(self, card_id: str) -> list[str]:
        """The pseudonyms that a card has had, the newest first."""
        return [
            f"p{version}-{hmac.digest(key, card_id.encode(), 'sha256').hex()[:_DIGITS]}"
            for version, key in self._keys.items()
        ]


def parse_keys(text: str) -> dict[int, bytes]:
    """Keys by version, of `1:KEY,2:KEY`.

    Raises:
        ValueError: it is written in another way; the text holds no key.
    """
    keys: dict[int, bytes] = {}
    for number, part in enumerate(text.split(","), 1):
        version, _, key = part.strip().partition(":")
        fits = version.isdecimal() and version.isascii() and 0 < int(version) < 10_000
        if not fits or len(key) < _KEY_CHARACTERS or int(version) in keys:
            msg = (
                f"key {number}: write VERSION:KEY[,VERSION:KEY], with versions from 1 on, each once, and keys of at "
                f"least {_KEY_CHARACTERS} characters"
            )
            raise ValueError(msg)
        keys[int(version)] = key.encode()
    return keys
