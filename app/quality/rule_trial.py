"""What a rule would have caught and disturbed: one scan of the labels, one of the stored predictions."""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
from cassandra.cluster import Session

from app.cassandra.label_queries import scan_verdicts
from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.prediction_rows import epoch_ms
from app.domain.features.own_features import OwnCatalogue
from app.domain.rules.policy import APPROVE, SCORE, field_value, rule_function
from app.domain.transaction import hash_id
from app.durations import DAY_MS
from app.quality.verdicts import FRAUD, GENUINE, Verdicts
from app.settings import Settings

#: Rows that are joined with labels at a time.
_CHUNK = 10_000
#: Cards are counted up to here: 64 bits each in a set.
MAX_CARDS = 200_000
_FIXED = (
    "transaction_id", "event_time", "card_id", "terminal_id", "amount_minor", "score", "is_fraud", "action",
)  # fmt: skip

_COUNTS = (
    "read", "labelled", "lacking", "frauds", "frauds_minor", "fired", "caught", "caught_minor", "false_positives",
    "false_positives_minor", "unlabelled", "unlabelled_minor", "new", "new_caught", "new_caught_minor",
)  # fmt: skip

Progress = Callable[[int], None]


class RuleTrial:
    """Counts what a rule fires for; the memory does not depend on the number of rows.

    Args:
        expression: the rule.
        names: of the features that it uses, in the order of `take`.
        own: what the deployment adds.
        verdicts: what labels say.
    """

    def __init__(
        self, expression: str, names: tuple[str, ...], own: OwnCatalogue, verdicts: Verdicts
    ) -> None:
        self._fires, self.fields = rule_function(expression, names, own)
        self._width = len(names)
        self._verdicts = verdicts
        self._cards: set[bytes] = set()
        self._span = [np.inf, -np.inf]
        self.counts: Counter[str] = Counter()

    def take(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Count some rows: the columns of `columns_of`."""
        keys: list[tuple[int, str]] = []
        minor, fired, open_ = array("q"), array("b"), array("b")
        item = SimpleNamespace()
        counts, width, at_features = self.counts, self._width, len(_FIXED)
        at_own = at_features + width
        fields = [(at_own + place, each) for place, each in enumerate(self.fields)]
        for row in rows:
            item.transaction_id, moment, item.card_id, item.terminal_id, *said = row[:at_features]
            amount, score, is_fraud, action = said
            keys.append((epoch_ms(moment) or 0, item.transaction_id))
            features = row[at_features:at_own]
            own = [field_value(each, row[place]) for place, each in fields]
            fires = False
            if None in features:
                counts["lacking"] += 1
            else:
                fires = bool(self._fires(features, score, item, own))
            minor.append(amount)
            fired.append(fires)
            open_.append(not is_fraud if action is None else action == APPROVE)
        verdicts = self._verdicts.of(keys)
        self._count(
            verdicts,
            np.array(minor, np.int64),
            np.array(fired, bool),
            np.array(open_, bool),
        )
        times = [at for at, _ in keys]
        self._span = [min(self._span[0], *times), max(self._span[1], *times)]
        for place in np.flatnonzero(np.array(fired, bool) & (verdicts != FRAUD)).tolist():
            if len(self._cards) < MAX_CARDS:
                self._cards.add(hash_id(rows[place][2]))

    def _count(
        self, verdicts: np.ndarray, minor: np.ndarray, fired: np.ndarray, open_: np.ndarray
    ) -> None:
        fraud, genuine = verdicts == FRAUD, verdicts == GENUINE
        for name, rows in (
            ("read", np.ones(len(fired), bool)),
            ("labelled", fraud | genuine),
            ("frauds", fraud),
            ("fired", fired),
            ("caught", fired & fraud),
            ("false_positives", fired & genuine),
            ("unlabelled", fired & ~fraud & ~genuine),
            ("new", fired & open_),
            ("new_caught", fired & open_ & fraud),
        ):
            self.counts[name] += int(np.count_nonzero(rows))
            self.counts[f"{name}_minor"] += int(minor[rows].sum())

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the counts, precision and recall over labelled transactions, and what people would notice."""
        counts = self.counts
        labelled = counts["caught"] + counts["false_positives"]
        days = max(1.0, (self._span[1] - self._span[0]) / DAY_MS) if counts["read"] else None
        return {
            **{name: counts[name] for name in _COUNTS},
            "precision": counts["caught"] / labelled if labelled else None,
            "recall": counts["caught"] / counts["frauds"] if counts["frauds"] else None,
            "cards_disturbed": len(self._cards),
            "cards_disturbed_is_a_minimum": len(self._cards) >= MAX_CARDS,
            "fired_per_day": counts["fired"] / days if days else None,
            "days": days,
        }


def try_rule(
    session: Session,
    settings: Settings,
    expression: str,
    used: set[str],
    names: Sequence[str],
    own: OwnCatalogue,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    progress: Progress = lambda _count: None,
) -> dict[str, Any]:
    """Try a rule on stored predictions.

    Memory: nine bytes per label, and 64 bits per disturbed card, up to `MAX_CARDS`.

    Args:
        session: to read with.
        settings: keyspace.
        expression: the rule, which was checked.
        used: names in it.
        names: of the deployment's features.
        own: what the deployment adds.
        from_ms: event times from here on, epoch milliseconds; None: from the first.
        to_ms: event times below it; None: to the last.
        progress: told now and then how many predictions were read.

    Returns:
        See `RuleTrial.as_dict`, and the seconds it took.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: a table is missing.
    """
    began = time.perf_counter()
    features = tuple(name for name in names if name in used and name != SCORE)
    verdicts = Verdicts(scan_verdicts(session, settings))
    trial = RuleTrial(expression, features, own, verdicts)
    # single elements of the map: the others are not sent, and not decoded
    columns = (*_FIXED, *(f"features['{name}']" for name in features))
    columns = (*columns, *(each.name for each in trial.fields))
    rows = scan_predictions(session, settings, columns, from_ms=from_ms, to_ms=to_ms)
    while chunk := list(islice(rows, _CHUNK)):
        trial.take(chunk)
        progress(trial.counts["read"])
    return {**trial.as_dict(), "seconds": round(time.perf_counter() - began, 2)}
