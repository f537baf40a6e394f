"""What audit records name, how a card is found in them, and what is left of it when it is erased.

The id of an alert ends with a hash of its card. So whoever knows a card finds its alerts, and an erasure has to replace
that hash as well as the id itself.
"""

import re
from collections.abc import Collection
from typing import Any

from app.domain.transaction import hash_id

#: What stands for the id of an erased card, before its salted hash.
ERASED = "erased-"
_ALERT_HASH = 16


class CardErasure:
    """Takes a card out of audit records.

    Args:
        card_id: the card.
        card_hash: what stands for it: the salted hash of its erasure.
    """

    def __init__(self, card_id: str, card_hash: str) -> None:
        # `C1` is not in `C12`
        self._word = re.compile(rf"(?<![\w-]){re.escape(card_id)}(?![\w-])")
        self._card, self._alert = f"card/{card_id}", hash_id(card_id).hex()
        self._named, self._hashed = f"{ERASED}{card_hash}", card_hash[:_ALERT_HASH]

    def of_objects(self, objects: Collection[str]) -> frozenset[str]:
        """Objects without the card."""
        return frozenset(
            f"card/{self._named}" if one == self._card else one.replace(self._alert, self._hashed)
            for one in objects
        )

    def of_details(self, details: Any) -> Any:
        """Details without it: texts in them may name it as a word."""
        if isinstance(details, str):
            return self._word.sub(self._named, details).replace(self._alert, self._hashed)
        if isinstance(details, list):
            return [self.of_details(one) for one in details]
        if isinstance(details, dict):
            return {name: self.of_details(one) for name, one in details.items()}
        return details


def words_in(details: Any) -> set[str]:
    """Words in the texts of details: one may be the id of a card."""
    texts = details.values() if isinstance(details, dict) else ()
    return {word for text in texts if isinstance(text, str) for word in re.findall(r"[\w-]+", text)}


class NamedObject:
    """Recognises the records about an id.

    Args:
        name: an id of whatever kind, or `KIND/ID`.
        card_hashes: salted hashes, if it is a card that was erased.
    """

    def __init__(self, name: str, card_hashes: Collection[str] = ()) -> None:
        self._names = {name, *(f"{ERASED}{one}" for one in card_hashes)}
        self._alerts = {hash_id(name).hex(), *(one[:_ALERT_HASH] for one in card_hashes)}

    def is_in(self, objects: Collection[str]) -> bool:
        """Whether one of some objects is it, or an alert of it."""
        for one in objects:
            kind, _, name = one.partition("/")
            if one in self._names or name in self._names:
                return True
            if kind == "alert" and name.rpartition("-")[2] in self._alerts:
                return True
        return False
