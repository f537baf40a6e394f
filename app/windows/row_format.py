"""How the rows of a card or terminal are stored: formats, keys, sizes. See window_row.py for what they mean."""

import struct
from dataclasses import dataclass

from app.errors import RowFormatError
from app.windows.entries import ID_BYTES, Entries
from app.windows.waiting_labels import EntryLabel, decode_labels, largest_label

#: Row formats: plain, with labels, and with the amounts of entries that do not count.
ROW_VERSION, LABELLED_VERSION, ASIDE_VERSION = 1, 2, 3
VERSIONS = (ROW_VERSION, LABELLED_VERSION, ASIDE_VERSION)
#: Added to the version where a deployment's own fields have columns: how many is in the byte behind the head.
OWN_VERSION = 16
#: Row keys of heads start with this.
HEAD_PREFIX = b"h"
#: Before every event time: newest and floor of a key that has seen nothing.
NEVER = -(1 << 62)
SEGMENT_ENTRIES = 256

# last_offset | version, settings hash, newest, floor, base, zeros, tail entries, segments, next
HEAD = struct.Struct(">qBIqqqIIII")
REF = struct.Struct(">IIIIqqq")
# behind the head of format 2: whether the tail has labels, bytes of waiting labels; its refs end with their frauds
LABELS = struct.Struct(">?I")
FRAUDED_REF = struct.Struct(REF.format + "I")
# behind these, where there are own columns: how many
OWN = struct.Struct(">B")
# last_offset | version, settings hash, zeros, entries, base
SEGMENT = struct.Struct(">qBIIIq")
#: Where the settings hash stands, in heads and segments alike.
_HASH = slice(9, 13)


def row_place(last_offset: int) -> str:
    """Names a key's row in messages by the newest record in it: ids of cards do not belong in logs."""
    return f"the state row with last offset {last_offset}"


def head_key(key: bytes) -> bytes:
    """Row key of a card's or terminal's head."""
    return HEAD_PREFIX + key


def key_of_head(row_key: bytes) -> bytes:
    """The opposite of `head_key`."""
    return row_key[len(HEAD_PREFIX) :]


def has_waiting(raw: bytes) -> bool:
    """Whether labels wait in a head row for their transactions, without decoding it."""
    version, _ = _plain(raw[8])
    if version != LABELLED_VERSION:
        return False
    _, waiting = LABELS.unpack_from(raw, HEAD.size)
    return bool(waiting)


def waiting_labels(raw: bytes | None) -> list[EntryLabel]:
    """The labels that wait in a head row, without decoding the rest of it."""
    if raw is None or not has_waiting(raw):
        return []
    _, waiting = LABELS.unpack_from(raw, HEAD.size)
    return decode_labels(raw[len(raw) - waiting :])


def segment_key(key: bytes, segment: int) -> bytes:
    """Row key of one segment; the fixed-width number comes last, so no two keys can meet."""
    return b"s" + key + segment.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class RowRules:
    """What decides how long entries are kept.

    Attributes:
        horizon_ms: entries this far behind the key's newest event time, or further, leave.
        max_entries: entries kept at most; beyond it the oldest leaves.
        settings_hash: 32-bit hash of the settings that shaped the row, stored in it.
        segment_entries: entries of a sealed segment.
        max_waiting: labels that may wait for their transaction; 0 for rows that know no labels.
        label_bytes: longest source of a waiting label.
        own: columns of the deployment's own fields.
    """

    horizon_ms: int
    max_entries: int
    settings_hash: int = 0
    segment_entries: int = SEGMENT_ENTRIES
    max_waiting: int = 0
    label_bytes: int = 0
    own: int = 0

    @property
    def keeps_aside(self) -> bool:
        """Whether amounts of entries that do not count are kept: cards compare them, terminals have labels there."""
        return not self.max_waiting

    @property
    def entry_bytes(self) -> int:
        """What an entry takes at most, bytes: of the four columns, one is there only where it is needed."""
        return (4 + self.own) * ID_BYTES


class SegmentRef:
    """What a head knows of a segment: enough when a window holds all of it or none.

    Attributes:
        number: the segment's number, never used twice by a key.
        skip: entries at its front that have left; the segment itself is not rewritten for that.
        count: entries still kept; zeros: how many of them do not count.
        first, last: stored times of the first and last kept entry.
        total: minor units of the counted ones; frauds: how many of them are known to be fraud.
        packed: as stored in the head, `frauds` included; None until it is asked for.
    """

    __slots__ = (
        "count", "first", "frauds", "last", "number", "packed", "skip", "total", "zeros",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        skip: int,
        count: int,
        zeros: int,
        first: int,
        last: int,
        total: int,
        frauds: int = 0,
    ) -> None:
        self.number, self.skip, self.count, self.zeros = number, skip, count, zeros
        self.first, self.last, self.total, self.frauds = first, last, total, frauds
        self.packed: bytes | None = None

    def refresh(self, entries: Entries) -> None:
        """Bring the bounds and sums up to date with the entries."""
        skip, times = self.skip, entries.times
        self.count = len(times) - skip
        self.zeros = entries.uncounted(skip, len(times)) if entries.zeros else 0
        self.first, self.last = times[skip], times[-1]
        self.total = entries.totals[-1] - (entries.totals[skip - 1] if skip else entries.base)
        self.frauds = entries.known_frauds(skip, len(times)) if entries.frauds else 0
        self.packed = None

    def pack(self) -> bytes:
        """Make and keep `packed`: a heavy key has dozens of these, and an event changes one or none."""
        packed = self.packed = FRAUDED_REF.pack(
            self.number, self.skip, self.count, self.zeros, self.first, self.last, self.total,
            self.frauds,
        )  # fmt: skip
        return packed


