"""Scores and reasons once more, by the model that each record names, from the recomputed features."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from app.cassandra.fetched_models import holder_of
from app.domain.prediction_flags import ANOMALY
from app.errors import FraudstreamError
from app.ops.row_by_row_scores import of_each, scores_of_each
from app.ops.verification.ledger import CERTAIN, FeatureList, FoundIn, SourcePage
from app.ops.verification.verify_run import VerifyRun
from models.manifest import HASH_DIGITS
from models.model_loader import Model, ModelHolder

_CHUNK = 5_000
#: Reasons are worked out for so many records of each page, evenly spread: with a forest one takes milliseconds.
_REASONS_CHECKED = 1_000


@dataclass
class RescoredPages:
    """What was scored again.

    Attributes:
        scores, reasons: how many were compared.
        models_missing: hashes of models that are not here, or do not fit, with the reason.
    """

    scores: int
    reasons: int
    models_missing: dict[str, str]

    def model(self, holder: ModelHolder, model_hash: str) -> Model | None:
        """A model, loaded; None: it is missing, which is noted."""
        try:
            return holder.by_hash(model_hash)
        except FraudstreamError as error:
            self.models_missing[model_hash[:HASH_DIGITS]] = str(error)
            return None


def rescore(case: VerifyRun) -> RescoredPages:
    """Compare every score whose model is here, and some of the reasons."""
    ledger, settings = case.ledger, case.settings
    holder = holder_of(settings, ledger.catalogue)
    done = RescoredPages(0, 0, {})
    for index, (version, model_hash, schema) in enumerate(ledger.models):
        model = done.model(holder, model_hash)
        if model is None:
            continue
        for page in ledger.pages:
            rows = np.flatnonzero(_certain(page) & (page.model == index))
            _threshold(case, page, rows, model)
            if len(rows) and model.version != version:
                _differs(case, page, rows[0], "model", version, model.version)
            for listed, at in ledger.by_list(rows.tolist(), page):
                same = rows[at]
                if listed.schema != schema:
                    _differs(case, page, same[0], "model", [version, schema], listed.schema)
                for start in range(0, len(same), _CHUNK):
                    _scores(case, page, same[start : start + _CHUNK], model, listed)
                done.scores += len(same)
                done.reasons += _reasons(case, page, same, model, listed)
    _rescore_beside(case, holder, done)
    _rescore_unscored(case, holder, done)
    return done


def _rescore_unscored(case: VerifyRun, holder: ModelHolder, done: RescoredPages) -> None:
    """Where an earlier model decided, the one that the log says gives no score, and none between the two does."""
    tried = [
        (index, number, model_hash)
        for index, (champion, _, _, fallbacks) in enumerate(case.ledger.decisions)
        for number, model_hash in enumerate((champion, *(one.hash for one in fallbacks)))
    ]
    for index, number, model_hash in tried:
        for page in case.ledger.pages:
            mine = _certain(page) & (page.decides == index) & (page.fell_back > number)
            rows = np.flatnonzero(mine)
            if not len(rows):
                continue
            model = done.model(holder, model_hash)
            if model is None:
                break
            for listed, at in case.ledger.by_list(rows.tolist(), page):
                same = rows[at]
                scores = scores_of_each(model, _features(case, page, same, model, listed))
                for place in np.flatnonzero(~np.isnan(scores)):
                    stored = case.ledger.models[page.model[same[place]]][0]
                    _differs(case, page, same[place], "model", stored, model.version)


def _rescore_beside(case: VerifyRun, holder: ModelHolder, done: RescoredPages) -> None:
    """What the models say that did not decide, of every record that has it."""
    for index, (champion, replaced, challengers, _) in enumerate(case.ledger.decisions):
        models = [(champion, replaced), *((one.hash, one.threshold) for one in challengers)]
        for page in case.ledger.pages:
            if page.beside is None:
                continue
            mine = _certain(page) & (page.decides == index)
            for place, (model_hash, threshold) in enumerate(models):
                rows = np.flatnonzero(mine & page.beside.there[:, place])
                # of the others of this page, the scores are compared all the same
                if not len(rows) or (model := done.model(holder, model_hash)) is None:
                    continue
                limit = model.threshold if threshold is None else threshold
                for listed, at in case.ledger.by_list(rows.tolist(), page):
                    for start in range(0, len(at), _CHUNK):
                        same = rows[at][start : start + _CHUNK]
                        _beside(case, page, same, place, model, limit, listed)
                done.scores += len(rows)


def _beside(
    case: VerifyRun,
    page: SourcePage,
    rows: np.ndarray,
    place: int,
    model: Model,
    threshold: float,
    listed: FeatureList,
) -> None:
    beside = page.beside
    assert beside is not None
    scores = scores_of_each(model, _features(case, page, rows, model, listed))
    stored = beside.scores[rows, place]
    for at in np.flatnonzero((scores != stored) & ~(np.isnan(scores) & np.isnan(stored))):
        found = {model.version: _number(stored[at])}, {model.version: _number(scores[at])}
        _differs(case, page, rows[at], "shadow_scores", *found)
    flagged, wanted = beside.flagged[rows, place], scores >= threshold
    for at in np.flatnonzero(flagged != wanted):
        found = {model.version: bool(flagged[at])}, {model.version: bool(wanted[at])}
        _differs(case, page, rows[at], "shadow_flagged", *found)


def _features(
    case: VerifyRun, page: SourcePage, rows: np.ndarray, model: Model, listed: FeatureList
) -> Any:
    """What a model sees: what a transaction was begun without has the model's baseline."""
    features = page.features[rows]
    for place, name in enumerate(case.ledger.catalogue.names):
        if name not in listed.names:
            features[:, place] = model.baseline.get(name, 0.0)
    return features


