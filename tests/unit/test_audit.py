"""Audit records: what a change by a page leaves, what happens if it cannot be written, and how a card is taken out."""

import json
import logging
import re
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from app.cassandra.audit_records import DONE, REFUSED, STARTED, AuditRecord
from app.cli.audit import audit
from app.cli.change_records import audit_record
from app.domain.alert_policy import group_of
from app.domain.audit_objects import CardErasure, NamedObject, words_in
from app.errors import UnavailableError
from app.web.access.audit import ended_records
from app.web.pages import PAGES
from app.web.roles import Role
from tests.builders import T0
from tests.prediction_builder import prediction
from tests.unit.test_review import some
from tests.web_worker import DictWorker, client_of

JSON = {"Accept": "application/json"}
HASH = "5a" * 32


async def form_of(client: Any) -> dict[str, str]:
    text = await (await client.get("/review/")).text()
    return {"csrf": re.search(r'name="csrf" value="([^"]*)"', text)[1]}  # type: ignore[index]


def test_every_page_that_changes_something_is_recorded() -> None:
    changing = {page.path for page in PAGES if page.method == "POST" and page.role > Role.PUBLIC}
    recorded = {page.path for page in PAGES if page.action}
    assert changing - recorded == {"/logout"}


async def test_each_change_of_a_page_has_a_record_of_its_author() -> None:
    worker = DictWorker()
    low, high = (one.alert_id for one in some(worker, 2))
    async with client_of(worker) as client:
        form = await form_of(client)
        await client.post("/review/next")  # without the form's token
        assert worker.written == []
        await client.post("/review/next", data=form)
        sent = {**form, "alert": high, "verdict": "fraud", "note": "odd", "transaction": "tx-1"}
        await client.post("/review/verdict", data=sent)
        other = {**form, "alert": high, "verdict": "genuine"}
        assert (await client.post("/review/verdict", data=other, headers=JSON)).status == 409
        await client.post("/review/later", data={**form, "alert": low})
    first, *_ = worker.written
    assert (first.action, first.result, first.objects) == ("claim", STARTED, frozenset())
    kept = list(worker.kept.values())
    assert [(one.action, one.objects, one.result) for one in kept] == [
        ("claim", {f"alert/{high}"}, DONE),
        ("verdict", {f"alert/{high}", "transaction/tx-1"}, DONE),
        ("claim", {f"alert/{low}"}, DONE),  # the next one, after the verdict
        ("verdict", {f"alert/{high}"}, REFUSED),
        ("release", {f"alert/{low}"}, DONE),
    ]
    assert {(one.by, one.role, one.origin) for one in kept} == {("local", "operator", "127.0.0.1")}
    assert kept[1].details == {"verdict": "fraud", "note": "odd", "status": 303, "labels": 1}
    assert kept[3].details["why"] == "local has already decided it: fraud"


async def test_a_label_names_its_card_in_the_record_but_not_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = DictWorker()
    worker.transactions["x1"] = prediction(card="c-secret", others=[], label=None)
    worker.transactions["x1"] |= {"card_id": "c-secret", "event_time_ms": T0}  # type: ignore[operator]
    sent = {
        "transaction": "x1", "card": "c-secret", "event_time_ms": str(T0), "verdict": "genuine",
    }  # fmt: skip
    with caplog.at_level(logging.INFO, "fraudstream.audit"):
        async with client_of(worker) as client:
            form = await form_of(client)
            done = await client.post("/label", data={**form, **sent}, headers=JSON)
            assert done.status == 200, await done.text()
    (one,) = worker.kept.values()
    assert (one.action, one.objects, one.result) == (
        "label", {"transaction/x1", "card/c-secret"}, DONE,
    )  # fmt: skip
    assert "c-secret" not in caplog.text


async def test_a_change_that_cannot_be_recorded_is_refused() -> None:
    worker = DictWorker()
    (one,) = some(worker, 1)

    async def fail(*_records: AuditRecord) -> None:
        raise UnavailableError("no Cassandra at 127.0.0.1:9042")

    worker.keep_records = fail  # type: ignore[method-assign]
    async with client_of(worker) as client:
        form = {**await form_of(client), "alert": one.alert_id}
        refused = await client.post("/review/take", data=form, headers=JSON)
        assert (refused.status, await refused.json()) == (
            503,
            {
                "error": "nothing was changed: the audit record cannot be written: no Cassandra at 127.0.0.1:9042"
            },
        )
    assert worker.reviews.known == {}


