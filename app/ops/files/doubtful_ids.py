"""Ids that are accepted and are probably none: words for nothing, blanks, quotes, what a spreadsheet has rewritten."""

import re

from app.domain.transaction import Transaction

_SUSPECT = re.compile(
    r"\s.*|.*\s|.*[\u200b\u2060\ufeff].*|([\"']).*\1|=.*"  # blanks, also those without a width; quotes; formulas
    r"|null|none|nil|nan|n/?a|#n/a|\\n|unknown|undefined"
    r"|[+-]?[0-9]+\.0+|[+-]?[0-9]([.,][0-9]+)?e[+-]?[0-9]+",
    re.IGNORECASE | re.DOTALL,
)


#: Ids that were looked at and not suspect, at most so many: cards and terminals come again.
_REMEMBERED = 100_000


class DoubtfulIds:
    """Counts them by field.

    Attributes:
        found: field -> how many, and a text about the first.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, str]] = {}
        self._known: set[str | None] = {None}

    def look(self, transaction: Transaction, place: tuple[str, int]) -> None:
        """Look at the ids of a transaction.

        Args:
            transaction: what was accepted.
            place: where it is: the unit, and its number.
        """
        known = self._known
        if transaction.card_id not in known:
            self._look("card_id", transaction.card_id, place)
        if transaction.terminal_id not in known:
            self._look("terminal_id", transaction.terminal_id, place)
        if _SUSPECT.fullmatch(transaction.transaction_id):
            self._count("transaction_id", transaction.transaction_id, place)

    def _look(self, name: str, text: str | None, place: tuple[str, int]) -> None:
        assert text is not None
        if _SUSPECT.fullmatch(text):
            self._count(name, text, place)
        elif len(self._known) < _REMEMBERED:
            self._known.add(text)

    def _count(self, name: str, text: str, place: tuple[str, int]) -> None:
        count, first = self.found.get(name, (0, ""))
        self.found[name] = count + 1, first or f"{text[:40]!r} in {place[0]} {place[1]}"

    def warnings(self) -> list[str]:
        """A sentence about each field."""
        return [
            f"in {count:,} records, {name} is probably not an id; the first: {first}"
            for name, (count, first) in self.found.items()
        ]
