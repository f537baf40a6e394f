"""The state of one card or terminal: its recent transactions, sorted by event time.

Entries are kept as three columns (24 bytes an entry): event time with the weight in its lowest
bits, running total of counted minor units, 64-bit hash of the transaction id. A window is two
binary searches and a difference of running totals: another window costs no state and no writes.

A key with few entries is one *head* row. When a head holds `2 * segment_entries`, its older half is
sealed into a *segment* row of its own, so that an event on a heavy key rewrites little; the head
keeps each segment's bounds, count and total, so that only segments at a window's edges are read.
When an entry is sealed depends on the transactions alone, never on where a block began or ended.

A terminal also keeps the labels of its transactions, when they were labelled, and labels whose transaction
has not come yet. Rows in which that happened have format 2. A card with entries that do not count keeps their
amounts, by which a repeated transaction is told from a conflicting one: format 3. All others have format 1.

Every row starts with `last_offset` (see app/blocks/core/row_precedence.py for what that proves).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from app.errors import RowFormatError
from app.windows.entries import COUNTED, TIME_SHIFT, Entries
from app.windows.row_format import (
    HEAD,
    LABELLED_VERSION,
    LABELS,
    NEVER,
    OWN,
    OWN_VERSION,
    REF,
    RowRules,
    SegmentRef,
    decode_head,
    decode_segment,
    encode_segment,
    head_key,
    row_place,
    segment_key,
    version_of,
)
from app.windows.sealed_ids import SealedIds
from app.windows.segment_totals import AddSegments, OfPart, SegmentTotals
from app.windows.waiting_labels import EntryLabel, encode_labels, keep_waiting

__all__ = ["NEVER", "LoadRow", "RowRules", "WindowRow"]

#: So many are searched for an id one by one, as are those of a row that is asked once.
_FEW_SEGMENTS = 4
LoadRow = Callable[[bytes], bytes | None]


class WindowRow:
    """The decoded, mutable state of one key.

    Attributes:
        rules: how long entries are kept.
        last_offset: highest input offset whose effect is in here; -1 for a new key.
        newest_ms: newest event time seen, `NEVER` for a new key.
        floor_ms: newest event time of an entry that ever left: a feature over `(t - w, t]` is
            exact when `t - w >= floor_ms`.
        waiting: labels whose transaction has not come yet, in the order in which they came.
        refs, dropped: its segments; numbers of those that left since `read`. No number comes twice: `next_segment`.
    """

    __slots__ = (
        "_asked", "_dirty", "_labelled", "_load", "_loaded", "_sealed", "_spans", "dropped", "floor_ms",
        "key", "last_offset", "newest_ms", "next_segment", "refs", "rules", "tail", "waiting",
    )  # fmt: skip

    def __init__(self, key: bytes, rules: RowRules, load: LoadRow) -> None:
        self.key = key
        self.rules = rules
        self._load = load
        self.last_offset = -1
        self.newest_ms = NEVER
        self.floor_ms = NEVER
        self.tail = Entries(rules.own)
        self.refs: list[SegmentRef] = []
        self.waiting: list[EntryLabel] = []
        self._labelled = False
        self.next_segment = 0
        self._loaded: dict[int, Entries] = {}
        self._dirty: set[int] = set()
        self.dropped: list[int] = []
        self._asked = False
        self._sealed: SealedIds | None = None
        self._spans: SegmentTotals | None = None

    @classmethod
    def read(cls, key: bytes, rules: RowRules, load: LoadRow) -> "WindowRow":
        """The stored state of a key, or a new one.

        Args:
            key: the card or terminal.
            rules: how long entries are kept.
            load: gives the stored bytes of a row key, None when there is none.

        Raises:
            RowFormatError: the row is damaged or of a version that this release does not know.
        """
        row = cls(key, rules, load)
        raw = load(head_key(key))
        if raw is not None:
            row._decode(raw)
        return row

    @property
    def count(self) -> int:
        """Entries kept, late ones included."""
        return len(self.tail.times) + (sum([ref.count for ref in self.refs]) if self.refs else 0)

    @property
    def index_bytes(self) -> int:
        """Memory that answering `has` takes beside the entries, bytes."""
        return 0 if self._sealed is None else SealedIds.ID_BYTES * len(self._sealed)

    # ------------------------------------------------------------------ questions

    def window(self, after_ms: int, until_ms: int) -> tuple[int, int]:
        """Number and minor units of counted entries with event time in (after_ms, until_ms]."""
        return self.windows(until_ms, (until_ms - after_ms,))[0]

    def windows(self, event_time_ms: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """`window(t - length, t)` for each length: the hot path, for all windows of a transaction."""
        tail = self.tail
        times = tail.times
        if self.refs or tail.zeros or not times or times[-1] >> TIME_SHIFT > event_time_ms:
            before = event_time_ms + 1
            return self._with_segments(SegmentTotals.add_amounts, Entries.window, before, lengths)
        totals, end, after = tail.totals, len(times), event_time_ms + 1
        newest, base = totals[-1], tail.base
        found = []
        for length in lengths:
            first = bisect_left(times, (after - length) << TIME_SHIFT)
            if first == end:
                found.append((0, 0))
            else:
                found.append((end - first, newest - (totals[first - 1] if first else base)))
        return found

    def known(self, until_ms: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Of counted entries in (until_ms - length, until_ms]: number, and those known to be fraud."""
        tail = self.tail
        times, after = tail.times, until_ms + 1
        if self.refs:
            return self._with_segments(SegmentTotals.add_verdicts, Entries.known, after, lengths)
        end = bisect_left(times, after << TIME_SHIFT)
        if not end:
            return [(0, 0)] * len(lengths)
        lows = [bisect_left(times, (after - length) << TIME_SHIFT, 0, end) for length in lengths]
        if tail.zeros or tail.frauds:
            return [tail.count(low, end) for low in lows]
        return [(end - low, 0) for low in lows]

    def _with_segments(
        self, add: AddSegments, of_part: OfPart, before_ms: int, lengths: Sequence[int]
    ) -> list[tuple[int, int]]:
        high = before_ms << TIME_SHIFT
        lows = [(before_ms - length) << TIME_SHIFT for length in lengths]
        found = [of_part(self.tail, low, high, 0) for low in lows]
        if self.refs and self.refs[-1].last >= min(lows, default=high):
            if self._spans is None:
                self._spans = SegmentTotals(self.refs)
            add(self._spans, self.refs, self._segment, lows, high, found)
        return found

    def last_parts(
        self, after_ms: int, until_ms: int, number: int
    ) -> Iterator[tuple[Entries, int, int]]:
        """Where the last entries in (after_ms, until_ms] stand: newest part first, `number` in all at most.

        Conflicting ones take no place among them: whoever counts leaves them out (`Entries.conflicts`).
        """
        low, high = (after_ms + 1) << TIME_SHIFT, (until_ms + 1) << TIME_SHIFT
        times = self.tail.times
        end = len(times)
        if end and times[-1] >= high:
            end = bisect_left(times, high)
        first = self.tail.first_of(number, 0, end)
        if first < end and times[first] < low:
            first = bisect_left(times, low, first, end)
        if first < end:
            yield self.tail, first, end
            number -= end - first - self.tail.conflicts(first, end)
        for ref in reversed(self.refs):
            if ref.last < low or number <= 0:
                return
            if ref.first < high:
                entries = self._segment(ref)
                end = bisect_left(entries.times, high, ref.skip)
                first = entries.first_of(number, ref.skip, end)
                first = bisect_left(entries.times, low, first, end)
                if first < end:
                    yield entries, first, end
                    number -= end - first - entries.conflicts(first, end)

    @property
    def knows_labels(self) -> bool:
        """Whether a label has ever come to this key."""
        return self._labelled

    def newest_counted(self, until_ms: int) -> int | None:
        """Event time of the newest counted entry at or before `until_ms`, None if none is kept."""
        high = (until_ms + 1) << TIME_SHIFT
        times = self.tail.times
        if times and times[-1] < high and times[-1] & COUNTED:  # nearly always
            return times[-1] >> TIME_SHIFT
        found = self.tail.newest_counted(high)
        if found is None:
            for ref in reversed(self.refs):
                if ref.first < high and ref.count > ref.zeros:
                    found = self._segment(ref).newest_counted(high, ref.skip)
                    if found is not None:
                        break
        return found

    def has(self, id8: bytes) -> bool:
        """Whether a kept entry carries this transaction id hash."""
        if self.tail.has(id8):
            return True
        if not self.refs:
            return False
        if self._sealed is None and self._asked and len(self.refs) > _FEW_SEGMENTS:
            self._sealed = SealedIds(self._segment(ref).ids for ref in self.refs)
        self._asked = True
        if self._sealed is not None and id8 not in self._sealed:
            return False
        return any(self._segment(ref).has(id8, ref.skip) for ref in reversed(self.refs))

    def parts(self) -> Iterator[tuple[Entries, int]]:
        """Where the kept entries are, oldest part first: columns, and the index from which on they are kept."""
        yield from ((self._segment(ref), ref.skip) for ref in self.refs)
        yield self.tail, 0

    def entries(self) -> Iterator[tuple[int, int, bool, bytes]]:
        """Every kept entry, oldest first: event time in ms, minor units that count, counted, id hash."""
        return chain.from_iterable(part.each(start) for part, start in self.parts())

    def labels(self) -> Iterator[tuple[bool, int] | None]:
        """The label of every kept entry, oldest first: fraud, and when it was labelled; or None."""
        return chain.from_iterable(part.labels(start) for part, start in self.parts())

    # ------------------------------------------------------------------ changes

    def insert(
        self,
        event_time_ms: int,
        minor: int,
        *,
        counted: bool,
        id8: bytes,
        high: bool = False,
        conflicting: bool = False,
        own: Sequence[int] = (),
    ) -> None:
        """Add one transaction, then let the entries go that the rules no longer keep.

        One that conflicts does not count, and makes nobody late: `newest_ms` stays as it is.
        """
        above = (event_time_ms + 1) << TIME_SHIFT
        entries, start, at = self.tail, 0, None
        if self.refs and self.refs[-1].last >= above:
            at = next(i for i, ref in enumerate(self.refs) if ref.last >= above)
            entries, start = self._segment(self.refs[at]), self.refs[at].skip
        if not counted and self.rules.keeps_aside:
            entries.keep_aside()
        entries.insert(
            event_time_ms, minor, counted=counted, id8=id8, start=start, high=high, conflicting=conflicting, own=own
        )  # fmt: skip
        if at is not None:
            self._segment_grew(at, entries, id8)
        if event_time_ms > self.newest_ms and not conflicting:
            self.newest_ms = event_time_ms
        self._expire((self.newest_ms - self.rules.horizon_ms + 1) << TIME_SHIFT)
        # no segment holds twice its entries: below this there is nothing to add up
        if (2 * len(self.refs) + 2) * self.rules.segment_entries > self.rules.max_entries:
            excess = self.count - self.rules.max_entries
            if excess > 0:
                self._evict(excess)
        if len(self.tail.times) >= 2 * self.rules.segment_entries:
            self._seal()

    def label(self, label: EntryLabel) -> bool:
        """Apply a label to the entry of its transaction; False when no such entry is kept."""
        low, high = label.event_time_ms << TIME_SHIFT, (label.event_time_ms + 1) << TIME_SHIFT
        for ref in self.refs:
            if ref.first < high and ref.last >= low:
                entries = self._segment(ref)
                at = entries.find(low, high, label.id8, ref.skip)
                if at is not None:
                    self._labelled = True
                    if entries.label(at, fraud=label.fraud, labelled_at_ms=label.labelled_at_ms):
                        ref.refresh(entries)
                        self._spans = None
                        self._dirty.add(ref.number)
                    return True
        at = self.tail.find(low, high, label.id8)
        if at is None:
            return False
        self._labelled = True
        self.tail.label(at, fraud=label.fraud, labelled_at_ms=label.labelled_at_ms)
        return True

    def wait(self, label: EntryLabel) -> None:
        """Keep a label until its transaction comes; among those of one transaction one is enough.

        Beyond `RowRules.max_waiting` there is one too many: whoever calls takes one out.
        """
        keep_waiting(self.waiting, label)
        self._labelled = True

    def _segment_grew(self, at: int, entries: Entries, id8: bytes) -> None:
        ref = self.refs[at]
        if self._sealed is not None:
            self._sealed.add(id8)
        self._dirty.add(ref.number)
        self._spans = None
        full = 2 * self.rules.segment_entries
        if len(entries) >= full and ref.skip:
            # it is rewritten anyway: without what has left, so that a half never holds less than a
            # segment's entries, and a head never more segments than `max_head_bytes` allows for
            entries = self._loaded[ref.number] = entries.split(ref.skip)
            ref.skip = 0
        if len(entries) >= full:
            # unordered arrivals may fill one old segment: halve it, so that rows stay bounded
            rest = entries.split(self.rules.segment_entries)
            self.refs.insert(at + 1, self._new_segment(rest))
        ref.refresh(entries)

    def _expire(self, low: int) -> None:
        refs = self.refs
        while refs:
            ref = refs[0]
            if ref.first >= low:
                return
            if ref.last >= low:
                entries = self._segment(ref)
                self._skip(ref, entries, bisect_left(entries.times, low, ref.skip) - ref.skip)
                return
            self._drop_first()
        times = self.tail.times
        if times and times[0] < low:
            self._drop_tail(bisect_left(times, low))

    def _evict(self, excess: int) -> None:
        while excess > 0 and self.refs:
            ref = self.refs[0]
            if excess < ref.count:
                self._skip(ref, self._segment(ref), excess)
                return
            excess -= ref.count
            self._drop_first()
        if excess > 0:
            self._drop_tail(excess)

    def _skip(self, ref: SegmentRef, entries: Entries, number: int) -> None:
        ref.skip += number
        self._left(entries.times[ref.skip - 1])
        ref.refresh(entries)

    def _drop_first(self) -> None:
        ref = self.refs.pop(0)
        self._spans = None
        self._left(ref.last)
        self.dropped.append(ref.number)
        self._dirty.discard(ref.number)
        self._loaded.pop(ref.number, None)
        if self._sealed is not None and len(self._sealed) > 2 * self.count:
            self._sealed = None  # mostly ids that have left

    def _drop_tail(self, number: int) -> None:
        self._left(self.tail.times[number - 1])
        self.tail = self.tail.split(number)

    def _left(self, stored: int) -> None:
        self.floor_ms = max(self.floor_ms, stored >> TIME_SHIFT)

    def _seal(self) -> None:
        rest = self.tail.split(self.rules.segment_entries)
        if self._sealed is not None:
            self._sealed.add(self.tail.ids)
        self.refs.append(self._new_segment(self.tail))
        self.tail = rest

    def _new_segment(self, entries: Entries) -> SegmentRef:
        number, self.next_segment = self.next_segment, self.next_segment + 1
        ref = SegmentRef(number, 0, 0, 0, 0, 0, 0)
        ref.refresh(entries)
        self._loaded[number] = entries
        self._dirty.add(number)
        self._spans = None
        return ref

    # ------------------------------------------------------------------ rows

    def _segment(self, ref: SegmentRef) -> Entries:
        entries = self._loaded.get(ref.number)
        if entries is None:
            raw = self._load(segment_key(self.key, ref.number))
            if raw is None:
                hint = "delete the worker's state folder, it is rebuilt from the changelog"
                place = row_place(self.last_offset)
                raise RowFormatError(f"segment {ref.number} of {place} is missing: {hint}")
            entries = self._loaded[ref.number] = decode_segment(raw)
        return entries

    def encode(self) -> list[tuple[bytes, bytes | None]]:
        """The rows that changed since `read`, segments first; None deletes a row.

        They belong together: write them in one record batch and one store batch.
        """
        tail, labelled = self.tail, self._labelled
        version = LABELLED_VERSION if labelled else version_of(tail)
        own = OWN.pack(len(tail.own)) if tail.own else b""
        head = HEAD.pack(
            self.last_offset, version + OWN_VERSION if own else version, self.rules.settings_hash,
            self.newest_ms, self.floor_ms, tail.base, tail.zeros, len(tail.times), len(self.refs),
            self.next_segment,
        )  # fmt: skip
        if not (labelled or self.refs or self.dropped):  # nearly every card
            return [(head_key(self.key), tail.behind(head, own))]
        rows: list[tuple[bytes, bytes | None]] = []
        for number in sorted(self._dirty):
            raw = encode_segment(self._loaded[number], self.last_offset, self.rules.settings_hash)
            rows.append((segment_key(self.key, number), raw))
        rows += [(segment_key(self.key, number), None) for number in self.dropped]
        self._dirty.clear()
        self.dropped.clear()
        parts = [head]
        waiting = b""
        if labelled:
            waiting = encode_labels(self.waiting)
            parts.append(LABELS.pack(tail.labelled is not None, len(waiting)))
        parts.append(own)
        refs = [ref.packed or ref.pack() for ref in self.refs]
        parts += refs if labelled else [packed[: REF.size] for packed in refs]
        rows.append((head_key(self.key), tail.behind(*parts) + waiting))
        return rows

    def _decode(self, raw: bytes) -> None:
        (
            self.last_offset, self.newest_ms, self.floor_ms, self.next_segment, self._labelled,
            self.refs, self.tail, self.waiting,
        ) = decode_head(raw)  # fmt: skip
        if len(self.tail.own) != self.rules.own:
            other = "was written with another FRAUDSTREAM_CATALOGUE_FILE: restore it"
            raise RowFormatError(f"{row_place(self.last_offset)} {other}")
