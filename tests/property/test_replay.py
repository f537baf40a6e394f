"""A replay of any part of history gives what the stream gave, to the bit: in memory, over many histories.

What a card or terminal knew at the beginning of the part is built from what lies a horizon before it; everything
older is left out, so that a horizon that is too short shows.
"""

import asyncio
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.domain.changes import ListChange, RuleChange
from app.kafka.change_history import ChangeHistory, LoggedChange
from app.ops.replaying.deciders import Deciders
from app.ops.replaying.enriched_survey import EnrichedSurvey
from app.ops.replaying.look_back_bounds import Bound, LookBack, ReplayRange, RetainedRange
from app.ops.replaying.passes import CardPass, ReplayStages, TerminalPass
from app.ops.temporary_stores import scratch_rows
from app.windows.window_row import NEVER
from app.wire.control_records import decode_message, parse_change
from models.artifact_folders import artifact_folders
from models.model_loader import ModelHolder
from tests.builders import T0, tx, tx_bytes
from tests.seed import SEED
from tests.verify_world import Record, VerifyWorld

pytestmark = pytest.mark.property

HOUR = 3_600_000
DAY = 24 * HOUR
DAYS = 160
COUNT = 450


#: Changed every now and then.
RULES: tuple[Any, ...] = (
    RuleChange(name="many", expression="terminal_count_30d > 5 and amount < 50", action="review"),
    RuleChange(name="large", expression="amount >= 40 and score > 0.001", action="decline"),
    ListChange(name="allow", subject="card", ids=("c0",), until_ms=T0 - 40 * DAY),
    RuleChange(name="large"),
)


