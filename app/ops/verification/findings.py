"""Differences: each is marked at its source record, the first ones are kept with both values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from app.ops.verification.ledger import Ledger, RecordFault, SourcePage


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        source: position of the source record, topic/partition/offset.
        card: its card, None when it names none.
        where: topic, or `cassandra`.
        what: the feature, column or rule.
        stored: what was found, None when nothing was.
        recomputed: what should have been found.
    """

    source: str
    card: str | None
    where: str
    what: str
    stored: Any
    recomputed: Any


@dataclass
class Findings:
    """Collects differences.

    Args:
        ledger: where source records are marked.
        limit: differences that are kept whole.

    Attributes:
        examples: the first ones.
        strays: outputs and rows that belong to no source record.
        lost_rows: predictions without a row in Cassandra, though the sink has passed them.
        lost_from_ms: when the first of them was scored, epoch milliseconds.
        repeated: outputs that stood on a topic before, and were identical.
    """

    ledger: Ledger
    limit: int = 10
    examples: list[Difference] = field(default_factory=list)
    strays: int = 0
    repeated: int = 0
    lost_rows: int = 0
    lost_from_ms: int | None = None

    def differs(
        self, page: SourcePage, row: int, where: str, what: str, stored: Any, recomputed: Any
    ) -> None:
        """A value or a fate is not the recomputed one."""
        page.faults[row] |= RecordFault.DIFFERING
        self._keep(page, row, where, what, stored, recomputed)

    def lacks(
        self, page: SourcePage, row: int, where: str, what: str, recomputed: Any = None
    ) -> None:
        """An output or a row is not there."""
        page.faults[row] |= RecordFault.MISSING
        self._keep(page, row, where, what, None, recomputed)

    def pending(self, page: SourcePage, row: int) -> None:
        """An output or a row is still to come."""
        page.faults[row] |= RecordFault.PENDING

    def unverifiable(self, page: SourcePage, row: int) -> None:
        """An output or a row may have been deleted since."""
        page.faults[row] |= RecordFault.UNVERIFIABLE

    def stray(self, where: str, what: str, stored: Any) -> None:
        """An output or a row that no source record explains."""
        self.strays += 1
        if len(self.examples) < self.limit:
            self.examples.append(Difference("none", None, where, what, stored, None))

    def rows_lost(self, number: int, from_ms: int) -> None:
        """Rows are not there that Cassandra has acknowledged.

        Args:
            number: how many.
            from_ms: when the first of them was scored, or earlier.
        """
        self.lost_rows += number
        known = self.lost_from_ms
        self.lost_from_ms = from_ms if known is None else min(known, from_ms)

    def compare_features(
        self,
        page: SourcePage,
        row: int,
        where: str,
        names: Sequence[str],
        stored: Sequence[float | None],
        recomputed: Sequence[float],
    ) -> None:
        """Name each feature that differs; both begin with the first of `names`."""
        if len(stored) != len(recomputed):
            self.differs(page, row, where, "number of features", len(stored), len(recomputed))
            return
        for name, was, should in zip(names, stored, recomputed, strict=False):
            if was != should:
                self.differs(page, row, where, name, was, should)

    def _keep(
        self, page: SourcePage, row: int, where: str, what: str, stored: Any, recomputed: Any
    ) -> None:
        if len(self.examples) < self.limit:
            ledger = self.ledger
            source, card = ledger.position(page, row), ledger.card_of(page, row)
            self.examples.append(Difference(source, card, where, what, stored, recomputed))

    def as_json(self) -> list[dict[str, Any]]:
        """The examples, JSON-ready."""
        return [asdict(example) for example in self.examples]
