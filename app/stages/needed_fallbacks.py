"""A block in which a row needs an earlier model that is not here yet: as if it had not been computed."""

from collections import Counter
from collections.abc import Callable, Sequence

from app.blocks.core.partition import Computed, RowReader
from app.stages.champion import TalliesByChange
from app.stages.scorers import FallbackNeededError


def computed_or_needed(
    compute: Callable[[], Computed],
    state: RowReader,
    tallies: TalliesByChange,
    counters: Sequence[Counter[str]],
) -> Computed:
    """What a function computes; or which model it needs, with nothing taken, counted or kept.

    Which rows the current model gives no score is known only once the rows of terminals have been changed. So
    everything is computed again, which is rare: earlier models are obtained as soon as they may be needed.

    Args:
        compute: computes a block. Raises FallbackNeededError.
        state: where it reads rows.
        tallies: where it counts for the guard.
        counters: where else it counts.
    """
    before = [dict(one) for one in counters]
    try:
        computed = compute()
    except FallbackNeededError as error:
        for counter, counts in zip(counters, before, strict=True):
            counter.clear()
            counter.update(counts)
        tallies.forget()
        state.memo.pop("rows", None)  # decoded rows are changed in place
        return Computed(taken=0, needs=error.needed)
    tallies.settle()
    return computed
