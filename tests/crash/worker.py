"""A `fraudstream worker` for the ordeal: its producer's path can be filled with delays, and it can be broken.

    ORDEAL_BREAK="changelog before outputs" ORDEAL_DELAYS=FILE python -m tests.crash.worker worker ...

`ORDEAL_DELAYS` names a file that says how many seconds each request of the producer may wait, at most; it is
read before each request, so that the ordeal can change it. `ORDEAL_BREAK` is a name of `tests/breaks.py`.
"""

import asyncio
import os
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.breaks import named

BREAK, DELAYS = "ORDEAL_BREAK", "ORDEAL_DELAYS"


def delay_producers(file: Path) -> None:
    """Let each produce request of this process wait, for any time up to what a file says."""
    from aiokafka.producer.sender import SendProduceReqHandler

    send = SendProduceReqHandler.do

    def longest_seconds() -> float:
        with suppress(OSError, ValueError):  # no file yet, or not written to its end
            return float(file.read_text())
        return 0.0

    async def delayed(self: Any, node_id: int) -> Any:
        longest = longest_seconds()
        if longest > 0:
            await asyncio.sleep(random.random() * longest)
        return await send(self, node_id)

    SendProduceReqHandler.do = delayed


def prepare(environ: Mapping[str, str]) -> None:
    """Do what the environment asks for, before anything of the project is imported."""
    if environ.get(BREAK):
        named(environ[BREAK]).install()
    if environ.get(DELAYS):
        delay_producers(Path(environ[DELAYS]))


if __name__ == "__main__":
    prepare(os.environ)
    from app.tools import lifeline

    lifeline.main()
