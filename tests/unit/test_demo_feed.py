"""What the demo sends."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest

from app.lab.demo.feed import HELD_BACK, FileFeed, SimulatedFeed, run_name, simulated
from app.lab.demo.live_payments import LivePayments
from app.lab.simulation.frauds import AMOUNT_LIMIT
from app.ops.files.transaction_file import open_reading
from app.settings import Settings

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
NOW = 1_700_000_000_000


def feed(events: int = 3_000, first: int = 0, now_ms: int = NOW) -> SimulatedFeed:
    return SimulatedFeed(SETTINGS, "demo-1", events, first, lambda: now_ms)


def pairs_of(items) -> list[tuple]:
    """The transactions of a history."""
    return [(key, value) for is_label, key, value, _newest in items if not is_label]


def parsed(pairs) -> list[dict]:
    return [json.loads(value) for _key, value in pairs]


def valid(made: SimulatedFeed) -> list[dict]:
    found = []
    for _key, value in pairs_of(made.history()):
        try:
            record = json.loads(value)
        except ValueError:
            continue
        if isinstance(record, dict) and "broken" not in record.get("transaction_id", "broken"):
            found.append(record)
    return found


def milliseconds(record: dict) -> float:
    return datetime.fromisoformat(record["event_time"]).timestamp() * 1000


def test_every_kind_of_outcome_is_in_the_history():
    made = simulated(SETTINGS, "r", 100, 0, NOW)
    assert len(made.transactions) == 100
    assert len(made.duplicates) >= 3
    assert len(made.late) >= 1
    assert made.broken >= 3
    assert len(made.out_of_order) >= 1


def test_no_event_time_lies_in_the_future_and_the_newest_is_recent():
    times = [milliseconds(record) for record in valid(feed())]
    assert NOW - 3_600_000 < max(times) < NOW
    assert min(times) < NOW - 10 * 86_400_000


def test_ids_carry_the_run_and_repeat_only_on_purpose():
    ids = Counter(record["transaction_id"] for record in valid(feed()))
    assert all(name.startswith("demo-1-") for name in ids)
    assert 3 <= sum(count - 1 for count in ids.values()) <= 20


def test_labels_follow_a_day_behind_once_each_and_those_of_the_last_day_do_not():
    made = feed()
    sent: dict[str, dict] = {}
    labelled: set[str] = set()
    newest = 0
    for is_label, key, value, newest in made.history():  # noqa: B007
        if is_label:
            label = json.loads(value)
            name = label["transaction_id"]
            assert key == name.encode()
            assert name not in labelled
            labelled.add(name)
            assert label["labelled_at"] <= newest
            assert label["labelled_at"] == milliseconds(sent[name]) + 86_400_000
            assert label["is_fraud"] == (made.kind_of(name) != "none")
            assert {"card_id", "terminal_id", "event_time"} <= label.keys()
        elif b"broken" not in value and "transaction_id" in (record := loaded(value)):
            sent[record["transaction_id"]] = record
            assert newest >= int(milliseconds(record))
    due = {name for name, record in sent.items() if milliseconds(record) + 86_400_000 <= newest}
    assert labelled == due
    assert 0 < len(labelled) < len(sent)


def loaded(value: bytes) -> dict:
    try:
        record = json.loads(value)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def test_every_kind_of_fraud_is_known_of_the_history_and_nothing_of_other_transactions():
    made = feed(20_000)
    kinds = Counter(made.kind_of(record["transaction_id"]) for record in valid(made))
    assert all(kinds[kind] > 0 for kind in ("none", "amount", "terminal", "card"))
    assert not kinds[None]
    assert kinds["terminal_first"] > 0
    for live in parsed(islice(made.payments(), 500)):
        kinds[made.kind_of(live["transaction_id"])] += 1
    assert not kinds[None]
    for name in ("demo-1-live-000501", "other-0000001", "demo-1-x", ""):
        assert made.kind_of(name) is None


def test_a_second_run_uses_other_cards_and_terminals():
    """Else its history would be late: the cards' newest payments were just now."""
    first = feed(first=0)
    sent = valid(first) + parsed(islice(first.payments(), 500))
    second = feed(first=len(sent), now_ms=NOW + 60_000)
    again = valid(second) + parsed(islice(second.payments(), 500))
    for name in ("card_id", "terminal_id", "transaction_id"):
        used = {record[name] for record in sent}
        if name != "transaction_id":  # those differ by the run's name
            assert not used & {record[name] for record in again}


