"""`/models/`: what decides, where partitions differ, drift of all workers, gates, changes and lineage."""

import re
from typing import Any

import numpy as np
import orjson

from app.domain.changes import (
    ChallengerChange,
    LoadChange,
    ModelChange,
    RuleChange,
    ThresholdChange,
)
from app.kafka.change_history import ChangeHistory, LoggedChange
from app.web.model_facts import MOST_CHANGES, gate_facts, history_facts, lineage_facts
from app.web.models_page import grouped, ordered
from models.training_distribution import psi_of
from tests.unit.test_drift import manifest
from tests.web_worker import DictWorker, client_of

HTML = {"Accept": "text/html"}
OTHER = "http://127.0.0.1:6067"
HOSTILE = "<script>alert(1)</script>"


def history(*changes: Any) -> ChangeHistory:
    return ChangeHistory(
        [LoggedChange(0, n, 1_700_000_000_000 + n * 1_000, one) for n, one in enumerate(changes)]
    )


CHANGES = (
    ModelChange(model="default@2", hash="d" * 64, how="start", by="FRAUDSTREAM_MODEL"),
    LoadChange(model="fraud@3", hash="f" * 64, by="ann@host"),
    RuleChange(name="large", expression="amount > 1", by="ann@host"),
    ChallengerChange(model="fraud@3", hash="f" * 64, by="ann@host"),
    ChallengerChange(model="fraud@3", hash="f" * 64, share=0.05, by="ann@host"),
    ThresholdChange(threshold=0.4, by="bob@host", note=HOSTILE),
    ModelChange(model="fraud@2", hash="e" * 64, forced=True, by="bob@host"),
    ChallengerChange(model="fraud@3", hash="f" * 64, share=None, by="ann@host"),
)


def column(name: str, moved: float, limit: float = 0.25) -> dict[str, Any]:
    """A column of which a share has moved from one half to the other."""
    expected, found = [0.5, 0.5, 0.0], [0.5 + moved, 0.5 - moved, 0.0]
    psi = psi_of(np.array(expected), np.array(found))
    return {
        "name": name, "psi": psi, "limit": limit, "missing": 0.01, "expected": expected, "found": found,
    }  # fmt: skip


def several_models(worker: DictWorker) -> None:
    """A model that decides with a canary beside it; one feature has drifted."""
    gates = [{
        "model": "fraud@3", "against": "fraud@2", "passed": False, "reasons": ["5 alerts per day instead of 1"],
        "by": "ann@host", "at": 1_700_000_000_000, "labelled": 900, "frauds": 30,
        "challenger": {"average_precision": 0.5, "alerts_per_day": 5.0},
        "champion": {"average_precision": 0.6, "alerts_per_day": 1.0},
    }]  # fmt: skip
    trained = {"source": {"simulated": {"cards": 2000}}, "learned_rows": 213_911, "seed": 1}
    worker.of_models = {
        **history_facts(history(*CHANGES[:-1])),
        "gates": gate_facts(gates),
        "lineage": lineage_facts([manifest().model_copy(update={"trained": trained})]),
        "changes_fault": None,
        "gates_fault": None,
    }
    finding = {
        "detector": "distribution", "subject": "amount", "value": 4.5, "limit": 0.25,
        "text": f"amount is distributed otherwise {HOSTILE}",
    }  # fmt: skip
    worker.drifts = {
        "fraud@2": {
            "transactions": 4_000,
            "columns": [
                column("score", 0.02),
                column("amount", 0.4),
                column("card_count_1d", 0.17),
            ],
            "findings": [finding],
        },
        "fraud@3": {"transactions": 200, "columns": [], "findings": []},
        "old@1": None,
    }
    decides = {"model": "fraud@2", "threshold": 0.4, "challengers": ["fraud@3"]}
    worker.in_force = {"0": decides, "1": {**decides, "model": "default@2"}, "2": decides}


