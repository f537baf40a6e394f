"""The periods of `fraudstream train`: dates on the command line to milliseconds."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import UsageError
from app.settings import parse_duration_ms

if TYPE_CHECKING:
    from models.splits import Periods

#: Of the command's parameters, those that ask for periods.
PERIOD_OPTIONS = ("train_from", "train_to", "test_from", "test_to", "delay")


def periods_of(
    options: dict[str, Any], event_time_ms: np.ndarray, label_delay_ms: int
) -> "Periods | None":
    """The periods that are asked for; what is not given follows from the rest.

    Args:
        options: `PERIOD_OPTIONS`: moments as epoch milliseconds, the delay in milliseconds, or None.
        event_time_ms: of the transactions: where the first period begins and the last one ends.
        label_delay_ms: the deployment's, which is the delay when none is given.

    Returns:
        None when no option is given: the transactions are then split by share.

    Raises:
        UsageError: neither the end of training nor the beginning of the test is given.
    """
    from models.splits import Periods

    begin, end, test, test_end, delay = (options[name] for name in PERIOD_OPTIONS)
    if all(each is None for each in (begin, end, test, test_end, delay)):
        return None
    if end is None and test is None:
        msg = "give --train-to, --test-from or both: one follows from the other by the --delay"
        raise UsageError(msg)
    if not len(event_time_ms):
        msg = "there are no transactions to train on"
        raise UsageError(msg)
    delay = label_delay_ms if delay is None else delay
    end = test - delay if end is None else end
    return Periods(
        train_from=int(event_time_ms.min()) if begin is None else begin,
        train_to=end,
        test_from=end + delay if test is None else test,
        test_to=int(event_time_ms.max()) + 1 if test_end is None else test_end,
        delay_ms=delay,
    )


def moment_ms(_context: Any, parameter: Any, text: str | None) -> int | None:
    """A date or time of ISO 8601 as epoch milliseconds; UTC where no zone is named.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        return moment(text)
    except ValueError:
        msg = f"{parameter.opts[0]} {text}: write a date or a time, such as 2018-07-25 or 2018-07-25T06:00Z"
        raise UsageError(msg) from None


def moment(text: str) -> int:
    """As `moment_ms`, of any text.

    Raises:
        ValueError: it is none.
    """
    found = datetime.fromisoformat(text)
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return round(found.timestamp() * 1000)


def delay_ms(_context: Any, parameter: Any, text: str | None) -> int | None:
    """A duration as settings write it, in milliseconds.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        msg = f"{parameter.opts[0]} {text}: {error}"
        raise UsageError(msg) from None


def numbers_of(_context: Any, parameter: Any, pairs: tuple[str, ...]) -> dict[str, float]:
    """Parameters of a model, NAME=NUMBER each; whole numbers stay whole: scikit-learn tells 1 from 1.0.

    Raises:
        UsageError: one is not written so.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            found[name] = int(text) if text.lstrip("-").isdigit() else float(text)
        except ValueError:
            msg = f"{parameter.opts[0]} {pair}: write NAME=NUMBER, such as C=1"
            raise UsageError(msg) from None
    return found
