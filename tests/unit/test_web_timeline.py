"""From one page to the next: timelines, contributions, labels from a page, search, periods of quality."""

import re
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from app.cassandra.timeline import SHOWN
from app.display import iso
from app.domain.decision import decision_of
from app.domain.transaction import hash_id
from app.errors import UnavailableError
from app.settings import load_settings
from app.stages.deployed_features import catalogue_of
from app.web.key_owner import OwnedElsewhere, Unowned
from models.artifact_folders import artifact_folders
from models.model_loader import ModelHolder
from tests.builders import T0
from tests.unit.test_web_alerts import alert
from tests.unit.test_web_views import HTML, JSON, Tags, prediction
from tests.web_worker import HOUR, DictWorker, client_of

OTHER = "http://127.0.0.1:6067"


def row(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "transaction_id": name, "card_id": "c1", "terminal_id": "t/<1>", "event_time_ms": T0, "amount_minor": 1_250,
        "score": 0.9, "is_fraud": True, "flags": [], "label": None, "alert_id": None, **fields,
    }  # fmt: skip


async def test_a_card_shows_its_transactions_with_scores_alerts_and_labels() -> None:
    worker = DictWorker()
    shown = worker.add("c1", [0])
    shown.insert(T0 + HOUR, 500, counted=True, id8=hash_id("x/<2>"))
    worker.keep(shown)
    worker.history = [
        row("x/<2>", label={"is_fraud": True, "labelled_at": T0}, alert_id="20231114T221320-00"),
        row("x3", is_fraud=False, score=0.1, terminal_id=None),
        row("x4", is_fraud=False, score=0.1, action="decline", rules=["block-list:card"]),
    ]
    async with client_of(worker) as client:
        before = await (await client.get("/cards/c1.json")).read()
        tags = Tags(await (await client.get("/cards/c1/", headers=HTML)).text())
        worker.history = UnavailableError("no Cassandra at <x>")
        text = await (await client.get("/cards/c1/", headers=HTML)).text()
        assert await (await client.get("/cards/c1.json")).read() == before
    links = set(tags.links)
    assert {"/transactions/x%2F%3C2%3E/", "/transactions/x3/", "/terminals/t%2F%3C1%3E/"} <= links
    assert "/review/?alert=20231114T221320-00" in links
    assert (
        tags.links.count("/transactions/x%2F%3C2%3E/") == 2
    )  # in the state, too: found by its hash
    assert {"sent to review", "fraud", "approved", "12.50"} <= set(tags.texts)
    assert {"declined", "by the block list (card)"} <= {one.strip() for one in tags.texts}
    assert "no Cassandra at &lt;x&gt;" in text  # and the state all the same
    assert "Windows that end at the newest event time" in text


async def test_a_page_says_that_it_shows_only_the_newest_transactions() -> None:
    worker = DictWorker()
    worker.add("c1", [0])
    said = []
    for count in (SHOWN - 1, SHOWN):
        worker.history = [row(f"x{n}") for n in range(count)]
        async with client_of(worker) as client:
            text = await (await client.get("/cards/c1/", headers=HTML)).text()
        said.append("At most the newest 50 are shown." in text)
    assert said == [False, True]


async def test_a_terminal_shows_its_alerts() -> None:
    worker = DictWorker()
    worker.add("t1", [0])
    worker.history = [row("x1", card_id="c/9")]
    async with client_of(worker) as client:
        tags = Tags(await (await client.get("/terminals/t1/", headers=HTML)).text())
    assert "Alerts at this terminal" in tags.texts
    assert "/cards/c%2F9/" in tags.links


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, ["sent to review", "by the model"]),
        ({"is_fraud": False}, ["approved"]),
        (
            {"is_fraud": False, "action": "decline", "rules": ["large@2", "tag@1"]},
            ["declined", "by rule large@2, rule tag@1"],
        ),
        (
            {"is_fraud": False, "action": "review", "rules": ["odd@1"]},
            ["sent to review", "by rule odd@1"],
        ),
        (
            {"action": "review", "rules": ["odd@1"]},
            ["sent to review", "by the model"],
        ),
        (
            {"action": "approve", "rules": ["allow-list:terminal"]},
            ["approved", "by the allow list (terminal)"],
        ),
        ({"is_fraud": False, "action": "approve", "rules": ["tag@1"]}, ["approved"]),
    ],
    ids=["model", "nothing", "declined", "rule", "both", "allowed", "tag"],
)
async def test_a_transaction_says_first_what_was_decided_and_by_what(
    fields: dict[str, Any], shown: list[str]
) -> None:
    """A rule decides whatever the model says: a declined payment must not look harmless."""
    found = decision_of(prediction(**fields))
    assert found.text == " ".join(shown)
    worker = DictWorker()
    worker.transactions["x1"] = prediction(**fields)
    async with client_of(worker) as client:
        text = await (await client.get("/transactions/x1/")).text()
    verdict = text[text.index('<p class="verdict">') : text.index("<dl")]
    tone = "good" if shown[0] == "approved" else "bad"
    assert f'<strong class="{tone}">{shown[0].capitalize()}</strong>' in verdict
    for part in shown[1:]:
        assert f"<span>{part}</span>" in verdict
    model = "flagged by the model" if fields.get("is_fraud", True) else "not flagged by the model"
    assert model in verdict


