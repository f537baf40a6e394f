"""What a worker writes to standard error."""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiokafka.errors import GroupCoordinatorNotAvailableError

#: Their INFO lines are about themselves; a person who runs a worker needs their warnings only.
# our subclasses of Faust services log under their own modules.
_LIBRARIES = (
    "aiokafka",
    "asyncio",
    "cassandra",
    "faust",
    "mode",
    "app.blocks",
    "app.faust_app",
)
#: While Kafka is away each of its clients tells so several times a second.
_CHATTY = "aiokafka"
#: In an outage Faust tells of each partition, every few seconds, that nothing was fetched or committed.
_TOLD_BY_PARTITION = ("app.blocks.faust.fetch_thread", "app.blocks.faust.recovery")
_AGAIN_SECONDS = 30.0


class JsonFormatter(logging.Formatter):
    """A line of JSON per record: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and any `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def worker_logging(log_format: str) -> dict[str, Any] | None:
    """What Faust's worker is told of logging: what to merge into its own settings; None: nothing."""
    if log_format != "json":
        return None
    formatter = {"()": JsonFormatter}
    return {"merge": True, "formatters": {"default": formatter, "colored": formatter}}


class RepeatFilter(logging.Filter):
    """Lets a message through once in half a minute, and then says how many like it were left out.

    Messages are alike when their text is the same before values are put in.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        text, now = str(record.msg), self._clock()
        if now - self._told.get(text, float("-inf")) < _AGAIN_SECONDS:
            self._left_out[text] = self._left_out.get(text, 0) + 1
            return False
        self._told[text] = now
        if left_out := self._left_out.pop(text, 0):
            record.msg = f"{text} ({left_out} more like it)"
        return True


class NewCoordinatorFilter(logging.Filter):
    """Leaves out that the group has no coordinator yet: on a new Kafka the first worker makes it be created.

    When that takes longer than half a minute, it is a fault, and shown.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._first: float | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        if not any(isinstance(one, GroupCoordinatorNotAvailableError) for one in arguments):
            return True
        if self._first is None:
            self._first = self._clock()
        return self._clock() - self._first > _AGAIN_SECONDS


def quiet_libraries(level: str) -> None:
    """Show our own lines at `level`, those of libraries from warnings on; `debug` shows everything.

    At INFO and above, DEBUG records are disabled altogether: Faust makes one for each message, and
    formatting them for nobody took 14 % of a worker's time.
    """
    if level == "debug":
        return
    logging.disable(logging.DEBUG)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _TOLD_BY_PARTITION:
        logging.getLogger(name).addFilter(RepeatFilter())
    # a filter is not asked about the records of loggers below its own
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(_CHATTY):
            logging.getLogger(name).addFilter(NewCoordinatorFilter())
            logging.getLogger(name).addFilter(RepeatFilter())
