"""Changes: from `control` into every partition of `enriched`, where each has an offset from which it applies."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from app.blocks.core.partition import Computed, RowReader
from app.blocks.faust.batches import Outputs
from app.domain.transaction import DeadRecordError
from app.topics import Topics
from app.wire.control_records import change_message, parse_change
from app.wire.dead_letters import dead_letter
from app.wire.input_records import SourceRecord


class ControlHandler:
    """See `app.blocks.core.partition.Handler`. It keeps no state: what is forwarded again, the second stage drops.

    Args:
        topics: where outputs go.
    """

    def __init__(self, topics: Topics) -> None:
        self.counts: Counter[str] = Counter()
        self._topics = topics

    def compute(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> Computed:
        """Copies of consecutive changes for every partition, and dead letters of what is none."""
        outputs: Outputs = defaultdict(list)
        topics, source = self._topics, self._topics.control.name
        for record in records:
            try:
                parse_change(record.value)
            except DeadRecordError as dead:
                letter = dead_letter(source, partition, record, dead)
                outputs[topics.dead_letters.name, partition].append(letter)
                self.counts["dead"] += 1
                continue
            value = change_message(source, partition, record)
            for target in range(topics.enriched.partitions):
                outputs[topics.enriched.name, target].append((None, value, []))
            self.counts["forwarded"] += 1
        return Computed(outputs)
