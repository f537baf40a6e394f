"""`predictions` and `late-transactions`: every record field by field against what is expected of its source."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.domain.challengers import Challenger
from app.domain.prediction_flags import ANOMALY
from app.domain.rules import RuleSet
from app.ops.reference import in_share
from app.ops.reference_rules import outcome
from app.ops.verification.ledger import (
    CERTAIN,
    PREDICTED,
    ExpectedOutcome,
    FeatureList,
    FoundIn,
    OtherModelScores,
    SourcePage,
)
from app.ops.verification.output_fields import (
    NEEDED,
    SHADOWS,
    SOURCE_FIELDS,
    extra_of,
    fields_of,
    ours,
    shadows_hash,
    source_in,
    without_time,
)
from app.ops.verification.verify_run import VerifyRun


class PredictionReader:
    """Reads one partition of `predictions`; fills the ledger's columns that rows are compared with.

    Args:
        case: the run.
        done: offset after the last record that the sink has stored.
    """

    def __init__(self, case: VerifyRun, done: int) -> None:
        self._case = case
        self._ledger = case.ledger
        self._where = case.topics.predictions.name
        self._done = done

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        by_page = defaultdict[int, list[tuple[int, Any, dict[str, Any]]]](list)
        for record in records:
            fields = fields_of(record, NEEDED)
            found = source_in(self._case, self._where, record, fields)
            if found is not None and ours(self._case, found, fields):
                by_page[found[0].number].append((found[1], record, fields))
        for partition, members in by_page.items():
            self._check(self._ledger.pages[partition], members)

    def _check(self, page: SourcePage, members: list[tuple[int, Any, dict[str, Any]]]) -> None:
        fresh = []
        for row, record, fields in members:
            digest = hash((record.key, without_time(record.value)))
            if not page.seen[row] & FoundIn.PREDICTED:
                page.seen[row] |= FoundIn.PREDICTED
                page.digest[row] = digest
                fresh.append((row, record, fields))
            elif page.digest[row] == digest:
                self._case.findings.repeated += 1
            else:
                self._differs(page, row, "repeated output", "another one", "the first")
            if record.offset >= self._done:
                page.seen[row] |= FoundIn.WAITING
        if fresh:
            self._store(page, fresh)
            rows = [row for row, _, _ in fresh]
            for features, at in self._ledger.by_list(rows, page):
                self._compare(page, features, [fresh[index] for index in at])
            self._decided(page, fresh)
            self._ruled(page, fresh)

    def _store(self, page: SourcePage, fresh: list[tuple[int, Any, dict[str, Any]]]) -> None:
        """Keep what rows in Cassandra must repeat."""
        rows = [row for row, _, _ in fresh]
        every = [fields for _, _, fields in fresh]
        anomalies = [fields["anomaly_score"] for fields in every]
        currency, model_index = self._case.settings.currency, self._ledger.model_index
        own = self._case.rules.own.fields
        page.put(
            rows,
            score=[fields["score"] for fields in every],
            threshold=[fields["threshold"] for fields in every],
            anomaly=[np.nan if anomaly is None else anomaly for anomaly in anomalies],
            is_fraud=[fields["is_fraud"] for fields in every],
            late=["late" in fields["flags"] for fields in every],
            conflicting=["conflicting" in fields["flags"] for fields in every],
            reasons=[hash(tuple(fields["reasons"])) for fields in every],
            outcome=[hash((tuple(f.get("rules") or ()), f.get("action"))) for f in every],
            shadows=[shadows_hash(f.get("shadow_scores"), f.get("shadow_flagged")) for f in every],
            extra=[extra_of(record.value, fields, currency, own) for _, record, fields in fresh],
            scored_at=[fields["scored_at"] for fields in every],
            model=[
                model_index((f["model_version"], f["model_hash"], f["feature_schema"]))
                for f in every
            ],
        )
        # the model's flag is not the oracle's to tell: it is kept, and checked with the scores
        odd = [row for row, _, fields in fresh if ANOMALY in fields["flags"]]
        odd = [row for row in odd if page.fate[row] in PREDICTED]  # others keep no flags there
        page.flags[odd] |= np.uint64(self._ledger.mask((ANOMALY,)))

    def _compare(
        self,
        page: SourcePage,
        features: FeatureList,
        fresh: list[tuple[int, Any, dict[str, Any]]],
    ) -> None:
        """Against the oracle: first all at once, then those that are not right one by one."""
        rows = [row for row, _, _ in fresh]
        names = list(features.names)
        right = np.isin(page.fate[rows], CERTAIN) & page.terminal_known[rows]
        try:
            stored = [list(fields["features"].values()) for _, _, fields in fresh]
            expected = page.features[np.ix_(np.array(rows), features.columns)]
            right &= (expected == np.array(stored, np.float64)).all(axis=1)
            flags = [self._ledger.mask(fields["flags"]) for _, _, fields in fresh]
            right &= (page.flags[rows] & features.flags) == np.array(flags, np.uint64)
        except (ValueError, TypeError, KeyError):  # a feature is missing or null, a flag is unknown
            right[:] = False
        lengths = page.length[rows].tolist()
        contents, received = page.content[rows].tolist(), page.received_at[rows].tolist()
        for index, (row, record, fields) in enumerate(fresh):
            if (
                not right[index]
                or hash(record.value[: lengths[index]]) != contents[index]
                or fields["received_at"] != received[index]
                or list(fields["features"]) != names
                or fields["feature_schema"] != features.schema
                or fields["is_fraud"] is not (fields["score"] >= fields["threshold"])
                or page.detail[row] != hash((fields.get("terminal_id"), fields["amount_minor"]))
                or page.identity[row] != _identity(fields)
                or record.key != fields["card_id"].encode()
            ):
                self._explain(page, row, record, fields)

    def _decided(self, page: SourcePage, fresh: list[tuple[int, Any, dict[str, Any]]]) -> None:
        """By the model and threshold that the log says, where it does; a model's own threshold: see `rescore`."""
        for row, _, fields in fresh:
            if page.decides[row] < 0:
                continue
            model, threshold, challengers, fallbacks = self._ledger.decisions[page.decides[row]]
            if not model:  # of before the first change
                continue
            deciders = [model, *(one.hash for one in fallbacks)]
            named = (n for n, one in enumerate(deciders) if one.startswith(fields["model_hash"]))
            fell_back = next(named, 0)
            decider = 0
            if challengers or not SHADOWS.isdisjoint(fields):
                decider = self._beside(page, row, fields, challengers, fell_back=bool(fell_back))
            if decider:
                model, threshold = challengers[decider - 1].hash, challengers[decider - 1].threshold
            elif fell_back:
                earlier = fallbacks[fell_back - 1]
                model, threshold = earlier.hash, earlier.threshold
                page.fell_back[row] = fell_back
            if not model.startswith(fields["model_hash"]):
                self._differs(page, row, "model", fields["model_hash"], model[:16])
            elif threshold is not None and fields["threshold"] != threshold:
                self._differs(page, row, "threshold", fields["threshold"], threshold)

    def _ruled(self, page: SourcePage, fresh: list[tuple[int, Any, dict[str, Any]]]) -> None:
        """By the rules and lists that the log says; records of before there were any have no action."""
        for row, record, fields in fresh:
            ruled = page.ruled[row]
            rules = self._ledger.rule_sets[ruled] if ruled >= 0 else RuleSet()
            known = rules if ruled >= 0 else None
            if page.fate[row] in PREDICTED:
                self._case.alerts.predicted((page.number, page.begin + row), record, fields, known)
            if "action" not in fields and not rules:
                continue
            fired, action = fields.get("rules"), fields.get("action")
            expected, decided = outcome(rules, fields)
            if ruled >= 0 and fired != expected:
                self._differs(page, row, "rules", fired, expected)
            elif ruled >= 0 and action != decided:
                self._differs(page, row, "action", action, decided)

    def _beside(
        self,
        page: SourcePage,
        row: int,
        fields: dict[str, Any],
        challengers: Sequence[Challenger],
        *,
        fell_back: bool,
    ) -> int:
        """Keep what the models say that did not decide; gives which one has to: 0, or a challenger's number.

        Where a model before it decided, the one that the log says did not.
        """
        scores, flagged = fields.get("shadow_scores"), fields.get("shadow_flagged")
        names = [one.model for one in challengers]
        if not challengers or not isinstance(scores, dict) or not isinstance(flagged, list):
            self._differs(page, row, "shadow_scores", scores, names)
            return 0
        decider = 0
        for number, one in enumerate(challengers, 1):
            mine = one.share and in_share(fields["card_id"], one.hash, one.share)
            if mine and scores.get(one.model, 0) is not None:  # one without a score does not decide
                decider = number
        others = [name for number, name in enumerate(names, 1) if number != decider]
        champion = [name for name in scores if name not in names]
        wanted = [*champion[:1], *others] if decider or fell_back else others
        if list(scores) != wanted or not set(flagged) <= scores.keys():
            self._differs(page, row, "shadow_scores", [scores, flagged], wanted)
            return decider
        if page.beside is None:
            page.beside = OtherModelScores(len(page))
        for name, score in scores.items():
            place = names.index(name) + 1 if name in names else 0
            page.beside.scores[row, place] = np.nan if score is None else score
            page.beside.flagged[row, place] = name in flagged
            page.beside.there[row, place] = True
        return decider

    def _explain(self, page: SourcePage, row: int, record: Any, fields: dict[str, Any]) -> None:
        fate = ExpectedOutcome(page.fate[row])
        if fate not in PREDICTED:
            self._differs(page, row, "fate", "scored", fate.name.lower())
            return
        if record.key != fields["card_id"].encode():
            self._differs(page, row, "key", repr(record.key), fields["card_id"])
        if page.identity[row] != _identity(fields):
            self._differs(page, row, "transaction_id", fields["transaction_id"], "another one")
        if page.detail[row] != hash((fields.get("terminal_id"), fields["amount_minor"])):
            stored = [fields.get("terminal_id"), fields["amount_minor"]]
            self._differs(page, row, "terminal_id and amount_minor", stored, "others")
        if hash(record.value[: page.length[row]]) != page.content[row]:
            self._differs(page, row, "input fields", "changed", "as they came")
        if fields["received_at"] != page.received_at[row]:
            self._differs(page, row, "received_at", fields["received_at"], page.received_at[row])
        decided = fields["score"] >= fields["threshold"]
        if fields["is_fraud"] is not decided:
            self._differs(page, row, "is_fraud", fields["is_fraud"], decided)
        self._explain_features(page, row, fate, fields)

    def _explain_features(
        self, page: SourcePage, row: int, fate: ExpectedOutcome, fields: dict[str, Any]
    ) -> None:
        ledger = self._ledger
        listed = ledger.lists[page.listed[row]]
        names = list(listed.names)
        if fields["feature_schema"] != listed.schema:
            self._differs(page, row, "feature_schema", fields["feature_schema"], listed.schema)
        if list(fields["features"]) != names:
            self._differs(page, row, "feature names", list(fields["features"]), names)
            return
        stored, expected = (
            list(fields["features"].values()),
            page.features[row, listed.columns].tolist(),
        )
        known = [fate != ExpectedOutcome.UNKNOWN] * listed.card
        known += [bool(page.terminal_known[row])] * (len(names) - len(known))
        for index, certain in enumerate(known):
            if not certain:
                expected[index] = stored[index]
        self._case.findings.compare_features(page, row, self._where, names, stored, expected)
        if all(known):
            flags = list(ledger.names(int(page.flags[row] & listed.flags)))
            if fields["flags"] != flags:
                self._differs(page, row, "flags", fields["flags"], flags)

    def _differs(self, page: SourcePage, row: int, what: str, stored: Any, recomputed: Any) -> None:
        if isinstance(recomputed, np.generic):
            recomputed = recomputed.item()
        self._case.findings.differs(page, row, self._where, what, stored, recomputed)


