"""Python's garbage collector in a worker: cycles are rare there, and looking for them took a tenth of its time."""

import gc

#: A block of a thousand records makes some ten thousand containers, and all are gone by their reference
#: counts at its end. With Python's 700 each block was searched a dozen times, and with it the decoded rows: they are
#: containers by the hundred thousand.
_THRESHOLDS = (50_000, 20, 50)


def calm_collector() -> None:
    """Leave what is there now out of every search, and search less often.

    Called once everything is imported and loaded: modules and models stay until the end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