def test_what_decides_and_what_was_changed() -> None:
    found = history_facts(history(*CHANGES))
    assert found["decides"] == {
        "model": "fraud@2", "hash": "e" * 64, "threshold": None, "since": "2023-11-14T22:13:26.000Z", "by": "bob@host",
    }  # fmt: skip
    assert found["challengers"] == []
    assert [one["change"] for one in found["changes"]] == [
        "stop challenger", "promote", "threshold", "canary", "shadow", "load", "start",
    ]  # fmt: skip
    assert [one["forced"] for one in found["changes"]] == [False, True, *[False] * 5]
    assert found["changes"][2]["by"] == "bob@host"
    empty = history_facts(history())
    assert (empty["decides"], empty["changes"], empty["more_changes"]) == (None, [], 0)
    many = history_facts(history(*[ThresholdChange(threshold=0.1)] * 60))
    assert (len(many["changes"]), many["more_changes"]) == (MOST_CHANGES, 60 - MOST_CHANGES)


def test_partitions_of_which_the_same_is_true_stand_together() -> None:
    one = {"model": "a@1", "threshold": 0.5, "challengers": []}
    other = {**one, "challengers": ["b@1"]}
    groups = grouped({3: one, 0: other, 1: one, 2: one})
    assert [(group["partitions"], group["challengers"]) for group in groups] == [
        ([1, 2, 3], []),
        ([0], ["b@1"]),
    ]


def test_features_are_sorted_as_asked() -> None:
    columns = [column("b", 0.1), column("a", 0.3), column("c", 0.2)]
    assert [one["name"] for one in ordered(columns, "psi")] == ["a", "c", "b"]
    assert [one["name"] for one in ordered(columns, "name")] == ["a", "b", "c"]
    bars = [one["bar"] for one in ordered(columns, "psi")]
    assert bars[0] == 100.0
    assert bars == sorted(bars, reverse=True)


async def test_the_page_shows_everything() -> None:
    worker = DictWorker()
    several_models(worker)
    other = {"partitions": {"7": worker.in_force["0"]}, "drift": worker.drifts}
    worker.answers[OTHER + "/models/worker.json"] = (200, "application/json", orjson.dumps(other))
    async with client_of(worker) as client:
        page = await client.get("/models/", headers=HTML)
        text = await page.text()
        assert page.status == 200
        for part in (
            "fraud@2", "0, 2, 7", "Partitions differ", "canary", "5 %", "8,000", "not passed", "forced", "213,911",
            "simulated cards 2,000", "400 transactions so far", "No training distribution",
            "5 alerts per day instead of 1", "bob@host",
        ):  # fmt: skip
            assert part in text, part
        assert HOSTILE not in text
        names = re.findall(r'<tr><td class="id">(\w+)</td>', text)
        assert names == ["amount", "card_count_1d", "score"]
        assert 'aria-sort="descending"><a href="?sort=psi">' in text
        by_name = await (await client.get("/models/?sort=name", headers=HTML)).text()
        assert re.findall(r'<tr><td class="id">(\w+)</td>', by_name) == sorted(names)
        assert 'aria-sort="ascending"><a href="?sort=name">' in by_name
        told = await (await client.get("/models.json")).json()
        assert told["drift"]["fraud@2"]["transactions"] == 8_000
        assert told["faults"] == {}
        own = await (await client.get("/models/worker.json")).json()
        assert own == {"partitions": worker.in_force, "drift": worker.drifts}


async def test_what_is_not_there_is_said() -> None:
    worker = DictWorker()
    worker.of_models |= {
        "changes_fault": "Kafka does not answer",
        "gates_fault": "Cassandra is away",
    }
    async with client_of(worker) as client:
        text = await (await client.get("/models/", headers=HTML)).text()
        for part in ("Kafka does not answer", "Cassandra is away", f"{OTHER} is not included"):
            assert part in text
        for wrong in ("?sort=gremlins", "?limit=5"):
            assert (await client.get(f"/models/{wrong}")).status == 400


async def test_every_page_leads_here() -> None:
    async with client_of(DictWorker()) as client:
        text = await (await client.get("/models/", headers=HTML)).text()
        assert '<a href="/models/" aria-current="page">Models</a>' in text
