"""Masks digits that look like a card number (PAN): the middle digits become zeros.

With zeros, a number stays a number and a text keeps its length, so consumers of the record still work. The first six
and the last four digits stay, which PCI DSS allows. Digits that are escaped in JSON are not recognised.
"""

import re

#: 13 to 19 digits, grouped or not, in the ranges of card numbers; not a part of a longer number or of a fraction.
#: Fewer than 16 digits are old Visa (4), Diners Club (30, 36, 38) or American Express (34, 37): others are times, of
#: which one in ten would be changed in a dead letter.
_find = re.compile(
    rb"(?<![\d.])(?:4(?:[ -]?\d){12}|3[068](?:[ -]?\d){12}|3[47](?:[ -]?\d){13}|[2-6](?:[ -]?\d){15,18})"
    rb"(?![\d]|\.\d)"
).finditer
_DIGITS = frozenset(b"0123456789")
_FIRST, _LAST = 6, 4
#: Digits become zeros, all else spaces: finding a run of thirteen then takes a third of the time of the expression.
_RUNS = bytes(0x30 if byte in _DIGITS else 0x20 for byte in range(256))
_RUN = b"0" * 13
_DOUBLED = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))


def without_card_numbers(text: bytes) -> bytes:
    """The text with the middle digits of card numbers replaced by zeros; the same object if there are none."""
    if _RUN not in text.translate(_RUNS, b" -"):
        return text
    masked: bytearray | None = None
    for match in _find(text):
        found = match[0]
        digits = found.translate(None, b" -")
        if _is_one(digits):
            masked = bytearray(text) if masked is None else masked
            begin, end = match.span()
            if len(digits) == len(found):
                masked[begin + _FIRST : end - _LAST] = b"0" * (len(found) - _FIRST - _LAST)
                continue
            places = [at for at in range(begin, end) if text[at] in _DIGITS]
            for at in places[_FIRST:-_LAST]:
                masked[at] = 0x30
    return text if masked is None else bytes(masked)


def _is_one(digits: bytes) -> bool:
    """Whether the Luhn check digit is valid."""
    odd, even = digits[::-2], digits[-2::-2].translate(_DOUBLED)
    return (sum(odd) - 0x30 * len(odd) + sum(even)) % 10 == 0
