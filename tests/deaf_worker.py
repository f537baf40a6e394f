"""A `fraudstream worker` to which Kafka answers late, or not at all, where a test wants that.

    DEAF_WHILE=FILE python -m tests.deaf_worker worker ...

While the file exists it is not told where logs begin and end, as if the broker that leads those partitions did not
answer; aiokafka's own patience applies. Where the file names a topic, that goes for the end of its log only. With
RESUMES=1 it resumes the flow of records, which is open, for some seconds again and again when tables are
recovered: Faust does so once or twice, at a moment that depends on Kafka's answers. While the file of STILL_WHILE
exists its consumer fetches nothing, and it looks for that more often than it usually does.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

WHILE, RESUMES, STILL = "DEAF_WHILE", "RESUMES", "STILL_WHILE"
_PAUSE_SECONDS = 0.2
_RESUMES, _RESUME_SECONDS = 2_000, 0.002
_LOOK_SECONDS = 1.0


def deafen(file: Path) -> None:
    """Let questions for offsets fail as those that time out do."""
    from aiokafka.consumer.fetcher import Fetcher, OffsetResetStrategy
    from aiokafka.errors import RequestTimedOutError

    ask = Fetcher._proc_offset_requests

    def deaf(timestamps: Any) -> bool:
        if not file.exists():
            return False
        topic = file.read_text()
        return not topic or any(
            tp.topic == topic and at == OffsetResetStrategy.LATEST for tp, at in timestamps.items()
        )

    async def asked(self: Any, timestamps: Any) -> Any:
        if await asyncio.to_thread(deaf, timestamps):
            await asyncio.sleep(_PAUSE_SECONDS)
            raise RequestTimedOutError
        return await ask(self, timestamps)

    Fetcher._proc_offset_requests = asked


def stand_still(file: Path) -> None:
    """Let the consumer send no fetch."""
    from aiokafka.consumer.fetcher import Fetcher

    from app.blocks.faust import block_consumer

    decide = Fetcher._get_actions_per_node

    def decided(self: Any, assignment: Any) -> Any:
        fetches, resets, *rest = decide(self, assignment)
        return ([] if file.exists() else fetches), resets, *rest

    Fetcher._get_actions_per_node = decided
    block_consumer.LOOK_SECONDS = _LOOK_SECONDS


def resume_often() -> None:
    """Let Faust's recovery resume an open flow many times."""
    from faust.tables.recovery import Recovery

    complete = Recovery.on_recovery_completed

    async def completed(self: Any, generation_id: int = 0) -> None:
        async def resume() -> None:
            for _ in range(_RESUMES):
                self.app.flow_control.resume()
                await asyncio.sleep(_RESUME_SECONDS)

        self.add_future(resume())
        await complete(self, generation_id)

    Recovery.on_recovery_completed = completed


if __name__ == "__main__":
    if WHILE in os.environ:
        deafen(Path(os.environ[WHILE]))
    if STILL in os.environ:
        stand_still(Path(os.environ[STILL]))
    if RESUMES in os.environ:
        resume_often()
    from app.lab import lifeline

    lifeline.main()
