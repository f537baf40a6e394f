"""Labels that follow their transactions: each where event time has come as far as the label's moment."""

import heapq
from collections.abc import Iterable, Iterator

import orjson

from app.wire.label_records import label_object

#: Kafka key and value.
Pair = tuple[bytes | None, bytes]


def following(
    items: Iterable[tuple[bytes | None, bytes, int, bool | None]],
    *,
    after_ms: int,
    now_ms: int,
    rest: bool = True,
) -> Iterator[tuple[bool, bytes | None, bytes, int]]:
    """Transactions, and between them their labels.

    Event time has come as far as the newest transaction so far, so files need not be in order. A label
    stands before the transaction that is as new as it; labels whose time does not come stand at the end, in
    order of their moments, or nowhere. One `after_ms` of transactions is held in memory as labels.

    Args:
        items: key, value (an input record), event time (epoch milliseconds) and whether it was fraud;
            None in its place: no label.
        after_ms: how long after its event a transaction was labelled.
        now_ms: what no label may be later than, epoch milliseconds: the stream refuses the future.
        rest: whether labels whose time does not come are sent.

    Yields:
        Whether it is a label, its Kafka key and value, and event time as far as it has come.
    """
    waiting: list[tuple[int, int, bytes, bytes]] = []
    newest = 0
    for number, (key, value, event_ms, fraud) in enumerate(items):
        newest = max(newest, event_ms)
        while waiting and waiting[0][0] <= newest:
            _due, _number, label_key, label = heapq.heappop(waiting)
            yield True, label_key, label, newest
        yield False, key, value, newest
        if fraud is None:
            continue
        due_ms = event_ms + after_ms
        label_key, label = _label(value, fraud, min(due_ms, now_ms))
        heapq.heappush(waiting, (due_ms, number, label_key, label))
    for _due, _number, label_key, label in sorted(waiting) if rest else ():
        yield True, label_key, label, newest


def _label(value: bytes, fraud: bool, labelled_at_ms: int) -> tuple[bytes, bytes]:
    # what was sent says exactly what the transaction is called, and when it was: the label must agree with it
    record = orjson.loads(value)
    label = label_object(
        record["transaction_id"],
        is_fraud=fraud,
        labelled_at=labelled_at_ms,
        card_id=record["card_id"],
        event_time=record["event_time"],
        terminal_id=record.get("terminal_id") or None,
    )
    return str(record["transaction_id"]).encode(), orjson.dumps(label)
