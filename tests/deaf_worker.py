"""A `fraudstream worker` that is not told where logs begin and end, for as long as a file exists.

    DEAF_WHILE=FILE python -m tests.deaf_worker worker ...

As if the broker that leads those partitions did not answer: everything else does, and aiokafka's own patience applies.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

WHILE = "DEAF_WHILE"
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


if __name__ == "__main__":
    deafen(Path(os.environ[WHILE]))
    from app.tools import lifeline

    lifeline.main()
