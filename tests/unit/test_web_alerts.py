"""`/alerts/`: filters, links, and what cannot be asked for."""

from typing import Any

import pytest

from app.cassandra.alert_queries import AlertQuery
from app.cassandra.review_rows import Review
from app.cassandra.stored_alert import Alert
from app.domain.alert_policy import CAUSES, AlertPolicy, is_alert_id, place_of
from app.domain.alert_seen import rows_seen, seen_of
from app.errors import UsageError
from app.settings import load_settings
from app.web.alerts_page import alert_query
from tests.builders import T0
from tests.prediction_builder import prediction
from tests.web_worker import DictWorker, client_of

POLICY = AlertPolicy(CAUSES, 3_600_000, (5_000, 20_000, 100_000))
DAY = 86_400_000


def alert(number: int = 1, **fields: Any) -> Alert:
    row = POLICY.alert(prediction(number, is_fraud=True, **fields))
    assert row is not None
    return Alert(row["alert_id"], row["card_id"], row["opened_at"], [row])


async def test_alerts_are_shown_with_links_and_as_json() -> None:
    worker = DictWorker()
    worker.raised = [
        alert(card="c/<1>", amount_minor=500_000, reasons=["amount is <high>"]),
        alert(2, card="c2", rules=["large"], score=0.1),
    ]
    async with client_of(worker) as client:
        page = await (await client.get("/alerts/")).text()
        told = await (await client.get("/alerts.json")).json()
        card = await (await client.get("/alerts/?card=c%2F1&all=1")).text()
    assert 'href="/cards/c%2F%3C1%3E/"' in page
    assert "amount is &lt;high&gt;" in page
    assert ">large<" in page
    assert 'href="/transactions/tx-1/"' in page
    assert '<span class="bad">critical</span>' in page
    assert [one["severity"] for one in told["alerts"]] == ["critical", "low"]
    assert (told["more"], told["alerts"][0]["state"]) == (False, "open")
    assert 'value="c/1"' in card
    assert worker.wanted is not None
    assert (worker.wanted.card_id, worker.wanted.everything) == ("c/1", True)


async def test_nothing_is_said_so_and_mistakes_are_one_line() -> None:
    async with client_of(DictWorker()) as client:
        assert "No alerts in this period" in await (await client.get("/alerts/")).text()
        assert "No alerts of this card" in await (await client.get("/alerts/?card=c1")).text()
        assert (await client.get("/alerts/?card=c1&from=2023-11-14")).status == 400
        bad = await client.get("/alerts.json?severity=urgent")
        assert bad.status == 400
        assert "choose low, medium, high, critical" in (await bad.json())["error"]


async def test_the_page_names_what_raises_alerts_here() -> None:
    for causes, says in (
        (
            "model,rule",
            "the model flagged; those that a rule declined or sent to review, and those",
        ),
        ("anomaly", "within 1h: those that are flagged as anomalies, unless"),
        ("none", "no transaction raises one now"),
    ):
        async with client_of(DictWorker(alert_on=causes)) as client:
            assert says in await (await client.get("/alerts/")).text()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, AlertQuery(T0 + 301 - 7 * DAY, T0 + 301, limit=100)),
        ({"from": "2023-11-14"}, AlertQuery(1_699_920_000_000, T0 + 301, limit=100)),
        (
            {
                "from": "2023-11-14T06:00+01:00",
                "to": "2023-11-15",
                "severity": "high",
                "limit": "7",
            },
            AlertQuery(
                1_699_938_000_000, 1_700_006_400_000, "high", None, everything=False, limit=7
            ),
        ),
        ({"card": "", "all": "0"}, AlertQuery(T0 + 301 - 7 * DAY, T0 + 301, limit=100)),
    ],
)
def test_queries(asked: dict[str, str], expected: AlertQuery) -> None:
    settings = load_settings({"max_future_skew": 300})
    assert alert_query(asked, settings, T0) == expected


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"form": "2023"}, "unknown parameter 'form': the parameters are from, to"),
        ({"from": "yesterday"}, "from 'yesterday': write a date"),
        ({"limit": "0"}, "limit '0': write a number from 1 to 1,000"),
        ({"limit": "many"}, "limit 'many'"),
        (
            {"card": "c1", "from": "2023-11-14"},
            "card lists .* from all times: leave out from and to",
        ),
        ({"card": "c1", "to": "2023-11-14"}, "card lists .* from all times: leave out from and to"),
    ],
)
def test_what_cannot_be_asked_for(asked: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        alert_query(asked, load_settings(), T0)


def test_the_worst_transaction_makes_the_severity() -> None:
    several = alert(1, card="c")
    several.transactions += alert(2, card="c", score=1.0, amount_minor=30_000).transactions
    about = several.as_dict()
    assert (about["severity"], about["amount_minor"], about["causes"]) == (
        "high",
        31_000,
        ["model"],
    )


def test_an_alert_is_open_again_with_what_nobody_has_seen_to() -> None:
    one = alert(1, card="c", received_at=T0)
    one.acked = {"at": T0 + 5, "by": "ann", "note": "called"}
    assert (one.state, one.todo) == ("acked", [])
    one.transactions += alert(2, card="c", received_at=T0 + 6).transactions
    assert one.state == "open"
    assert [row["transaction_id"] for row in one.todo] == ["tx-2"]
    one.review = Review(None, None, "fraud", "bob", T0 + 7, ("tx-2",), "stolen")
    assert (one.state, one.as_dict()["acked"]) == (
        "acked", {"at": T0 + 7, "by": "bob", "note": "fraud: stolen"},
    )  # fmt: skip
    # a verdict is about what was seen, whenever the others arrived
    one.transactions += alert(3, card="c", received_at=T0 + 6).transactions
    assert (one.state, one.as_dict()["todo"]) == ("open", 1)


async def test_a_page_says_what_is_new() -> None:
    worker = DictWorker()
    one = alert(1, card="c", received_at=T0)
    one.transactions += alert(2, card="c", received_at=T0 + 6).transactions
    one.acked = {"at": T0, "by": "ann", "note": ""}
    worker.raised = [one]
    async with client_of(worker) as client:
        assert (
            "1 new; the others were handled by ann" in await (await client.get("/alerts/")).text()
        )


def test_what_was_seen_is_told_from_what_is_new() -> None:
    rows = [row for n in range(3) for row in alert(n, card="c", source_offset=n).transactions]
    text = seen_of(rows[:2])
    assert rows_seen(rows, text) == rows[:2]
    assert rows_seen(rows[1:], text) is None  # one is missing
    with pytest.raises(ValueError, match="seen"):
        rows_seen(rows, "1-2_x")


@pytest.mark.parametrize("text", ["", "x", "20260101T000000- 3f9a1c2b4d5e6f7", "20260101T000000-3F9A1C2B4D5E6F70",
                                  "20260101T000000-3f9a1c2b4d5e6f7 0", "20261301T000000-3f9a1c2b4d5e6f70"])  # fmt: skip
def test_what_is_no_alert_id(text: str) -> None:
    assert not is_alert_id(text)
    with pytest.raises(ValueError, match="does not match|is not the id"):
        place_of(text)
