"""A card and a terminal that take a fifth of everything; partitions of very different lengths: all is right."""

from pathlib import Path
from random import Random

import orjson
import pytest

from app.kafka.topic_admin import log_ends
from app.ops.reference import murmur2_partition
from app.ops.state_comparison import read_rows
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.windows.row_format import head_key, max_head_bytes
from app.windows.window_row import WindowRow
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

MINUTE = 60_000
HOT_CARD, HOT_TERMINAL = "hot-card", "hot-terminal"
#: Transactions, a fifth of them hot; the cap that makes hot keys let go of some.
COUNT, CAP = 4_000, 600


def hot_and_others(rng: Random) -> list[Send]:
    """A minute apart; a card and a terminal that have nothing to do with each other take a fifth each."""
    sends = []
    for number in range(COUNT):
        card = HOT_CARD if rng.random() < 0.2 else f"c{rng.randrange(200)}"
        terminal = HOT_TERMINAL if rng.random() < 0.2 else f"t{rng.randrange(100)}"
        at = number * MINUTE - rng.choice([0, 0, 0, 30 * MINUTE])
        sends.append(Send(tx_bytes(number, card=card, terminal=terminal, at=at), card.encode()))
    return sends


def test_hot_keys_stay_bounded_and_say_what_they_lack(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"max_entries_per_key": CAP})
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        deployment.send(hot_and_others(Random(7)))
        fleet.await_ready()
        deployment.drain()
        # every feature is what one thread computes from all transactions, or is flagged where something has left
        report = deployment.verify()
        assert report["scored"] == COUNT
        fleet.terminate("one")
        for table, key, rules in (
            ("cards", HOT_CARD, row_rules(settings)),
            ("terminals", HOT_TERMINAL, terminal_rules(settings)),
        ):
            partition = murmur2_partition(key.encode(), settings.partitions)
            rows = read_rows(fleet["one"].datadir, table, partition)
            row = WindowRow.read(key.encode(), rules, rows.get)
            assert row.count == CAP
            assert len(rows[head_key(key.encode())]) <= max_head_bytes(rules)
    flagged = {
        (record["card_id"] == HOT_CARD, record["terminal_id"] == HOT_TERMINAL)
        for record in (
            orjson.loads(r.value) for r in deployment.records(deployment.topics.predictions)
        )
        if any(flag.startswith("inexact:") for flag in record["flags"])
    }
    # the hot ones say that they lack something, their neighbours lack nothing
    assert (True, False) in flagged
    assert (False, True) in flagged
    assert (False, False) not in flagged


def test_a_slow_a_huge_and_an_idle_partition(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    cards: dict[int, str] = {}
    for number in range(1_000):
        cards.setdefault(murmur2_partition(b"c%d" % number, settings.partitions), f"c{number}")
    huge, slow, small, idle = range(settings.partitions)

    def sends(partition: int, first: int, count: int) -> list[Send]:
        card = cards[partition]
        return [
            Send(
                tx_bytes(f"{partition}-{n}", card=card, terminal=f"t{n % 5}", at=n * MINUTE),
                card.encode(),
            )
            for n in range(first, first + count)
        ]

    deployment.send([*sends(huge, 0, 5_000), *sends(slow, 0, 1), *sends(small, 0, 40)])
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        for number in range(
            1, 6
        ):  # while the huge one is worked off, the slow one gets one at a time
            deployment.send(sends(slow, number, 1))
        deployment.drain()
        report = deployment.verify()
        assert report["scored"] == 5_000 + 40 + 6
    scored_at: dict[int, list[int]] = {huge: [], slow: [], small: []}
    for record in deployment.records(deployment.topics.predictions):
        fields = orjson.loads(record.value)
        scored_at[fields["source_partition"]].append(fields["scored_at"])
    assert {number: len(times) for number, times in scored_at.items()} == {
        huge: 5_000,
        slow: 6,
        small: 40,
    }
    # what was there at the start in the others did not wait for the end of the huge one
    assert min(scored_at[slow]) < max(scored_at[huge])
    assert max(scored_at[small]) < max(scored_at[huge])
    assert _ends(deployment)[idle] == 0


def _ends(deployment: Deployment) -> dict[int, int]:
    import asyncio

    return asyncio.run(log_ends(deployment.settings, deployment.topics.transactions.name))