#: Last offset, newest and floor, next segment, whether labels came, segments, tail, waiting labels.
Head = tuple[int, int, int, int, bool, list[SegmentRef], Entries, list[EntryLabel]]


def decode_head(raw: bytes) -> Head:
    """The head row of a key.

    Raises:
        RowFormatError: it is damaged, or of a format that this release does not know.
    """
    try:
        (
            last_offset,
            version,
            _hash,
            newest_ms,
            floor_ms,
            base,
            zeros,
            count,
            segments,
            next_number,
        ) = HEAD.unpack_from(raw)
        version, is_own = _plain(version)
        labelled = version == LABELLED_VERSION
        has_labels, waiting = LABELS.unpack_from(raw, HEAD.size) if labelled else (False, 0)
        first = HEAD.size + (LABELS.size if labelled else 0)
        own = raw[first] if is_own else 0
    except (struct.error, IndexError):
        last_offset = newest_ms = floor_ms = base = zeros = count = segments = next_number = (
            waiting
        ) = own = first = 0
        version, labelled, has_labels, is_own = -1, False, False, False
    first += OWN.size if is_own else 0
    stored = FRAUDED_REF if labelled else REF
    columns = first + segments * stored.size
    aside = zeros if version == ASIDE_VERSION else 0
    behind = columns + ID_BYTES * ((own + (4 if has_labels else 3)) * count + aside)
    if version not in VERSIONS or len(raw) != behind + waiting:
        msg = (
            f"{row_place(last_offset)} has format {version}, this release reads formats up to {VERSIONS[-1]}: "
            "start the release that wrote it, or delete the state and replay"
        )
        raise RowFormatError(msg)
    refs = [SegmentRef(*stored.unpack_from(raw, at)) for at in range(first, columns, stored.size)]
    tail = Entries.from_columns(raw, columns, count, labelled=has_labels, aside=aside, own=own)
    tail.base, tail.zeros = base, zeros
    told = decode_labels(raw[behind:])
    return last_offset, newest_ms, floor_ms, next_number, labelled, refs, tail, told


def encode_segment(entries: Entries, last_offset: int, settings_hash: int) -> bytes:
    """A segment row."""
    own = OWN.pack(len(entries.own)) if entries.own else b""
    version = version_of(entries) + (OWN_VERSION if own else 0)
    packed = SEGMENT.pack(
        last_offset, version, settings_hash, entries.zeros, len(entries), entries.base
    )
    return entries.behind(packed, own)


def decode_segment(raw: bytes) -> Entries:
    """The entries of a segment row.

    Raises:
        RowFormatError: it is of a format that this release does not know.
    """
    offset, version, _hash, zeros, count, base = SEGMENT.unpack_from(raw)
    version, is_own = _plain(version)
    if version not in VERSIONS:
        formats = f"format {version}, this release reads formats up to {VERSIONS[-1]}"
        msg = f"a segment of {row_place(offset)} has {formats}"
        raise RowFormatError(msg)
    labelled = version == LABELLED_VERSION
    aside = zeros if version == ASIDE_VERSION else 0
    own, first = (raw[SEGMENT.size], SEGMENT.size + OWN.size) if is_own else (0, SEGMENT.size)
    entries = Entries.from_columns(raw, first, count, labelled=labelled, aside=aside, own=own)
    entries.base, entries.zeros = base, zeros
    return entries


def _plain(version: int) -> tuple[int, bool]:
    """A stored version without `OWN_VERSION`, and whether that was added."""
    is_own = version - OWN_VERSION in VERSIONS
    return version - OWN_VERSION if is_own else version, is_own


def without_settings(raw: bytes) -> bytes:
    """A head or segment row without the hash of the settings that it was written by."""
    return raw[: _HASH.start] + bytes(4) + raw[_HASH.stop :]


def version_of(entries: Entries) -> int:
    """The format in which these entries are stored."""
    if entries.labelled is not None:
        return LABELLED_VERSION
    return ROW_VERSION if entries.aside is None else ASIDE_VERSION


def max_head_bytes(rules: RowRules) -> int:
    """Largest head row that the rules allow, bytes."""
    tail = min(2 * rules.segment_entries, rules.max_entries + 1)
    labels = LABELS.size + rules.max_waiting * largest_label(rules.label_bytes)
    refs = _max_segments(rules) * FRAUDED_REF.size
    return HEAD.size + OWN.size + labels + refs + tail * rules.entry_bytes


def max_group_bytes(
    rules: RowRules, *, key_bytes: int, block_entries: int, record_bytes: int
) -> int:
    """Most that one block can change of one key, bytes: it must fit into one record batch.

    Args:
        rules: how long entries are kept.
        key_bytes: longest card or terminal id.
        block_entries: most transactions of one key in one block.
        record_bytes: what a record takes beside its key and value.
    """
    record_bytes += key_bytes + len(segment_key(b"", 0))
    segments = _max_segments(rules)
    # all of them, with what has left the first one already ...
    entries = rules.max_entries + 2 * rules.segment_entries
    rewritten = segments * (record_bytes + SEGMENT.size + OWN.size) + entries * rules.entry_bytes
    # ... and what is deleted: they, and those that came and went within the block
    deleted = (segments + 2 * block_entries // rules.segment_entries) * record_bytes
    return record_bytes + max_head_bytes(rules) + rewritten + deleted


def _max_segments(rules: RowRules) -> int:
    """Only the first can hold less than `segment_entries`."""
    return rules.max_entries // rules.segment_entries + 1
