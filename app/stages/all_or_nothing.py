"""Blocks whose computation fails, or needs an earlier model that is not here yet: as if it had not begun."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from app.blocks.core.partition import Computed, RowReader
from app.stages.guard_counts import TalliesByChange
from app.stages.scoring_models import FallbackNeededError

T = TypeVar("T")


def all_or_nothing(
    compute: Callable[[], T],
    states: Iterable[RowReader],
    tallies: TalliesByChange,
    counters: Sequence[Counter[str]],
) -> T:
    """What a function computes; where it raises, nothing is counted or kept.

    Args:
        compute: computes blocks.
        states: where it reads rows.
        tallies: where it counts for the guard.
        counters: where else it counts.
    """
    before = [dict(one) for one in counters]
    try:
        computed = compute()
    except BaseException:  # a panic of RocksDB is no `Exception`
        for counter, counts in zip(counters, before, strict=True):
            counter.clear()
            counter.update(counts)
        tallies.forget()
        for state in states:
            state.memo.pop("rows", None)  # decoded rows are changed in place
        raise
    tallies.settle()
    return computed


def computed_or_needed(
    compute: Callable[[], Computed],
    state: RowReader,
    tallies: TalliesByChange,
    counters: Sequence[Counter[str]],
) -> Computed:
    """What a function computes of a block; or which model it needs, with nothing taken, counted or kept.

    Which rows the current model gives no score is known only once the rows of terminals have been changed. So
    everything is computed again, which is rare: earlier models are obtained as soon as they may be needed.

    Args:
        compute: computes a block. Raises FallbackNeededError.
        state: where it reads rows.
        tallies: where it counts for the guard.
        counters: where else it counts.
    """
    try:
        return all_or_nothing(compute, [state], tallies, counters)
    except FallbackNeededError as error:
        return Computed(taken=0, needs=error.needed)
