"""How soon a promotion and a rule apply under load, and what the guard lets through before it takes harm back.

Two workers, 1,000 transactions per second. Times are those of the broker and of the workers, on one machine.
"""

import asyncio
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from app.cassandra.model_registry import register
from app.cassandra.session import connected
from app.domain.changes import AnyChange, LoadChange, ModelChange, RuleChange, ThresholdChange
from app.kafka.change_history import read_history, send_changes
from app.kafka.clients import client_kwargs
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.settings import Settings
from app.topics import Topics
from models.artifact import read_manifest
from models.artifact_folders import Entry
from tests.deployment import Deployment, wait_until
from tests.figures.servers import Servers
from tests.fleet import Fleet
from tests.integration.test_models_live import another_model, harmful
from tests.worker_settings import environ_of

RATE, WARM_SECONDS, CALM_SECONDS, REVERTED_SECONDS = 1_000, 20.0, 8.0, 90.0
_START_MS = 1_735_689_600_000
#: The last one leaves a backlog.
_FAULTS = ("NaN", "inverted", "threshold", "slow")


def measure(servers: Servers, part: float) -> Iterator[str]:
    """A line for a promotion, a rule, the silence of partitions, and each fault."""
    with servers.deployment("changing", features=("basic",), model="default@1") as (
        deployment,
        folder,
    ):
        settings = deployment.settings
        another_model(settings)
        hashes = {name: harmful(settings, name) for name in _FAULTS if name != "threshold"}
        folders = {"other": "other-1", **{name: name for name in hashes}}
        with connected(settings) as session:
            for name, where in folders.items():
                entry = _entry(settings, where)
                hashes[name] = entry.manifest.scoring_hash
                register(session, settings, entry, "figures")
        with Fleet(environ_of(settings), folder / "fleet") as fleet, _feed(settings):
            fleet.start("a", "b")
            fleet.await_ready()
            wait_until(lambda: _history(settings).decides() is not None, "the first change")
            time.sleep(WARM_SECONDS * max(part, 0.5))
            moments = {"promote": time.time() * 1000}
            deployment_said = deployment.run("models", "promote", "other", "--force")
            assert deployment_said.returncode == 0, deployment_said.stderr
            time.sleep(CALM_SECONDS)
            _send(settings, RuleChange(name="all", expression="amount > 0", action="tag"))
            time.sleep(CALM_SECONDS)
            for name in _FAULTS:
                _harm(settings, name, hashes)
                time.sleep(CALM_SECONDS)
            assert not (fleet.restarts or fleet.failures)
        predictions = [
            orjson.loads(one.value) for one in deployment.records(deployment.topics.predictions)
        ]
        yield from _lines(deployment, predictions, moments)


def _entry(settings: Settings, where: str) -> Entry:
    folder = settings.home / "models" / where
    return Entry(folder, read_manifest(folder))


def _history(settings: Settings) -> Any:
    return asyncio.run(read_history(settings))


def _send(settings: Settings, *changes: AnyChange) -> None:
    asyncio.run(send_changes(settings, *changes))


def _harm(settings: Settings, name: str, hashes: dict[str, str]) -> None:
    before = len(_history(settings).changes)
    if name == "threshold":
        _send(settings, ThresholdChange(threshold=0.0, note=name))
    else:
        model = f"{name}@1"
        _send(
            settings,
            LoadChange(model=model, hash=hashes[name]),
            ModelChange(model=model, hash=hashes[name], forced=True, note=name),
        )

    def reverted() -> bool:
        new = _history(settings).changes[before:]
        made = next(one.offset for one in new if one.change.note == name)
        return any(getattr(one.change, "reverts", None) == made for one in new)

    wait_until(reverted, f"the guard takes {name} back", REVERTED_SECONDS)