async def test_a_transaction_shows_its_alert_and_the_challengers() -> None:
    worker = DictWorker()
    worker.transactions["x1"] = prediction(alert_id=None)
    async with client_of(worker) as client:
        text = await (await client.get("/transactions/x1/")).text()
        assert "Challengers" not in text
        assert "/review/?alert=" not in text
        worker.transactions["x1"] = prediction(
            alert_id="20231114T221320-00",
            shadow_scores={"new@2": 0.125, "odd@1": None, "bold@1": 0.875},
            shadow_flagged=["bold@1"],
        )
        text = await (await client.get("/transactions/x1/")).text()
    assert 'href="/review/?alert=20231114T221320-00"' in text
    rows = re.findall(r"<tr><td>(\w+@\d)</td><td[^>]*>([^<]*)</td><td[^>]*>(.*?)</td></tr>", text)
    assert rows == [
        ("bold@1", "0.875", '<span class="bad">yes</span>'), ("new@2", "0.125", "no"), ("odd@1", "–", "–"),
    ]  # fmt: skip


async def test_what_moved_a_score_is_drawn_against_the_baseline() -> None:
    worker = DictWorker()
    worker.transactions["x1"] = prediction(features={"amount": 500.0, "is_night": 1.0, "odd": 2.0})
    worker.pushed = {"amount": (12.5, 0.4), "is_night": (0.0, -0.1)}
    async with client_of(worker) as client:
        text = await (await client.get("/transactions/x1/")).text()
        worker.pushed = {}
        assert "<svg" not in await (await client.get("/transactions/x1/")).text()
    bars = re.findall(r'<rect x="([-\d.]+)" y="4" width="([\d.]+)" height="12" class="(\w+)"', text)
    assert bars == [("0", "100.0", "up"), ("-25.0", "25.0", "down")]
    assert "12.5" in text
    assert text.index("1,234.56 EUR") < text.index("Top reasons")  # beside the verdict


def test_the_contributions_of_a_stored_prediction_are_those_of_its_reasons() -> None:
    settings = load_settings()
    catalogue = catalogue_of(settings)
    model = ModelHolder(artifact_folders(settings), catalogue, 2).named("default")
    features = {name: model.baseline.get(name, 0.0) for name in catalogue.names} | {"amount": 900.0}
    pushed = model.pushes(features)
    assert list(pushed) == list(model.baseline)
    assert pushed["amount"][0] == model.baseline["amount"]
    strongest = max(pushed, key=lambda name: pushed[name][1])
    assert pushed[strongest][1] > 0
    (reasons,) = model.reasons(np.array([[features[name] for name in catalogue.names]]))
    assert reasons
    # what a row lacks counts as its baseline
    known = {name: value for name, value in features.items() if name != "is_night"} | {"x": None}
    assert model.pushes(known)["is_night"][0] == model.baseline["is_night"]
    assert np.allclose(
        [p for _, p in model.pushes(known).values()], [p for _, p in pushed.values()]
    )


