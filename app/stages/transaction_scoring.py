"""Scores transactions of one or more partitions with the models that decide on them, and makes their records."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, zip_longest
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from app.blocks.faust.output_sender import OutRecord
from app.domain.alert_policy import AlertPolicy
from app.domain.features import Catalogue
from app.domain.prediction_flags import ANOMALY, CONFLICTING, LATE
from app.domain.rules import RuleOutcome, RulePolicy, outcome_of
from app.scoring_deployment import SCORED_BY
from app.stages.challenger_scores import CanaryDecision, Challengers
from app.stages.model_fallbacks import Champion
from app.stages.scoring_models import Model, ScoringModels, rearranged
from app.topics import Topics
from app.wire.enriched_records import EnrichedItem
from app.wire.output_records import alert_record, prediction_message

#: Topic, partition, transaction, features, flags, feature schema, rules and lists, and the outputs of its block.
Scored = tuple[
    str,
    int,
    EnrichedItem,
    list[float],
    list[str],
    Catalogue,
    RulePolicy | None,
    dict[tuple[str, int], list[Any]],
]


class Segment(NamedTuple):
    """Consecutive transactions of one partition on which the same models decide."""

    judges: ScoringModels
    scored: list[Scored]


class _Run(NamedTuple):
    judges: ScoringModels
    catalogue: Catalogue
    scored: list[Scored]


class TransactionScorer:
    """Scores transactions; appends predictions, late transactions and alerts to the outputs of their blocks.

    Args:
        topics: where outputs go.
        catalogue: the features that the worker computes.
        clock_ms: the current time, for `scored_at`.
        reasons_from: lowest score for which reasons are stored.
        scored_by: the name of this deployment in predictions.
        alerts: decides which transactions raise alerts; None: none do.
        champion: computes the current model's scores.
        challengers: computes the challengers' scores.

    Attributes:
        counts: transactions by outcome.
        raised: alerts by severity.
    """

    def __init__(
        self,
        topics: Topics,
        catalogue: Catalogue,
        *,
        clock_ms: Callable[[], int],
        reasons_from: float,
        scored_by: str,
        alerts: AlertPolicy | None,
        champion: Champion,
        challengers: Challengers,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.raised: Counter[str] = Counter()
        self._topics = topics
        self._catalogue = catalogue
        self._clock_ms = clock_ms
        self._reasons_from = reasons_from
        self._scored_by = scored_by
        self._alerts = alerts
        self._champion = champion
        self._challengers = challengers

    def score(self, partitions: Sequence[Sequence[Segment]]) -> None:
        """Score the segments of some partitions: a model's call costs about the same for one row as for fifty.

        A score does not depend on the other rows of a call, and the outputs of a partition keep their order.

        Args:
            partitions: the segments of each, in order.
        """
        for runs in zip_longest(*map(self._runs, partitions)):
            groups: list[_Run] = []
            for run in runs:
                if run is None:
                    continue
                same = next((one for one in groups if one[:2] == run[:2]), None)
                if same is None:
                    groups.append(run)
                else:
                    same.scored.extend(run.scored)
            for judges, catalogue, scored in groups:
                self._score(judges, catalogue, scored)

    def _runs(self, segments: Sequence[Segment]) -> Iterator[_Run]:
        """What one call can score, in order."""
        tallies = self._champion.tallies
        for judges, scored in segments:
            for catalogue, same in groupby(scored, itemgetter(5)):
                run = list(same)
                epoch = tallies.of_time(judges.epoch, [one[2].received_at for one in run])
                yield _Run(judges._replace(epoch=epoch), catalogue, run)

    def _score(self, judges: ScoringModels, catalogue: Catalogue, scored: list[Scored]) -> None:
        found = np.array([one[3] for one in scored])

        def features_of(model: Model) -> np.ndarray:
            if catalogue is self._catalogue:
                return found
            return rearranged(found, catalogue.names, self._catalogue.names, model.baseline)

        champion = judges.model
        matrix = features_of(champion)
        scores = self._champion.scores(judges, matrix)
        anomalies = self._champion.anomalies(champion, matrix)
        beside: list[dict[str, Any]] = []
        by_others: dict[int, CanaryDecision] = {}
        if judges.beside:
            cards = [item.card_id for _, _, item, *_ in scored]
            beside, by_others = self._challengers.judge(judges, cards, scores, features_of)
        if None in scores:
            left = [n for n, score in enumerate(scores) if score is None]
            by_others |= self._champion.fall_back(judges, left, by_others, features_of)
        scored_at = self._clock_ms()
        predictions, late = self._topics.predictions.name, self._topics.late_transactions.name
        names, schema = catalogue.names, catalogue.schema
        told = [
            index
            for index, score in enumerate(scores)
            if score is not None and score >= self._reasons_from and index not in by_others
        ]
        reasons = self._champion.reasons(champion, matrix[told]) if told else ()
        explained = dict(zip(told, reasons, strict=True))
        for index, (topic, partition, item, features, flags, _, policy, outputs) in enumerate(
            scored
        ):
            model, threshold, why = champion, judges.threshold, explained.get(index, [])
            score, anomaly = scores[index], anomalies[index]
            if index in by_others:
                model, threshold, score, anomaly, why = by_others[index]
            assert score is not None
            flagged_from = model.anomaly_threshold
            if anomaly is not None and flagged_from is not None and anomaly >= flagged_from:
                flags = [*flags, ANOMALY]  # noqa: PLW2901 -- the flags of stages, and the model's
            fraud = score >= threshold
            outcome = outcome_of(policy, names, features, item, score, fraud)
            added = {
                "amount_minor": item.minor,
                "event_time_ms": item.event_time_ms,
                "features": dict(zip(names, features, strict=True)),
                "score": score,
                "is_fraud": fraud,
                "threshold": threshold,
                "model_version": model.version,
                "model_hash": model.hash,
                "feature_schema": schema,
                "reasons": why,
                "anomaly_score": anomaly,
                "flags": flags,
                "rules": outcome.fired,
                "action": outcome.action,
                "source_topic": topic,
                "source_partition": partition,
                "source_offset": item.offset,
                "received_at": item.received_at,
                "scored_at": scored_at,
                SCORED_BY: self._scored_by,
            }
            if beside:
                added |= beside[index]
            value = prediction_message(item.body, added)
            record: OutRecord = (item.card_id.encode(), value, [])
            # the card's own partition: the same number of partitions, the same partitioner
            outputs[predictions, partition].append(record)
            if fraud or flags or added.get("rules"):  # all others raise no alert
                self._alert(item, partition, added, outcome, outputs)
            if LATE in flags:
                outputs[late, partition].append(record)
                self.counts["late"] += 1
            elif CONFLICTING in flags:
                self.counts["conflicting"] += 1
            else:
                self.counts["scored"] += 1

    def _alert(
        self,
        item: EnrichedItem,
        partition: int,
        added: dict[str, Any],
        outcome: RuleOutcome,
        outputs: dict[Any, Any],
    ) -> None:
        """The record for the topic `alerts`: an output like any other, so it is exact under replays."""
        if self._alerts is None or outcome.allowed:
            return
        alert = self._alerts.alert(
            {
                "transaction_id": item.transaction_id,
                "card_id": item.card_id,
                "terminal_id": item.terminal_id,
                **added,
                "rules": outcome.alerting,
                "reasons": [*outcome.reasons, *added["reasons"]],
            }
        )
        if alert is not None:
            outputs[self._topics.alerts.name, partition].append(alert_record(alert))
            self.raised[alert["severity"]] += 1
