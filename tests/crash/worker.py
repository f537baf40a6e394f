"""A `fraudstream worker` for the crash test: its producer's path can be filled with delays, and it can be broken.

    CRASH_BREAK="changelog before outputs" CRASH_DELAYS=FILE python -m tests.crash.worker worker ...

`CRASH_DELAYS` names a file that says how many seconds what the producer sends may wait, at most; it is
read before each request, so that the crash test can change it. `CRASH_BREAK` is a name of `tests/seeded_faults.py`.
"""

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.seeded_faults import named

BREAK, DELAYS = "CRASH_BREAK", "CRASH_DELAYS"


def delay_producers(file: Path) -> None:
    """Let what this process sends to Kafka wait, each topic for any time up to what a file says.

    A cluster has many brokers, each with its own requests on their way: outputs may be acknowledged long after the
    rows of the changelog, although they were sent before. One broker takes one request after the other, and
    would never show what goes wrong then. So a delayed request is sent in parts, as if each topic had its own.
    """
    from aiokafka.producer.sender import Sender, SendProduceReqHandler

    send = Sender._send_produce_req

    def longest_seconds() -> float:
        with suppress(OSError, ValueError):  # no file yet, or not written to its end
            return float(file.read_text())
        return 0.0

    async def delayed(self: Any, node_id: int, batches: dict[Any, Any]) -> None:
        longest = longest_seconds()
        if longest <= 0:
            await send(self, node_id, batches)
            return
        self._in_flight.discard(node_id)  # others need not wait for this one
        parts: dict[str, dict[Any, Any]] = defaultdict(dict)
        for tp, batch in batches.items():
            parts[tp.topic][tp] = batch
        await asyncio.gather(
            *(late(self, node_id, part, random.random() * longest) for part in parts.values())
        )

    async def late(self: Any, node_id: int, batches: dict[Any, Any], seconds: float) -> None:
        await asyncio.sleep(seconds)
        await SendProduceReqHandler(self, batches).do(node_id)
        for tp in batches:
            self._muted_partitions.discard(tp)
        waiter = self._message_accumulator.waiter()
        if not waiter.done():  # what waited behind it may go
            waiter.set_result(None)

    Sender._send_produce_req = delayed


def prepare(environ: Mapping[str, str]) -> None:
    """Do what the environment asks for, before anything of the project is imported."""
    if environ.get(BREAK):
        named(environ[BREAK]).install()
    if environ.get(DELAYS):
        delay_producers(Path(environ[DELAYS]))


if __name__ == "__main__":
    prepare(os.environ)
    from app.lab import lifeline

    lifeline.main()
