"""Records that no reader can take for a transaction: what dead letters are made of."""

from app.lab.simulation.transactions import Names

_GOOD = {
    "transaction_id": '"{id}"',
    "card_id": '"C00001"',
    "terminal_id": '"T00001"',
    "amount": "12.50",
    "currency": '"{currency}"',
    "event_time": '"2020-02-29T12:00:00.000Z"',
}
#: Fields to change in a good record; None leaves the field out.
_CHANGES: tuple[dict[str, str | None], ...] = (
    {"transaction_id": None},
    {"card_id": None},
    {"amount": None},
    {"event_time": None},
    {"amount": '"twelve"'},
    {"amount": "null"},
    {"card_id": '""'},
    {"event_time": '"yesterday"'},
    {"event_time": '"2020-02-29T12:00:00"'},  # no zone: when is that?
    {"event_time": '"2999-01-01T00:00:00.000Z"'},  # not before the broker's own time
    {"currency": '"XTS"'},  # the code that ISO 4217 keeps for tests
)
_TEXTS = (
    b"",
    b"not a transaction",
    b"[1, 2, 3]",
    b'{"transaction_id": "cut off", "card_id": "C000',
    b'{"transaction_id": "\xff\xfe", "card_id": "C00001"}',  # not UTF-8
)


def broken_record(number: int, names: Names) -> tuple[bytes | None, bytes]:
    """Kafka key (None where no card can be read) and value; every kind of breakage in turn."""
    kind = number % (len(_CHANGES) + len(_TEXTS))
    if kind >= len(_CHANGES):
        return None, _TEXTS[kind - len(_CHANGES)]
    fields = {**_GOOD, **_CHANGES[kind]}
    values = {"id": f"{names.run}-broken-{number}", "currency": names.currency}
    body = ",".join(
        f'"{name}":{text.format(**values)}' for name, text in fields.items() if text is not None
    )
    key = (fields["card_id"] or "").strip('"').encode()
    return key or None, f"{{{body}}}".encode()
