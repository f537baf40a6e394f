"""The end of a schedule against the oracle of `fraudstream verify`, which shares no arithmetic with the stream."""

from typing import Any

import orjson

from app.domain.transaction import DeadRecordError, Transaction
from app.records import decode_enriched, parse_transaction
from app.tools.oracle import Became, CardOracle, Rules, TerminalOracle
from tests.stream.sim_kafka import Record
from tests.stream.sim_world import LATENESS, WINDOWS, World, record_rules, topics


def compare(world: World) -> list[str]:
    """Every feature and flag that differs from the oracle's."""
    rules = Rules(WINDOWS, LATENESS, world.plan.rules.max_entries)
    cards = CardOracle(rules)
    terminals = TerminalOracle(rules)
    wanted: dict[tuple[int, int], tuple[dict[str, float], list[str]]] = {}
    for partition, records in world.broker.topic(topics.transactions.name).items():
        for record in records:
            transaction = parsed(record)
            if transaction is None or world.partition_of(record.key) != partition:
                continue
            verdict = cards.apply(
                transaction.card_id,
                transaction.transaction_id,
                transaction.event_time_ms,
                transaction.minor,
            )
            if verdict.became in (Became.SCORED, Became.LATE):
                wanted[partition, record.offset] = (dict(verdict.features), [*verdict.flags])
    for partition, records in world.broker.topic(topics.enriched.name).items():
        for record in records:
            batch = decode_enriched(record.value or b"")
            for item in batch.items:
                if terminals.is_replay(partition, (batch.topic, batch.partition, item.offset)):
                    continue
                features, flags = wanted[batch.partition, item.offset]
                weight = 0 if "late" in flags else 1
                verdict = terminals.apply(item.terminal_id, item.event_time_ms, weight)
                features.update(verdict.features)
                flags.extend(verdict.flags)
    return list(differences(world, wanted))


def parsed(record: Record) -> Transaction | None:
    """The transaction of a source record, None for a dead one."""
    try:
        return parse_transaction(record.value, record.key, record.timestamp, record_rules)
    except DeadRecordError:
        return None


def differences(world: World, wanted: dict[tuple[int, int], Any]) -> Any:
    """Predictions that are missing, too many or different."""
    seen = set()
    for records in world.broker.topic(topics.predictions.name).values():
        for record in records:
            fields = orjson.loads(record.value or b"")
            source = (fields["source_partition"], fields["source_offset"])
            seen.add(source)
            want = wanted.get(source)
            if want is None:
                yield f"oracle: {source} must not be scored"
            elif (fields["features"], fields["flags"]) != want:
                yield f"oracle: {source} has {fields['features']} {fields['flags']}, not {want}"
    for source in wanted.keys() - seen:
        yield f"oracle: {source} is not scored"
