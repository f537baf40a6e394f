"""A sample of the newest predictions on their way to Cassandra, for drift: cheap, and bounded.

Every n-th prediction is kept, whatever its partition, so that a busy partition has its share. `n` follows the rate:
some `PER_SECOND` are kept each second, all of them in a quiet stream.
"""

import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

#: Predictions kept per second, about, and how many times that before the first second tells the rate.
PER_SECOND, _BURST = 20, 10
#: Predictions that are kept, by model that decided.
KEPT = 5_000
#: Models whose predictions are kept: those that decide now, and some of before.
_MODELS = 6


class SampledPrediction(NamedTuple):
    """A prediction, as small as it can be kept.

    Attributes:
        names: of its features.
        features: their values; NaN where there is none.
        fields: all else that drift is measured on, by name (see `_FIELDS`).
    """

    names: tuple[str, ...]
    features: "array[float]"
    fields: Mapping[str, Any]


_FIELDS = (
    "card_id", "terminal_id", "event_time_ms", "received_at", "amount_minor", "score", "is_fraud", "flags",
    "model_version", "model_hash", "shadow_scores", "shadow_flagged",
)  # fmt: skip


class RecentSample:
    """Filled by the sink, in one thread; any other may read it.

    Args:
        clock: seconds that never go back.

    Attributes:
        stride: one of so many predictions is kept now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.stride = 1
        self._clock = clock
        self._left = 1
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._rows: OrderedDict[str, deque[SampledPrediction]] = OrderedDict()
        self._since, self._passed, self._taken = clock(), 0, 0

    def add(self, record: Mapping[str, Any]) -> None:
        """A record of `predictions` passes."""
        self._left -= 1
        if self._left <= 0:
            self._take(record)

    def rows(self) -> dict[str, Sequence[SampledPrediction]]:
        """What is kept, by the hash of the model that decided, oldest first."""
        # copied first: the sink may put another model last meanwhile
        return {model: list(rows) for model, rows in list(self._rows.items())}

    def _take(self, record: Mapping[str, Any]) -> None:
        self._adapt()
        self._left = self.stride
        features = record.get("features") or {}
        names = tuple(features)
        names = self._names.setdefault(names, names)
        values = [float("nan") if value is None else value for value in features.values()]
        fields = {name: record.get(name) for name in _FIELDS}
        model = record.get("model_hash") or ""
        rows = self._rows.get(model)
        if rows is None:
            rows = self._rows[model] = deque(maxlen=KEPT)
            if len(self._rows) > _MODELS:
                self._rows.popitem(last=False)
                self._names = {names: names}
        self._rows.move_to_end(model)
        rows.append(SampledPrediction(names, array("d", values), fields))

    def _adapt(self) -> None:
        self._passed += self.stride
        self._taken += 1
        seconds = self._clock() - self._since
        if seconds >= 1.0:
            self.stride = max(1, round(self._passed / seconds / PER_SECOND))
        elif self._taken > PER_SECOND * _BURST:  # the rate has just jumped
            self.stride *= 2
        else:
            return
        self._since, self._passed, self._taken = self._clock(), 0, 0


#: Filled by the sink.
recent_sample = RecentSample()
