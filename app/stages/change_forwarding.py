"""Forwards changes from `control` to every partition of `enriched`, where each applies from its offset on."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from app.blocks.core.partition import Computed, RowReader
from app.blocks.faust.output_sender import Outputs, OutRecord
from app.domain.changes import RuleChange
from app.domain.changes_in_force import InForce
from app.domain.features import Catalogue
from app.domain.rules import Rule
from app.domain.rules.defaults import default_rules
from app.domain.transaction import DeadRecordError
from app.topics import Topics
from app.wire.control_records import change_message, encode_change, parse_change
from app.wire.dead_letters import dead_letter
from app.wire.input_records import SourceRecord


class ControlHandler:
    """See `app.blocks.core.partition.Handler`. Stateless: the second stage drops changes that are forwarded again.

    Args:
        topics: where outputs go.
    """

    def __init__(self, topics: Topics) -> None:
        self.counts: Counter[str] = Counter()
        self._topics = topics

    def compute(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> Computed:
        """Copies of consecutive changes for every partition; records that are not changes are dead-lettered."""
        outputs: Outputs = defaultdict(list)
        topics, source = self._topics, self._topics.control.name
        for record in records:
            if (
                record.value is None and record.key
            ):  # deletes an earlier change: see `fraudstream erase`
                self.counts["deleted"] += 1
                continue
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


def first_rules(catalogue: Catalogue, large: float, in_force: Iterable[InForce]) -> list[OutRecord]:
    """Records of the rules that a new deployment starts with; none for a deployment that an earlier release created.

    Args:
        catalogue: the deployment's features.
        large: an amount that is large for any card, in major units.
        in_force: the changes in force on this worker's partitions.
    """
    if any(
        one.first for one in in_force
    ):  # records before that offset were scored by an earlier release
        return []
    return [
        (f"start/{rule.name}".encode(), encode_change(_change_of(rule)), [])
        for rule in default_rules(catalogue.names, large)
    ]


def _change_of(rule: Rule) -> RuleChange:
    return RuleChange(
        name=rule.name,
        expression=rule.expression,
        action=rule.action,
        reason=rule.reason,
        by="FRAUDSTREAM_DEFAULT_RULES",
    )
