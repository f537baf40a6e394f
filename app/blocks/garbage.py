"""When Python looks for cyclic garbage: seldom, and best while nothing is computed.

Rows and records are freed by reference counts. A full collection walks everything that lives, decoded rows
included: with 5,000 cards it held the event loop for 0.35 to 0.5 s, in the middle of a load.
"""

import gc

#: Net new containers before the youngest are looked at (Python: 700), and how many such looks make one at the
#: next generation. Full ones are left to rebalances, but for a worker that has none for very long.
_THRESHOLDS = (50_000, 20, 100)


def collect_seldom() -> None:
    """Set the thresholds of this process."""
    gc.set_threshold(*_THRESHOLDS)


def collect_now() -> None:
    """Free what cycles hold, then leave whatever lives now out of later collections."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
