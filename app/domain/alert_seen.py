"""Which transactions of an alert an analyst saw, as a short text: the newest positions and a digest.

A verdict applies to what its analyst saw. The ids would not fit into a form: an alert may have thousands.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

_SEEN = re.compile(r"([0-9]{1,9}-[0-9]{1,18}_)+[0-9a-f]{16}")
Row = Mapping[str, Any]


def seen_of(rows: Iterable[Row]) -> str:
    """The text for transactions of an alert: the newest offset of each source partition, and a digest of the ids."""
    shown, newest = list(rows), dict[int, int]()
    for row in shown:
        partition, offset = row["source_partition"], row["source_offset"]
        newest[partition] = max(offset, newest.get(partition, -1))
    marks = "".join(f"{partition}-{offset}_" for partition, offset in sorted(newest.items()))
    return marks + _digest(shown)


def rows_seen(rows: Sequence[Row], text: str) -> list[Row] | None:
    """The transactions of an alert that an analyst saw.

    Args:
        rows: all present transactions of the alert; some may be new.
        text: the text from `seen_of`.

    Returns:
        The rows; None if they cannot be distinguished from the others, because one arrived late, before the newest
        of those that were seen.

    Raises:
        ValueError: the text is invalid.
    """
    if not _SEEN.fullmatch(text):
        msg = f"seen {text[:40]!r}: copy the field `seen` of the alert"
        raise ValueError(msg)
    *marks, digest = text.split("_")
    newest = {int(one.split("-")[0]): int(one.split("-")[1]) for one in marks}
    found = [row for row in rows if row["source_offset"] <= newest.get(row["source_partition"], -1)]
    return found if _digest(found) == digest else None


def _digest(rows: Iterable[Row]) -> str:
    ids = sorted(
        f"{r['source_partition']}-{r['source_offset']}-{r['transaction_id']}" for r in rows
    )
    return blake2b("\n".join(ids).encode(), digest_size=8).hexdigest()
