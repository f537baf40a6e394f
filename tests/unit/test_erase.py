"""Erasing a card: what the stages forget, what `verify` expects afterwards, and when topics have nothing left."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from app.blocks.core.row_precedence import MAX_DELETIONS, Deletions, follows
from app.cassandra.erase_audit_records import AUDIT_RECORDS
from app.cassandra.erase_rows import ALERT_TABLES, CARD_TABLES, SNOOZES, Before, Erasure, hash_of
from app.cli.erase import erase as command
from app.durations import DAY_MS
from app.ops.deletion_dates import gone_by
from app.settings import load_settings
from app.stages.change_forwarding import ControlHandler
from app.stages.erase_waiting_labels import find_waiting
from app.topics import Topics
from app.windows.row_format import HEAD_PREFIX, has_waiting, head_key, key_of_head
from app.wire.erase_records import erase_record, erased_card, is_of_erasure
from tests.builders import tx_bytes
from tests.fakes import Rows
from tests.verify_world import Record, VerifyWorld

HOUR = 3_600_000
CARDS = ("c0", "c1", "c2", "c3")


def world(erased: bytes = b"c1") -> VerifyWorld:
    """Four cards at two terminals, one of them erased in the middle, and its transactions since."""
    made = VerifyWorld()
    for number in range(40):
        if number == 25:
            erase(made, erased.decode())
        card = CARDS[number % 4]
        value = tx_bytes(
            number, card=card, terminal=f"t{number % 3}", at=(number - 60) * HOUR, amount=number + 1
        )
        made.send(value, card.encode())
    made.send(tx_bytes("back", card="c1", at=-30 * HOUR, amount=-3), b"c1")
    made.run()
    return made


def erase(made: VerifyWorld, card: str) -> tuple[int, int]:
    key, value, headers = erase_record(card, "e1")
    return made.send(value, key, headers=headers)


def without_rows(made: VerifyWorld, card: str, place: tuple[int, int]) -> None:
    """As `fraudstream erase` leaves Cassandra."""
    before = Before(*place)
    made.rows = [
        row
        for row in made.rows
        if row.card_id != card
        or not before.covers("predictions", row.source_partition, row.source_offset)
    ]


def place_of(made: VerifyWorld) -> tuple[int, int]:
    return next(
        (record.partition, record.offset)
        for record in made.log(made.topics.transactions)
        if erased_card(record)
    )


class TestVerify:
    def test_everybody_else_stays_verified(self) -> None:
        made = world()
        without_rows(made, "c1", place_of(made))
        report = made.verify()
        assert report.passed, report.as_json()
        assert report.details["erased_cards"] == 1
        assert (
            report.details["erased_transactions"] == 6
        )  # before the record; the ones since are verified
        assert any(row.card_id == "c1" for row in made.rows)

    def test_rows_that_are_still_there_are_found(self) -> None:
        report = world().verify()
        assert report.counts["differing"] == 6
        assert report.examples[0]["recomputed"] == "erased with its card"

    def test_a_row_of_another_card_that_is_gone_is_found(self) -> None:
        made = world()
        without_rows(made, "c1", place_of(made))
        without_rows(made, "c2", (1 - made.home(b"c2"), 0))
        assert made.verify().counts["missing"] > 0

    @pytest.mark.parametrize("block", [1, 3, 100])
    def test_the_card_starts_from_scratch(self, block: int) -> None:
        made = world()
        made.replay(made.topics.transactions, place_of(made)[0])
        made.run(block)  # whatever the blocks: the same once more
        without_rows(made, "c1", place_of(made))
        assert made.verify().passed
        first = next(
            row for row in sorted(made.rows, key=lambda r: r.event_time) if row.card_id == "c1"
        )
        assert first.source_offset > place_of(made)[1]

    def test_a_record_that_did_not_reach_a_partition_is_found(self) -> None:
        made = world()
        without_rows(made, "c1", place_of(made))
        for records in made.logs[made.topics.enriched.name]:
            kept = [record for record in records if not is_of_erasure(record.value or b"")]
            if len(kept) < len(records):
                records[:] = [replace(record, offset=n) for n, record in enumerate(kept)]
                break
        assert made.verify().counts["missing"] == 1

    def test_labels_of_the_card_are_erased_as_well(self) -> None:
        made = world()
        made.label({"transaction_id": "tx-1", "is_fraud": True, "labelled_at": "2023-11-14T00:00:00Z",
                    "card_id": "c1", "terminal_id": "t1", "event_time": "2023-11-12T00:00:00Z"})  # fmt: skip
        parked = made.label({"transaction_id": "unknown", "is_fraud": True, "card_id": "c1",
                             "labelled_at": "2023-11-14T00:00:00Z"})  # fmt: skip
        others = made.label({"transaction_id": "unknown-2", "is_fraud": True, "card_id": "c11",
                             "labelled_at": "2023-11-14T00:00:00Z"})  # fmt: skip
        made.erase_labels("c1")
        made.run()
        without_rows(made, "c1", place_of(made))
        made.label_rows = []  # deleted by the command
        report = made.verify()
        labels = report.details["labels"]
        assert report.passed, report.as_json()
        assert (labels["erased"], labels["waiting"]) == (2, 1)
        changelog = made.log(made.topics.labels_changelog)
        assert parked != others
        assert [r.value is None for r in changelog if r.key and r.key[:1] == b"p"] == [
            False,
            False,
            True,
        ]

    def test_a_parked_label_can_name_its_card_by_the_key_alone(self) -> None:
        made = world()
        body = {
            "transaction_id": "unknown",
            "is_fraud": True,
            "labelled_at": "2023-11-14T00:00:00Z",
        }
        key = b"c1"
        made._labelled(made.home(key), key, orjson.dumps(body), ())
        made.erase_labels("c1")
        made.run()
        without_rows(made, "c1", place_of(made))
        report = made.verify()
        assert report.passed, report.as_json()
        assert report.details["labels"]["erased"] == 1


class TestDeletions:
    def test_an_older_row_does_not_come_back(self) -> None:
        deletions = Deletions()
        deletions.add(b"hc1", 7)
        row = deletions.row(7)
        again = Deletions.read(row[1])
        assert not follows(b"hc1", (5).to_bytes(8, "big"), None, again)
        assert follows(b"hc1", (8).to_bytes(8, "big"), None, again)
        assert follows(b"hc2", (5).to_bytes(8, "big"), None, again)

    def test_a_repeated_deletion_spares_what_came_since(self) -> None:
        deletions = Deletions()
        deletions.add(b"hc1", 7)
        assert follows(b"hc1", None, (5).to_bytes(8, "big"), deletions)
        assert not follows(b"hc1", None, (9).to_bytes(8, "big"), deletions)
        assert follows(b"hc2", None, (9).to_bytes(8, "big"), deletions)

    def test_the_key_is_not_kept_and_the_number_is_bounded(self) -> None:
        deletions = Deletions()
        for number in range(MAX_DELETIONS + 9):
            deletions.add(b"hcard-%d" % number, number)
        _, raw = deletions.row(1)
        assert raw is not None
        assert b"card" not in raw
        assert len(raw) < 20 * MAX_DELETIONS
        assert deletions.offset(b"hcard-0") == -1
        assert deletions.offset(b"hcard-9") == 9


class TestRecord:
    def test_a_record_without_value_alone_deletes_nothing(self) -> None:
        made = VerifyWorld()
        made.send(tx_bytes(1, card="c1"), b"c1")
        made.send(None, b"c1")
        made.run()
        assert made.verify().counts["dead"] == 1

    def test_in_another_partition_it_deletes_the_row_of_a_misrouted_record(self) -> None:
        made = VerifyWorld()
        key, value, headers = erase_record("c1", "e1")
        other = 1 - made.home(key)
        made.send(tx_bytes(1, card="c1"), key, partition=other)
        made.send(tx_bytes(2, card="c2"), b"c2", partition=1 - made.home(b"c2"))
        made.run()
        rows = made.states[made.topics.transactions.name, other].rows
        assert head_key(key) in rows
        made.send(value, key, headers=headers, partition=other)
        made.run()
        assert head_key(key) not in rows
        # the card's own partition has an erase record of its own, and it alone is forwarded
        enriched = made.log(made.topics.enriched)
        assert not any(is_of_erasure(record.value or b"") for record in enriched)
        report = made.verify()
        assert report.passed, report.as_json()
        assert (report.counts["dead"], report.counts["moved"]) == (0, 2)
        assert report.details["erased_cards"] == 0

    def test_a_deleted_change_changes_nothing(self) -> None:
        settings = load_settings({"partitions": "2"})
        record = Record(3, 0, b"list/1", None)
        computed = ControlHandler(Topics(settings)).compute(0, [record], Rows())  # type: ignore[arg-type, list-item]
        assert not computed.outputs


class TestDates:
    now_ms = 1_700_000_000_000

    def test_retention_begins_when_the_segment_is_closed(self) -> None:
        config = {
            "cleanup.policy": "delete",
            "retention.ms": str(90 * DAY_MS),
            "segment.ms": str(7 * DAY_MS),
        }
        when = gone_by(config, self.now_ms)
        assert when is not None
        assert 97 * DAY_MS < when - self.now_ms < 97 * DAY_MS + HOUR

    @pytest.mark.parametrize(
        "config",
        [
            {"retention.ms": "-1"},
            {"cleanup.policy": "compact"},
            {"cleanup.policy": "compact", "max.compaction.lag.ms": str((1 << 63) - 1)},
        ],
    )
    def test_some_configurations_set_no_date(self, config: dict[str, str]) -> None:
        assert gone_by(config, self.now_ms) is None

    def test_a_new_deployment_has_a_date_for_every_topic(self) -> None:
        topics = Topics(load_settings({}))
        assert [spec.name for spec in topics.all if gone_by(spec.config, self.now_ms) is None] == []


class TestTables:
    """A new table, state or topic has to be looked at: does it name cards?"""

    #: Tables whose rows do not name a card, and why.
    others = {
        "models": "of models",
        "model_artifacts": "of models",
        "model_gates": "of models",
        "erasures": "a salted hash of the card's id",
    }

    def test_every_table_that_names_cards_is_erased(self) -> None:
        text = "".join(path.read_text() for path in sorted(Path("cql").glob("*.cql")))
        tables = set(re.findall(r"CREATE TABLE IF NOT EXISTS \$\{keyspace\}\.(\w+)", text))
        erased = {table.name for table in CARD_TABLES} | {*ALERT_TABLES, SNOOZES, AUDIT_RECORDS}
        assert tables == erased | self.others.keys(), (
            "erase a new table in app/cassandra/erase_rows.py, or list it here"
        )

    def test_keys_are_those_of_the_migrations(self) -> None:
        text = "".join(path.read_text() for path in sorted(Path("cql").glob("*.cql")))
        for table in CARD_TABLES:
            found = re.search(rf"\.{table.name} \(.*?PRIMARY KEY \((.*?)\)\n\)", text, re.DOTALL)
            assert found, table.name
            assert tuple(re.findall(r"\w+", found[1])) == table.key

    def test_every_state_is_known(self) -> None:
        names = {path.stem for path in Path("tables").glob("*.py")} - {"__init__"}
        assert names == {"cards", "terminals", "labels"}, (
            "does an erase record reach the new table?"
        )


def test_an_erasure_knows_its_card_without_naming_it() -> None:
    erasure = Erasure("e1", 0, "me", "asked", (0, 1), card_hash=hash_of("c1", "salt"), salt="salt")
    assert erasure.is_of("c1")
    assert not erasure.is_of("c2")
    assert "c1" not in repr(erasure).replace(erasure.card_hash, "")


def test_rows_since_the_erasure_stay() -> None:
    before = Before(1, 10, {0: 5})
    assert before.covers("alerts", 1, 9)
    assert not before.covers("alerts", 1, 10)
    assert before.covers("alerts", 0, 99)  # moved: no new record of the card is there
    assert before.covers("labels", 0, 4)
    assert not before.covers("labels", 0, 5)


def test_rows_of_a_topic_that_was_deleted_since_are_from_before() -> None:
    before = Before(1, 10, {0: 5}, received_ms=1_000, labels_received_ms=900)
    assert before.covers("alerts", 1, 99, 999)  # offsets began again at 0 since
    assert not before.covers("alerts", 1, 99, 1_000)
    assert before.covers("labels", 0, 99, 899)
    assert not before.covers("labels", 0, 99, 950)
    # where producers set the time, it says nothing
    assert not Before(1, 10).covers("alerts", 1, 99, 1)


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name the card with --card"),
        (["--card", "c1"], "say why with --reason"),
        (["--card", "c1", "--reason", "c1 asked"], "must not contain the card's id"),
        (["--card", "c1", "--reason", "asked"], "confirm with --yes"),
        (["--list", "--dry-run"], "--list takes no other option"),
        (["--again", "--card", "c1"], "--again none but --json and --timeout"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], text: str) -> None:
    done: Any = CliRunner().invoke(command, arguments)
    assert done.exception is not None
    assert text in str(done.exception)


class TestLabelsThatWait:
    """Terminals with labels that wait: found once, in parts, and kept up to date."""

    @staticmethod
    def waits(made: VerifyWorld, name: str, terminal: str, card: str) -> None:
        made.label({"transaction_id": name, "is_fraud": True, "labelled_at": "2023-11-14T00:00:00Z",
                    "card_id": card, "terminal_id": terminal,
                    "event_time": "2023-11-13T23:00:00Z"})  # fmt: skip

    @staticmethod
    def waiting(made: VerifyWorld) -> set[bytes]:
        states = made.states.items()
        return {
            key_of_head(key)
            for (topic, _), state in states
            if topic == made.topics.enriched.name
            for key, raw in state.scan(HEAD_PREFIX)
            if has_waiting(raw)
        }

    async def test_they_are_found_in_parts_between_which_others_work(self) -> None:
        made = world()
        for number, card in enumerate(("c1", "c2", "c1")):
            self.waits(made, f"to-come-{number}", f"t{number}", card)
        made.run()
        enriched = made.topics.enriched
        number = made.home(b"t1")
        state = made.states[enriched.name, number]
        state.memo.pop("waiting", None)
        pages = [[row] for row in state.scan(HEAD_PREFIX)]
        state.pages = lambda _prefix: iter(pages)  # type: ignore[method-assign]
        record = next(r for r in made.logs[enriched.name][number] if is_of_erasure(r.value or b""))
        others = 0

        async def work() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(work())
        await find_waiting(0, [record], state, 0)  # type: ignore[list-item, misc]
        beside.cancel()
        assert b"t1" in state.memo["waiting"]
        assert others >= len(pages)

    def test_without_an_erase_record_nothing_is_read(self) -> None:
        state = Rows()
        state.pages = lambda _prefix: pytest.fail("read")  # type: ignore[method-assign, assignment]
        assert find_waiting(0, [Record(0, 0, None, b"\x95\x01")], state, 0) is None  # type: ignore[list-item]
        assert state.memo == {}

    def test_labels_that_come_between_two_erasures_are_found(self) -> None:
        made = world()
        self.waits(made, "first", "t0", "c2")
        made.run()
        erase(made, "c1")  # all rows are read
        made.run()
        for state in made.states.values():
            state.scan = lambda _prefix: pytest.fail("read again")  # type: ignore[method-assign, assignment]
        self.waits(made, "second", "t1", "c2")
        self.waits(made, "third", "t1", "c3")
        made.run()
        erase(made, "c2")
        made.run()
        for state in made.states.values():
            del state.scan
        assert self.waiting(made) == {b"t1"}  # the label of c3
        erase(made, "c3")
        made.run()
        assert self.waiting(made) == set()