class LateReader:
    """Reads one partition of `late-transactions`: copies of predictions, to the byte but for their time."""

    def __init__(self, case: VerifyRun) -> None:
        self._case = case
        self._where = case.topics.late_transactions.name

    def take(self, records: list[Any]) -> None:
        """Records in offset order, once all predictions are known."""
        findings = self._case.findings
        for record in records:
            fields = fields_of(record, SOURCE_FIELDS)
            found = source_in(self._case, self._where, record, fields)
            if found is None or not ours(self._case, found, fields):
                continue
            page, row = found
            if page.seen[row] & FoundIn.LATE_COPY:
                findings.repeated += 1
            page.seen[row] |= FoundIn.LATE_COPY
            fate = ExpectedOutcome(page.fate[row])
            if fate not in (ExpectedOutcome.LATE, ExpectedOutcome.UNKNOWN):
                findings.differs(page, row, self._where, "fate", "late", fate.name.lower())
            elif page.seen[row] & FoundIn.PREDICTED:
                digest = hash((record.key, without_time(record.value)))
                if digest != page.digest[row]:
                    findings.differs(page, row, self._where, "copy", "another", "the prediction")


def _identity(fields: dict[str, Any]) -> int:
    return hash((fields["card_id"], fields["event_time_ms"], fields["transaction_id"]))
