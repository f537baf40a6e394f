"""How many questions and rows the lists of alerts take, at a session that counts them."""

import heapq
import re
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from app.cassandra import alert_day_rows, alert_queries
from app.cassandra.alert_day_rows import newest_of_day, place_in_day
from app.cassandra.alert_queries import (
    AlertQuery,
    card_alerts,
    list_alerts,
    read_alerts,
    terminal_rows,
)
from app.domain.alert_policy import SHARDS, day_of, place_of
from app.durations import DAY_MS
from app.settings import load_settings
from tests.builders import T0
from tests.unit.test_web_alerts import alert

HOUR = 3_600_000
COUNT = 200


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)


def _is(row: dict[str, Any], name: str, how: str, value: Any) -> bool:
    if how == "=":
        return bool(row[name] == value)
    at = row[name].replace(tzinfo=UTC)
    return bool(at >= value if how == ">=" else at < value)


class _Counted(list[dict[str, Any]]):
    """Rows that count how many of them are read."""

    def __init__(self, rows: list[dict[str, Any]], read: Counter[str]) -> None:
        super().__init__(rows)
        self._read = read

    def __iter__(self) -> Any:
        for row in super().__iter__():
            self._read["acked_at" if "acked_at" in row else "others"] += 1
            yield row


class Session:
    """Tables in lists; answers by the names of a statement's columns."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {
            "alerts": [], "alert_acks": [], "alert_reviews": [], "alert_snoozes": [],
        }  # fmt: skip
        self.asked: Counter[str] = Counter()
        self.read = Counter[str]()  # rows: of alert_acks, by a column of theirs, and of others
        self.pages: list[tuple[Any, Any]] = []  # rows of the first page, and of those that follow

    def execute(self, statement: Any, values: Any = ()) -> list[dict[str, Any]]:
        text = getattr(statement, "query_string", statement)
        table = re.search(r"FROM \w+\.(\w+)", text)
        assert table is not None
        self.asked[table[1]] += 1
        values = getattr(statement, "values", values)
        asked = re.findall(r"(\w+) (=|>=|<|LIMIT) \?", text)
        wanted = list(zip(asked, values, strict=True))
        found = [
            row
            for row in self.tables[table[1]]
            if all(_is(row, name, how, value) for (name, how), value in wanted if how != "LIMIT")
        ]
        if table[1] != "alert_snoozes":
            found.sort(key=place_in_day)  # as the tables are clustered
        for (_, how), most in wanted:
            if how == "LIMIT":
                shards = Counter[int]()
                found = [
                    row
                    for row in found
                    if shards.update([row["shard"]]) or shards[row["shard"]] <= most
                ]
        limit = re.search(r"LIMIT (\d+)", text)
        return found[: int(limit[1]) if limit else None]

    def prepare(self, text: str) -> Any:
        def bind(values: Any) -> Any:
            return SimpleNamespace(query_string=text, values=values, fetch_size=None)

        return SimpleNamespace(query_string=text, bind=bind)

    def execute_async(self, statement: Any, values: Any = ()) -> Any:
        answer = _Counted(self.execute(statement, values), self.read)
        message = SimpleNamespace(fetch_size=getattr(statement, "fetch_size", None))
        self.pages.append((message.fetch_size, message))
        return SimpleNamespace(result=lambda: answer, message=message)

    def add(self, number: int, **fields: Any) -> str:
        """A transaction; gives its alert's id."""
        one = alert(number, card="c", at=number * HOUR, source_offset=number, **fields)
        (row,) = one.transactions
        place = place_of(one.alert_id)
        self.tables["alerts"].append(
            {
                **row, "day": place.day, "shard": place.shard, "amount": None,
                **{name: moment(row[name]) for name in ("opened_at", "received_at")},
                "event_time": moment(row["event_time_ms"]),
            }
        )  # fmt: skip
        return one.alert_id

    def acknowledge(self, name: str) -> None:
        """Somebody has seen to an alert."""
        place = place_of(name)
        self.tables["alert_acks"].append(
            {
                "alert_id": name, "day": place.day, "shard": place.shard, "opened_at": moment(place.opened_at),
                "acked_at": moment(T0 + COUNT * HOUR), "acked_by": f"who saw {name}", "note": "",
            }
        )  # fmt: skip


def test_alerts_of_a_card_are_read_as_far_as_somebody_wants() -> None:
    session: Any = Session()
    ids = [session.add(number) for number in range(COUNT)]
    found = list(islice(card_alerts(session, load_settings(), "c", T0), 5))
    assert [one.alert_id for one in found] == ids[:-6:-1]
    assert session.asked["alerts"] <= 1 + 50  # at once, and no more than that


