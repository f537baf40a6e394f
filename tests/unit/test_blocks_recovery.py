"""What ends a worker and with which exit code, and recovery where Kafka does not answer."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    OutOfOrderSequenceNumber,
    RequestTimedOutError,
)
from faust.tables.recovery import RebalanceAgain, ServiceStopped
from mode.utils.queues import FlowControlQueue

from app.blocks.faust import recovery as module
from app.blocks.faust.block_app import ClearingFlowControl
from app.blocks.faust.fatal_errors import is_away
from app.blocks.faust.recovery import BlockRecovery


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (KafkaTimeoutError(), True),
        (KafkaConnectionError(), True),
        (RequestTimedOutError(), True),
        (OutOfOrderSequenceNumber(), False),
        (TimeoutError(), False),  # whose?
        (ValueError(), False),
    ],
)
def test_what_says_that_kafka_is_away(error: Exception, away: bool) -> None:
    assert is_away(error) == away


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("KafkaTimeoutError('20 s')", 3, "Kafka does not answer (KafkaTimeoutError: 20 s)"),
        ("OutOfOrderSequenceNumber()", 70, "OutOfOrderSequenceNumber: "),
        ("SchemaError('run `x`')", 5, "run `x`"),
        ("ValueError('odd\\n  thing\\n')", 70, "ValueError: odd thing"),
    ],
)
def test_a_worker_ends_with_the_code_of_what_it_met(error: str, code: int, said: str) -> None:
    text = (
        "from aiokafka.errors import KafkaTimeoutError, OutOfOrderSequenceNumber\n"
        "from app.errors import SchemaError\nfrom app.blocks.faust.fatal_errors import halt\n"
        f"halt('a topic/1', {error})"
    )
    done = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True)
    assert done.returncode == code
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"fraudstream: worker stopped in a topic/1: {said}")


def test_a_service_that_crashes_ends_the_worker_with_a_line() -> None:
    text = (
        "import asyncio, faust\nfrom app.blocks.faust.block_app import BlockApp\n"
        "app = BlockApp('a', broker='block://127.0.0.1:1', store='memory://')\n"
        "asyncio.run(app.tables.recovery.crash(ValueError('odd')))"
    )
    done = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True)
    assert done.returncode == 70, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "fraudstream: worker stopped in a part of Faust: ValueError: odd"
    )


async def test_what_was_fetched_while_flow_is_open_stays() -> None:
    flow = ClearingFlowControl()
    queue: Any = FlowControlQueue(flow_control=flow, clear_on_resume=True)
    queue.force_put_nowait("of before")
    flow.resume()
    assert queue.empty()
    queue.force_put_nowait("a warm copy's")
    flow.resume()
    assert queue.get_nowait() == "a warm copy's"
    queue.force_put_nowait("of before")
    flow.suspend()
    flow.clear()
    assert queue.empty()


@pytest.fixture
def recovery(monkeypatch: pytest.MonkeyPatch) -> BlockRecovery:
    """A recovery service that has not been started."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    app: Any = SimpleNamespace(conf=SimpleNamespace(stream_recovery_delay=0.0))
    return BlockRecovery(app, SimpleNamespace())  # type: ignore[arg-type]


async def test_a_step_that_is_done_in_time(recovery: BlockRecovery) -> None:
    await recovery._wait(asyncio.sleep(0), timeout=5.0)
    assert not recovery.signal_recovery_start.is_set()


@pytest.mark.parametrize("error", [None, KafkaTimeoutError(), TimeoutError()])
async def test_a_step_without_an_answer_begins_recovery_anew(
    recovery: BlockRecovery, error: Exception | None
) -> None:
    async def step() -> None:
        if error is not None:
            raise error
        await asyncio.sleep(60)

    with pytest.raises(RebalanceAgain):
        await recovery._wait(step(), timeout=0.01)
    assert recovery.signal_recovery_start.is_set()


async def test_a_stop_is_a_stop(recovery: BlockRecovery) -> None:
    recovery._stopped.set()
    with pytest.raises(ServiceStopped):
        await recovery._wait(asyncio.sleep(60), timeout=5.0)
    assert not recovery.signal_recovery_start.is_set()


async def test_a_rebalance_is_a_rebalance(recovery: BlockRecovery) -> None:
    recovery.signal_recovery_start.set()
    with pytest.raises(RebalanceAgain):
        await recovery._wait(asyncio.sleep(60), timeout=5.0)


async def test_what_cannot_be_explained_is_raised(recovery: BlockRecovery) -> None:
    async def step() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await recovery._wait(step())
