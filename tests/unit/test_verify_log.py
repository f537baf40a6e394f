"""Reading a topic for verification: whose silence counts."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import UnavailableError
from app.ops.verification import topic_log as module
from app.ops.verification.topic_log import Log
from app.settings import load_settings
from app.topics import Topics


class Consumer:
    """Gives its chunks one after the other, then nothing."""

    def __init__(self, chunks: list[list[int]]) -> None:
        self._chunks = chunks
        self._next = 0

    def assign(self, tps: list[Any]) -> None:
        (self._tp,) = tps

    def seek(self, _tp: Any, offset: int) -> None:
        self._next = offset

    async def getmany(self, *_tps: Any, **_options: Any) -> dict[Any, list[Any]]:
        await asyncio.sleep(0.001)
        if not self._chunks:
            return {}
        chunk = self._chunks.pop(0)
        self._next = chunk[-1] + 1
        return {self._tp: [SimpleNamespace(offset=offset) for offset in chunk]}

    async def position(self, _tp: Any) -> int:
        return self._next


def read(chunks: list[list[int]], end: int, work_seconds: float) -> list[int]:
    """Offsets that were read, with so much work for each chunk."""
    settings = load_settings()
    log = Log(settings, Consumer(chunks), None)  # type: ignore[arg-type]

    async def run() -> list[int]:
        found = []
        async for records in log.read(Topics(settings).enriched, 0, 0, end):
            time.sleep(work_seconds)  # noqa: ASYNC251 -- as verification works: the loop waits
            found += [record.offset for record in records]
        return found

    return asyncio.run(run())


def test_work_on_a_chunk_is_no_silence_of_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENCE_SECONDS", 0.05)
    assert read([[0, 1], [2], [3, 4]], 4, work_seconds=0.1) == [0, 1, 2, 3]


def test_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENCE_SECONDS", 0.05)
    with pytest.raises(UnavailableError, match="returned no record of .*enriched/0"):
        read([[0, 1]], 4, work_seconds=0)
