"""Models, thresholds and the registry on real servers: changed under load, with two workers and no restart."""

import asyncio
import copy
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import pytest
import skops.io
from aiokafka import AIOKafkaProducer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.cassandra import fetched_models, model_registry
from app.cassandra.session import connected
from app.cli.command_errors import run
from app.domain.changes import ModelChange
from app.errors import UnavailableError
from app.kafka.change_history import send_changes
from app.kafka.clients import client_kwargs
from app.ops import retrain as retraining
from app.ops.replaying.plan import shadow_of
from app.settings import Settings
from models.artifact import load_artifact, read_manifest, save_artifact
from models.artifact_folders import SHIPPED
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

MINUTE = 60_000
#: Transactions that are sent at the full rate.
MANY = 3_500


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Simple features, and the model of them."""
    return settings.model_copy(update={"features": ("basic",), "model": "default@1"})


def another_model(settings: Settings, name: str = "other", **changes: Any) -> Path:
    """A copy of the shipped model under another name, in this home."""
    folder = settings.home / "models" / f"{name}-{changes.get('version', 1)}"
    shutil.copytree(SHIPPED / "default", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"name": name, "trained": {}, **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def pickled_model(settings: Settings, name: str) -> None:
    """A model as earlier releases trained it."""
    folder = another_model(settings, name, format=2)
    held = load_artifact(SHIPPED / "default")._asdict()
    (folder / "model.skops").unlink()
    joblib.dump(held, folder / "model.joblib")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256((folder / "model.joblib").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replay_signature(settings: Settings, signed: str, other: str) -> None:
    """Give a registered model the signature of another, as somebody who can write to Cassandra would."""
    with connected(settings) as session:
        entries = [fetched_models.entry_of(settings, session, one) for one in (signed, other)]
        texts = [json.loads((entry.folder / "manifest.json").read_text()) for entry in entries]
        forged = json.dumps(texts[1] | {"signature": texts[0]["signature"]})
        model_registry.keep_signed(session, settings, entries[1], forged)


def is_fraud(number: int) -> bool:
    """Every fifth; on other cards behind each training, as those with frauds in it are not compared."""
    return number % 5 == (number >= 200) + (number >= 1_500)


def transactions(first: int, count: int) -> list[Send]:
    return [
        Send(
            tx_bytes(
                number,
                card=f"c{number % 40}",
                terminal=f"t{number % 40}",
                at=number * MINUTE,
                amount=(15 if is_fraud(number) else 5)
                + number * 7 % 23,  # frauds tend to be larger
            ),
            b"c%d" % (number % 40),
        )
        for number in range(first, first + count)
    ]


def labels(count: int) -> list[Send]:
    """Of the first transactions."""
    made = []
    for number in range(count):
        fields = orjson.loads(transactions(number, 1)[0].value or b"")
        label = {
            name: fields[name]
            for name in ("transaction_id", "card_id", "terminal_id", "event_time")
        }
        label |= {"is_fraud": is_fraud(number), "labelled_at": fields["event_time"] + MINUTE}
        made.append(Send(orjson.dumps(label), fields["transaction_id"].encode()))
    return made


class Feed:
    """Sends transactions at a modest rate, until it is told to stop."""

    def __init__(self, deployment: Deployment) -> None:
        self.sent = 0
        self._deployment = deployment
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @contextmanager
    def running(self) -> Iterator["Feed"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._ending.set()
            self._thread.join()

    async def _run(self) -> None:
        topic = self._deployment.topics.transactions.name
        producer = AIOKafkaProducer(**client_kwargs(self._deployment.settings), acks="all")
        await producer.start()
        try:
            while not self._ending.is_set():
                records = transactions(self.sent, 20)
                sent = [await producer.send(topic, one.value, key=one.key) for one in records]
                await asyncio.gather(*sent)
                self.sent += len(records)
                # what follows needs some that flow; `verify` adds up each card's history once per transaction
                await asyncio.sleep(0.1 if self.sent < MANY else 0.5)
        finally:
            await producer.stop()


Run = Callable[..., str]


@pytest.fixture
def said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs `fraudstream models ...` (or another group) and returns what it prints; in this process."""
    environ = environ_of(settings)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def run_models(*arguments: str, code: int | None = 0, group: str = "models") -> str:
        capsys.readouterr()
        found = run([group, *arguments])
        shown = capsys.readouterr()
        assert code in (None, found), shown
        return shown.err if found > 1 else shown.out

    return run_models


