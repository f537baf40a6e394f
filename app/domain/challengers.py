"""Challengers: how many there may be, and for which cards the canary decides. Pure."""

from hashlib import blake2b

import msgspec

#: Largest number of challengers.
MAX_CHALLENGERS = 3


class Challenger(msgspec.Struct, frozen=True, array_like=True):
    """A model that scores the same transactions as the current one: a shadow or the canary.

    Attributes:
        model: its name and version.
        hash: its whole hash.
        share: share of the cards for which it decides.
        threshold: replaces its own; None: its own.
    """

    model: str
    hash: str
    share: float = 0.0
    threshold: float | None = None

    def decides_for(self, card_id: str) -> bool:
        """Whether it decides for a card: always or never, as long as its share does not shrink.

        A hash that is keyed by the model maps each card to [0, 1). So a larger share keeps the selected cards, and
        another canary selects other ones.
        """
        key = self.hash.encode()[:64]
        place = int.from_bytes(blake2b(card_id.encode(), digest_size=8, key=key).digest(), "big")
        return place < self.share * (1 << 64)
