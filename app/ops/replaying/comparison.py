"""The results of a replay beside the live rows, and beside what labels say by now: some 20 bytes a transaction."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.cassandra.prediction_rows import epoch_ms
from app.ops.replaying.enriched_survey import SourceRecords
from app.quality.verdicts import FRAUD, GENUINE, UNKNOWN, Verdicts
from app.windows.window_row import NEVER

#: Columns of a live row, in order.
COLUMNS = (
    "source_topic", "source_partition", "source_offset", "event_time", "transaction_id", "score",
    "is_fraud", "model_version",
)  # fmt: skip
_CHUNK = 10_000


class _Page:
    """The transactions of one source partition, by offset from `begin` on."""

    def __init__(self, sources: SourceRecords) -> None:
        count = len(sources.placed)
        self.begin = sources.begin
        self.asked = sources.asked
        self.score = np.full(count, np.nan)
        self.fraud = np.zeros(count, np.bool_)
        self.live_score = np.full(count, np.nan)
        self.live_fraud = np.zeros(count, np.bool_)
        self.verdict = np.full(count, UNKNOWN, np.int8)


@dataclass(frozen=True)
class ComparedModel:
    """One side of a comparison.

    Attributes:
        alerts: transactions that it called fraud.
        true_positives, false_positives: alerts that labels say were fraud, and were not.
        missed: frauds that it did not call so.
        average_precision: over transactions with a label; None without a fraud among them.
    """

    alerts: int
    true_positives: int
    false_positives: int
    missed: int
    average_precision: float | None


class Comparison:
    """Takes the replay's results first, then the live rows.

    Args:
        sources: what was replayed, by source partition.
        topic: name of `transactions`.
        verdicts: what labels say.
        full_from_ms: event time from which on windows are full.
    """

    def __init__(
        self,
        sources: Iterable[SourceRecords],
        topic: str,
        verdicts: Verdicts,
        full_from_ms: int = NEVER,
    ) -> None:
        self._topic = topic
        self._verdicts = verdicts
        self._pages = [_Page(each) for each in sources]
        self._full_from_ms = full_from_ms
        self._short = 0
        self.live_models: set[str] = set()

    def replayed(self, prediction: dict[str, Any]) -> None:
        """One prediction of the replay, as its record has it."""
        page = self._pages[prediction["source_partition"]]
        row = prediction["source_offset"] - page.begin
        page.score[row] = prediction["score"]
        page.fraud[row] = prediction["is_fraud"]
        self._short += prediction["event_time_ms"] < self._full_from_ms

    def live(self, rows: Iterable[tuple[Any, ...]]) -> int:
        """Live rows, those that were not asked for among them; returns how many there were."""
        keys: list[tuple[int, str]] = []
        places: list[tuple[_Page, int]] = []
        number = 0
        for number, row in enumerate(rows, 1):  # noqa: B007 -- told afterwards
            topic, partition, offset, moment, transaction, score, fraud, model = row
            if topic != self._topic or not 0 <= partition < len(self._pages):
                continue
            page = self._pages[partition]
            at = offset - page.begin
            if not (0 <= at < len(page.asked) and page.asked[at]):
                continue
            page.live_score[at], page.live_fraud[at] = score, fraud
            self.live_models.add(model)
            keys.append((epoch_ms(moment) or 0, transaction))
            places.append((page, at))
            if len(keys) == _CHUNK:
                self._judge(keys, places)
        self._judge(keys, places)
        return number

    def _judge(self, keys: list[tuple[int, str]], places: list[tuple[_Page, int]]) -> None:
        for (page, at), verdict in zip(places, self._verdicts.of(keys), strict=True):
            page.verdict[at] = verdict
        keys.clear()
        places.clear()

    def result(self) -> dict[str, Any]:
        """JSON-ready: decisions that changed, by what labels say of them, and how good either model is."""
        asked = [page.asked for page in self._pages]

        def column(name: str) -> np.ndarray:
            return np.concatenate(
                [getattr(page, name)[rows] for page, rows in zip(self._pages, asked, strict=True)]
            )

        score, live_score, verdict = column("score"), column("live_score"), column("verdict")
        both = ~np.isnan(score) & ~np.isnan(live_score)
        fraud, live_fraud = column("fraud") & both, column("live_fraud") & both
        judged = both & (verdict != UNKNOWN)
        return {
            "compared": int(both.sum()),
            "without_live_row": int((np.isnan(live_score) & ~np.isnan(score)).sum()),
            "short_windows": self._short,
            "same_score": int((both & (score == live_score)).sum()),
            "newly_flagged": _by_verdict(fraud & ~live_fraud, verdict),
            "no_longer_flagged": _by_verdict(live_fraud & ~fraud, verdict),
            "labelled": int(judged.sum()),
            "frauds": int((judged & (verdict == FRAUD)).sum()),
            "replay": vars(_model(score, fraud, verdict, judged)),
            "live": vars(_model(live_score, live_fraud, verdict, judged)),
            "live_models": sorted(self.live_models),
        }


def _by_verdict(changed: np.ndarray, verdict: np.ndarray) -> dict[str, int]:
    return {
        "all": int(changed.sum()),
        "fraud": int((changed & (verdict == FRAUD)).sum()),
        "genuine": int((changed & (verdict == GENUINE)).sum()),
    }


def _model(
    score: np.ndarray, alert: np.ndarray, verdict: np.ndarray, judged: np.ndarray
) -> ComparedModel:
    from sklearn.metrics import average_precision_score

    is_fraud = judged & (verdict == FRAUD)
    precision = None
    if is_fraud.any():
        precision = float(average_precision_score(is_fraud[judged], score[judged]))
    return ComparedModel(
        alerts=int(alert.sum()),
        true_positives=int((alert & is_fraud).sum()),
        false_positives=int((alert & judged & ~is_fraud).sum()),
        missed=int((is_fraud & ~alert).sum()),
        average_precision=precision,
    )
