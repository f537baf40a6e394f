"""The account of a run, its metrics and its text: pure."""

import re
from collections import Counter
from contextlib import nullcontext
from io import BytesIO, StringIO

import pytest
from rich.console import Console

from app.errors import UnavailableError
from app.lab.demo.catching_up import STALL_SECONDS, Patience
from app.lab.demo.live_table import Board, bar
from app.lab.demo.meters import Meters, parse, quantile
from app.lab.demo.record_account import Account
from app.lab.demo.run import scheduled
from app.lab.demo.summary import Gentle, Summary
from app.lab.demo.summary_text import summary_text
from app.metrics import LatencyHistogram
from app.metrics.counters import SinkStatus
from app.metrics.prometheus import WorkerMetrics
from app.metrics.worker_reading import WorkerReading
from app.settings import Settings

T0 = 1_700_000_000_000
SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


def prediction(offset: int, *, card: str = "c1", score: float = 0.9, **fields):
    return {
        "transaction_id": f"tx-{offset}",
        "card_id": card,
        "terminal_id": "t1",
        "amount_minor": 12_345,
        "event_time_ms": T0,
        "score": score,
        "is_fraud": score >= 0.5,
        "action": "review" if score >= 0.5 else "approve",
        "reasons": ["amount 123.45 is high"],
        "flags": [],
        "source_partition": 0,
        "source_offset": offset,
        **fields,
    }


def account(*offsets: int) -> Account:
    made = Account()
    made.read = {offset << 10 for offset in offsets}
    return made


def test_every_record_is_in_one_set():
    made = account(0, 1, 2, 3)
    made.predicted(prediction(0))
    made.predicted(prediction(1, flags=["late"], score=0.1))
    made.predicted(prediction(2, flags=["out_of_order"]))
    made.dead.add(3 << 10)
    assert [len(found) for found in made.outcomes.values()] == [2, 1, 0, 0, 0, 1, 0]
    assert (made.missing, made.repeated, made.out_of_order, made.flagged) == (0, 0, 1, 2)


def test_a_prediction_that_comes_twice_counts_once():
    made = account(0)
    made.predicted(prediction(0))
    made.predicted(prediction(0))
    assert (len(made.scored), made.flagged, made.repeated) == (1, 1, 0)


def test_frauds_are_caught_or_missed_by_kind():
    kinds = {"tx-0": "card", "tx-1": "card", "tx-2": "terminal", "tx-3": "none", "tx-4": "none"}
    made = account(*range(6))
    made.kind_of = kinds.get
    for offset, score in enumerate((0.9, 0.1, 0.2, 0.9, 0.1, 0.9)):
        made.predicted(prediction(offset, score=score))
        made.predicted(prediction(offset, score=score))  # twice on the topic
    told = summary(made, labels=4)
    money = {"caught_minor": 0, "missed_minor": 12_345}
    assert told.frauds == {
        "terminal": {"caught": 0, "missed": 1, **money},
        "card": {"caught": 1, "missed": 1, **money, "caught_minor": 12_345},
    }
    said = told.as_dict(SETTINGS, {})
    assert (said["frauds"], said["labels"]) == (told.frauds, 4)
    assert (
        said["flagged"],
        said["true_positives"],
        said["false_positives"],
        said["unlabelled"],
    ) == (
        3,
        1,
        1,
        1,
    )
    assert said["precision"] == 0.5
    lines = text(told)
    assert re.search(r"stolen card, .* +1 +2 +50 % +123.45 +246.90\n", lines)
    assert re.search(r"\n  all +1 +3 +33 % +123.45 +370.35\n", lines)
    assert (
        "3 flagged = 1 frauds + 1 genuine + 1 unlabelled: precision 50 %, by amount 50 %" in lines
    )
    assert said["amount_precision"] == 0.5
    assert "the genuine ones are worth 123.45 EUR" in lines
    assert "4 labels, each one day later in event time: 0 dead-lettered, 0 waiting" in lines
    assert "uses no label features" in lines
    assert "uses no label features" not in text(summary(made, label_features=True))
    assert "http://127.0.0.1:6066/ " in lines
    assert re.search(r"http://127.0.0.1:6066/transactions/tx-\d/ ", lines)


def test_labels_that_died_or_wait_are_told():
    made = account(0)
    made.kind_of = {"tx-0": "card"}.get
    made.predicted(prediction(0))
    made.labels_dead.update({"unknown_transaction": 3, "invalid_json": 1})
    made.labels_waiting = 2
    told = summary(made, labels=9)
    assert "4 dead-lettered (unknown_transaction 3, invalid_json 1), 2 waiting" in text(told)
    assert "compromised terminal," not in text(told), "there was no fraud of that kind"
    as_json = told.as_dict(SETTINGS, {})
    assert as_json["labels_dead"] == {"unknown_transaction": 3, "invalid_json": 1}
    assert as_json["labels_waiting"] == 2
    assert as_json["dead_reasons"] == {}


