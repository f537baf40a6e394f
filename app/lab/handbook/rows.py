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
    """

    features: Floats
    scores: Floats
    anomalies: Floats


def read_stored(
    settings: Settings,
    transaction_ids: Sequence[str],
    model_hash: str,
    progress: Callable[[int], None],
) -> Stored:
    """Read every row of the table once.

    Args:
        settings: the deployment.
        transaction_ids: what was sent, each once.
        model_hash: the model that every row must name.
        progress: told how many rows were read.

    Raises:
        UnavailableError: Cassandra does not answer.
        VerificationError: a row is missing, or is none of these transactions' or of that model's.
    """
    session = connect(settings)
    read_raw(session)
    try:
        rows = scan_predictions(session, settings, COLUMNS)
        return gather(
            rows, list(catalogue_of(settings).names), transaction_ids, model_hash, progress
        )
    finally:
        disconnect(session)


def gather(
    rows: Iterable[tuple[Any, ...]],
    names: list[str],
    transaction_ids: Sequence[str],
    model_hash: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Stored:
    """As `read_stored`, of rows that are given as `COLUMNS` and `raw_rows` have them.

    Raises:
        VerificationError: see `read_stored`.
    """
    place = {name: row for row, name in enumerate(transaction_ids)}
    count = len(place)
    stored = Stored(np.full((count, len(names)), np.nan), np.zeros(count), np.zeros(count))
    seen = np.zeros(count, dtype=bool)
    maps, read = DoubleMaps(names), 0
    scan = iter(rows)
    while chunk := list(islice(scan, _CHUNK_ROWS)):
        ids, models, scores, anomalies, features = zip(*chunk, strict=True)
        at = [place.get(name, -1) for name in ids]
        fits, values = maps.read(list(features))
        if min(at) < 0 or not fits.all() or set(models) != {model_hash} or None in anomalies:
            msg = "Cassandra contains rows of another run, other features or another model"
            raise VerificationError(msg)
        stored.features[at], stored.scores[at], stored.anomalies[at] = values, scores, anomalies
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
