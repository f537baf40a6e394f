"""Judges the predictions of a deployment: one scan of its labels, one of its predictions."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from cassandra.cluster import Session

from app.cassandra.label_queries import scan_verdicts
from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.prediction_rows import epoch_ms
from app.quality.curves import curves
from app.quality.decision_tally import QualityTally
from app.quality.verdicts import Verdicts
from app.settings import Settings

_COLUMNS = ("transaction_id", "event_time", "score", "is_fraud", "model_version")
#: Rows joined at a time.
_CHUNK = 10_000

Progress = Callable[[str, int], None]


def measure(
    session: Session,
    settings: Settings,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    progress: Progress = lambda _text, _count: None,
) -> dict[str, Any]:
    """How good decisions were.

    Memory: nine bytes a label and 32 KB for each model version of each day, however many predictions.
    Of several labels of a transaction the one that holds counts.

    Args:
        session: to read with.
        settings: keyspace.
        from_ms: event times from here on, epoch milliseconds; None: from the first.
        to_ms: event times below it; None: to the last.
        progress: told now and then what is read, and how many rows of it.

    Returns:
        JSON-ready: `total`, and groups under `by_day` and `by_model` (see `tally.DecisionGroup.as_dict`), `curves`
        (see `curves.curves`), the number of labelled transactions and the seconds it took.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: a table is missing.
    """
    began = time.perf_counter()
    labels = scan_verdicts(session, settings, from_ms, to_ms)
    verdicts = Verdicts(_counted(labels, "labels", progress))
    scan = scan_predictions(session, settings, _COLUMNS, from_ms=from_ms, to_ms=to_ms)
    rows = _counted(scan, "predictions", progress)
    tally = QualityTally()
    while chunk := list(islice(rows, _CHUNK)):
        _add(tally, verdicts, chunk)
    total = tally.total()
    return {
        "labels": len(verdicts),
        "total": total.as_dict(),
        "curves": curves(total.scores),
        "by_day": {name: group.as_dict() for name, group in tally.by("day").items()},
        "by_model": {name: group.as_dict() for name, group in tally.by("model").items()},
        "seconds": round(time.perf_counter() - began, 2),
    }


def _add(tally: QualityTally, verdicts: Verdicts, rows: list[tuple[Any, ...]]) -> None:
    transaction, moment, score, alert, model = zip(*rows, strict=True)
    tally.add(
        [when.strftime("%Y-%m-%d") for when in moment],
        model,
        np.array(score, dtype=np.float64),
        np.array(alert, dtype=bool),
        verdicts.of(
            [(epoch_ms(when) or 0, name) for when, name in zip(moment, transaction, strict=True)]
        ),
    )


def _counted(rows: Iterator[Any], text: str, progress: Progress) -> Iterator[Any]:
    for number, row in enumerate(rows):
        if number % _CHUNK == 0:
            progress(text, number)
        yield row
