"""A `fraudstream worker` to which Kafka answers late, or not at all, where a test wants that.

    DEAF_WHILE=FILE LATE_SECONDS=0.5 python -m tests.deaf_worker worker ...

While the file exists it is not told where logs begin and end, as if the broker that leads those partitions did not
answer; aiokafka's own patience applies. Committed offsets come so much later than they do.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

WHILE, LATE = "DEAF_WHILE", "LATE_SECONDS"
_PAUSE_SECONDS = 0.2


def deafen(file: Path) -> None:
    """Let questions for offsets fail as those that time out do."""
    from aiokafka.consumer.fetcher import Fetcher
    from aiokafka.errors import RequestTimedOutError

    ask = Fetcher._proc_offset_requests

    async def asked(self: Any, timestamps: Any) -> Any:
        if await asyncio.to_thread(file.exists):
            await asyncio.sleep(_PAUSE_SECONDS)
            raise RequestTimedOutError
        return await ask(self, timestamps)

    Fetcher._proc_offset_requests = asked


def hesitate(seconds: float) -> None:
    """Let committed offsets come late."""
    from aiokafka.consumer.group_coordinator import GroupCoordinator

    ask = GroupCoordinator.fetch_committed_offsets

    async def asked(self: Any, partitions: Any) -> Any:
        await asyncio.sleep(seconds)
        return await ask(self, partitions)

    GroupCoordinator.fetch_committed_offsets = asked


if __name__ == "__main__":
    if WHILE in os.environ:
        deafen(Path(os.environ[WHILE]))
    if LATE in os.environ:
        hesitate(float(os.environ[LATE]))
    from app.tools import lifeline

    lifeline.main()