def _certain(page: SourcePage) -> np.ndarray:
    """Records that were predicted and whose features are all known."""
    certain: np.ndarray = (page.seen & FoundIn.PREDICTED) != 0
    certain &= np.isin(page.fate, CERTAIN) & page.terminal_known
    return certain


def _threshold(case: VerifyRun, page: SourcePage, rows: np.ndarray, model: Model) -> None:
    """Where the log says that a model decides by its own threshold, it does."""
    decisions = case.ledger.decisions
    own, own_before = [], []
    for index, (decides, threshold, challengers, fallbacks) in enumerate(decisions):
        if not decides:  # the log does not say
            continue
        before = [one.threshold for one in fallbacks if one.hash.startswith(model.hash)]
        if None in before:
            own_before.append(index)
        canary = [one.threshold for one in challengers if one.hash.startswith(model.hash)]
        if (canary[0] if canary else threshold) is None:
            own.append(index)
    fell_back = page.fell_back[rows] > 0
    by_own = np.where(
        fell_back, np.isin(page.decides[rows], own_before), np.isin(page.decides[rows], own)
    )
    mine = rows[by_own]
    for row in mine[page.threshold[mine] != model.threshold]:
        _differs(case, page, row, "threshold", page.threshold[row].item(), model.threshold)


def _scores(
    case: VerifyRun, page: SourcePage, rows: np.ndarray, model: Model, listed: FeatureList
) -> None:
    features = _features(case, page, rows, model, listed)
    scores = scores_of_each(model, features)
    for index in np.flatnonzero(scores != page.score[rows]):
        row = rows[index]
        _differs(case, page, row, "score", page.score[row].item(), _number(scores[index]))
    odd = of_each(model.anomalies, features)  # a canary that raises decides without
    stored = page.anomaly[rows]
    for index in np.flatnonzero((odd != stored) & ~(np.isnan(odd) & np.isnan(stored))):
        row, found = rows[index], (_number(stored[index]), _number(odd[index]))
        _differs(case, page, row, "anomaly_score", *found)
    bit = np.uint64(case.ledger.mask((ANOMALY,)))
    flagged = (page.flags[rows] & bit) != 0
    from_ = np.nan if model.anomaly_threshold is None else model.anomaly_threshold
    for index in np.flatnonzero(flagged != (odd >= from_)):
        flag = [ANOMALY] if flagged[index] else []
        _differs(case, page, rows[index], "flags", flag, [] if flag else [ANOMALY])


def _reasons(
    case: VerifyRun, page: SourcePage, rows: np.ndarray, model: Model, listed: FeatureList
) -> int:
    """Stored reasons are the model's; none are stored below a setting that may have changed since."""
    told = rows[page.reasons[rows] != hash(())]
    told = told[:: len(told) // _REASONS_CHECKED + 1]
    for row, reasons in zip(
        told, model.reasons(_features(case, page, told, model, listed)), strict=True
    ):
        if hash(tuple(reasons)) != page.reasons[row]:
            _differs(case, page, row, "reasons", "others", reasons)
    return len(told)


def _number(value: np.float64) -> float | None:
    return None if np.isnan(value) else value.item()


def _differs(
    case: VerifyRun, page: SourcePage, row: int, what: str, stored: object, recomputed: object
) -> None:
    case.findings.differs(page, row, case.topics.predictions.name, what, stored, recomputed)