def test_a_list_begins_with_one_query_for_the_first_rows_of_all_shards() -> None:
    session: Any = Session()
    ids = [session.add(number) for number in range(COUNT)]
    end = T0 + COUNT * HOUR
    midnight = T0 // DAY_MS * DAY_MS + 3 * DAY_MS
    query = AlertQuery(T0, midnight, limit=10)
    found, more = list_alerts(session, load_settings(), query, end)
    newest = [name for name in ids if place_of(name).opened_at < midnight]
    assert [one.alert_id for one in found] == newest[:-11:-1]
    assert more
    assert session.asked["alerts"] <= 1 + 2  # and of shards that have more than their share
    everything = read_alerts(
        session, load_settings(), from_ms=T0 - HOUR, to_ms=end, now_ms=end, wanted=10
    )
    assert [one.alert_id for one in everything] == ids[::-1]


@pytest.mark.parametrize("first", [1, 2, 5])
def test_rows_of_one_moment_are_all_read_and_once(first: int) -> None:
    """Where the first rows of a shard end in the middle of an alert, or of a moment."""
    session: Any = Session()
    for number in range(8):
        session.add(0, transaction_id=f"t{number}")
        session.add(1, transaction_id=f"later{number}")
    end = T0 + COUNT * HOUR
    rows = list(
        newest_of_day(session, load_settings(), day_of(T0), T0 - HOUR, end, "alerts", first)
    )
    expected = sorted(session.tables["alerts"], key=place_in_day)
    assert [row["transaction_id"] for row in rows] == [row["transaction_id"] for row in expected]


def test_what_was_done_is_read_as_far_as_the_list() -> None:
    """A day has thousands of acknowledgements, and a list shows the newest alerts."""
    session: Any = Session()
    ids = [session.add(number, card_id=f"c{number}") for number in range(COUNT)]
    for name in ids[::2]:
        session.acknowledge(name)
    period = {"from_ms": T0 - HOUR, "to_ms": T0 + COUNT * HOUR, "now_ms": T0}
    found = read_alerts(session, load_settings(), **period)
    newest = list(islice(found, 6))
    assert [one.alert_id for one in newest] == ids[:-7:-1]
    assert [one.acked is not None for one in newest] == [False, True] * 3
    assert session.read["acked_at"] <= SHARDS + 6  # one of each shard to begin with
    others = list(found)
    assert all(one.acked["by"] == f"who saw {one.alert_id}" for one in others if one.acked)
    assert sum(one.acked is not None for one in (*newest, *others)) == COUNT // 2


def test_a_terminal_is_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Session()
    for number in range(COUNT):
        session.add(number, terminal_id="t")
    found = terminal_rows(session, load_settings(), "t")
    assert (len(found), found[0]["transaction_id"]) == (COUNT, f"tx-{COUNT - 1}")
    assert session.asked == {"alerts": 1}
    monkeypatch.setattr(alert_queries, "_INDEX_ROWS", 7)
    assert len(terminal_rows(session, load_settings(), "t")) == 7


def test_rows_of_closed_alerts_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Session()
    ids = [session.add(number) for number in range(20)]
    for name in ids[:18]:
        session.acknowledge(name)
    built, build = Counter[str](), alert_queries.alert_row

    def counted(row: Any) -> Any:
        built[row["alert_id"]] += 1
        return build(row)

    monkeypatch.setattr(alert_queries, "alert_row", counted)
    period = {"from_ms": T0 - HOUR, "to_ms": T0 + 20 * HOUR, "now_ms": T0}
    found = read_alerts(session, load_settings(), **period, todo_only=True)
    assert {one.alert_id for one in found} == set(ids[18:])
    assert built.keys() == set(ids[18:])
    assert len(list(read_alerts(session, load_settings(), **period))) == 20


class _Again(list[dict[str, Any]]):
    """As the driver's result: to iterate it is to begin anew."""

    def __iter__(self) -> Any:
        self._at = super().__iter__()
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._at)


def test_rows_of_a_shard_come_once_although_the_driver_begins_anew() -> None:
    newer, older = (
        [{"opened_at": moment(ms), "alert_id": str(ms)} for ms in (5_000, 3_000)],
        [{"opened_at": moment(ms), "alert_id": str(ms)} for ms in (4_000, 2_000, 1_000)],
    )
    answers = [
        SimpleNamespace(
            result=lambda rows=rows: _Again(rows), message=SimpleNamespace(fetch_size=10)
        )
        for rows in (newer, older)
    ]
    merged = heapq.merge(*map(alert_day_rows._rows, answers), key=place_in_day)
    assert [row["alert_id"] for row in merged] == ["5000", "4000", "3000", "2000", "1000"]