def test_where_nobody_knows_what_was_fraud_nothing_is_said_of_it():
    made = account(0)
    made.predicted(prediction(0))
    said = text(summary(made))
    assert "Frauds" not in said


def test_a_record_of_another_run_does_not_count():
    made = account(5)
    made.predicted(prediction(4))
    assert (made.scored, made.missing) == (set(), 1)


def test_a_record_in_two_sets_and_one_in_none_are_told():
    made = account(0, 1)
    made.predicted(prediction(0))
    made.duplicate.add(0)
    assert (made.missing, made.repeated) == (1, 1)


def test_the_most_suspicious_are_of_different_cards():
    made = account(*range(6))
    for offset, (card, score) in enumerate(
        [("a", 0.9), ("b", 0.6), ("a", 0.95), ("c", 0.8), ("b", 0.7), ("a", 0.5)]
    ):
        made.predicted(prediction(offset, card=card, score=score))
    assert [(p["card_id"], p["score"]) for p in made.suspicious(2)] == [("a", 0.95), ("c", 0.8)]


def test_what_has_no_reason_is_not_suspicious():
    made = account(0)
    made.predicted(prediction(0, reasons=[]))
    assert made.suspicious(5) == []


def metrics_text(latencies: list[float], rows: int) -> str:
    latency, sink = LatencyHistogram(), SinkStatus()
    latency.observe_many(latencies)
    sink.written(rows)
    return WorkerMetrics().text(WorkerReading(sink=sink, latency=latency)).decode()


def test_rows_and_latency_are_read_from_the_metrics_page():
    snapshot = parse(metrics_text([5.0] * 90 + [80.0] * 10, 100))
    assert (snapshot.rows, sum(snapshot.buckets.values())) == (100, 100)
    assert quantile(snapshot.buckets, 0.5) == pytest.approx(0.005, rel=0.3)
    assert quantile(snapshot.buckets, 0.99) == pytest.approx(0.08, rel=0.3)


def test_quantiles_of_nothing_and_of_what_lies_outside_the_bounds():
    assert quantile({}, 0.5) is None
    assert quantile({0.001: 4, 0.01: 0, float("inf"): 0}, 0.5) == 0.001
    assert quantile({0.001: 0, 0.01: 0, float("inf"): 3}, 0.5) == 0.01


class _Worker:
    """Its metrics page says one thing after the other; None: it does not answer."""

    def __init__(self, *pages: str | None) -> None:
        self._pages = list(pages)

    def ask(self, path: str):
        page = self._pages.pop(0)
        if page is None:
            raise ConnectionRefusedError
        return nullcontext(BytesIO(page.encode()))


def test_meters_count_from_where_they_were_made():
    meters = Meters([_Worker(metrics_text([1] * 10, 10), metrics_text([1] * 10 + [90] * 5, 15))])  # type: ignore[list-item]
    assert (meters.rows, meters.latency_ms(0.5)) == (0, None)
    meters.read()
    assert meters.rows == 5
    assert meters.latency_ms(0.5) == pytest.approx(90, rel=0.3)


def test_meters_count_on_when_a_worker_is_silent_or_began_anew():
    worker = _Worker(metrics_text([], 10), None, metrics_text([], 12), metrics_text([3.0], 1))
    meters = Meters([worker])  # type: ignore[list-item]
    for expected in (0, 2, 3):
        meters.read()
        assert meters.rows == expected
    assert sum(meters.buckets.values()) == 1


def test_latency_since_a_moment_leaves_out_what_came_before():
    meters = Meters(
        [
            _Worker(
                metrics_text([], 0),
                metrics_text([900] * 50, 50),
                metrics_text([900] * 50 + [5], 51),
            )
        ]
    )  # type: ignore[list-item]
    meters.read()
    before = Counter(meters.buckets)
    meters.read()
    assert meters.latency_ms(0.99, since=before) == pytest.approx(5, rel=0.3)


def summary(made: Account, **fields) -> Summary:
    values = {
        "run": "r", "text": "10 transactions", "account": made, "wave_records": 1_000,
        "wave_seconds": 0.5, "gentle": Gentle(800, 100.0, 4.2, 31.0),
        "base_url": "http://127.0.0.1:6066", **fields,
    }  # fmt: skip
    return Summary(**values)


def text(made: Summary, *, ends: bool = True) -> str:
    return summary_text(made, SETTINGS, bold=str, call="fraudstream", ends=ends)


def test_what_was_rounded_is_told():
    made = summary(account(0))
    assert "rounded" not in text(made)
    made.rounded = 1_234
    assert "amounts of 1,234 records of the file were rounded" in text(made)
    assert made.as_dict(SETTINGS, {})["rounded"] == 1_234