async def test_a_record_whose_end_cannot_be_written_stays_started(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = DictWorker()
    (one,) = some(worker, 1)
    keep = worker.keep_records

    async def begin_only(*records: AuditRecord) -> None:
        if records[0].result != STARTED:
            raise UnavailableError("no Cassandra")
        await keep(*records)

    worker.keep_records = begin_only  # type: ignore[method-assign]
    async with client_of(worker) as client:
        form = {**await form_of(client), "alert": one.alert_id}
        assert (await client.post("/review/take", data=form, headers=JSON)).status == 200
    assert worker.reviews.known[one.alert_id].claimed_by == "local"
    (record,) = worker.kept.values()
    assert (record.result, record.objects) == (STARTED, {f"alert/{one.alert_id}"})
    assert "stays `started`, although the change is done: no Cassandra" in caplog.text


def test_bulk_verdicts_name_all_their_alerts() -> None:
    begun = AuditRecord(1, "ann", "analyst", "::1", "verdict", frozenset({"alert/a", "card/c"}))
    added = {"alert": "a", "also": ["b", "c"], "took": "d", "labels": 3}
    verdict, claim = ended_records(begun, added, 200, None)
    assert verdict.objects == {"alert/a", "alert/b", "alert/c", "card/c"}
    assert (verdict.id, verdict.details) == (begun.id, {"status": 200, "labels": 3})
    assert (claim.action, claim.objects, claim.by) == ("claim", {"alert/d"}, "ann")
    assert claim.id != begun.id
    (nothing,) = ended_records(replace(begun, action="claim", objects=frozenset()), {}, 200, None)
    assert (nothing.result, nothing.details["why"]) == (REFUSED, "there is no alert to take")
    (failed,) = ended_records(begun, {}, 503, "Kafka is away")
    assert (failed.result, failed.details["why"]) == ("failed", "Kafka is away")


def test_an_erased_card_is_in_no_record_and_can_still_be_found() -> None:
    alert = group_of("C1", T0, 3_600_000).alert_id
    other = group_of("C12", T0, 3_600_000).alert_id
    objects = {f"alert/{alert}", "card/C1", "card/C12", "terminal/C1x", f"alert/{other}"}
    erasure = CardErasure("C1", HASH)
    left = erasure.of_objects(objects)
    assert left == {
        f"alert/{alert[:16]}5a5a5a5a5a5a5a5a", f"card/erased-{HASH}", "card/C12", "terminal/C1x",
        f"alert/{other}",
    }  # fmt: skip
    said = {"note": f"C1 (not C12, C1-b) asked about {alert}", "ids": ["C1"], "labels": 1}
    text = json.dumps(erasure.of_details(said))
    assert f"erased-{HASH} (not C12, C1-b)" in text
    assert alert[16:] not in text
    assert f'["erased-{HASH}"]' in text
    for name, hashes, found in (
        ("C1", [], objects), ("C1", [HASH], left), ("C12", [], left), ("card/C12", [], left), (alert, [], objects),
    ):  # fmt: skip
        assert NamedObject(name, hashes).is_in(found), name
    assert NamedObject("C1").is_in({f"alert/{alert}"})  # by its alert alone
    assert NamedObject("C1", [HASH]).is_in(erasure.of_objects({f"alert/{alert}"}))
    assert not NamedObject("C1").is_in(left)
    assert not NamedObject("C", [HASH[::-1]]).is_in(left)


def test_words_of_details() -> None:
    assert words_in({"note": "asked C-1, twice.", "labels": 2}) == {"asked", "C-1", "twice"}
    assert words_in([]) == set()


def test_a_command_s_record_names_the_user_of_the_system_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.cli.change_records.user_name", lambda: "operator7")
    mine, hers = (
        audit_record("snooze", ["rule/r"], by, note="", until="x") for by in (None, "ann")
    )
    assert (mine.by, hers.by, mine.role) == ("operator7", "ann", "command")
    assert mine.origin == hers.origin
    assert "@" in mine.origin
    assert mine.details == {"until": "x"}


@pytest.mark.usefixtures("no_settings")
def test_a_period_without_length_is_a_mistake() -> None:
    done: Any = CliRunner().invoke(audit, ["--from", "2026-11-02", "--to", "2026-11-01"])
    assert str(done.exception) == "--from must be before --to"
