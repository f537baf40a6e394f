"""The periods of `fraudstream train`: options and defaults."""

from typing import TYPE_CHECKING, Any

import click
import numpy as np

from app.cli.options import duration_ms, moment_ms, together
from app.errors import UsageError

if TYPE_CHECKING:
    from models.splits import Periods

period_options = together(
    click.option(
        "--train-from",
        metavar="DATE",
        callback=moment_ms,
        help="Start of the training period.  [default: the first transaction]",
    ),
    click.option(
        "--train-to",
        metavar="DATE",
        callback=moment_ms,
        help="End of the training period; its last week is the validation set.  [default: --test-from minus --delay]",
    ),
    click.option(
        "--test-from",
        metavar="DATE",
        callback=moment_ms,
        help="Start of the test period.  [default: --train-to plus --delay]",
    ),
    click.option(
        "--test-to",
        metavar="DATE",
        callback=moment_ms,
        help="End of the test period.  [default: after the last transaction]",
    ),
    click.option(
        "--delay",
        metavar="DURATION",
        callback=duration_ms,
        help="Gap between training and test: how long labels take.  [default: FRAUDSTREAM_LABEL_DELAY]",
    ),
)
#: Their names as parameters.
PERIOD_OPTIONS = ("train_from", "train_to", "test_from", "test_to", "delay")


def periods_of(
    options: dict[str, Any], event_time_ms: np.ndarray, label_delay_ms: int
) -> "Periods | None":
    """The requested periods; missing values are derived from the others.

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
        msg = (
            "give --train-to, --test-from or both: each is computed from the other with the --delay"
        )
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