def lived(rng: Random, cap: int) -> VerifyWorld:
    """Cards of very different habits over months: out of order, late, repeated, idle for long, labelled."""
    world = VerifyWorld(features=("basic", "engineered"), max_entries_per_key=cap)
    cards = [f"c{n}" for n in range(5)]
    sent: list[tuple[int, dict[str, object]]] = []
    due: list[tuple[int, dict[str, object]]] = []
    for number in range(COUNT):
        now = (number * DAYS * DAY) // COUNT - DAYS * DAY
        at = now - rng.choice([0, 0, 0, 0, HOUR, 20 * HOUR, 3 * DAY, 40 * DAY])
        card = cards[min(4, int(rng.expovariate(1)))]
        if rng.random() < 0.02:
            card = "idle"
        fields = tx(number, card=card, terminal=rng.choice(["t1", "t2", "t3", None]), at=at,
                    amount=rng.choice([1.5, 2, 3, 40, 900]))  # fmt: skip
        if sent and rng.random() < 0.05:
            fields = rng.choice(sent[-40:])[1]
        if sent and rng.random() < 0.05:  # a used id, which may be days old
            fields = rng.choice(sent[-200:])[1] | {"event_time": T0 + at, "amount": 55}
        wrong = None
        key = str(fields["card_id"]).encode()
        if rng.random() < 0.05:
            wrong = 1 - world.home(key)
        world.send(orjson.dumps(fields), key, partition=wrong)
        sent.append((at, fields))
        if fields.get("terminal_id") and rng.random() < 0.8:
            label = {
                name: fields[name]
                for name in ("transaction_id", "card_id", "terminal_id", "event_time")
            }
            wait = rng.choice([HOUR, DAY, 12 * DAY])
            due.append(
                (now + wait, {**label, "is_fraud": rng.random() < 0.4, "labelled_at": T0 + at + 1})
            )
        if rng.random() < 0.02:
            world.send(tx_bytes(f"future{number}", at=10 * DAY), b"c1")
        if number == 0:  # before anything that is replayed, and never changed
            world.control(RuleChange(name="first", expression="amount > 30", action="tag"))
        if number % 40 == 20:
            world.control(RULES[number // 40 % len(RULES)])
        if rng.random() < 0.1:  # blocks of both stages, and labels between them
            world.run(block=rng.choice([3, 50]))
            for label in [each for at_, each in due if at_ <= now]:
                world.label(label)
            due = [each for each in due if each[0] > now]
    world.run()
    return world


def replayed(
    world: VerifyWorld,
    asked: ReplayRange,
    folder: Path,
    kept: RetainedRange | None = None,
    *,
    follows: bool = False,
    holder: ModelHolder | None = None,
) -> dict[tuple[int, int], bytes]:
    """As `app/ops/replay.py` does it, with topics in memory that begin at `world.begins`.

    Args:
        world: what happened live.
        asked: what is replayed.
        folder: for rows.
        kept: what retention has left.
        follows: whether the models that decided live do; else the one of the settings.
        holder: loads models.
    """
    settings, partitions = world.settings, range(world.settings.partitions)
    stages, reach = ReplayStages.of(settings), LookBack.of(settings)
    kept = kept or RetainedRange(reach)
    transactions, enriched = world.topics.transactions.name, world.topics.enriched.name
    holder = holder or ModelHolder(artifact_folders(settings), stages.catalogue, 2)
    survey = EnrichedSurvey(asked, settings.partitions)
    for number in partitions:
        survey.take(number, left(world, enriched, number))
    from_ms = survey.from_ms
    plan: Any = SimpleNamespace(own=settings, by=() if follows else ("model",))
    deciders = Deciders(plan, holder, None if follows else holder.named(settings.model))
    deciders._survey, deciders._history = (
        survey,
        ChangeHistory(
            [
                LoggedChange(0, record.offset, record.timestamp, parse_change(record.value))
                for record in world.logs[world.topics.control.name][0]
            ]
        ),
    )
    messages = [survey.messages(number, from_ms - reach.terminals_ms) for number in partitions]
    asyncio.run(deciders.load(messages))
    cards = []
    for number in partitions:
        with scratch_rows(folder) as rows:
            sources = survey.sources(number, from_ms - reach.cards_ms)
            stage = CardPass(stages, sources, rows, folder, kept.from_ms)
            records = left(world, transactions, number)
            stage.take(number, [r for r in records if sources.begin <= r.offset < sources.end])
            cards.append(stage.found)
            assert stage.found.lost == 0
    found = {}
    for number in partitions:
        with scratch_rows(folder) as rows:
            reach_ms = from_ms - reach.terminals_ms
            begin, end = messages[number]
            last = TerminalPass(
                stages, deciders.at(number, begin), cards, rows,
                reach_ms=reach_ms, clock_ms=lambda: 0, known_from_ms=kept.terminals_from_ms,
            )  # fmt: skip
            log = world.logs[enriched][number][begin:end]
            for start in range(0, len(log), 7):
                for (topic, _), records in last.take(number, log[start : start + 7]).items():
                    if topic == stages.topics.predictions.name:
                        for _, value, _ in records:
                            found[place_of(value)] = value
    return found


def left(world: VerifyWorld, topic: str, number: int) -> list[Record]:
    """What retention has left of a partition."""
    return world.logs[topic][number][world.begins.get((topic, number), 0) :]


def delete(world: VerifyWorld, topic: str, number: int, count: int) -> int:
    """Let retention delete the first records of a partition; returns the newest event time among them."""
    world.begins[topic, number] = count
    newest = NEVER
    for record in world.logs[topic][number][:count]:
        batch = decode_message(record.value) if topic == world.topics.enriched.name else None
        if batch is None:
            at = orjson.loads(record.value or b"{}")["event_time"]
            newest = max(newest, at if at <= T0 else NEVER)  # beyond it is dead: it counts nowhere
        else:
            items = getattr(batch, "items", ())  # a change has none
            newest = max([newest, *(item.event_time_ms for item in items)])
    return newest


def place_of(value: bytes) -> tuple[int, int]:
    fields = orjson.loads(value)
    return fields["source_partition"], fields["source_offset"]


def told(value: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(value)
    del fields["scored_at"]
    return fields


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(3))
def test_any_part_of_history_is_replayed_to_the_bit(number: int, tmp_path: Path) -> None:
    rng = Random(f"replay {SEED} {number}")
    world = lived(rng, cap=rng.choice([16, 40, 20_000]))
    live = {place_of(record.value): record.value for record in world.log(world.topics.predictions)}
    assert any(told(value)["rules"] for value in live.values())
    skipped = 0
    for _ in range(3):
        first = T0 - rng.randrange(1, DAYS // 2) * DAY
        end = first + rng.randrange(1, 40) * DAY
        begin, until = Bound("from", time_ms=first), Bound("to", time_ms=end)
        if rng.random() < 0.4:
            ends = [len(log) for log in world.logs[world.topics.transactions.name]]
            begin = Bound("from", offsets={n: ends[n] * 2 // 3 for n in range(2)})
            until = Bound("to", offsets={n: ends[n] * 5 // 6 for n in range(2)})
        asked = ReplayRange(begin, until, 2)
        expected = {
            place: told(value)
            for place, value in live.items()
            if (*place, told(value)["event_time_ms"]) in asked
        }
        if not expected:
            continue
        found = {place: told(value) for place, value in replayed(world, asked, tmp_path).items()}
        assert found.keys() == expected.keys()
        for place, fields in expected.items():
            assert found[place] == fields, place
        skipped += len(live) - len(found)
    assert skipped


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(3))
def test_where_retention_has_deleted_history_what_differs_is_flagged(
    number: int, tmp_path: Path
) -> None:
    rng = Random(f"short {SEED} {number}")
    world = lived(rng, cap=rng.choice([16, 20_000]))
    topics, reach = world.topics, LookBack.of(world.settings)
    live = {place_of(record.value): told(record.value) for record in world.log(topics.predictions)}
    known = NEVER
    for topic in (topics.transactions.name, topics.enriched.name):
        for partition in range(2):
            size = len(world.logs[topic][partition])
            known = max(known, delete(world, topic, partition, rng.randrange(size // 4)))
    kept = RetainedRange(reach, "", known)
    asked = ReplayRange(Bound("from", time_ms=known + DAY), None, 2)
    found = replayed(world, asked, tmp_path, kept)
    assert found.keys() == {place for place, one in live.items() if one["event_time_ms"] >= known + DAY}  # fmt: skip
    differing = 0
    for place, value in found.items():
        one, other = told(value), live[place]
        said = [flag for flag in one["flags"] if flag.startswith("inexact:")]
        if one["event_time_ms"] >= kept.full_from_ms:
            assert one == other, place
        if {**one, "flags": 0} != {**other, "flags": 0}:
            differing += 1
            assert said, place
        for stage in ("card", "terminal"):
            for window in ("1h", "1d", "7d", "30d"):
                if f"inexact:{stage}_{window}" not in said:
                    name = f"{stage}_count_{window}"
                    assert one["features"][name] == other["features"][name], (place, name)
    assert differing
