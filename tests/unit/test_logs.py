"""A worker's log: one line in half a minute while Kafka is away, not hundreds; JSON if wanted."""

import io
import json
import logging
import subprocess
import sys
from datetime import datetime

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaTimeoutError

from app.logs import JsonFormatter, NewCoordinatorFilter, RepeatFilter, worker_logging


def test_alike_messages_are_told_seldom(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    logger = logging.Logger("chatty")
    logger.addHandler(caplog.handler)
    logger.addFilter(RepeatFilter(lambda: now[0]))
    for number in range(50):
        logger.error("no node %s", number)
        now[0] += 0.5
    logger.error("something else")
    now[0] += 20
    logger.error("no node %s", 50)
    logger.error("no node %s", 51)
    assert [record.getMessage() for record in caplog.records] == [
        "no node 0",
        "something else",
        "no node 50 (49 more like it)",
    ]


def test_what_faust_tells_of_each_partition_is_told_seldom() -> None:
    done = subprocess.run(
        [sys.executable, "-c",
         "import logging; logging.basicConfig(format='%(message)s')\n"
         "from app.logs import quiet_libraries\n"
         "from app.blocks.faust.fetch_thread import BlockConsumerThread\n"
         "from app.blocks.faust.recovery import BlockRecovery\n"
         "quiet_libraries('info')\n"
         "for service in (BlockConsumerThread, BlockRecovery):\n"
         "    for partition in range(32):\n"
         "        service.logger.warning('no event of %r', partition)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr.splitlines() == ["no event of 0"] * 2


def test_a_new_kafka_has_no_coordinator_for_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    logger = logging.Logger("coordinator")
    logger.addHandler(caplog.handler)
    logger.addFilter(NewCoordinatorFilter(lambda: now[0]))
    for seconds in (0, 1, 20, 20):
        now[0] += seconds
        logger.error("Group Coordinator Request failed: %s", GroupCoordinatorNotAvailableError())
    logger.error("Group Coordinator Request failed: %s", KafkaTimeoutError())
    said = [record.args for record in caplog.records]
    assert [type(args[0]).__name__ for args in said] == [  # type: ignore[index]
        "GroupCoordinatorNotAvailableError",  # after 41 s it is a fault
        "KafkaTimeoutError",
    ]


def test_a_line_of_json_per_record() -> None:
    with io.StringIO() as told:
        handler = logging.StreamHandler(told)
        handler.setFormatter(JsonFormatter())
        try:
            raise ValueError("a\nb")
        except ValueError:
            record = logging.LogRecord(
                "x", logging.ERROR, "f", 1, 'card "%s"', ("ü",), sys.exc_info()
            )
        handler.handle(record)
        handler.handle(logging.LogRecord("y", logging.INFO, "f", 1, "two\nlines", (), None))
        first, second = map(json.loads, told.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("error", "x", 'card "ü"')
    assert "ValueError: a" in first["exception"]
    assert second["message"] == "two\nlines"
    assert datetime.fromisoformat(second["time"]).tzinfo is not None


def test_a_worker_writes_json_if_it_is_told_to() -> None:
    done = subprocess.run(
        [sys.executable, "-c",
         "import logging; from mode.utils.logging import setup_logging; from app.logs import worker_logging\n"
         "setup_logging(loglevel='info', logging_config=worker_logging('json'))\n"
         "logging.getLogger('fraudstream').warning('hello %d', 7)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stderr or done.stdout)["message"] == "hello 7"
    assert worker_logging("text") is None
