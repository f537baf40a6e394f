"""Input records with defaults, for tests of every directory."""

from typing import Any

import orjson

#: 2023-11-14T22:13:20Z, a Tuesday.
T0 = 1_700_000_000_000


def tx(
    number: int | str = 1,
    *,
    card: str = "c1",
    terminal: str | None = "t1",
    at: int = 0,
    **fields: Any,
) -> dict[str, Any]:
    """One valid transaction as a dict.

    Args:
        number: makes its transaction_id.
        card: card_id.
        terminal: terminal_id, None leaves it out.
        at: event time, milliseconds after `T0`.
        fields: any other field, or one of the above as it is on the wire.
    """
    record: dict[str, Any] = {
        "transaction_id": f"tx-{number}",
        "card_id": card,
        "amount": 10.0,
        "event_time": T0 + at,
    }
    if terminal is not None:
        record["terminal_id"] = terminal
    return {**record, **fields}


def tx_bytes(*args: Any, **kwargs: Any) -> bytes:
    """`tx` as it is on the wire."""
    return orjson.dumps(tx(*args, **kwargs))
