"""Malformed inputs, each with the reason code that it has for ever.

The table is the contract: unit tests hold every line to it, and a test on real servers sends them all.
"""

from dataclasses import dataclass, replace
from typing import Any

import orjson

from tests.builders import T0, tx

#: The limit under which `too_large` is too large; on real servers a value of twice the limit is sent.
MAX_BYTES = 5_000


@dataclass(frozen=True)
class Malformed:
    """One input that cannot become a transaction.

    Attributes:
        name: `reason-number`.
        reason: its code.
        value, key: the record.
        card_id: the card that it names, and whose row it advances; None when that cannot be told.
        broker_time_ms: when the broker received it.
    """

    name: str
    reason: str
    value: bytes | None
    key: bytes | None = b"c1"
    card_id: str | None = None
    broker_time_ms: int = T0

    def __str__(self) -> str:
        return self.name


def spoilt(**fields: Any) -> bytes:
    """A valid record with some fields replaced; None leaves one out."""
    record = {**tx(), **fields}
    return orjson.dumps({name: value for name, value in record.items() if value is not ...})


#: reason -> inputs that have it and name no card.
UNNAMED: dict[str, list[bytes | None]] = {
    "empty_value": [None, b""],
    "too_large": [b" " * 5_001],
    "invalid_utf8": [
        b'{"card_id":"\xff"}', b"\xff\xfe{\x00}\x00", b"\x80", b'{"a":"\xed\xa0\x80"}',
        b"\x1f\x8b\x08\0\0",
    ],
    "invalid_json": [
        b"{", b"nul", b"{'a':1}", b'{"a":NaN}', b'{"a":1e999}', b"{}{}", b'{"a":"\\ud800"}',
        b"\xef\xbb\xbf{}", b"[" * 2_000, b"\0", spoilt()[:-1], spoilt()[: len(spoilt()) // 2],
        spoilt() + b",", spoilt() + b"\0", b'{"card_id":"c1",}', b"card_id=c1&amount=1", b"<tx/>", b" ",
        b'{"amount":Infinity}', b'{"amount":01}', b'{"a":"\t"}', b"{\"card_id\":\"c1\"} // x",
    ],
    "framed_record": [b"\0" * 64, b"\0\0\0\0\1\4c1", b"\0\0\0\0\1{}"],
    "debezium_envelope": [
        orjson.dumps({"before": None, "after": tx(), "op": "c", "source": {}}),
        orjson.dumps({"schema": {}, "payload": {"before": tx(), "after": None, "op": "d"}}),
    ],
    "not_an_object": [b"1", b'"x"', b"[]", b"null", b"true"],
    "missing_card_id": [b"{}", spoilt(card_id=...), spoilt(card_id=None)],
    "invalid_card_id": [
        spoilt(card_id=""), spoilt(card_id=7.0), spoilt(card_id=True), spoilt(card_id=["c1"]), spoilt(card_id="a\0b"),
        spoilt(card_id="x" * 257), spoilt(card_id="é" * 129), spoilt(card_id="\0"),
        b'{"card_id":1e3,' + spoilt(card_id=...)[1:], b'{"card_id":' + b"1" * 257 + b"," + spoilt(card_id=...)[1:],
    ],
    "key_mismatch": [spoilt(card_id="c2"), spoilt(card_id="C1"), spoilt(card_id="c1 "), spoilt(card_id=7)],
    "repeated_key": [
        b'{"card_id":"c1","card_id":"c1"}', b'{"card_id":"c1","x":{"a":1,"a":1}}',
        b'{"card_id":"c1","amount" :1,"amount":2}', b'{"card_id":"c1","amount":1,"\\u0061mount":2}',
    ],
    "too_deep": [
        b'{"card_id":"c1","x":' + b'{"a":' * 101 + b"1" + b"}" * 101 + b"}",
        b'{"card_id":"c1","x":' + b"[" * 200 + b"]" * 200 + b"}"],
}  # fmt: skip
#: The same, of inputs that name their card, so that its row advances.
NAMED: dict[str, list[bytes]] = {
    "unknown_schema_version": [
        spoilt(schema_version=2), spoilt(schema_version="1"), spoilt(schema_version=1.0),
        spoilt(schema_version=True), spoilt(schema_version=None), spoilt(schema_version=[1]),
    ],
    "missing_transaction_id": [spoilt(transaction_id=...), spoilt(transaction_id=None)],
    "invalid_transaction_id": [
        spoilt(transaction_id=""), spoilt(transaction_id=1.5), spoilt(transaction_id=False),
        spoilt(transaction_id="x" * 257),
    ],
    "invalid_terminal_id": [
        spoilt(terminal_id=""), spoilt(terminal_id=42.0), spoilt(terminal_id="\0"), spoilt(terminal_id={}),
    ],
    "missing_amount": [spoilt(amount=...), spoilt(amount=None)],
    "invalid_amount": [
        spoilt(amount=text)
        for text in ("", "1e3", "1,5", "+1", " 1", ".5", "5.", "1.2.3", "0x1", "NaN", "--1", True, [], {})
    ] + [spoilt(amount="1" * 19), spoilt(amount="\u0661")],
    "amount_precision": [
        spoilt(amount=0.001), spoilt(amount=1e-3), spoilt(amount=0.1 + 0.2), spoilt(amount="0.001"),
        b'{"amount":12.50000000000000000001,' + spoilt(amount=...)[1:],
        spoilt(amount=19.999), spoilt(amount=1.005), spoilt(amount="1.0001"), spoilt(amount=5e-324),
    ],
    "negative_amount": [spoilt(amount=-1), spoilt(amount=-0.01), spoilt(amount="-5.00")],
    "amount_too_large": [
        spoilt(amount=10**9 + 1), spoilt(amount=1e15), spoilt(amount=-1e300),
        spoilt(amount="1000000000.01"), b'{"amount":99999999999999999999,' + spoilt(amount=...)[1:],
    ],
    "unknown_currency": [spoilt(currency=x) for x in ("eur", "EURO", "", 978, ["EUR"], {}, "ZZZ")],
    "foreign_currency": [spoilt(currency="USD"), spoilt(currency="JPY", converted_amount=None)],
    "missing_event_time": [spoilt(event_time=...), spoilt(event_time=None)],
    "invalid_event_time": [
        spoilt(event_time=text)
        for text in ("", "yesterday", "2023-02-30T00:00:00Z", "20/11/2026 10:00", "1,700", "9" * 30, True, [])
    ],
    "no_time_zone": [spoilt(event_time="2023-11-14T22:13:20"), spoilt(event_time="2023-11-14"),
        spoilt(event_time="2023-11-14T22:13:20[Europe/Berlin]"),
    ],
    "epoch_in_seconds": [spoilt(event_time=1_700_000_000), spoilt(event_time=1), spoilt(event_time="1700000000")],
    "event_time_too_old": [
        spoilt(event_time=0), spoilt(event_time=-1), spoilt(event_time=1.5), spoilt(event_time=-1.5e300),
        spoilt(event_time="1970-01-01T00:00:00Z"),
        spoilt(event_time="0001-01-01T00:00:00+23:59"),
    ],
    "in_the_future": [
        spoilt(event_time=T0 + 300_001), spoilt(event_time="9999-12-31T23:59:59-23:59"),
        spoilt(event_time=(1 << 64) - 1),
    ],
}  # fmt: skip


#: The same, where the key is what is wrong.
KEYS: dict[str, list[tuple[bytes | None, bytes | None]]] = {
    "missing_key": [(spoilt(), None), (spoilt(), b"")],
    "key_mismatch": [
        (spoilt(), b"c2"), (spoilt(), b"C1"), (spoilt(), b" c1"), (spoilt(), b'"c1"'), (spoilt(), b"\xff"),
        (spoilt(), b"c1\0"), (spoilt(), b"k" * 5_000), (spoilt(card_id="\u00e9"), b"\xe9"),
    ],
}  # fmt: skip

CORPUS = [
    *(
        Malformed(f"{reason}-{number}", reason, value)
        for reason, values in UNNAMED.items()
        for number, value in enumerate(values)
    ),
    *(
        Malformed(f"{reason}-{number}", reason, value, card_id="c1")
        for reason, values in NAMED.items()
        for number, value in enumerate(values)
    ),
    *(
        Malformed(f"{reason}-by-key-{number}", reason, value, key)
        for reason, pairs in KEYS.items()
        for number, (value, key) in enumerate(pairs)
    ),
]


def as_sent_for_real(bad: Malformed, limit: int) -> Malformed:
    """The input for a real broker, whose clock is the present and whose limit is `limit` bytes."""
    if bad.reason == "too_large":
        return replace(bad, value=b" " * (2 * limit))
    if bad.reason == "in_the_future":
        return replace(bad, value=spoilt(event_time="9999-12-31T23:59:59Z"))
    return bad
