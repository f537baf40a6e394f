"""JSON objects that parsers take, and that cannot be passed on: too deep, too many values, or a repeated key."""

import json
from typing import Any

from app.domain.transaction import DeadRecordError

#: Deeper objects are refused: what writes and reads them further on recurses, and whether that fails must
#: not depend on how deep its caller's stack is (orjson writes 254 levels, json reads some 900).
MAX_DEPTH = 100
#: More values (of fields, and in arrays) are refused: what looks for repeated keys takes 1.5 us for each, and
#: meanwhile no other record is scored. A record of 1 MB with 120,000 small objects took 189 ms.
MAX_VALUES = 10_000


def refuse_deep(fields: dict[str, Any]) -> None:
    """Check that an object is not nested deeper than `MAX_DEPTH`.

    Raises:
        DeadRecordError: it is.
    """
    level: list[Any] = [fields]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return
    raise DeadRecordError("too_deep", f"the object is nested more than {MAX_DEPTH} deep")


def refuse_many(fields: dict[str, Any]) -> None:
    """Check that an object has no more than `MAX_VALUES` values, including nested ones.

    Raises:
        DeadRecordError: it has.
    """
    count = 0
    waiting: list[Any] = [fields]
    while waiting:
        item = waiting.pop()
        count += len(item)
        if count > MAX_VALUES:
            raise _too_many()
        inner = item.values() if isinstance(item, dict) else item
        waiting += [each for each in inner if isinstance(each, (dict, list))]


def _too_many() -> DeadRecordError:
    msg = f"the object has more than {MAX_VALUES:,} values, including nested ones"
    return DeadRecordError("too_many_values", msg)


def refuse_repeated_keys(body: bytes) -> None:
    """Check that no key occurs twice in one object of a JSON text.

    Raises:
        DeadRecordError: one does, or there are too many: of repeated ones, parsers keep the last.
    """
    count = 0

    def check(pairs: list[tuple[str, Any]]) -> None:
        nonlocal count
        count += len(pairs)
        if count > MAX_VALUES:
            raise _too_many()
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DeadRecordError("repeated_key", f"the key {twice!r} occurs twice in one object")

    json.loads(body, object_pairs_hook=check)