def test_the_text_has_the_account_and_the_speed():
    made = account(0, 1)
    made.predicted(prediction(0, card="c/1"))
    made.dead.add(1 << 10)
    made.reasons["invalid_json"] += 1
    said = text(summary(made))
    assert "2 read = 1 scored in time + 0 late + 0 duplicate + 1 dead + 0 moved" in said
    assert "dead: invalid_json 1" in said
    assert "2,000 transactions per second from Kafka to Cassandra" in said
    assert "p50 4 ms, p99 31 ms" in said
    assert "123.45 EUR" in said
    assert "http://127.0.0.1:6066/transactions/tx-0/" in said


def test_the_text_says_when_it_does_not_add_up():
    assert "FAIL: 1 records are missing, 0 are in two places" in text(summary(account(0)))
    assert "PASS: every record is in exactly one place" in text(summary(account()))


def test_the_text_of_an_empty_run_is_calm():
    said = text(summary(account(), wave_records=0, gentle=Gentle(0, 100.0)))
    assert "nothing scored 0.1 or more" in said
    assert "too few records to measure" in said


def test_ids_from_elsewhere_steer_no_terminal():
    made = account(0)
    made.predicted(prediction(0, card="\x1b[2Jx", reasons=["\x07"], transaction_id="a\nb; rm"))
    said = text(summary(made))
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", said)
    assert "/transactions/a%0Ab%3B%20rm/ " in said
    board = Board(SETTINGS, lambda: 0.0)
    assert "\x1b" not in board.line(made.suspicious(1)[0])


def test_the_next_worker_takes_the_port_that_the_addresses_have():
    assert "fraudstream worker  " in text(summary(account()))
    assert "worker --web-port 7000 " in text(summary(account(), base_url="http://127.0.0.1:7000"))
    assert "fraudstream worker" not in text(summary(account()), ends=False)


def test_the_json_has_every_number():
    made = account(0, 1)
    made.predicted(prediction(0))
    made.moved.add(1 << 10)
    said = summary(made).as_dict(SETTINGS, {"servers": 1.0})
    parts = [said[name] for name in ("scored", "late", "duplicate", "dead", "moved")]
    assert said["read"] == sum(parts) == 2
    assert said["rows"] == 1
    assert said["events_per_second"] == 2_000.0
    assert said["latency_ms"] == {"p50": 4.2, "p99": 31.0, "transactions": 800, "rate": 100.0}
    assert said["seconds"] == {"servers": 1.0}
    assert said["web"]["card"] == "http://127.0.0.1:6066/cards/c1/"


def test_the_board_tells_the_truth_of_what_was_flagged():
    clock = [0.0]
    board = Board(SETTINGS, lambda: clock[0])
    assert [board.score(prediction(n, score=score)) for n, score in enumerate((0.9, 0.1, 0.8))] == [
        True, False, True,
    ]  # fmt: skip
    assert board.per_minute == 2
    assert board.tell("tx-1", "card") is None, "it was not flagged"
    assert board.tell("tx-0", "terminal_first")["truth"] == "fraud: terminal"
    assert board.tell("tx-0", "terminal_first") is None, "it is known already"
    assert board.tell("tx-2", "none")["truth"] == "genuine"
    assert (board.scored, board.flagged, board.frauds, board.genuine) == (3, 2, 1, 1)
    clock[0] = 61.0
    assert board.per_minute == 0
    told = board.status(sent=5, rate=20.0, lag=None, latency="p50 4 ms")
    assert told.startswith("20 per second, 0 alerts per minute, lag –, p50 4 ms; 5 sent, 3 scored")
    console = Console(file=StringIO(), width=160)
    console.print(board.table(told))
    shown = console.file.getvalue()
    narrow = Console(file=StringIO(), width=70)
    narrow.print(board.table(told))
    assert "█████████· 0.90" in narrow.file.getvalue()  # only reasons are shortened
    assert "fraud: terminal" in shown
    assert "genuine" in shown


def test_bars():
    assert [bar(score).count("█") for score in (0.0, 0.5, 1.0, 2.0)] == [0, 5, 10, 10]


def test_a_schedule_is_even():
    pairs = iter([(b"k", b"1"), (b"k", b"2"), (None, b"3")])
    assert [due for due, _, _ in scheduled(pairs, 4.0)] == [0.0, 0.25, 0.5]


def test_patience_ends_a_wait_in_which_nothing_moves():
    clock = [0.0]
    told: list[str] = []
    patience = Patience(lambda: "the worker is asleep", told.append, lambda: clock[0])
    for count in (0, 1, 1):
        patience("waiting for enriched", count, 5)
        clock[0] += STALL_SECONDS * 0.9
    assert told == ["waiting for enriched: 4 to go, no progress for 10 s; the worker is asleep"]
    with pytest.raises(UnavailableError, match="4 records wait; the worker is asleep"):
        patience("waiting for enriched", 1, 5)
