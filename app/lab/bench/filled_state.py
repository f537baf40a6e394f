"""Cards and terminals with a past: their rows on the changelogs, as if a worker had stored them."""

import asyncio
import time

from aiokafka import AIOKafkaProducer

from app.blocks.core.row_groups import chunk_groups
from app.blocks.faust.changelog_append import append_rows
from app.kafka.clients import client_kwargs, started
from app.kafka.partitioner import partition_of
from app.ops.produce import quiet_client
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.topics import Topics, batch_bytes
from app.windows.row_format import head_key
from app.windows.window_row import RowRules, WindowRow

#: Entries of each row.
ENTRIES = 60
_DAY_MS = 86_400_000
_PAST_MS = 30 * _DAY_MS


def row_with_past(rules: RowRules, key: bytes, entries: int, until_ms: int) -> WindowRow:
    """A card or terminal with so many entries, evenly spread over the 30 days before `until_ms`."""
    row = WindowRow(key, rules, lambda _: None)
    for number in range(entries):
        at = until_ms - _PAST_MS + (number + 1) * (_PAST_MS // (entries + 1))
        row.insert(at, 1_000 + number % 97, counted=True, id8=number.to_bytes(8, "big"))
    return row


def fill_state(settings: Settings, cards: list[str], terminals: list[str], until_ms: int) -> int:
    """Give every card and terminal a row of `ENTRIES` entries.

    Args:
        settings: a deployment that has no state yet.
        cards: their ids.
        terminals: their ids.
        until_ms: the entries are of the 30 days before, epoch milliseconds.

    Returns:
        Bytes of a card's row.
    """
    topics = Topics(settings)
    with quiet_client():  # new partitions may be without a leader for a moment
        size = asyncio.run(
            _append(settings, topics.cards_changelog.name, cards, row_rules(settings), until_ms)
        )
        rules = terminal_rules(settings)
        asyncio.run(_append(settings, topics.terminals_changelog.name, terminals, rules, until_ms))
    return size


def fill_cards(settings: Settings, count: int) -> int:
    """As `fill_state`: so many cards up to now, no terminals."""
    names = [f"C{number:07d}" for number in range(count)]
    return fill_state(settings, names, [], time.time_ns() // 1_000_000)


async def _append(
    settings: Settings, topic: str, names: list[str], rules: RowRules, until_ms: int
) -> int:
    # nothing in a row names its key: one is encoded for all
    ((_, raw),) = row_with_past(rules, b"", ENTRIES, until_ms).encode()
    assert raw
    partition_for = partition_of(settings.partitions)
    keys: list[list[bytes]] = [[] for _ in range(settings.partitions)]
    for name in names:
        key = name.encode()
        keys[partition_for(key)].append(head_key(key))
    kwargs = client_kwargs(settings)
    largest = batch_bytes(settings)
    producer = AIOKafkaProducer(
        **kwargs, acks="all", max_batch_size=largest, max_request_size=largest * 2
    )
    async with started(producer, settings):

        async def fill(number: int) -> None:
            for chunk in chunk_groups([[(key, raw)] for key in keys[number]], largest):
                await append_rows(producer, topic, number, chunk)

        await asyncio.gather(*(fill(number) for number in range(settings.partitions)))
    return len(raw)
