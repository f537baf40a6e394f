"""What the live pass left in Cassandra, as columns in the order of the file."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.raw_rows import DoubleMaps, read_raw
from app.cassandra.session import connect, disconnect
from app.errors import VerificationError
from app.settings import Settings
from app.stages.deployed_features import catalogue_of

COLUMNS = ("transaction_id", "model_hash", "score", "anomaly_score", "features")
_CHUNK_ROWS = 5_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """Rows in the order of the transactions that were sent.

    Attributes:
        features: (n, k) float64, the catalogue's features in order.
        scores: (n,) the champion's scores.
        anomalies: (n,) the isolation forest's scores.
        models: (n,) the model that decided, by its place among the hashes that were given.
    """

    features: Floats
    scores: Floats
    anomalies: Floats
    models: npt.NDArray[np.int64]


def read_stored(
    settings: Settings,
    transaction_ids: Sequence[str],
    hashes: Sequence[str],
    progress: Callable[[int], None],
) -> Stored:
    """Read every row of the table once.

    Args:
        settings: the deployment.
        transaction_ids: what was sent, each once.
        hashes: the models of which every row must name one.
        progress: told how many rows were read.

    Raises:
        UnavailableError: Cassandra does not answer.
        VerificationError: a row is missing, or is none of these transactions' or of these models'.
    """
    session = connect(settings)
    read_raw(session)
    try:
        rows = scan_predictions(session, settings, COLUMNS)
        return gather(rows, list(catalogue_of(settings).names), transaction_ids, hashes, progress)
    finally:
        disconnect(session)


def gather(
    rows: Iterable[tuple[Any, ...]],
    names: list[str],
    transaction_ids: Sequence[str],
    hashes: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
) -> Stored:
    """As `read_stored`, of rows that are given as `COLUMNS` and `raw_rows` have them.

    Raises:
        VerificationError: see `read_stored`.
    """
    place = {name: row for row, name in enumerate(transaction_ids)}
    count = len(place)
    which = {name: number for number, name in enumerate(hashes)}
    stored = Stored(
        np.full((count, len(names)), np.nan), np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
    )  # fmt: skip
    seen = np.zeros(count, dtype=bool)
    maps, read = DoubleMaps(names), 0
    scan = iter(rows)
    while chunk := list(islice(scan, _CHUNK_ROWS)):
        ids, models, scores, anomalies, features = zip(*chunk, strict=True)
        at = [place.get(name, -1) for name in ids]
        fits, values = maps.read(list(features))
        if min(at) < 0 or not fits.all() or not set(models) <= which.keys() or None in anomalies:
            msg = "Cassandra contains rows of another run, other features or another model"
            raise VerificationError(msg)
        stored.features[at], stored.scores[at], stored.anomalies[at] = values, scores, anomalies
        stored.models[at] = [which[name] for name in models]
        seen[at] = True
        read += len(chunk)
        progress(read)
    if not seen.all():
        msg = f"{np.count_nonzero(~seen):,} of {count:,} transactions have no row in Cassandra"
        raise VerificationError(msg)
    return stored


def differing(stored: Floats, computed: Floats) -> int:
    """How many rows of two (n, k) arrays are not equal to the bit."""
    ours, theirs = (np.ascontiguousarray(each).view(np.int64) for each in (stored, computed))
    return int(np.count_nonzero((ours != theirs).any(axis=1)))
