"""What is expected of each record of `transactions`: its fate and its card's features, by the oracle."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import orjson

from app.domain.transaction import DeadRecordError, Transaction
from app.ops.reference import CardReference, ReferenceOutcome
from app.ops.verification.ledger import FATE_OF, ExpectedOutcome, FoundIn, SourcePage
from app.ops.verification.refunds import refund_identity
from app.ops.verification.verify_run import Erasure, VerifyRun
from app.wire.erase_records import erased_card
from app.wire.input_records import parse_transaction

#: Columns that are known of every record, in the order of `_Judged.cells`.
_CELLS = ("fate", "card", "identity", "detail", "content", "length", "flags")
#: A record that is not at home and has larger headers is not sent on.
_MOST_HEADER_BYTES = 16 * 1024
#: The longest topic, two numbers of 19 digits and their slashes; anything longer is no position.
_MOST_ORIGIN_BYTES = 249 + 2 * 20
_Cells = tuple[int, int, int, int, int, int, int]


class Cards:
    """The cards of one partition; or of all, where the number of partitions has changed and cards have moved.

    Attributes:
        oracle: their history.
        numbers: index of each into `Ledger.cards`.
    """

    def __init__(self, case: VerifyRun) -> None:
        self.oracle = CardReference(case.rules)
        self.numbers: dict[str, int] = {}


class SourceReader:
    """Reads one partition of `transactions`, or the part of it that had one number of partitions.

    Args:
        case: the run.
        page: what it fills.
        first_kept_ms: see `VerifyRun.known_from`.
        end: the first offset that does not belong to it.
        cards: see `Cards`; None: those of this partition alone.
        begins: by partition, where the present number of partitions begins; None: it never changed.
    """

    def __init__(
        self,
        case: VerifyRun,
        page: SourcePage,
        first_kept_ms: int,
        end: int,
        cards: Cards | None = None,
        begins: Sequence[int] | None = None,
    ) -> None:
        self._case = case
        self._ledger = case.ledger
        self._page = page
        self._end = end
        self._begins = begins
        cards = cards or Cards(case)
        self._oracle, self._cards = cards.oracle, cards.numbers
        self._known_from = case.known_from(first_kept_ms)
        self._origin = f"{case.ledger.topic}/".encode()
        self._names = case.ledger.catalogue.names[: case.ledger.card_features]

    def take(self, records: list[Any]) -> None:
        """Records in offset order; those past the page's end only tell of forwarded copies."""
        page, columns = self._page, defaultdict[str, list[Any]](list)
        at: list[int] = []
        featured: list[int] = []
        features: list[list[float]] = []
        for record in records:
            if record.headers:
                self._note_copy(record)
            if record.offset >= self._end:
                continue
            erased = erased_card(record)
            if erased is not None:  # in another partition than the card's, no row depends on it
                if self._case.home(erased) == page.number:
                    self._erase(record, at, columns["card"])
                continue
            row = record.offset - page.begin
            cells, values = self._judge(record)
            at.append(row)
            columns["received_at"].append(record.timestamp)
            for name, cell in zip(_CELLS, cells, strict=True):
                columns[name].append(cell)
            if values:
                featured.append(row)
                features.append(values)
        if at:
            page.put(at, **columns)
        if featured:
            page.features[featured, : len(self._names)] = features

    def _erase(self, record: Any, at: list[int], cards: list[int]) -> None:
        """What precedes an erase record of its card has no rows any more; the record itself is no transaction."""
        card_id = record.key.decode()
        card, page = self._card(card_id), self._page
        self._oracle.erase(card_id)
        page.erased[: record.offset - page.begin] |= page.card[: record.offset - page.begin] == card
        page.erased[[row for row, its in zip(at, cards, strict=True) if its == card]] = True
        for number, begin in enumerate(self._begins or ()):
            if number != page.number:  # where it was before the number of partitions changed
                before = self._ledger.pages[number]
                size = max(0, begin - before.begin)
                before.erased[:size] |= before.card[:size] == card
        self._case.erasures[page.number, record.offset] = Erasure(
            card_id, record.timestamp, self._case.partitions
        )

    def _judge(self, record: Any) -> tuple[_Cells, list[float]]:
        case = self._case
        try:
            transaction = parse_transaction(
                record.value, record.key, record.timestamp, case.record_rules, record.headers
            )
        except DeadRecordError as dead:
            card = -1 if dead.card_id is None else self._card(dead.card_id)
            return self._dead(record, dead.reason, card), []
        card = self._card(transaction.card_id)
        place = self._page.number, record.offset
        at_home = case.home(transaction.card_id) == self._page.number
        refused = case.refused.get(place)
        if (
            transaction.minor < 0
            and case.settings.refunds == "dead"
            and (refused == "negative_amount" or (at_home and place not in case.refunded))
        ):
            return self._dead(record, "negative_amount", card), []
        if not at_home and (
            case.settings.moved == "dead" or _headers_bytes(record) > _MOST_HEADER_BYTES
        ):
            return self._dead(record, "moved", card), []
        if refused is not None and not (at_home and refused == "moved"):
            case.by_earlier_rules += 1
            return self._dead(record, refused, card), []
        if at_home:
            return (
                self._apply(transaction, card)
                if transaction.minor >= 0
                else (_refund(transaction, card), [])
            )
        return (ExpectedOutcome.MOVED, card, 0, 0, hash((record.key, record.value)), 0, 0), []

    def _dead(self, record: Any, reason: str, card: int) -> _Cells:
        value = record.value
        # card numbers in the letter may be masked, fields missing, or not: settings decide
        content, length = hash(self._case.record_rules.privacy.compared(value)), 0
        if value is not None and len(value) > self._case.record_rules.max_bytes:
            # the letter has its beginning, and these two of the whole
            content, length = hash(sha256(value).hexdigest()), len(value)
        return ExpectedOutcome.DEAD, card, 0, 0, content, length, self._ledger.letter_index(reason)

    def _apply(self, transaction: Transaction, card: int) -> tuple[_Cells, list[float]]:
        t_ms, minor = transaction.event_time_ms, transaction.minor
        record = orjson.loads(transaction.body) if self._case.rules.own.fields else None
        verdict = self._oracle.apply(
            transaction.card_id, transaction.transaction_id, t_ms, minor, record
        )
        values: list[float] = []
        mask = 0
        if verdict.became is not ReferenceOutcome.DUPLICATE:
            values = [verdict.features[name] for name in self._names]
            mask = self._ledger.mask(verdict.flags)
        prefix = transaction.body[:-1]  # a prediction goes on where the object would have ended
        cells = (
            ExpectedOutcome.UNKNOWN if t_ms < self._known_from else FATE_OF[verdict.became],
            card,
            hash((transaction.card_id, t_ms, transaction.transaction_id)),
            hash((transaction.terminal_id, minor)),
            hash(prefix),
            len(prefix),
            mask,
        )
        return cells, values

    def _card(self, card_id: str) -> int:
        index = self._cards.get(card_id)
        if index is None:
            index = self._cards[card_id] = len(self._ledger.cards)
            self._ledger.cards.append(card_id)
        return index

    def _note_copy(self, record: Any) -> None:
        """Whether the record says that it was sent on from elsewhere; if so, mark that place."""
        for name, value in reversed(record.headers):
            if name != "origin" or value is None:
                continue
            partition, _, offset = value.removeprefix(self._origin).partition(b"/")
            named = partition.isdigit() and offset.isdigit() and len(value) < _MOST_ORIGIN_BYTES
            if value.startswith(self._origin) and named:
                found = self._ledger.find(self._ledger.topic, int(partition), int(offset))
                if found is not None:
                    page, row = found
                    page.seen[row] |= FoundIn.FORWARDED
                    page.copy[row] = hash((record.key, record.value))
            return  # the last one is the stream's: earlier ones came with the record


def _refund(refund: Transaction, card: int) -> _Cells:
    named = refund.card_id, refund.event_time_ms, refund.transaction_id
    prefix = refund.body[:-1]
    detail = hash((refund.terminal_id, refund.minor))
    return (
        ExpectedOutcome.REFUND,
        card,
        refund_identity(*named, refund.minor),
        detail,
        hash(prefix),
        len(prefix),
        0,
    )


def _headers_bytes(record: Any) -> int:
    return sum(len(name) + len(value or b"") for name, value in record.headers)
