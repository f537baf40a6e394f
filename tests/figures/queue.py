"""Twenty analysts at two workers decide 10,000 alerts: none twice, none lost."""

import asyncio
import time
from collections.abc import Iterator

from app.cassandra.session import connected
from tests.figures.servers import Servers
from tests.integration.test_review import ANALYSTS, decide_all

CARDS = 4_960


def measure(servers: Servers, part: float) -> Iterator[str]:
    """One line."""
    with (
        servers.deployment("queue") as (deployment, folder),
        connected(deployment.settings) as session,
    ):
        began = time.monotonic()
        alerts = asyncio.run(decide_all(session, deployment.settings, folder, int(CARDS * part)))
        spent = time.monotonic() - began
    yield (
        f"review queue: {ANALYSTS} clients decided {alerts:,} alerts in {spent:.0f} s "
        f"({alerts / spent:.0f}/s), 0 twice, 0 lost"
    )
