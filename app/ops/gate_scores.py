"""`fraudstream models gate`: scores stored transactions by a challenger and by the model that decides, and compares.

Both score the stored features, as they were when the stream scored the transaction. What was computed under other
features than the deployment's is left out.
"""

import time
from array import array
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from cassandra.cluster import Session

from app.cassandra import gate_results
from app.cassandra.fetched_models import entry_of
from app.cassandra.label_queries import scan_verdicts
from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.prediction_rows import epoch_ms
from app.change_author import author
from app.display import iso
from app.domain.features.feature_schema import same_meaning
from app.errors import TooFewSamplesError, UsageError
from app.kafka.change_history import need_decides, read_history
from app.ops.model_checks import check_model
from app.ops.model_lineage import fitted_until, unseen_from
from app.ops.row_by_row_scores import scores_of_each
from app.quality.gate_limits import ScorePair, compare, is_undecided, refusals
from app.quality.verdicts import FRAUD, Verdicts
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.topics import Topics
from models.evaluation_sets import KNOWN_MS
from models.manifest import Manifest
from models.model_loader import Model

_COLUMNS = ("transaction_id", "card_id", "event_time", "feature_schema", "features")
_CHUNK = 5_000
#: Transactions of the micro-batch whose time is measured, and how often.
_BATCH, _TIMES = 100, 30

Progress = Callable[[int], None]


async def gate(
    settings: Settings,
    session: Session,
    wanted: str,
    *,
    from_ms: int | None,
    threshold: float | None,
    progress: Progress,
    labels_until_ms: int | None = None,
) -> dict[str, Any]:
    """Compare a registered model with the one that decides, and write the result down.

    Args:
        settings: the deployment.
        session: to read and write with.
        wanted: name and version.
        from_ms: event times from here on, never what one of the models was fitted on; None: all that neither was.
        threshold: replaces the challenger's own.
        progress: told how many transactions were read.
        labels_until_ms: labels of transactions with later event times do not count; None: all do.

    Returns:
        JSON-ready: `model`, `hash`, `against`, `from_ms`, `passed`, `reasons`, `undecided` (see
        `app.quality.gate_limits.is_undecided`) and the figures of `compare`.

    Raises:
        NotFoundError, UsageError: it is not registered, does not fit, decides already, or there is nothing to compare.
        UnavailableError, SchemaError: a server does not answer, or tables are missing.
    """
    entry = entry_of(settings, session, wanted)
    history = await read_history(settings)
    decides = need_decides(history, Topics(settings).control.name)
    if decides.hash == entry.manifest.scoring_hash:
        msg = f"{entry.model} is the current model: there is nothing to compare it with"
        raise UsageError(msg)
    current = entry_of(settings, session, decides.hash)
    challenger = check_model(settings, entry)
    champion = check_model(settings, current)
    if from_ms is None and unseen_from(entry.manifest.trained) is None:
        msg = f"the manifest of {entry.model} does not say when its training data ends: give --from, a time after that"
        raise UsageError(msg)
    begin_ms = _begin(entry.manifest, current.manifest, from_ms)
    verdicts = Verdicts(scan_verdicts(session, settings))
    pair, rows, cards = _score(
        settings, session, champion, challenger, verdicts, begin_ms, progress
    )
    if labels_until_ms is not None:
        pair = pair.labels_until(labels_until_ms)
    if entry.manifest.trained.get("refit"):
        learned = _defrauded(settings, session, verdicts, begin_ms)
        pair = pair.without_labels_of(cards[card] for card in learned & cards.keys())
    limits = (
        champion.threshold if decides.threshold is None else decides.threshold,
        challenger.threshold if threshold is None else threshold,
    )
    figures = compare(pair, thresholds=limits, delay_ms=settings.label_delay)
    for name, model in (("champion", champion), ("challenger", challenger)):
        figures[name]["microseconds"] = _microseconds(model, rows)
    reasons = refusals(figures)
    result = {
        "model": entry.model,
        "hash": entry.manifest.scoring_hash,
        "against": decides.model,
        "from_ms": begin_ms,
        "passed": not reasons,
        "reasons": reasons,
        "undecided": is_undecided(figures),
        **figures,
    }
    gate_results.record(session, settings, result, champion=decides.hash, by=author())
    return result