def test_the_text_says_how_many_and_when():
    assert feed(3_000).text.startswith("3,000 simulated transactions of ")
    assert "14 November 2023" in feed(3_000).text


def test_live_payments_happen_now():
    record = parsed(islice(feed().payments(), 1))[0]
    assert milliseconds(record) == NOW
    assert record["transaction_id"] == "demo-1-live-000001"


def test_live_payments_are_of_cards_with_a_history():
    transactions = simulated(SETTINGS, "r", 3_000, 0, NOW).transactions
    known = {name.encode() for name in transactions.card_id.tolist()}
    cards = [
        key for key, _ in islice(LivePayments(transactions, 5_000, lambda: NOW).pairs(), 5_000)
    ]
    seen, first = set(known), 0
    for card in cards:
        first += card not in seen
        seen.add(card)
    assert 0.01 < first / len(cards) < 0.04


def test_live_frauds_are_of_every_kind_and_look_like_it():
    transactions = simulated(SETTINGS, "r", 20_000, 0, NOW).transactions
    live = LivePayments(transactions, 50_000, lambda: NOW, 7 * 86_400_000)
    usual = defaultdict(list)
    for row, kind in zip(transactions.rows(), transactions.kind.tolist(), strict=True):
        usual[row[1]].append(row[3] if kind == 0 else 0)
    kinds = Counter()
    for record in parsed(islice(live.pairs(), 5_000)):
        kind = live.kind_of(record["transaction_id"])
        kinds[kind] += 1
        if kind == "none":
            assert record["amount"] <= AMOUNT_LIMIT
        if kind == "amount":
            assert record["amount"] > AMOUNT_LIMIT
        if kind == "card" and record["card_id"] in usual:
            assert record["amount"] * 100 > min(filter(None, usual[record["card_id"]]))
    assert all(kinds[kind] > 0 for kind in ("amount", "terminal", "terminal_first", "card"))
    assert kinds["none"] > 4_500
    assert kinds.total() == 5_000


def test_amounts_are_exact_decimals():
    for record in parsed(islice(feed().payments(), 200)):
        assert round(record["amount"] * 100) / 100 == record["amount"] > 0


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "some.jsonl"
    text = [
        f'{{"transaction_id":"{n}","card_id":"c","amount":1,"event_time":{NOW}}}\n'
        for n in range(2_000)
    ]
    path.write_text("".join(text))
    return path


def ids(pairs) -> list[int]:
    return [int(record["transaction_id"]) for record in parsed(pairs)]


def test_the_end_of_a_file_is_held_back_to_measure_latency(lines):
    with open_reading(lines) as reading:
        made = FileFeed(reading, "some.jsonl", None)
        assert ids(pairs_of(made.history())) == list(range(2_000 - HELD_BACK))
        assert ids(made.payments()) == list(range(2_000 - HELD_BACK, 2_000))
        assert made.progress(7) == (lines.stat().st_size,) * 2


def test_behind_a_limit_the_file_goes_on(lines):
    with open_reading(lines) as reading:
        made = FileFeed(reading, "some.jsonl", 1_000)
        assert ids(pairs_of(made.history())) == list(range(900))
        assert ids(made.payments()) == list(range(900, 2_000))
        assert made.progress(7) == (7, 900)
        assert made.astray() == []


def test_a_small_file_is_sent_gently(lines):
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:50]))
    with open_reading(lines) as reading:
        made = FileFeed(reading, "some.jsonl", None)
        assert ids(pairs_of(made.history())) == []
        assert ids(made.payments()) == list(range(50))


def test_run_names_tell_when():
    assert run_name(datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)) == "demo-0203-040506"
