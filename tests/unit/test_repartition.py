"""State moved to more partitions: what follows is exact, and `verify` covers both parts."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
import pytest

from app.blocks.core.row_groups import RowGroup
from app.domain.changes import ModelChange
from app.domain.changes_in_force import InForce
from app.errors import SettingsError, StateError
from app.kafka.partitioner import partition_of
from app.ops.repartition_rows import CardsMove, LabelsMove, Move, TerminalsMove, moved
from app.settings import Settings
from app.stages.earlier_partitions import Earlier, earlier_row, read_earlier
from app.stages.reserved_rows import POSITION_KEY, StatePosition, in_force_row, read_in_force
from app.stages.state_settings import terminal_settings
from app.topics import Topics
from app.windows.row_format import head_key
from tests.builders import tx
from tests.fakes import Rows
from tests.verify_world import VerifyWorld

HOUR, DAY = 3_600_000, 86_400_000
#: Changes what is moved: a fault that `verify` has to find.
Break = Callable[[str, Iterator[tuple[int, RowGroup]]], Iterable[tuple[int, RowGroup]]]


def as_it_is(_table: str, groups: Iterator[tuple[int, RowGroup]]) -> Iterable[tuple[int, RowGroup]]:
    return groups


def grow(world: VerifyWorld, to: int, breaks: Break = as_it_is) -> None:
    """What `fraudstream repartition` does, in memory."""
    before, old = world.settings, world.topics
    world.settings = before.model_copy(
        update={"partitions": to, "generation": before.generation + 1}
    )
    new = world.topics = Topics(world.settings)

    def ends(name: str) -> list[int]:
        return [len(records) for records in world.logs[name]]

    inputs = (old.transactions, old.labels, old.control, old.enriched)
    ended = Earlier(
        before.generation, before.partitions, world.clock_ms, *(ends(one.name) for one in inputs)
    )
    chain = [*read_earlier(world.earlier), ended]
    for spec in new.all:
        there = world.logs.setdefault(spec.name, [])
        there += [[] for _ in range(to - len(there))]
    places = partition_of(before.partitions), partition_of(to)
    args = (before, to, places, ended)
    moves: list[tuple[str, Move, str, str]] = [
        ("cards", CardsMove(*args), old.transactions.name, new.transactions.name),
        ("terminals", TerminalsMove(*args, old.labels.name), old.enriched.name, new.enriched.name),
        ("labels", LabelsMove(), old.labels.name, new.labels.name),
    ]
    states: dict[tuple[str, int], Rows] = {}
    for table, move, source, target in moves:
        groups = [
            group
            for number in range(before.partitions)
            for group in move.take(number, world.states.get((source, number), Rows()).rows)
        ]
        groups += move.reserved()
        for number in range(to):
            states[target, number] = Rows()
        for number, rows in breaks(table, iter(groups)):
            states[target, number].write(rows)
            if table == "labels":
                world.append_rows(new.labels_changelog.name, number, rows)
    world.append_rows(new.labels_changelog.name, 0, [earlier_row(chain)])
    world.earlier = earlier_row(chain)[1]
    world.states.clear()
    world.states.update(states)
    world.build()


def feed(world: VerifyWorld, begin: int, count: int) -> None:
    """Transactions of few cards at few terminals, labels of some, repetitions, late ones and misrouted ones."""
    for number in range(begin, begin + count):
        fields = tx(
            number,
            card=f"c{number % 11}",
            terminal=f"t{number % 7}",
            at=number * HOUR - (3 * DAY if number % 17 == 3 else 0),
        )
        key = fields["card_id"].encode()
        partition = (world.home(key) + 1) % world.settings.partitions if number % 13 == 5 else None
        world.send(orjson.dumps(fields), key, partition=partition)
        if number % 19 == 7:
            world.send(orjson.dumps(fields), key)
        if number % 5 == 2:
            label = {
                "transaction_id": fields["transaction_id"],
                "card_id": fields["card_id"],
                "terminal_id": fields["terminal_id"],
                "event_time": fields["event_time"],
                "is_fraud": number % 10 == 2,
                "labelled_at": fields["event_time"] + 1,
            }
            world.label(label)


def begun(**settings: Any) -> VerifyWorld:
    """A world with some history: longer than a window, with heavy keys, and with a change on the log."""
    world = VerifyWorld(
        max_future_skew="365d", label_delay="2d", max_entries_per_key=600,
        **settings,
    )  # fmt: skip
    world.control(ModelChange(model="default@1", hash=world.champion_hash, how="start"))
    feed(world, 0, 150)
    world.run()
    return world


@pytest.mark.parametrize("to", [3, 4, 7])
def test_what_follows_is_exact_and_verify_covers_both_parts(to: int) -> None:
    world = begun()
    grow(world, to)
    feed(world, 150, 150)
    world.run()
    report = world.verify()
    assert report.passed, report.as_json()
    assert report.counts["read"] > 300
    assert report.counts["moved"] > 10
    assert report.counts["duplicate"] > 10
    assert report.counts["late"] > 5
    assert report.counts["unverifiable"] == 0
    assert report.details["scores_recomputed"] > 250
    used = {n for n, records in enumerate(world.logs[world.topics.enriched.name]) if records}
    assert len(used) > 2


def test_the_number_may_change_again() -> None:
    world = begun()
    grow(world, 3)
    feed(world, 150, 60)
    world.run()
    grow(world, 5)
    feed(world, 210, 60)
    world.run()
    report = world.verify()
    assert report.passed, report.as_json()
    assert [one.partitions for one in read_earlier(world.earlier)] == [2, 3]


def test_records_of_a_producer_that_knows_the_old_number_are_forwarded() -> None:
    world = begun()
    old = partition_of(world.settings.partitions)
    grow(world, 5)
    for number in range(150, 200):
        fields = tx(number, card=f"c{number % 11}", terminal="t1", at=number * HOUR)
        key = fields["card_id"].encode()
        world.send(orjson.dumps(fields), key, partition=old(key))
    world.run()
    report = world.verify()
    assert report.passed, report.as_json()
    assert report.counts["moved"] > 25


def test_labels_that_wait_at_terminals_and_parked_ones_move_along() -> None:
    world = begun()
    early = tx(500, card="c1", terminal="t3", at=160 * HOUR)
    world.label(
        {"transaction_id": "tx-500", "card_id": "c1", "terminal_id": "t3", "is_fraud": True,
         "event_time": early["event_time"], "labelled_at": early["event_time"]}
    )  # fmt: skip
    world.label({"transaction_id": "unknown", "is_fraud": True, "labelled_at": early["event_time"]})
    world.run()
    grow(world, 4)
    world.send(orjson.dumps(early), b"c1")
    feed(world, 230, 60)  # beyond the label delay
    world.run()
    report = world.verify()
    assert report.passed, report.as_json()
    assert report.details["labels"]["waiting"] == 1


def test_a_card_that_moved_can_be_erased() -> None:
    world = begun()
    grow(world, 5)
    feed(world, 150, 30)
    world.erase("c4")
    world.run()
    world.rows = [row for row in world.rows if row.card_id != "c4"]
    world.alert_rows = [row for row in world.alert_rows if row.card_id != "c4"]
    report = world.verify()
    assert report.counts["missing"] == report.counts["differing"] == 0, report.as_json()
    assert report.details["erased_transactions"] > 10


def forgotten(table: str, groups: Iterator[tuple[int, RowGroup]]) -> Iterator[tuple[int, RowGroup]]:
    """One card is lost on the way."""
    for number, group in groups:
        if table != "cards" or head_key(b"c3") not in dict(group):
            yield number, group


def misplaced(table: str, groups: Iterator[tuple[int, RowGroup]]) -> Iterator[tuple[int, RowGroup]]:
    """One terminal stays in its old partition."""
    for number, group in groups:
        lost = table == "terminals" and head_key(b"t3") in dict(group)
        yield (number + 1) % 5 if lost else number, group


def as_of_before(
    table: str, groups: Iterator[tuple[int, RowGroup]]
) -> Iterator[tuple[int, RowGroup]]:
    """Rows of cards keep an offset of their old partition, which is ahead of the new one."""
    for number, group in groups:
        ahead = table == "cards" and group[-1][0] != POSITION_KEY
        offset = (80).to_bytes(8, "big")
        yield number, [(key, offset + raw[8:]) for key, raw in group if raw] if ahead else group


@pytest.mark.parametrize("breaks", [forgotten, misplaced, as_of_before], ids=lambda b: b.__name__)
def test_a_fault_in_the_move_is_found(breaks: Break) -> None:
    world = begun()
    grow(world, 5, breaks)
    feed(world, 150, 150)
    world.run()
    report = world.verify()
    assert report.counts["missing"] + report.counts["differing"] > 0


def test_without_the_row_that_tells_of_the_change_verify_fails() -> None:
    world = begun()
    grow(world, 5)
    feed(world, 150, 30)
    world.run()
    world.logs[world.topics.labels_changelog.name][0].clear()
    assert not world.verify().passed


def test_what_an_old_enriched_had_cannot_be_verified_once_it_is_deleted() -> None:
    world = begun()
    old = world.topics.enriched.name
    grow(world, 5)
    world.clock_ms += 1  # what came before is as old as the change, or older
    feed(world, 150, 150)
    world.run()
    del world.logs[old]
    report = world.verify()
    assert report.counts["missing"] == report.counts["differing"] == 0, report.as_json()
    assert report.counts["unverifiable"] > 100


def test_settings_of_the_state_are_compared_before_it_moves() -> None:
    world = begun()
    world.settings = world.settings.model_copy(update={"label_delay": DAY * 3})
    with pytest.raises(SettingsError, match="the state of terminals was built with .*LABEL_DELAY"):
        grow(world, 5)


def test_partitions_that_decide_differently_are_refused() -> None:
    world = begun()
    states = [s for (name, _), s in world.states.items() if name == world.topics.enriched.name]
    assert len(states) == 2
    raw = states[0].rows[b"\0in-force"]
    decides = read_in_force(raw)
    assert decides is not None
    key, other = in_force_row(type(decides)(0, "f" * 64, None, decides.seen), 3)
    assert other is not None
    states[0].rows[key] = other
    with pytest.raises(StateError, match="differ in the model"):
        grow(world, 5)


def test_a_changelog_that_lacks_a_segment_is_refused() -> None:
    world = VerifyWorld(max_future_skew="365d", max_entries_per_key=1000)
    for number in range(600):
        world.send(orjson.dumps(tx(number, card="c1", at=number * 1000)), b"c1")
    world.run(block=100)
    home = partition_of(world.settings.partitions)
    number = home(b"c1")
    rows = world.states[world.topics.transactions.name, number].rows
    segments = [key for key in rows if key.startswith(b"s")]
    assert segments
    ((partition, group),) = moved(rows, number, home, partition_of(64), [9] * 64)
    assert partition == partition_of(64)(b"c1")
    assert [key for key, _ in group] == [*sorted(segments), head_key(b"c1")]
    assert all(raw is not None and raw[:8] == (9).to_bytes(8, "big") for _, raw in group)
    del rows[segments[0]]
    with pytest.raises(StateError, match="lacks 1 rows of one key"):
        list(moved(rows, number, home, partition_of(64), [9] * 64))


def test_the_state_of_a_terminal_that_was_never_marked_stays_so() -> None:
    settings = Settings(_env_file=None, features=("basic",), model="default@1")  # type: ignore[call-arg]
    now = terminal_settings(settings)
    marked = now.replace("high_amounts=no", "high_amounts=yes")
    ended = Earlier(1, 2, 0, [5, 5], [0, 0], [1, 0], [3, 3])
    move = TerminalsMove(settings, 3, (partition_of(2), partition_of(3)), ended, "labels")
    for number, text in enumerate((marked, now)):
        rows = dict([StatePosition(2, text).encode(), in_force_row(InForce(7, "a" * 64), 1)])
        assert not list(move.take(number, {key: raw for key, raw in rows.items() if raw}))
    for _, group in move.reserved():
        position = StatePosition.decode(dict(group)[POSITION_KEY] or b"", now)
        assert position.settings == now
        assert position.last_offset == -1
        assert position.seen == {0: 4, 1: 4}
        assert position.labels == {"labels": {}}
