"""A deployment gets more partitions, on real servers: interrupted, resumed, and `verify` is clean over both parts."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewPartitions

from app.errors import UnavailableError
from app.kafka.clients import admin, group_members
from app.kafka.topic_admin import partition_counts
from app.ops import repartition as command
from app.settings import Settings
from app.topics import Topics, TopicSpec
from tests.crash.feed import Feed
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

BEFORE, AFTER = 2, 5


def silent(*_: object) -> None:
    """Nobody is told."""


def run(deployment: Deployment, *arguments: str, code: int = 0) -> Any:
    done = deployment.run("repartition", *arguments, timeout=300)
    assert done.returncode == code, done.stderr
    return (
        done.stderr if code else json.loads(done.stdout) if "--json" in arguments else done.stdout
    )


def await_no_members(settings: Settings) -> None:
    wait_until(lambda: not asyncio.run(group_members(settings)), "the group is empty")


@pytest.mark.timeout(900)
def test_a_deployment_with_history_gets_more_partitions(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(
        update={
            "partitions": BEFORE, "session_timeout": 6_000, "max_entries_per_key": 600,
            "label_wait": 2_000, "prediction_ttl": "forever",
        }
    )  # fmt: skip
    before = Deployment(settings)
    before.prepare()
    first = Feed(settings, seed=11, events=3_000, say=silent)
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        first.start()
        wait_until(lambda: first.sent > 1_500, "half of the records", timeout=300)
        first.give_up()
        first.join()
        assert first.error is None
        before.drain(300)
        assert "has 1 members: stop all workers" in run(before, "--to", "5", code=2)
        assert "choose a number from 3 to 1024" in run(before, "--to", "2", code=2)
        fleet.terminate("a")
        await_no_members(settings)
        # something is not processed: the order of its card could not be kept
        before.send([Send(b"{", b"c1")])
        refused = run(before, "--to", "5", code=2)
        assert f"1 offsets of {before.topics.transactions.name} are not processed" in refused
        fleet.start("a")
        fleet.await_ready()
        before.drain(300)
        fleet.terminate("a")
    await_no_members(settings)
    after = settings.model_copy(update={"partitions": AFTER, "generation": 2})
    interrupt_twice(settings, after, monkeypatch)
    done = run(before, "--to", "5", "--json")
    assert done["resumed"]
    assert (done["partitions"], done["generation"]) == (AFTER, 2)
    assert run(before, "--to", "5", "--json")["resumed"], "a second run changes nothing"
    old_worker = before.run("worker", "--datadir", str(tmp_path / "old"))
    assert old_worker.returncode == 5
    assert "after `fraudstream repartition`: set what it printed" in old_worker.stderr

    deployment = Deployment(after)
    second = Feed(after, seed=11, events=3_000, say=silent)
    second._records = first._records  # it goes on where the first one stopped
    with Fleet(environ_of(after), tmp_path) as fleet:
        fleet.start("a", "b")  # `a` has stores of the old changelogs
        fleet.await_ready()
        log = fleet["a"].log.read_text()
        assert "generation 2" in log or "is being rebuilt" in log
        second.start()
        second.join()
        assert second.error is None
        deployment.drain(300)
        report = deployment.verify(300)
        rebuilt = deployment.run("rebuild", "--datadir", str(tmp_path), "--json")
        assert rebuilt.returncode == 0, rebuilt.stderr
    assert report["scored"] > 2_500
    assert report["of_other_deployments"] == 0
    assert report["unverifiable"] == 0
    scored = read(deployment, deployment.topics.predictions)
    assert len(scored) < 1.2 * report["read"], "nothing is scored again"
    old = Topics(settings)
    finished = run(deployment, "--finish")
    assert old.cards_changelog.name in finished
    left = asyncio.run(
        partition_counts(after, [s.name for s in (*old.all, *deployment.topics.all)])
    )
    assert old.enriched.name in left
    assert not {old.cards_changelog.name, old.terminals_changelog.name} & left.keys()
    assert {left[spec.name] for spec in deployment.topics.all} == {AFTER}
    assert deployment.verify()["read"] == report["read"]


def interrupt_twice(settings: Settings, after: Settings, patch: pytest.MonkeyPatch) -> None:
    """Stop in the middle of the rows, and once more when the first topic has its partitions."""
    append, ensure, rows = command._append, command.ensure_topics, 0

    async def append_some(*arguments: Any) -> None:
        nonlocal rows
        rows += 1
        if rows > 4:
            raise UnavailableError("interrupted")
        await append(*arguments)

    async def grow_one(_: Settings, specs: Iterable[TopicSpec], **options: Any) -> list[str]:
        if not options:
            return await ensure(_, specs)
        async with admin(after) as client:
            name = Topics(after).transactions.name
            await client.create_partitions({name: NewPartitions(AFTER)})
        raise UnavailableError("interrupted")

    with patch.context() as context:
        context.setattr(command, "_append", append_some)
        with pytest.raises(UnavailableError, match="interrupted"):
            asyncio.run(command.repartition(settings, AFTER, progress=silent))
    with patch.context() as context:
        context.setattr(command, "ensure_topics", grow_one)
        with pytest.raises(UnavailableError, match="interrupted"):
            asyncio.run(command.repartition(settings, AFTER, progress=silent))
    counts = asyncio.run(partition_counts(settings, [s.name for s in Topics(settings).all]))
    assert sorted(set(counts.values())) == [BEFORE, AFTER]


def read(deployment: Deployment, topic: TopicSpec) -> list[Any]:
    return deployment.records(topic)