def _begin(challenger: Manifest, champion: Manifest, from_ms: int | None) -> int:
    """Event time from which on neither model was fitted on a transaction, and not before `from_ms`.

    Of the champion it counts unless it was trained on simulated transactions: their times say nothing here.
    """
    times = [from_ms, unseen_from(challenger.trained)]
    if "simulated" not in champion.trained.get("source", {}):
        times.append(fitted_until(champion.trained))
    return max(one for one in times if one is not None)


def _defrauded(
    settings: Settings, session: Session, verdicts: Verdicts, begin_ms: int
) -> frozenset[str]:
    """Cards with a fraud shortly before the comparison.

    A model that was fitted up to there has learned from these frauds before anyone could have known them live, so
    finding the next one on the same card is no merit: as `models.evaluation_sets.on_known_cards`.
    """
    since_ms = begin_ms - settings.label_delay - KNOWN_MS
    columns = ("transaction_id", "card_id", "event_time")
    scan = scan_predictions(session, settings, columns, from_ms=since_ms, to_ms=begin_ms)
    found: set[str] = set()
    while chunk := list(islice(scan, _CHUNK)):
        said = verdicts.of([(epoch_ms(moment) or 0, name) for name, _, moment in chunk])
        found.update(chunk[at][1] for at in np.flatnonzero(said == FRAUD).tolist())
    return frozenset(found)


def _score(
    settings: Settings,
    session: Session,
    champion: Model,
    challenger: Model,
    verdicts: Verdicts,
    from_ms: int,
    progress: Progress,
) -> tuple[ScorePair, np.ndarray, dict[str, int]]:
    """Both scores of every stored transaction from a time on, the features of some, and the number of each card."""
    catalogue = catalogue_of(settings)
    scan = scan_predictions(session, settings, _COLUMNS, from_ms=from_ms)
    times, cards, said = array("q"), array("q"), array("b")
    numbers: dict[str, int] = {}
    scores: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    fits: dict[str, bool] = {}
    wanted = set(catalogue.names)
    some, read = np.empty((0, len(catalogue.names))), 0
    while chunk := list(islice(scan, _CHUNK)):
        read += len(chunk)
        progress(read)
        kept = []
        for row in chunk:
            schema = row[3]
            if schema not in fits:
                fits[schema] = schema == catalogue.schema or same_meaning(
                    catalogue.names, schema, catalogue.schema
                )
            # the driver looks a key up in its map by serializing it: one look-up each is enough
            features = dict(row[4]) if fits[schema] else {}
            if features.keys() >= wanted:
                kept.append((*row[:4], features))
        if not kept:
            continue
        rows = np.array([[row[4][name] for name in catalogue.names] for row in kept])
        if len(some) < _BATCH:
            some = np.concatenate((some, rows[:_BATCH]))[:_BATCH]
        for found, model in zip(scores, (champion, challenger), strict=True):
            found.append(scores_of_each(model, rows))
        moments = [epoch_ms(row[2]) or 0 for row in kept]
        times.extend(moments)
        cards.extend(numbers.setdefault(row[1], len(numbers)) for row in kept)
        keys = [(at, row[0]) for at, row in zip(moments, kept, strict=True)]
        said.extend(verdicts.of(keys).tolist())
    if not len(times):
        msg = (
            f"no stored transaction since {iso(from_ms)} has these features: let it score as a shadow until there are "
            "some, or give an earlier --from; a deployment without any can only `promote --force`"
        )
        raise TooFewSamplesError(msg)
    pair = ScorePair(
        np.concatenate(scores[0]),
        np.concatenate(scores[1]),
        np.frombuffer(said, np.int8),
        np.frombuffer(cards, np.int64),
        np.frombuffer(times, np.int64),
    )
    return pair, some, numbers


def _microseconds(model: Model, rows: np.ndarray) -> float | None:
    """For a transaction of a micro-batch: the median of several measurements; None where it cannot score."""
    spent = []
    try:
        for _ in range(_TIMES):
            began = time.perf_counter()
            model.score(rows)
            spent.append(time.perf_counter() - began)
    except Exception:
        return None
    return float(np.median(spent)) * 1e6 / len(rows)
