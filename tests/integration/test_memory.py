"""A worker's memory is bounded in bytes while Cassandra is away and records are large."""

from pathlib import Path
from random import Random

import pytest

from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

RECORDS, BYTES, WAITING_BYTES = 160, 900_000, 32 << 20


def test_large_records_wait_for_cassandra_on_the_log(
    stack: Servers, settings: Settings, tmp_path: Path
) -> None:
    """144 MB wait; a worker holds a few of them only, and all are stored once Cassandra is back."""
    servers = stack.require_local()
    settings = settings.model_copy(update={"max_waiting_bytes": WAITING_BYTES})
    settings.model_fields_set.add("max_waiting_bytes")
    deployment = Deployment(settings)
    deployment.prepare()
    rng = Random(7)
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.send(transactions(rng, 0, 40))
        deployment.drain()
        before = peak_bytes(fleet)

        def waits() -> bool:
            said = fleet["a"].reasons() or []
            return any("predictions wait for Cassandra" in reason for reason in said)

        servers.stop("cassandra", kill=True)
        try:
            for first in range(40, 40 + RECORDS, 40):
                deployment.send(transactions(rng, first, 40))
            wait_until(waits, "predictions to wait for Cassandra")
            wait_until(
                lambda: deployment.count(deployment.topics.predictions) == 40 + RECORDS,
                "all to be scored without Cassandra",
            )
            grown = peak_bytes(fleet) - before
        finally:
            servers.start("cassandra")
        deployment.drain()
        report = deployment.verify()  # reads pages that are bounded in bytes, too
        grown_after = peak_bytes(fleet) - before
    assert report["scored"] == report["rows"] == 40 + RECORDS
    print(f"{before >> 20} MiB, {grown >> 20} MiB more while away, {grown_after >> 20} after")
    assert max(grown, grown_after) < RECORDS * BYTES // 2


def transactions(rng: Random, first: int, count: int) -> list[Send]:
    """Of ten cards, each with nearly a megabyte in a field that nobody knows."""
    return [
        Send(
            tx_bytes(
                number, card=f"c{number % 10}", at=number, note=rng.randbytes(BYTES // 2).hex()
            ),
            f"c{number % 10}".encode(),
        )
        for number in range(first, first + count)
    ]


def peak_bytes(fleet: Fleet) -> int:
    """The most memory that worker `a` has had."""
    status = Path(f"/proc/{fleet['a'].pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10
