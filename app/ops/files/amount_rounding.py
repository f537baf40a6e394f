"""Amounts as plain decimal text, and rounded where a person asks for it.

Files that went through binary floating point hold amounts such as 85.64999999999999. The stream refuses
them (`amount_precision`) and never rounds; whoever sends a file may.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

#: Fields with amounts of money.
MONEY = ("amount", "converted_amount")
#: An amount that a JSON number can be, digit for digit.
PLAIN_AMOUNT = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?", re.ASCII)
_AMOUNT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
#: A decimal point further away from a number's first digit than this is a mistake.
_MOST_DIGITS = 30
#: Digits that quantising may need beyond those of the text: the decimals of the currency.
_SPARE_DIGITS = 8


@dataclass(frozen=True)
class Rounding:
    """Rounds to minor units, half to even.

    Attributes:
        currency: of the deployment. An amount in another currency stays as it is, for its minor units are
            not known here; its converted amount is rounded.
        digits: digits after the decimal point of that currency.
    """

    currency: str
    digits: int

    def apply(self, amount: str) -> str | None:
        """The rounded amount, None when it is a whole number of minor units as it stands.

        Args:
            amount: plain decimal text in major units, such as 85.64999999999999.
        """
        if len(amount) - (amount.find(".") + 1 or len(amount)) <= self.digits:
            return None
        exact = Decimal(amount)
        context = Context(prec=len(amount) + _SPARE_DIGITS, rounding=ROUND_HALF_EVEN)
        rounded = exact.quantize(Decimal(1).scaleb(-self.digits), context=context)
        return None if rounded == exact else f"{rounded:f}"

    def concerns(self, name: str, currency: str | None) -> bool:
        """Whether the field `name` of a record in this currency (None: it names none) is rounded."""
        return name == "converted_amount" or currency in {None, "", self.currency}


def amount_text(value: Any) -> str:
    """An amount as plain decimal text.

    Raises:
        ValueError: it is none; the text is for people.
    """
    text = str(value).strip()
    if _AMOUNT.fullmatch(text) and not isinstance(value, bool):
        number = Decimal(text)
        # "1e999" would be written with all its digits
        if abs(number.adjusted()) <= _MOST_DIGITS:
            return f"{number:f}"
    shown = str(value) if isinstance(value, int | float | Decimal) else repr(str(value))
    msg = f"{shown[:60]} is not an amount such as 57.10"
    raise ValueError(msg)