def predictions(deployment: Deployment) -> list[dict[str, Any]]:
    return [orjson.loads(r.value) for r in deployment.records(deployment.topics.predictions)]


def deciders(deployment: Deployment) -> set[tuple[str, float]]:
    """What decided the newest prediction of each source partition."""
    newest: dict[int, tuple[int, tuple[str, float]]] = {}
    for one in predictions(deployment):
        place = one["source_partition"], one["source_offset"]
        decided = one["model_version"], one["threshold"]
        if place[0] not in newest or newest[place[0]][0] < place[1]:
            newest[place[0]] = place[1], decided
    return {decided for _, decided in newest.values()}


#: A transaction that is not of the feed.
FIRST_PAYMENT = "first-payment"


def test_models_change_under_load_without_a_restart(
    settings: Settings, tmp_path: Path, said: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    folder = another_model(settings)
    with Fleet(environ_of(settings), tmp_path / "fleet") as fleet:
        fleet.start("a", "b")
        fleet.await_ready()
        with Feed(deployment).running() as feed:
            wait_until(lambda: feed.sent >= 100, "a feed")
            wait_until(lambda: "start default@1" in said("history"), "the first change")
            assert "default@1" in said("list")  # the first model is registered by itself
            # what is not registered never decides: a folder here is no registry
            assert "no model 'other' is registered" in said("promote", "other", code=4)
            assert "is registered" in said("register", "other")
            shutil.rmtree(folder)  # from here on, workers have it from the registry alone
            assert "other@1 has not been compared with default@1" in said(
                "promote", "other", code=2
            )
            assert "give --from" in said("gate", "other", code=2)
            gated = said("gate", "other", "--from", "2020-01-01", code=1)
            assert "0 of 0 labelled transactions are fraud" in gated
            assert "has not passed the gate" in said("promote", "other", code=2)
            assert "other@1 is the current model" in said(
                "promote", "other@1", "--force", "--note", "better"
            )
            wait_until(
                lambda: {model for model, _ in deciders(deployment)} == {"other@1"},
                "other@1 decides",
            )
            said("threshold", "0.25")
            wait_until(lambda: deciders(deployment) == {("other@1", 0.25)}, "the threshold counts")
            said("threshold", "model")
            own = read_manifest(SHIPPED / "default").threshold
            wait_until(lambda: deciders(deployment) == {("other@1", own)}, "the model's own counts")
            assert "default@1 is the current model again" in said("rollback")
            wait_until(
                lambda: {model for model, _ in deciders(deployment)} == {"default@1"}, "rolled back"
            )
            assert "is the first model" in said("rollback", code=2)
            meet_a_lost_model(deployment, fleet, said)
            a_worker_refuses(deployment, said, monkeypatch)
            a_default_rule_fires(deployment, feed)
            rules_and_lists_change(deployment, said)
            challenge(deployment, said)
        deployment.drain()
        assert fleet.restarts == []
        assert fleet.failures == []
    text = said("history")
    for line in (
        "start default@1",
        "promote other@1",
        "better",
        "threshold 0.25",
        "rollback default@1",
    ):
        assert line in text
    found = json.loads(said("history", "--json"))
    assert found["decides"]["model"] == "default@1"
    promoted = next(one["at"] for one in found["changes"] if one.get("how") == "promote")
    assert "other@1" in said("history", "--at", promoted)
    told_what_decided(said)
    # on each partition the models follow each other: none decides again in between, the canary apart
    for partition in range(settings.partitions):
        one = [
            p
            for p in predictions(deployment)
            if p["source_partition"] == partition and "shadow_scores" not in p
        ]
        models = [p["model_version"] for p in sorted(one, key=lambda p: p["source_offset"])]
        assert [m for m, n in zip(models, [*models[1:], ""], strict=True) if m != n] == [
            "default@1", "other@1", "default@1", "late@1", "default@1",
        ]  # fmt: skip
    sent = feed.sent + 1  # the first payment
    assert deployment.verify()["scored"] == sent
    actions = {
        (one["transaction_id"], one["action"]): one["rules"] for one in predictions(deployment)
    }
    blocked = {name for (name, action), rules in actions.items() if action == "decline"}
    raised = [orjson.loads(r.value) for r in deployment.records(deployment.topics.alerts)]
    told = {one["transaction_id"] for one in raised if "block-list:card" in one["rules"]}
    assert blocked == told != set()
    trial = json.loads(said("test", "amount > 0 and card_id == 'c1'", "--json", group="rules"))
    assert trial["read"] == sent
    assert trial["fired"] == sum(one["card_id"] == "c1" for one in predictions(deployment))
    assert "no labels have arrived" in said("test", "score >= 0", group="rules")
    check_challengers(deployment)


def meet_a_lost_model(deployment: Deployment, fleet: Fleet, said: Run) -> None:
    """A change names a model whose artifact is gone: commands refuse it; workers wait, say so, and go on with it."""
    settings = deployment.settings
    folder = another_model(settings, "late", threshold=0.31)
    model_hash = read_manifest(folder).scoring_hash
    said("register", "late")
    shutil.rmtree(folder)
    table = f"{settings.keyspace}.model_artifacts"
    with connected(settings) as session:
        (stored,) = session.execute(
            f"SELECT manifest, content FROM {table} WHERE hash = %s", (model_hash,)
        )

        def put(manifest: str, content: bytes) -> None:
            session.execute(
                f"UPDATE {table} SET manifest = %s, content = %s WHERE hash = %s AND chunk = 0",
                (manifest, content, model_hash),
            )

        put(stored["manifest"], stored["content"][:-1] + b"x")  # somebody has tampered with it
        refused = said("promote", "late@1", "--force", code=2)
        assert "the model file of the registry's" in refused
        assert "is not the one" in refused
        put(stored["manifest"].replace("0.31", "0.01"), stored["content"])
        assert "is of another model: its hash is" in said("promote", "late@1", "--force", code=2)
        session.execute(f"DELETE FROM {table} WHERE hash = %s", (model_hash,))
        assert "is not registered" in said("promote", "late@1", "--force", code=4)
        # a change that no command has checked
        change = ModelChange(model="late@1", hash=model_hash, forced=True)
        asyncio.run(send_changes(settings, change))

        def waits() -> int:
            found: list[str] = []
            for name in fleet.running:
                with fleet[name].ask("/health/ready") as answer:
                    found += json.load(answer)["waits"]
            return sum(f"{model_hash[:16]} is not registered" in line for line in found)

        wait_until(lambda: waits() == settings.partitions, "every partition waits for the model")
        assert "late@1" not in {model for model, _ in deciders(deployment)}
        put(stored["manifest"], stored["content"])
    wait_until(lambda: {m for m, _ in deciders(deployment)} == {"late@1"}, "it has the model now")
    assert waits() == 0
    said("rollback")
    wait_until(lambda: {m for m, _ in deciders(deployment)} == {"default@1"}, "rolled back")


def a_worker_refuses(deployment: Deployment, said: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have other settings than the command: it asks them."""
    pickled_model(deployment.settings, "pickled")
    said("register", "pickled")
    before = said("history")
    with monkeypatch.context() as patch:
        patch.setenv("FRAUDSTREAM_ALLOW_PICKLED_MODELS", "true")
        for command in (
            ("promote", "pickled", "--force"),
            ("shadow", "pickled"),
            ("canary", "pickled", "--share", "5%"),
        ):
            refused = said(*command, code=2)
            assert "the worker at http://127.0.0.1:" in refused
            assert "cannot load pickled@1: " in refused
            assert "is a pickle" in refused
    assert said("history") == before  # nothing is on the log


def a_default_rule_fires(deployment: Deployment, feed: Feed) -> None:
    """The first payment of a card: there is no median to compare it with, and the model knows nothing of it."""
    body = orjson.loads(
        tx_bytes(0, card="newcomer", terminal="t1", at=feed.sent * MINUTE, amount=50_000)
    )
    body["transaction_id"] = FIRST_PAYMENT
    deployment.send([Send(orjson.dumps(body), b"newcomer")])

    def found() -> list[dict[str, Any]]:
        return [p for p in predictions(deployment) if p["transaction_id"] == FIRST_PAYMENT]

    wait_until(lambda: found() != [], "the first payment is scored")
    assert found()[0]["rules"] == ["very-large-amount@1"]
    assert found()[0]["action"] == "review"

    def alerts() -> list[Any]:
        raised = [orjson.loads(r.value) for r in deployment.records(deployment.topics.alerts)]
        return [one for one in raised if one["transaction_id"] == FIRST_PAYMENT]

    wait_until(lambda: alerts() != [], "an alert is raised")


def told_what_decided(said: Run) -> None:
    """`history --at` is what decided then: rules and lists, too."""
    changes = json.loads(said("history", "--json", group="rules"))["changes"]
    listed = next(one["at"] for one in changes if one.get("subject") == "card")
    shown = said("history", "--at", listed)
    for part in (
        "default@1 (",
        "rule: all@2",
        "rule: very-large-amount@1",
        "list: block  card      c1",
    ):
        assert part in shown
    found = json.loads(said("history", "--at", listed, "--json"))
    assert found["entries"] == [{"list": "block", "subject": "card", "id": "c1", "until": None}]
    assert "all" in {one["name"] for one in found["rules"]}
    assert "block  card      c1" in said("list", "--at", listed, group="lists")
    assert said("list", group="lists") == "the lists are empty\n"
    first = said("history", "--at", json.loads(said("history", "--json"))["changes"][0]["at"])
    assert "list:" not in first


def rules_and_lists_change(deployment: Deployment, said: Run) -> None:
    """A rule, a list entry and their end, under load; each fires on every partition, and then no more."""

    def newest() -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for one in predictions(deployment):
            place = one["source_partition"]
            if place not in found or found[place]["source_offset"] < one["source_offset"]:
                found[place] = one
        return list(found.values())

    assert "very-large-amount@1" in said("list", group="rules")  # a new deployment starts with it
    assert "did you mean amount" in said("add", "all", "amout > 1", group="rules", code=2)
    assert "all@1 is in force" in said(
        "add", "all", "amount > 0 and card_id != ''", "--action", "tag", group="rules"
    )
    wait_until(lambda: all("all@1" in one["rules"] for one in newest()), "the rule fires")
    assert "all@2" in said("add", "all", "amount > 0", "--action", "tag", group="rules")
    wait_until(lambda: all("all@2" in one["rules"] for one in newest()), "its next version fires")
    assert "card c1 is on the block list" in said(
        "add", "block", "card", "c1", "--reason", "stolen", group="lists"
    )
    wait_until(
        lambda: any(one["action"] == "decline" for one in predictions(deployment)), "c1 is declined"
    )
    shown = said("show", "all", group="rules")
    for part in (
        "all@2  tag: it tags matching transactions",
        "add all (tag) amount > 0 and card_id != ''",
        "by ",
    ):
        assert part in shown
    assert json.loads(said("show", "all", "--json", group="rules"))["version"] == 2
    assert "c1" in said("list", group="lists")
    # allowed for ever, and until a time that event time has passed
    assert "terminal t2 is on the allow list;" in said(
        "add", "allow", "terminal", "t2", group="lists"
    )
    assert "card c3 is on the allow list until 2000-01-01T00:00:00.000Z" in said(
        "add", "allow", "card", "c3", "--until", "2000-01-01", group="lists"
    )
    assert said("list", "--ended", group="lists").splitlines() == [
        "allow  card      c3  until 2000-01-01T00:00:00.000Z"
    ]

    def allowed() -> list[dict[str, Any]]:
        return [one for one in predictions(deployment) if "allow-list:terminal" in one["rules"]]

    wait_until(lambda: len(allowed()) > 1, "t2 is allowed")
    assert {(one["terminal_id"], one["action"]) for one in allowed()} == {("t2", "approve")}
    said("remove", "allow", "terminal", "t2", group="lists")
    said("remove", "allow", "card", "c3", group="lists")
    assert not any("allow-list:card" in one["rules"] for one in predictions(deployment))
    assert "off the block list" in said("remove", "block", "card", "c1", group="lists")
    assert "is not on the block list" in said(
        "remove", "block", "card", "c1", group="lists", code=4
    )
    said("remove", "all", group="rules")
    wait_until(lambda: not any(one["rules"] for one in newest()), "no rule fires any more")
    assert "no rule 'all' is in force" in said("remove", "all", group="rules", code=4)
    told = said("history", group="rules")
    for text in ("add all (tag)", "remove all", "on the block list: card c1", "stolen"):
        assert text in told


def challenge(deployment: Deployment, said: Run) -> None:
    """A shadow, a canary that grows, and their end; the deployment's own model decides all the while."""
    assert "give --share" in said("canary", "other", code=2)
    assert "is not a share of the cards" in said("canary", "other", "--share", "0", code=2)
    assert "is not a challenger" in said("shadow", "other", "--stop", code=2)
    assert "default@1 is the current model already" in said("shadow", "default@1", code=2)
    assert "no model 'none'" in said("shadow", "none", code=4)
    assert "other@1: shadow" in said("shadow", "other@1")
    wait_until(
        lambda: (
            [sorted(one.get("shadow_scores", ())) for one in newest(deployment)]
            == [["other@1"]] * deployment.settings.partitions
        ),
        "a shadow",
    )
    assert "nothing to change" in said("shadow", "other")
    assert "challenger: other@1" in said("history")
    for share in ("30%", "0.6"):
        said("canary", "other", "--share", share)
        wanted = len(decided_by_canary(deployment)) + 200
        wait_until(lambda more=wanted: len(decided_by_canary(deployment)) > more, "a canary")
    assert json.loads(said("history", "--json"))["challengers"][0]["share"] == 0.6
    for number in (1, 2, 3):
        another_model(deployment.settings, "more", version=number, threshold=number / 10)
        said("register", f"more@{number}")
    assert "other@1 is the canary, and there can be only one" in said(
        "canary", "more@1", "--share", "5%", code=2
    )
    said("shadow", "more@1")
    said("shadow", "more@2")
    assert "there are 3 challengers already: other@1, more@1, more@2; stop one" in said(
        "shadow", "more@3", code=2
    )
    wait_until(
        lambda: all(
            {"more@1", "more@2"} <= set(one["shadow_scores"]) for one in newest(deployment)
        ),
        "three challengers",
    )
    for number in (1, 2):
        said("shadow", f"more@{number}", "--stop")
    said("canary", "other@1", "--stop")
    wait_until(
        lambda: not any("shadow_scores" in one for one in newest(deployment)), "no challenger"
    )


def decided_by_canary(deployment: Deployment) -> list[Any]:
    every = predictions(deployment)
    return [p for p in every if "shadow_scores" in p and p["model_version"] == "other@1"]


def newest(deployment: Deployment) -> list[dict[str, Any]]:
    """The newest prediction of each source partition."""
    found: dict[int, dict[str, Any]] = {}
    for one in predictions(deployment):
        before = found.setdefault(one["source_partition"], one)
        if before["source_offset"] < one["source_offset"]:
            found[one["source_partition"]] = one
    return list(found.values())


def check_challengers(deployment: Deployment) -> None:
    """Shadow scores are those of a replay by that model, bit for bit; the canary's cards stay in."""
    every = predictions(deployment)
    by_canary: dict[str, list[tuple[int, bool]]] = {}
    for one in every:
        if "shadow_scores" in one:
            decided = one["model_version"] == "other@1"
            by_canary.setdefault(one["card_id"], []).append((one["source_offset"], decided))
    # out, then in: as a shadow and by a small share, then by a larger one
    for decided in by_canary.values():
        steps = [mine for _, mine in sorted(decided)]
        assert steps == sorted(steps)
    assert 0 < sum(steps[-1][1] for steps in map(sorted, by_canary.values())) < len(by_canary)
    begin = ",".join(f"{number}:0" for number in range(deployment.settings.partitions))
    assert run(["replay", "--from", begin, "--model", "other@1", "--group", "again"]) == 0
    replayed = Deployment(shadow_of(deployment.settings, "again").settings)
    scores = {
        (partition, offset): score
        for partition, offset, score in replayed.rows("source_partition", "source_offset", "score")
    }
    columns = ("source_partition", "source_offset", "shadow_scores")
    rows = {
        place: beside for *place_, beside in deployment.rows(*columns) for place in [tuple(place_)]
    }
    shadowed = [one for one in every if "other@1" in one.get("shadow_scores", ())]
    assert len(shadowed) > 100
    for one in shadowed:
        assert one["shadow_scores"]["other@1"] == scores[source(one)]
        assert rows[source(one)]["other@1"] == scores[source(one)]


def source(prediction: dict[str, Any]) -> tuple[int, int]:
    return prediction["source_partition"], prediction["source_offset"]


def test_a_setting_does_not_override_the_log(settings: Settings, tmp_path: Path, said: Run) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    another_model(settings)
    for version in (1, 99):  # planted: it would flag everything
        another_model(settings, "default", version=version, threshold=0.0)
    public = said("keygen", str(tmp_path / "key.pem")).strip().rpartition("KEYS=")[2]
    for one in ("default@1", "other"):
        said("register", one, "--sign", str(tmp_path / "key.pem"))
    for number, model in enumerate(("default@1", "other")):
        environ = environ_of(settings) | {
            "FRAUDSTREAM_MODEL": model,
            "FRAUDSTREAM_MODEL_KEYS": public,
        }
        with Fleet(environ, tmp_path / str(number)) as fleet:
            fleet.start("a")
            fleet.await_ready()
            deployment.send(transactions(number * 50, 50))
            deployment.drain()
            assert fleet.restarts == []
            log = fleet["a"].log.read_text()
            assert ("only apply to a new deployment" in log) == (model == "other")
            fleet.terminate("a")
    assert {model for model, _ in deciders(deployment)} == {"default@1"}
    assert all(one["threshold"] > 0 for one in predictions(deployment))
    assert "default@1 is the current model already" in said("shadow", "default", code=2)
    assert "is registered with another artifact" in said(
        "register", str(settings.home / "models" / "default-1"), code=2
    )
    assert "name the version" in said("register", "default", code=2)
    assert deployment.verify()["scored"] == 100
    # a version whose artifact was lost gets it again
    with connected(settings) as session:
        session.execute(f"TRUNCATE {settings.keyspace}.model_artifacts")
        assert "was registered already" in said("register", "other")
        assert fetched_models.entry_of(settings, session, "other")
        (stored,) = session.execute(f"SELECT count(*) FROM {settings.keyspace}.model_artifacts")
        assert stored["count"] > 0


def test_what_workers_could_not_load_is_refused(
    settings: Settings, tmp_path: Path, said: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    another_model(settings, "wide", features=["nothing"], usual=[0.0])
    shutil.copytree(SHIPPED / "engineered", settings.home / "models" / "engineered-1")
    said("register", "engineered")
    assert "add engineered to FRAUDSTREAM_FEATURES" in said("promote", "engineered", code=2)
    said("register", "wide")
    assert "does not compute: nothing" in said("promote", "wide@1", code=2)
    old = another_model(settings, "old", libraries={"scikit-learn": "0.1"})
    said("register", "old")
    assert "install scikit-learn 0.1 or train again" in said("promote", "old", code=2)
    (old / "model.skops").write_bytes(b"something else")
    assert "there is no model at" in said("register", "./nowhere", code=4)
    assert "is not the one that was saved" in said("register", "old", code=2)
    file, foreign = tmp_path / "mine.skops", tmp_path / "mine.joblib"
    rows = np.array([[0.0], [1.0], [2.0], [3.0]])
    classifier = LogisticRegression().fit(rows, [0, 0, 1, 1])
    skops.io.dump(classifier, file)
    joblib.dump(classifier, foreign)
    mine = ("import", str(file), "--name", "mine", "--threshold", "0.5")
    assert "skops.io.dump" in said(
        "import", str(foreign), *mine[2:], "--features", "amount", code=2
    )
    assert "needs 1 features, " in said(*mine, code=2)
    assert "mine@1" in said(*mine, "--features", "amount")
    assert "mine@2" in said(*mine, "--features", "amount")
    assert "mine@1" in said("download", "mine@1", str(tmp_path / "copy"))
    assert "threshold" in said("diff", "mine@1", "engineered@1")
    # models that earlier releases trained
    pickled_model(settings, "pickled")
    said("register", "pickled")
    assert "is a pickle, and loading a pickle runs code" in said("promote", "pickled", code=2)
    assert "is a pickle, and loading a pickle runs code" in said("shadow", "pickled", code=2)
    assert "is a pickle, and loading a pickle runs code" in said("convert", "pickled", code=2)
    monkeypatch.setenv("FRAUDSTREAM_ALLOW_PICKLED_MODELS", "true")
    assert "promote pickled@2 --force" in said("convert", "pickled")
    assert "pickled@2 is not a pickle" in said("convert", "pickled", code=2)
    assert "mine@3" in said("import", str(foreign), *mine[2:], "--features", "amount")
    monkeypatch.delenv("FRAUDSTREAM_ALLOW_PICKLED_MODELS")
    for converted in ("pickled@2", "mine@3"):
        assert '"format": 3' in said("show", converted, "--json")
    # signatures
    assert "is not signed" not in said("shadow", "mine", code=2)
    keys = [tmp_path / "one.pem", tmp_path / "other.pem"]
    public, _ = [said("keygen", str(key)).strip().rpartition("KEYS=")[2] for key in keys]
    monkeypatch.setenv("FRAUDSTREAM_MODEL_KEYS", public)
    for command in (("promote",), ("promote", "--force"), ("shadow",), ("canary", "--share", "5%")):
        assert "mine@3 is not signed" in said(*command, "mine", code=2)
    said("sign", "mine@3", "--key", str(keys[1]))
    assert "is not in FRAUDSTREAM_MODEL_KEYS" in said("promote", "mine", code=2)
    assert "mine@3" in said("sign", "mine", "--key", str(keys[0]))
    assert "sign" not in said("shadow", "mine", code=2)
    assert f"signed by  {public}" in said("show", "mine")
    assert "mine@2 is not signed" in said("promote", "mine@2", code=2)
    replay_signature(settings, "mine@3", "mine@2")
    assert "signature of model mine@2 is of another manifest" in said("promote", "mine@2", code=2)
    assert "mine@4" in said(*mine, "--features", "amount")  # it can be signed once it is registered
    # nothing of all that is on the log
    assert deployment.records(deployment.topics.control) == []
    assert "no worker has ever started" in said("threshold", "0.5", code=2)
    assert "no worker has ever started" in said("add", "all", "amount > 0", group="rules", code=2)
    assert "no worker has ever started" in said("add", "block", "card", "c1", group="lists", code=2)


def ruled(deployment: Deployment) -> dict[int, int]:
    """When a rule first fired on each source partition."""
    first: dict[int, int] = {}
    for one in predictions(deployment):
        if "all@1" in one["rules"]:
            partition = one["source_partition"]
            first[partition] = min(first.get(partition, one["scored_at"]), one["scored_at"])
    return first


#: What the guard takes back.
HARM = ("NaN", "threshold", "inverted", "slow")
#: What the gate says of a model.
GATED = {
    "NaN": "gives scores that are not between 0 and 1",
    "inverted": "flagged per day instead of",
    "slow": "us per transaction instead of",
}


def harm(deployment: Deployment, said: Run, what: str) -> tuple[float, int, int]:
    """Let something do harm until the guard takes it back; seconds, decisions by it, and all of them."""
    settings = deployment.settings
    if what != "threshold":
        model_hash = harmful(settings, what)
        said("register", what)
        # the gate sees what is wrong; what follows is promoted all the same
        gated = said("gate", what, "--from", "2020-01-01", code=2 if what == "NaN" else 1)
        assert GATED[what] in gated
    before = said("history")
    began = time.monotonic()
    if what == "threshold":
        said("threshold", "0", "--note", what)
    elif what == "NaN":  # `promote` refuses it: someone writes the change by hand
        change = ModelChange(model=f"{what}@1", hash=model_hash, forced=True, note=what)
        asyncio.run(send_changes(settings, change))
    else:
        said("promote", what, "--force", "--note", what)

    def taken_back() -> bool:
        new = said("history").splitlines()[len(before.splitlines()) - 1 :]
        return any("by guard" in line and "without effect" not in line for line in new)

    wait_until(taken_back, f"the guard takes {what} back")
    wait_until(lambda: {m for m, _ in deciders(deployment)} == {"other@1"}, "other@1 decides again")
    wait_until(lambda: all(p["threshold"] != 0 for p in newest(deployment)), "its own threshold")
    seconds = time.monotonic() - began
    new = said("history").splitlines()[len(before.splitlines()) - 1 : -1]
    effective = [line for line in new if "by guard" in line and "without effect" not in line]
    assert len(effective) == 1, new
    every = predictions(deployment)
    by_it = [p for p in every if p["model_version"] == f"{what}@1" or p["threshold"] == 0]
    if what == "NaN":
        assert by_it == []  # the model before it has decided each of them
    return seconds, len(by_it), len(every)


def harmful(settings: Settings, name: str) -> str:
    """A model of the features of the shipped one; gives its hash."""
    shipped = read_manifest(SHIPPED / "default")
    good = load_artifact(SHIPPED / "default", shipped).model
    rows = np.random.default_rng(1).gamma(1.0, 100.0, (400, len(shipped.features)))
    model: Any = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, rows[:, 0] > 100)
    if name == "slow":  # no flat arrays of it
        model = make_pipeline(StandardScaler(), RandomForestClassifier(100, max_depth=3))
        model.fit(rows, rows[:, 0] > 1e2)
    elif name == "inverted":
        scaler, one = good.steps[0][1], copy.deepcopy(good.steps[-1][1])
        one.coef_, one.intercept_ = -one.coef_, -one.intercept_
        model = make_pipeline(scaler, one)
    else:
        model.steps[-1][1].coef_[:] = np.nan
    return save_artifact(
        settings.home / "models" / name, model, name=name, version=1, kind="logistic",
        features=shipped.features, feature_schema=shipped.feature_schema, usual=shipped.usual,
        threshold=shipped.threshold, trained={}, metrics={},
    ).scoring_hash  # fmt: skip


async def away(*_: Any) -> int:
    raise UnavailableError("no Kafka")  # noqa: EM101


def retrain(deployment: Deployment, said: Run, feed: Feed) -> None:
    """Trained, waits for labels, refused; then its successor passes and is promoted: each by a call of its own."""

    def did(*arguments: str) -> str:
        return str(json.loads(said(*arguments, "--json", code=None, group="retrain"))["did"])

    def labelled(count: int) -> None:
        wait_until(lambda: feed.sent >= count + 100, "transactions")
        deployment.send(labels(count), deployment.topics.labels)

    assert "nothing to do: 200 labelled transactions, 1,000 are needed" in said(group="retrain")
    with pytest.MonkeyPatch.context() as patch:  # it ends between the registry and the log
        patch.setattr(retraining, "send_changes", away)
        assert "no Kafka" in said("--min-new", "200", code=3, group="retrain")
    assert "other@2 is a shadow now" in said(group="retrain")
    # it was fitted on all that has labels
    assert "not compared yet: 0 labelled frauds, 20 are needed" in said(group="retrain")
    labelled(1_500)
    wait_until(lambda: did() == "refused", "other@1 flags none of these, and other@2 many")
    assert "did not pass the gate" in said("history")
    said("promote", "other@2", "--force", "--no-guard")
    assert "promote other@2, forced, unguarded" in said("history")
    shown = said("--min-new", "100", group="retrain")
    assert "trained other@3 on 1,500 labelled transactions, with the recipe of other@2" in shown
    labelled(3_000)
    wait_until(lambda: did("--promote") == "promoted", "the next one is as good")
    found = json.loads(said("history", "--json"))
    assert found["decides"]["model"] == "other@3"
    assert found["challengers"] == []
    source = json.loads(said("show", "other@3", "--json"))["trained"]["source"]
    assert source["parent"] == "other@2"
    assert "after other@2" in said("show", "other@3")
    assert did("--min-new", "100000") == "waits"
    wait_until(lambda: {m for m, _ in deciders(deployment)} == {"other@3"}, "it decides")


def test_promoting_takes_seconds(
    settings: Settings, tmp_path: Path, said: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command to the first prediction by the new model on the last partition; printed, not bounded."""
    deployment = Deployment(settings)
    deployment.prepare()
    another_model(settings)
    said("register", "other")
    with Fleet(environ_of(settings), tmp_path / "fleet") as fleet:
        fleet.start("a", "b")
        fleet.await_ready()
        with Feed(deployment).running() as feed:
            wait_until(lambda: feed.sent >= 200, "a feed")
            wait_until(lambda: "start" in said("history"), "the first change")
            deployment.send(labels(200), deployment.topics.labels)
            gate = ["models", "gate", "other", "--from", "2020-01-01"]
            wait_until(lambda: run(gate) == 0, "the gate is passed: labels are there")
            report = said(*gate[1:])
            for part in ("40 of them fraud", "+0.000 (+0.000 to +0.000)", "other@1 passes"):
                assert part in report
            began = time.time() * 1000
            said("promote", "other@1")
            wait_until(
                lambda: {model for model, _ in deciders(deployment)} == {"other@1"}, "promoted"
            )
            said("add", "all", "amount > 0", "--action", "tag", group="rules")
            wait_until(lambda: len(ruled(deployment)) == settings.partitions, "the rule fires")
            added = json.loads(said("history", "--json", group="rules"))["changes"][-1]["at"]
            changed = json.loads(said("history", "--json"))["decides"]["since"]
            reverted = {what: harm(deployment, said, what) for what in HARM}
            retrain(deployment, said, feed)
        deployment.drain()
        assert fleet.restarts == []
    assert deployment.verify()["scored"] == feed.sent
    for what, (seconds, decided, every) in reverted.items():
        assert decided < 0.5 * every  # most of what is here was decided by models that do no harm
        with capsys.disabled():
            print(f"{what}: reverted after {seconds:.1f} s, it decided {decided} of {every}")
    first: dict[int, int] = {}
    for one in predictions(deployment):
        if one["model_version"] == "other@1":
            partition = one["source_partition"]
            first[partition] = min(first.get(partition, one["scored_at"]), one["scored_at"])
    assert len(first) == settings.partitions
    with capsys.disabled():
        print(f"rule on the log at {added}, first rows at {sorted(ruled(deployment).values())}")
        print(
            f"promote at {began:.0f}, on the log at {changed}, first rows at {sorted(first.values())}"
        )
