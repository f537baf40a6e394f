"""How long partitions stand still, from what was seen of them; and what a worker's page says of warm copies."""

from app.lab.bench.histogram import WorkerPage
from app.lab.bench.takeover import Timeline
from app.metrics.prometheus import WorkerMetrics
from app.metrics.worker_reading import StandbyReading, WorkerReading
from app.settings import load_settings


def seen(*moments: tuple[float, int, int]) -> Timeline:
    """A timeline that saw so many records in two partitions at some moments."""
    timeline = Timeline(load_settings({}))
    timeline.seen = [(at, {0: zero, 1: one}) for at, zero, one in moments]
    return timeline


def test_standstill_is_the_longest_time_without_a_record() -> None:
    #            at  0  1
    timeline = seen((0, 5, 5), (1, 6, 6), (2, 7, 6), (3, 8, 6), (4, 9, 6), (5, 10, 7), (6, 11, 8))
    assert timeline.standstill(0, 6) == {0: 1, 1: 4}


def test_what_stood_still_before_is_not_counted() -> None:
    timeline = seen((0, 5, 5), (1, 5, 6), (2, 5, 7), (3, 5, 8), (4, 6, 9), (5, 7, 10))
    assert timeline.standstill(3, 5) == {0: 1, 1: 1}
    assert timeline.standstill(0, 5) == {0: 4, 1: 1}


def test_what_comes_behind_the_end_is_not_counted() -> None:
    timeline = seen((0, 5, 5), (1, 6, 6), (2, 7, 7), (9, 8, 8))
    assert timeline.standstill(0, 3) == {0: 1, 1: 1}


def test_lags_of_warm_copies_are_read_from_a_page() -> None:
    reading = WorkerReading(
        copies=[StandbyReading("cards", 1, 40, 42), StandbyReading("terminals", 1, 3, 3)]
    )
    page = WorkerPage(WorkerMetrics().text(reading).decode())
    assert page.copies == {("cards", 1): 2, ("terminals", 1): 0}
    assert WorkerPage(WorkerMetrics().text(WorkerReading()).decode()).copies == {}
