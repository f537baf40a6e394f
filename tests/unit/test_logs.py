"""A worker's log while Kafka is away: one line in half a minute, not hundreds."""

import logging

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaTimeoutError

from app.logs import Beginning, Seldom


def test_alike_messages_are_told_seldom(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    logger = logging.Logger("chatty")
    logger.addHandler(caplog.handler)
    logger.addFilter(Seldom(lambda: now[0]))
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


def test_a_new_kafka_has_no_coordinator_for_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    logger = logging.Logger("coordinator")
    logger.addHandler(caplog.handler)
    logger.addFilter(Beginning(lambda: now[0]))
    for seconds in (0, 1, 20, 20):
        now[0] += seconds
        logger.error("Group Coordinator Request failed: %s", GroupCoordinatorNotAvailableError())
    logger.error("Group Coordinator Request failed: %s", KafkaTimeoutError())
    said = [record.args for record in caplog.records]
    assert [type(args[0]).__name__ for args in said] == [  # type: ignore[index]
        "GroupCoordinatorNotAvailableError",  # after 41 s it is a fault
        "KafkaTimeoutError",
    ]
