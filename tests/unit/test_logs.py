"""A worker's log while Kafka is away: one line in half a minute, not hundreds."""

import logging

import pytest

from app.logs import Seldom


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
