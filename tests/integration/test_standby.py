"""Standby replicas are on another host than their primary, follow it, and are kept when their worker stops."""

import asyncio
from pathlib import Path

import pytest

from app.kafka.topic_admin import log_ends
from app.lab.bench.filled_state import fill_cards
from app.lab.bench.histogram import WorkerPage
from app.ops.state_comparison import OFFSET_KEY, TABLES, read_store, stores
from app.settings import Settings
from tests import deaf_worker
from tests.builders import tx_bytes
from tests.crash.watch import overview
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration


def test_copies_follow_and_are_kept(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"session_timeout": 6_000, "standby_replicas": 1})
    deployment = Deployment(settings)
    deployment.prepare()
    changelogs = dict(
        zip(
            TABLES,
            (deployment.topics.cards_changelog, deployment.topics.terminals_changelog),
            strict=True,
        )
    )
    every = {(table, number) for table in TABLES for number in range(settings.partitions)}
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a", "b", environ={"FRAUDSTREAM_HOST_NAME": "one"})
        fleet.start("c", environ={"FRAUDSTREAM_HOST_NAME": "two"})
        fleet.await_ready()

        def copies(*names: str) -> dict[tuple[str, int], float]:
            found = [WorkerPage.of(fleet[name]).copies for name in names]
            return {at: lag for each in found for at, lag in each.items() if at[0] in TABLES}

        def apart() -> bool:
            """Each partition of `a` and `b` has its replica on `c`, and each of `c` on one of them."""
            owners = overview(fleet["a"])["workers"]
            theirs = {*owners.get(fleet["a"].url, ()), *owners.get(fleet["b"].url, ())}
            return (
                len(theirs) > 0
                and {number for _, number in copies("c")} == theirs
                and copies(*"abc").keys() == every
            )

        wait_until(apart, "a replica of each partition on the other host")
        # few enough that Faust alone would leave all of them in memory: it writes every sixteen blocks
        deployment.send(
            Send(tx_bytes(number, card=f"c{number}", at=number * 60_000), f"c{number}".encode())
            for number in range(8)
        )
        deployment.drain()
        wait_until(lambda: not any(copies(*"abc").values()), "copies to be complete")
        ends = {
            table: asyncio.run(log_ends(settings, changelog.name))
            for table, changelog in changelogs.items()
        }
        assert sum(ends["cards"].values()) >= 8
        kept = copies("c")
        assert kept
        fleet.terminate("c")
        for table, partition in kept:
            (store,) = stores(fleet["c"].datadir, table, partition)
            end = ends[table][partition]
            assert int(read_store(store).get(OFFSET_KEY, -1)) == end - 1, (table, partition)
        fleet.await_ready()
        assert deployment.verify()["scored"] == 8


def test_a_copy_of_much_lacks_nothing(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"session_timeout": 6_000, "standby_replicas": 1})
    deployment = Deployment(settings)
    deployment.prepare()
    rows = 40_000  # takes longer to copy than recovery takes to end
    fill_cards(settings, rows)
    ends = asyncio.run(log_ends(settings, deployment.topics.cards_changelog.name))
    environ = environ_of(settings) | {deaf_worker.RESUMES: "1"}
    with Fleet(environ, tmp_path, module=deaf_worker.__name__) as fleet:
        fleet.start("a")
        fleet.await_ready()
        fleet.start("b")

        def copied() -> bool:
            lags = WorkerPage.of(fleet["b"]).copies
            return bool(lags) and not any(lags.values())

        fleet.await_ready()
        wait_until(copied, "the copies to be complete")
        kept = [number for table, number in WorkerPage.of(fleet["b"]).copies if table == "cards"]
        fleet.terminate("b")
    assert kept
    for partition in kept:
        (store,) = stores(fleet["b"].datadir, "cards", partition)
        held = sum(key.startswith(b"hC") for key in read_store(store))
        assert held == ends[partition], f"cards/{partition}: {held} of {ends[partition]} rows"
