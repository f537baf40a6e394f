"""`dead-letters` and `duplicates`: where records went that were not scored."""

from typing import Any

from app.domain.privacy import Privacy
from app.domain.refusal_reasons import BY_RULES, LOST
from app.kafka.skip_records import skip_in
from app.ops.verification.ledger import ExpectedOutcome, FoundIn, SourcePage
from app.ops.verification.output_fields import SOURCE_FIELDS, fields_of, source_in
from app.ops.verification.verify_run import VerifyRun
from app.wire.dead_letters import PRIVATE, headers_of

_FIELDS = SOURCE_FIELDS | {"card_id", "event_time_ms", "transaction_id"}


class EarlierRefusals:
    """Reads one partition of `dead-letters` before all else: what other rules than the present ones refused.

    A setting or a release may have changed since. What was refused then stays refused: if it was sent back, it
    stands in the log once more.
    """

    def __init__(self, case: VerifyRun) -> None:
        self._case = case

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        for record in records:
            reason = headers_of(record).get("reason", b"").decode(errors="replace")
            position = _position(record.key)
            if reason in BY_RULES and position and position[0] == self._case.ledger.topic:
                self._case.refused[position[1], position[2]] = reason


class DeadLetterReader:
    """Reads one partition of `dead-letters`."""

    def __init__(self, case: VerifyRun) -> None:
        self._case = case
        self._where = case.topics.dead_letters.name

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        for record in records:
            if skip_in(record) is not None:
                continue
            position = _position(record.key)
            headers = headers_of(record)
            reason = headers.get("reason", b"").decode(errors="replace")
            if position and reason == LOST:
                self._case.lost.letter(position, headers)
                continue
            if position and self._case.labels.owns(position):
                unknown = by_other_rules(self._case.record_rules.privacy, headers)
                self._case.labels.letter(position, reason, record.value, unknown=unknown)
                continue
            found = position and self._case.ledger.find(*position)
            if found:
                self._check(*found, record)
            elif not position or self._case.ledger.is_foreign(*position):
                self._case.findings.stray(self._where, "key", repr(record.key))

    def _check(self, page: SourcePage, row: int, record: Any) -> None:
        headers = headers_of(record)
        reason = headers.get("reason", b"").decode(errors="replace")
        fate = ExpectedOutcome(page.fate[row])
        if first_of_its_kind(self._case, page, row, FoundIn.DEAD, self._where, digest(record)):
            if fate != ExpectedOutcome.DEAD:
                self._differs(page, row, "fate", f"dead ({reason})", fate.name.lower())
                return
            expected = self._case.ledger.letters[page.flags[row]]
            if reason != expected:
                self._differs(page, row, "reason", reason, expected)
            if not self._is_whole(page, row, record.value, headers):
                self._differs(page, row, "value", "changed", "the original bytes")
            told = b"/".join(headers.get(name, b"") for name in ("topic", "partition", "offset"))
            if told != record.key:
                self._differs(page, row, "headers", repr(told), repr(record.key))

    def _is_whole(
        self, page: SourcePage, row: int, value: bytes | None, headers: dict[str, bytes]
    ) -> bool:
        """Whether a letter has what rules leave of the bytes, or of a large one the beginning and the whole's hash."""
        size, rules = int(page.length[row]), self._case.record_rules
        if not size:
            same = bool(hash(rules.privacy.compared(value)) == page.content[row])
            return same or by_other_rules(rules.privacy, headers)
        return (
            (PRIVATE in headers if value is None else len(value) == rules.max_bytes)
            and headers.get("size") == str(size).encode()
            and hash(headers.get("sha256", b"").decode()) == page.content[row]
        )

    def _differs(self, page: SourcePage, row: int, what: str, stored: Any, recomputed: Any) -> None:
        self._case.findings.differs(page, row, self._where, what, stored, recomputed)


class DuplicateReader:
    """Reads one partition of `duplicates`."""

    def __init__(self, case: VerifyRun) -> None:
        self._case = case
        self._where = case.topics.duplicates.name

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        case = self._case
        for record in records:
            fields = fields_of(record, _FIELDS)
            found = source_in(case, self._where, record, fields)
            if found is None:
                continue
            page, row = found
            if not first_of_its_kind(
                case, page, row, FoundIn.DUPLICATE, self._where, digest(record)
            ):
                continue
            fate = ExpectedOutcome(page.fate[row])
            identity = fields["card_id"], fields["event_time_ms"], fields["transaction_id"]
            if fate not in (ExpectedOutcome.DUPLICATE, ExpectedOutcome.UNKNOWN):
                self._differs(page, row, "fate", "duplicate", fate.name.lower())
            elif page.identity[row] != hash(identity):
                self._differs(page, row, "transaction", list(identity), "another one")
            elif "amount_minor" in fields and page.detail[row] != hash(
                (fields["terminal_id"], fields["amount_minor"])
            ):  # earlier releases wrote neither
                stored = [fields["terminal_id"], fields["amount_minor"]]
                self._differs(page, row, "terminal_id and amount_minor", stored, "others")
            elif record.key != fields["card_id"].encode():
                self._differs(page, row, "key", repr(record.key), fields["card_id"])

    def _differs(self, page: SourcePage, row: int, what: str, stored: Any, recomputed: Any) -> None:
        self._case.findings.differs(page, row, self._where, what, stored, recomputed)


def by_other_rules(privacy: Privacy, headers: dict[str, bytes]) -> bool:
    """Whether rules that are not in force any more have left out something: nothing is there to compare with."""
    return headers.get(PRIVATE, privacy.digest) != privacy.digest


def first_of_its_kind(
    case: VerifyRun, page: SourcePage, row: int, bit: int, where: str, digest: int
) -> bool:
    """Mark an output; False when it only repeats one, which must then be the same."""
    if page.seen[row] & bit:
        if page.digest[row] == digest:
            case.findings.repeated += 1
        else:
            case.findings.differs(page, row, where, "repeated output", "another one", "the first")
        return False
    page.seen[row] |= bit
    page.digest[row] = digest
    return True


def digest(record: Any) -> int:
    """Hash of all that an output says."""
    return hash((record.key, record.value, tuple(record.headers)))


def _position(key: bytes | None) -> tuple[str, int, int] | None:
    topic, partition, offset = ((key or b"").decode(errors="replace").rsplit("/", 2) + ["", ""])[:3]
    if not (partition.isdecimal() and offset.isdecimal()):
        return None
    return topic, int(partition), int(offset)
