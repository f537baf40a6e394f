"""Whether a stream still looks like the data that its model was trained on: detectors, pure over columns.

| detector | subject | what it finds |
|---|---|---|
| `distribution` | a feature, `score` | other values than in training: PSI |
| `constant` | a feature | one value only |
| `missing` | a feature, `terminal_id` | values that are not there |
| `hours` | `event_time` | other hours of the day than in training |
| `clock` | `event_time` | event times ahead of the arrival, or behind it by a time zone |
| `late` | `event_time` | late transactions |
| `one value` | `card_id`, `terminal_id` | one of them has too many of the transactions |
| `few values` | `card_id`, `terminal_id` | too few different ones |
| `flagged` | `score` | the model flags more or fewer than in training |
| `fraud share` | `labels` | labels say fraud more or less often than in training |
| `no labels` | `labels` | no label has arrived for long |
| `dead letters` | a reason | refused records |
| `duplicates`, `conflicts` | `transaction_id` | repeated ids |

Limits follow from the training data (models/training_distribution.py): a deviation is found when windows of quiet data
would not show it (chi-squared test with the design effect), and when it is large enough to matter. Population stability
index: below 0.1 nothing has changed, above 0.25 much has (Siddiqi, Credit Risk Scorecards, 2006); its distribution
without any change: Yurdakul and Naranjo, Statistical properties of the population stability index, 2020.
"""

from app.quality.drift_data import (
    ColumnDrift,
    DriftFinding,
    DriftReport,
    LabelArrivals,
    ObservedTransactions,
    RecordCounts,
    bin_features,
    together,
)
from app.quality.drift_detectors import (
    LARGE,
    LEAST_ROWS,
    MODERATE,
    bad_records,
    column_of,
    constant_features,
    label_arrival,
    moved_columns,
    other_hours,
    other_ids,
    other_shares,
    psi_limit,
    scale_hint,
    wrong_clocks,
)
from models.training_distribution import Distribution, strata_of

__all__ = [
    "LARGE",
    "LEAST_ROWS",
    "MODERATE",
    "ColumnDrift",
    "DriftReport",
    "DriftFinding",
    "LabelArrivals",
    "ObservedTransactions",
    "RecordCounts",
    "bin_features",
    "compare",
    "psi_limit",
    "together",
]


def compare(
    distribution: Distribution,
    observed: ObservedTransactions,
    records: RecordCounts | None = None,
    labels: LabelArrivals | None = None,
) -> DriftReport:
    """Compare a window with training.

    Args:
        distribution: of the model's training data.
        observed: transactions that this model decided; below `LEAST_ROWS` nothing is said of them.
        records: what became of all records of the same time; None: unknown.
        labels: what arrived by then; None: unknown.
    """
    found: list[DriftFinding] = []
    columns: list[ColumnDrift] = []
    if len(observed) >= LEAST_ROWS:
        slots = distribution.clock().slots(observed.event_time_ms)
        strata = strata_of(slots)
        columns.append(column_of("score", distribution.score, observed.score, strata))
        for at, (name, bins) in enumerate(distribution.features.items()):
            columns.append(column_of(name, bins, observed.codes[:, at], strata))
        scale = scale_hint(distribution, observed)
        for column, bins in zip(
            columns, (distribution.score, *distribution.features.values()), strict=True
        ):
            found += moved_columns(column, bins, len(observed), scale)
        found += constant_features(distribution, observed)
        found += other_hours(distribution, observed, slots)
        found += wrong_clocks(observed)
        found += other_shares(distribution, observed)
        found += other_ids(distribution, observed)
    if records is not None:
        found += bad_records(records)
    if labels is not None:
        found += label_arrival(distribution, labels)
    found.sort(key=lambda one: one.rank)
    return DriftReport(len(observed), tuple(columns), tuple(found))
