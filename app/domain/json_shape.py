"""JSON objects that parsers take, and that cannot be passed on: too deep, or with a key that stands twice."""

import json
from typing import Any

from app.domain.transaction import DeadRecordError

#: Deeper objects are refused: what writes and reads them further on recurses, and whether that fails must
#: not depend on how deep its caller's stack is (orjson writes 254 levels, json reads some 900).
MAX_DEPTH = 100


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


def refuse_repeated_keys(body: bytes) -> None:
    """Check that no key stands twice in one object of a JSON text.

    Raises:
        DeadRecordError: one does.
    """

    def check(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DeadRecordError("repeated_key", f"the key {twice!r} stands twice in one object")

    json.loads(body, object_pairs_hook=check)
