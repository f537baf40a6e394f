"""Amounts in major units, as exact minor units."""

import re
from decimal import MAX_PREC, Context, Decimal
from typing import Any

from app.domain.transaction import DeadRecordError

#: Larger amounts are mistakes (a thousand million euros); running totals stay within 64 bits.
MAX_MINOR_UNITS = 10**11
#: Shifts the decimal point without rounding: the default context keeps only 28 digits.
_EXACT = Context(prec=MAX_PREC)
_DECIMAL = re.compile(r"(-?)(\d{1,18})(?:\.(\d{1,18}))?", re.ASCII)


def parse_minor_units(amount: Any, digits: int) -> int:
    """Exact minor units of an amount in major units.

    A JSON number must be the double nearest to a whole number of minor units. This is true for every amount written
    with at most `digits` decimals, so nothing is rounded.

    Raises:
        DeadRecordError: not a number, or with more decimals than the currency has.
    """
    unit = 10**digits
    if type(amount) is float:
        if not abs(amount) < 1e13:
            raise DeadRecordError("amount_too_large", f"amount {amount!r} is out of range")
        minor = round(amount * unit)
        if minor / unit == amount:
            return minor
    elif type(amount) is int:
        return amount * unit
    elif type(amount) is str and (match := _DECIMAL.fullmatch(amount)):
        sign, whole, fraction = match[1], match[2], (match[3] or "").rstrip("0")
        if len(fraction) <= digits:
            minor = int(whole) * unit + int(fraction.ljust(digits, "0") or "0")
            return -minor if sign else minor
    elif type(amount) is Decimal and amount.is_finite():
        if not abs(amount) < 10**13:
            raise DeadRecordError("amount_too_large", f"amount {amount:.6g} is out of range")
        exact = amount.scaleb(digits, _EXACT)
        if exact == exact.to_integral_value():
            return int(exact)
    elif amount is None:
        raise DeadRecordError("missing_amount", "amount is null")
    else:
        msg = f"amount {str(amount)[:40]!r} is neither a number nor a decimal string"
        raise DeadRecordError("invalid_amount", msg)
    msg = f"amount {amount} has more than {digits} decimals"
    raise DeadRecordError("amount_precision", msg)


def is_currency(code: str) -> bool:
    """Whether a text is an ISO 4217 code."""
    from iso4217 import Currency

    try:
        Currency(code)
    except ValueError:
        return False
    return True
