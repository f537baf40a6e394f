"""Labels: each is on `enriched`, among the dead letters, or parked; what is expected is recomputed."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from app.domain.event_times import TimeUnit
from app.domain.privacy import AS_IT_CAME, Privacy
from app.domain.transaction import DeadRecordError
from app.stages.parked_labels import PREFIX, copied_offset, offset_of
from app.wire.erase_records import erased_card
from app.wire.label_records import LabelItem, LabelRecord, parse_label

#: Keys of the report's `labels`, in order.
COUNTS = (
    "read", "forwarded", "waiting", "dead", "expired", "erased", "pending", "missing", "differing",
)  # fmt: skip
#: Why a valid label may be dead: its transaction was not found, or not the only one; or too many waited.
_LOST = frozenset({"unknown_transaction", "ambiguous_transaction", "too_many_waiting"})
_HOLE, _VALID, _DEAD = range(3)
_ITEM, _LETTER, _ROW, _WRONG, _ERASED, _BY_KEY = 1, 2, 4, 8, 16, 32


@dataclass
class LabelPage:
    """The labels of one partition, by offset from `begin` on, some thirty bytes each.

    Attributes:
        begin: first offset that is kept.
        kinds: what stands there: nothing, a valid label, or one that must be dead.
        said: hash of what a valid label says.
        seen: where it was found.
        reasons: why others are dead, by offset.
        cards: hash of the card that a label names.
        keys: hash of its key: an erase record of a card removes parked labels that have it as key.
        erasures: erase records: the offset of the last one by card.
    """

    begin: int
    kinds: bytearray = field(default_factory=bytearray)
    said: "array[int]" = field(default_factory=lambda: array("q"))
    seen: bytearray = field(default_factory=bytearray)
    reasons: dict[int, str] = field(default_factory=dict)
    cards: "array[int]" = field(default_factory=lambda: array("q"))
    keys: "array[int]" = field(default_factory=lambda: array("q"))
    erasures: dict[str, int] = field(default_factory=dict)

    def put(self, offset: int, kind: int, said: int, card: int = 0, key: int = 0) -> None:
        """Note a record; offsets without one are holes."""
        lacking = offset + 1 - self.begin - len(self.kinds)
        self.kinds += bytes(lacking)
        self.seen += bytes(lacking)
        self.said.extend([0] * lacking)
        self.cards.extend([0] * lacking)
        self.keys.extend([0] * lacking)
        self.kinds[-1], self.said[-1], self.cards[-1], self.keys[-1] = kind, said, card, key

    def erase(self, offset: int, card_id: str) -> None:
        """An erase record: no row is left of the labels of its card before it."""
        self.put(offset, _HOLE, 0)
        self.erasures[card_id] = offset
        card = hash(card_id)
        for index, named in enumerate(self.cards):
            if named == card:
                self.seen[index] |= _ERASED
        key = hash(card_id.encode())
        for index, its in enumerate(self.keys):
            if its == key:
                self.seen[index] |= _BY_KEY


class LabelLedger:
    """All labels of one run.

    Args:
        topic: where they come from.
        max_future_skew_ms, time_unit: see `parse_label`.
        privacy: the rules of dead letters.

    Attributes:
        given_up: sources that the terminals' oracle gave up, in their dead letters.
        parked: partition and offset of labels that wait for their transactions: their rows.
    """

    def __init__(
        self,
        topic: str,
        max_future_skew_ms: int,
        time_unit: TimeUnit = "auto",
        privacy: Privacy = AS_IT_CAME,
    ) -> None:
        self.given_up: set[tuple[str, int, int]] = set()
        self.parked: set[tuple[int, int]] = set()
        self._topic = topic
        self._rules = max_future_skew_ms, time_unit
        self._privacy = privacy
        self._pages: dict[int, LabelPage] = {}

    def owns(self, position: tuple[str, int, int] | None) -> bool:
        """Whether a source position is one of labels."""
        return position is not None and position[0] == self._topic

    def take(self, partition: int, begin: int, records: Iterable[Any]) -> None:
        """Source records in offset order; `begin` is the first that retention has left.

        Copies of parked labels are no labels of their own.
        """
        page = self._pages.setdefault(partition, LabelPage(begin))
        for record in records:
            erased = erased_card(record)
            if erased is not None:
                page.erase(record.offset, erased)
                continue
            if copied_offset(self._topic, partition, record) is not None:
                page.put(record.offset, _HOLE, 0)
                continue
            try:
                label = parse_label(record.value, record.offset, record.timestamp, *self._rules)
            except DeadRecordError as dead:
                page.reasons[record.offset] = dead.reason
                page.put(record.offset, _DEAD, self._letter(record.value))
            else:
                page.put(
                    record.offset, _VALID, _said(label), hash(label.card_id or ""), hash(record.key)
                )

    def item(self, topic: str, partition: int, item: LabelItem) -> None:
        """A label on `enriched`, replays included."""
        if topic != self._topic:
            return
        right = self._said(partition, item.offset) == _said(item)
        page = self._pages.get(partition)
        if page is not None and item.offset < page.erasures.get(item.card_id, -1):
            self._see(partition, item.offset, _ERASED, None, right=True)
        self._see(partition, item.offset, _ITEM, _VALID, right=right)

    def letter(
        self, position: tuple[str, int, int], reason: str, value: bytes | None, *, unknown: bool
    ) -> None:
        """A dead letter of a label; `unknown`: rules that are not known any more have changed its value."""
        _, partition, offset = position
        page = self._pages.get(partition)
        expected = page.reasons.get(offset) if page else None
        right = reason in _LOST if expected is None else reason == expected
        if expected is not None:
            right = right and (unknown or self._letter(value) == self._said(partition, offset))
        self._see(partition, offset, _LETTER, None, right=right)

    def rows(self, partition: int, records: Iterable[Any]) -> None:
        """Records of the changelog of parked labels, in order."""
        for record in records:
            if record.key.startswith(PREFIX):
                change = self.parked.discard if record.value is None else self.parked.add
                change((partition, offset_of(record.key)))

    def row(self, topic: str, partition: int, offset: int) -> None:
        """A row in Cassandra."""
        if topic == self._topic:
            self._see(partition, offset, _ROW, _VALID, right=True)

    def conclude(self, done: list[int]) -> dict[str, int]:
        """Each label in its place. `done`: by partition, the offset after the last one whose effects are durable."""
        counts = Counter[str]()
        for partition, page in self._pages.items():
            for index, kind in enumerate(page.kinds):
                if kind != _HOLE:
                    offset, seen = page.begin + index, page.seen[index]
                    source = (self._topic, partition, offset)
                    counts["read"] += 1
                    counts["forwarded"] += bool(seen & _ITEM)
                    counts["expired"] += source in self.given_up
                    counts["dead"] += bool(seen & _LETTER)
                    whole = seen & _ITEM and seen & _ROW
                    waits = (partition, offset) in self.parked and not seen & (_ITEM | _LETTER)
                    counts["waiting"] += waits
                    if seen & _BY_KEY and not waits and not seen & (_ITEM | _LETTER | _ROW):
                        seen |= _ERASED  # it was parked
                    counts["erased"] += bool(seen & _ERASED)
                    if seen & _WRONG or (seen & _ERASED and seen & _ROW):
                        counts["differing"] += 1
                    elif seen & _ERASED:
                        continue
                    elif not (
                        seen & _LETTER if kind == _DEAD else whole or waits or self._lost(seen)
                    ):
                        counts["missing" if offset < done[partition] else "pending"] += 1
                    elif source in self.given_up and not seen & _LETTER:
                        counts["missing"] += 1
        return {name: counts[name] for name in COUNTS}

    def _lost(self, seen: int) -> bool:
        return bool(seen & _LETTER) and not seen & _ITEM

    def _letter(self, value: bytes | None) -> int:
        """Hash of a refused record, whatever its letter has left of it."""
        return hash(self._privacy.compared(value))

    def _said(self, partition: int, offset: int) -> int | None:
        page = self._pages.get(partition)
        if page is None or not 0 <= offset - page.begin < len(page.said):
            return None
        return page.said[offset - page.begin]

    def _see(self, partition: int, offset: int, bit: int, kind: int | None, *, right: bool) -> None:
        page = self._pages.get(partition)
        if page is None or not 0 <= offset - page.begin < len(page.seen):
            return  # deleted by retention, or newer than what is looked at
        index = offset - page.begin
        if kind is not None and page.kinds[index] != kind:
            right = False
        page.seen[index] |= bit if right else bit | _WRONG


def _said(label: LabelItem | LabelRecord) -> int:
    """Hash of what a label says, whatever was looked up."""
    return hash(
        (label.transaction_id, label.is_fraud, label.labelled_at_ms, label.received_at, label.body)
    )
