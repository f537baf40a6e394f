"""The handbook's fifteen features on its own data, against numpy that was written from its text."""

import numpy as np
import pytest

from app.ops.training_features import compute_features
from app.settings import load_settings
from app.stages.deployed_features import catalogue_of
from tests import handbook

pytestmark = pytest.mark.property
DAY_MS = 86_400_000
DELAY_MS = 7 * DAY_MS
WINDOWS = (1, 7, 30)


def sums(times: np.ndarray, values: np.ndarray, length_ms: int) -> np.ndarray:
    """Of rows up to this one, the values in (t - length, t]: pandas' rolling('30d').sum() over sorted times."""
    running = np.concatenate(([0], np.cumsum(values)))
    first = np.searchsorted(times, times - length_ms, side="right")
    return running[np.arange(len(times)) + 1] - running[first]


def expected(columns: handbook.Handbook) -> dict[str, np.ndarray]:
    """Customer by customer and terminal by terminal, as the handbook does it."""
    days, hours = columns.event_time_ms // DAY_MS, columns.event_time_ms // 3_600_000 % 24
    found = {
        "amount": columns.amount_minor / 100,
        "is_weekend": ((days + 3) % 7 >= 5).astype(float),  # 1970-01-01 was a Thursday
        "is_night": (hours <= 6).astype(float),
    }
    names = ("card_count", "card_avg_amount", "terminal_delayed_count", "terminal_risk")
    found |= {f"{name}_{w}d": np.zeros(len(columns)) for name in names for w in WINDOWS}
    ones = np.ones(len(columns), np.int64)
    for card in np.unique(columns.card_id):
        rows = np.flatnonzero(columns.card_id == card)
        times = columns.event_time_ms[rows]
        for w in WINDOWS:
            count = sums(times, ones[rows], w * DAY_MS)
            total = sums(times, columns.amount_minor[rows], w * DAY_MS)
            found[f"card_count_{w}d"][rows] = count
            found[f"card_avg_amount_{w}d"][rows] = total / (count * 100)
    fraud = columns.is_fraud.astype(np.int64)
    for terminal in np.unique(columns.terminal_id):
        rows = np.flatnonzero(columns.terminal_id == terminal)
        times = columns.event_time_ms[rows]
        for w in WINDOWS:
            number, frauds = (
                sums(times, values, DELAY_MS + w * DAY_MS) - sums(times, values, DELAY_MS)
                for values in (ones[rows], fraud[rows])
            )
            found[f"terminal_delayed_count_{w}d"][rows] = number
            found[f"terminal_risk_{w}d"][rows] = frauds / np.maximum(number, 1)
    return found


@pytest.mark.skipif(
    handbook.PATH is None, reason="no handbook data: HANDBOOK_TRANSACTIONS names no file"
)
def test_the_fifteen_are_the_handbooks_to_the_bit():
    everything = handbook.read()
    # whole histories of some cards and of some terminals, over all the months
    chosen = np.isin(everything.card_id, [str(n) for n in range(40)])
    chosen |= np.isin(everything.terminal_id, [str(n) for n in range(200)])
    columns = everything.take(np.flatnonzero(chosen))
    assert columns.is_fraud.sum() > 100
    settings = load_settings({"features": "handbook"})
    got = compute_features(columns, settings)
    names = catalogue_of(settings).names
    want = expected(columns)
    assert set(names) == set(want)
    for index, name in enumerate(names):
        assert got[:, index].tobytes() == want[name].astype(float).tobytes(), name