async def test_a_label_is_set_from_the_page() -> None:
    worker = DictWorker()
    stored = prediction(
        others=[prediction(card_id="c2", event_time_ms=T0 + 1, others=[])], label=None
    )
    worker.transactions["x1"] = stored
    send = worker.send_labels

    async def store(labels: Any) -> None:
        await send(labels)
        told = labels[0]
        worker.transactions["x1"] = {
            **stored, "label": {"is_fraud": told["is_fraud"], "labelled_at": moment(told["labelled_at"])},
        }  # fmt: skip

    worker.send_labels = store  # type: ignore[method-assign]
    async with client_of(worker) as client:
        page = await (await client.get("/transactions/x1/")).text()
        form = {
            "csrf": re.search(r'name="csrf" value="([^"]*)"', page)[1],  # type: ignore[index]
            "transaction": "x1", "card": "c/1", "event_time_ms": str(T0), "verdict": "genuine",
        }  # fmt: skip
        done = await client.post("/label", data=form)
        assert "labelled as genuine" in await done.text()
        assert done.url.path == "/transactions/x1/"
        looked = worker.looked_for_labels
        assert looked >= 1
        quick = await client.post("/label", data=form, headers=JSON)
        assert await quick.json() == {"transaction_id": "x1", "verdict": "genuine"}
        assert worker.looked_for_labels == looked  # programs do not wait
        worker.labels.pop()
        bad = await client.post("/label", data={**form, "verdict": "maybe"}, headers=JSON)
        assert bad.status == 400
        missing = await client.post("/label", data={**form, "card": "c2"}, headers=JSON)
        assert missing.status == 404  # that card's has another time
        assert (await client.post("/label", data={**form, "csrf": "x"})).status == 403
    (label,) = worker.labels
    assert {name: label[name] for name in ("transaction_id", "is_fraud", "card_id", "terminal_id")} == {
        "transaction_id": "x1", "is_fraud": False, "card_id": "c/1", "terminal_id": "<b>",
    }  # fmt: skip
    assert label["event_time"] == iso(T0)


def moment(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


async def test_search_finds_the_page_without_being_told_the_kind() -> None:
    worker = DictWorker()
    one = alert(1)
    worker.reviews.add(one)
    worker.transactions["x1"] = prediction()
    worker.place = OwnedElsewhere(OTHER)
    for kind in ("cards", "terminals"):
        for name in ("x1", "c%2F1", "nope", one.alert_id):
            known = (kind, name) == ("cards", "c%2F1")
            worker.answers[f"{OTHER}/{kind}/{name}/"] = (
                200 if known else 404,
                "application/json",
                b"{}",
            )
    async with client_of(worker) as client:
        for name, wanted in (
            ("x1", "/transactions/x1/"),
            ("c/1", "/cards/c%2F1/"),
            (one.alert_id, f"/review/?alert={one.alert_id}"),
        ):
            found = await client.get("/search", params={"id": f" {name} "}, allow_redirects=False)
            assert (found.status, found.headers["Location"]) == (303, wanted)
        odd = "20260101T000000- 3f9a1c2b4d5e6f7"
        for kind in ("cards", "terminals"):
            worker.answers[f"{OTHER}/{kind}/{odd.replace(' ', '%20')}/"] = (
                404,
                "application/json",
                b"{}",
            )
        assert (await client.get("/search", params={"id": odd}, headers=JSON)).status == 404
        nothing = await client.get("/search?id=nope", headers=JSON)
        assert nothing.status == 404
        assert "no transaction, card, terminal or alert" in (await nothing.json())["error"]
        assert (await client.get("/search?id=", headers=JSON)).status == 400
        worker.answers.clear()
        away = await client.get("/search?id=nope", headers=JSON)
        assert away.status == 503  # not "there is none": nobody can tell
        partly = await (await client.get("/search.json?id=x1")).json()
        assert [one["kind"] for one in partly["found"]] == ["transaction"]
        assert len(partly["faults"]) == 2


async def test_search_lists_what_several_kinds_share() -> None:
    worker = DictWorker()
    worker.add("same", [0])
    worker.transactions["same"] = prediction()
    async with client_of(worker) as client:
        tags = Tags(await (await client.get("/search?id=same")).text())
        assert {"/transactions/same/", "/cards/same/", "/terminals/same/"} <= set(tags.links)
        worker.place = Unowned("partition 1 is being recovered; try again")
        text = await (await client.get("/search?id=same")).text()
    assert "partition 1 is being recovered" in text


async def test_quality_of_a_period() -> None:
    worker = DictWorker()
    async with client_of(worker) as client:
        page = await client.get("/quality/?from=2023-11-14&to=2023-11-15T06:00")
        assert 'value="2023-11-14"' in await page.text()
        assert worker.period == (1_699_920_000_000, 1_700_028_000_000)
        assert (await client.get("/quality/")).status == 200
        assert worker.period == (None, None)
        for bad in ("from=yesterday", "form=2023-11-14"):
            reply = await client.get(f"/quality.json?{bad}")
            assert reply.status == 400
