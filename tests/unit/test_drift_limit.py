"""How far a block is computed, and what a wrong clock does."""

import math
from dataclasses import replace
from typing import Any

import pytest

from app.domain.json_text import load_object
from app.domain.transaction import NotReadableYetError
from app.errors import SettingsError
from app.settings import load_settings
from app.stages.card_stage import CardsHandler
from app.stages.deployed_features import catalogue_of
from app.stages.drift_limit import BatchPrefix
from app.stages.label_stage import LabelsHandler
from app.stages.parked_labels import row_key
from app.topics import Topics
from tests.builders import T0, tx_bytes
from tests.fakes import Rows
from tests.stream.sim_kafka import Record

HOUR = 3_600_000


def test_event_times_within_are_its_progress() -> None:
    prefix = BatchPrefix(100)
    assert [prefix.reaches(at, ()) for at in (50, 90, 70, 101)] == [True, True, True, False]
    assert (prefix.first_ms, prefix.newest_ms) == (50, 90)


@pytest.mark.parametrize(
    ("following", "goes_on"),
    [
        ([60, 70, None], True),  # one clock is wrong
        ([200, 300], False),
        ([200, 60, 300], False),  # the partition is ahead, that one late
        ([60, 200, 70], True),
        ([], False),
        ([None], False),
    ],
)
def test_a_wrong_clock_neither_stops_its_partition_nor_counts(
    following: list[int | None], goes_on: bool
) -> None:
    prefix = BatchPrefix(100)
    assert prefix.reaches(50, ())
    assert prefix.reaches(500, following) is goes_on
    assert prefix.newest_ms == 50


def test_an_unknown_limit_lets_nothing_through() -> None:
    assert not BatchPrefix(-math.inf).reaches(0, [0])


def cards() -> CardsHandler:
    settings = load_settings({})
    return CardsHandler.of(settings, Topics(settings), catalogue_of(settings), lambda _: 0)


def records(*times: int | None) -> list[Any]:
    return [
        Record(n, T0 + 99 * HOUR, b"c1", b"{" if at is None else tx_bytes(n, at=at * HOUR))
        for n, at in enumerate(times)
    ]


def test_transactions_stop_at_an_event_time() -> None:
    """Wherever blocks end: the parts do what the whole does."""
    whole, parts = Rows(), Rows()
    every = records(1, None, 2, 5, 6)
    done = cards().compute(0, every, whole)
    assert (done.taken, done.first_ms, done.newest_ms) == (None, T0 + HOUR, T0 + 6 * HOUR)
    handler = cards()
    first = handler.compute(0, every, parts, T0 + 3 * HOUR)
    assert (first.taken, first.next_ms, first.newest_ms) == (3, T0 + 5 * HOUR, T0 + 2 * HOUR)
    assert handler.counts == {"enriched": 2, "dead": 1}
    assert handler.reasons == {"invalid_json": 1}
    for computed, rows in ((done, whole), (first, parts)):
        rows.write([row for group in computed.groups for row in group])
    held = handler.compute(0, every[3:], parts, T0 + 3 * HOUR)
    assert (held.taken, held.next_ms, held.groups, held.outputs) == (0, T0 + 5 * HOUR, [], None)
    rest = handler.compute(0, every[3:], parts, T0 + 6 * HOUR)
    parts.write([row for group in rest.groups for row in group])
    assert parts.rows == whole.rows


def test_a_record_whose_schema_is_not_here_ends_a_block() -> None:
    """Wherever that is, also behind one that is too far ahead: the parts do what the whole does."""
    whole, parts = Rows(), Rows()
    every = records(1, None, 2, 30, 3)
    here: set[bytes] = set()

    def decode(value: bytes | None, headers: Any = ()) -> Any:
        if value == every[3].value and value not in here:
            raise NotReadableYetError(7)
        return load_object(value)

    done = cards().compute(0, every, whole)
    handler = cards()
    handler._record_rules = replace(handler._record_rules, decode=decode)
    first = handler.compute(0, every, parts)
    assert (first.taken, first.next_ms, first.needs) == (3, None, 7)
    assert handler.counts == {"enriched": 2, "dead": 1}
    for computed, rows in ((done, whole), (first, parts)):
        rows.write([row for group in computed.groups for row in group])
    again = handler.compute(0, every[3:], parts)
    assert (again.taken, again.needs, again.groups, again.outputs) == (0, 7, [], None)
    looked = handler.compute(
        0, every[2:], Rows(), T0 + HOUR
    )  # whether it is alone ahead is not known
    assert (looked.taken, looked.needs) == (0, 7)
    here.add(every[3].value)
    rest = handler.compute(0, every[3:], parts)
    assert (rest.taken, rest.needs) == (None, None)
    parts.write([row for group in rest.groups for row in group])
    assert parts.rows == whole.rows


def test_labels_stop_at_when_they_were_made() -> None:
    handler = LabelsHandler(
        Topics(load_settings({})), partition_of=lambda _: 0, max_future_skew_ms=0
    )
    every = [
        Record(n, T0 + 99, b"x", b'{"transaction_id":"x","is_fraud":1,"labelled_at":%d}' % (T0 + at))
        for n, at in enumerate((1, 200, 2, 30))
    ]  # fmt: skip
    every[1].value = b"{"
    computed = handler.compute(0, every, Rows(), T0 + 10)
    assert (computed.taken, computed.next_ms, computed.newest_ms) == (3, T0 + 30, T0 + 2)
    assert [key for group in computed.groups for key, _ in group][:-1] == [row_key(0), row_key(2)]
    assert handler.counts == {"parked": 2, "dead": 1}
    assert handler.reasons == {"invalid_json": 1}


@pytest.mark.parametrize("skew", ["0d", "7d", "8d"])
def test_a_skew_that_would_miss_labels_is_refused(skew: str) -> None:
    with pytest.raises(SettingsError, match="FRAUDSTREAM_MAX_EVENT_SKEW") as refused:
        load_settings({"max_event_skew": skew})
    assert "\n" not in str(refused.value)