@contextmanager
def _feed(settings: Settings) -> Iterator[None]:
    """Transactions at the rate, in a thread, until the block ends."""
    ending = threading.Event()
    config = SimulationConfig(
        cards=2_000, terminals=2_000, count=300_000, days=60, start_ms=_START_MS, seed=1
    )
    pairs = iter(simulate(config).pairs())

    async def send() -> None:
        producer = AIOKafkaProducer(**client_kwargs(settings), acks="all", linger_ms=5)
        await producer.start()
        topic, began, sent = Topics(settings).transactions.name, time.monotonic(), 0
        try:
            while not ending.is_set():
                due = int((time.monotonic() - began) * RATE)
                futures = [
                    await producer.send(topic, value, key=key)
                    for key, value in _some(pairs, due - sent)
                ]
                sent = due
                await asyncio.gather(*futures)
                await asyncio.sleep(0.01)
        finally:
            await producer.stop()

    thread = threading.Thread(target=lambda: asyncio.run(send()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _some(pairs: Iterator[tuple[Any, Any]], count: int) -> list[tuple[Any, Any]]:
    return [next(pairs) for _ in range(count)]


def _lines(
    deployment: Deployment, every: list[dict[str, Any]], moments: dict[str, float]
) -> Iterator[str]:
    partitions: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in every:
        partitions[one["source_partition"]].append(one)
    for rows in partitions.values():
        rows.sort(key=lambda one: one["source_offset"])
    changes = _history(deployment.settings).changes

    def first(rows: list[dict[str, Any]], which: Any) -> float:
        return float(min(one["scored_at"] for one in rows if which(one)))

    promoted = next(
        one
        for one in changes
        if isinstance(one.change, ModelChange) and one.change.model == "other@1"
    )
    last = max(
        first(rows, lambda one: one["model_version"] == "other@1") for rows in partitions.values()
    )
    yield (
        f"promote: first row by the new model on the last of {len(partitions)} partitions "
        f"{last - promoted.at_ms:.0f} ms after the change was on the log, {last - moments['promote']:.0f} ms after the "
        "command began"
    )
    ruled = next(
        one for one in changes if isinstance(one.change, RuleChange) and one.change.name == "all"
    )
    last = max(first(rows, lambda one: "all@1" in one["rules"]) for rows in partitions.values())
    yield f"rule: in force on the last partition {last - ruled.at_ms:.0f} ms after it was on the log"
    usual, most = [], 0.0
    for rows in partitions.values():
        times = sorted(one["scored_at"] for one in rows)
        for before, after in zip(times, times[1:], strict=False):
            if promoted.at_ms - 1_000 <= after <= promoted.at_ms + 4_000:
                most = max(most, after - before)
            elif promoted.at_ms - 10_000 <= after < promoted.at_ms - 1_000:
                usual.append(after - before)
    usual.sort()
    yield (
        f"silence of a partition: p99 {usual[int(len(usual) * 0.99)]:.0f} ms and most {usual[-1]:.0f} ms in the 9 s "
        f"before, most {most:.0f} ms from 1 s before the promotion to 4 s after it"
    )
    for name in _FAULTS:
        made = next(one for one in changes if one.change.note == name)
        revert = next(one for one in changes if getattr(one.change, "reverts", None) == made.offset)
        by_it = [
            one
            for one in every
            if (
                one["threshold"] == 0
                if name == "threshold"
                else one["model_version"] == f"{name}@1"
            )
        ]
        flagged = sum(one["is_fraud"] for one in by_it)
        yield (
            f"{name}: reverted {(revert.at_ms - made.at_ms) / 1000:.1f} s after the change; it decided {len(by_it):,} "
            f"transactions ({flagged:,} flagged), {100 * len(by_it) / (RATE * 3_600):.3f} % of an hour's, "
            f"{100 * len(by_it) / (RATE * 86_400):.4f} % of a day's"
        )
    latency = statistics.median(one["scored_at"] - one["received_at"] for one in every)
    yield f"  ({len(every):,} transactions, median latency to the score {latency:.0f} ms)"
