"""Drift of the newest predictions of a worker, and of several workers together. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from app.durations import DAY_MS
from app.metrics.counters import LabelCounts
from app.metrics.drift_sample import SampledPrediction
from app.quality.drift_comparison import LabelArrivals, compare
from app.quality.drift_stored import ModelBins, by_model, columns_of
from app.quality.verdicts import UNKNOWN
from models.training_distribution import Distribution, psi_of

#: As far back as labels and pauses between them count.
_LATELY_MS = 30 * DAY_MS
#: Labels must have arrived over so long before their absence is a finding: one batch does not say when the next comes.
_KNOWN_MS = DAY_MS
#: The distribution of a model, by its name and version; None: it has none, or is not loaded.
Finder = Callable[[str], Distribution | None]


def live_labels(counts: LabelCounts, now_ms: int) -> LabelArrivals:
    """What arrived on the partitions of `labels` that a worker reads.

    Args:
        counts: of this worker.
        now_ms: the time, epoch milliseconds.
    """
    since = now_ms - _LATELY_MS
    lately = [fraud for at_ms, fraud in list(counts.newest) if at_ms > since]
    silent = None
    if counts.received_ms - counts.first_ms >= _KNOWN_MS:
        # while a worker catches up, old labels arrive now
        silent = now_ms - max(counts.received_ms, counts.handled_ms)
    pause = max((pause for at_ms, pause in list(counts.pauses) if at_ms > since), default=0)
    return LabelArrivals(len(lately), sum(lately), silent, pause)


def live_drift(
    rows: Iterable[Sequence[SampledPrediction]],
    find: Finder,
    unit: int,
    labels: LabelArrivals | None = None,
) -> dict[str, Any]:
    """The newest predictions against training.

    Args:
        rows: by model that decided, oldest first.
        find: gives distributions.
        unit: minor units of one unit of the currency.
        labels: what arrived lately; None: this worker reads no partition of `labels`.

    Returns:
        JSON-ready, by name and version of each model, challengers included: `transactions`, `columns` and `findings`
        as `app.quality.drift_comparison.Drift` has them; None for a model without a training distribution.
    """
    seen: dict[str, tuple[Distribution, ModelBins] | None] = {}
    for sampled in rows:
        for alike in _alike(sampled):
            fields = [one.fields for one in alike]
            features = np.array([one.features for one in alike])
            for model, places in by_model(fields).items():
                if model not in seen:
                    found = find(model)
                    seen[model] = None if found is None else (found, ModelBins(found, unit))
                if (known := seen[model]) is not None:
                    at = [place for place, _, _ in places]
                    matrix = _matrix(features[at], alike[0].names, tuple(known[0].features))
                    verdicts = np.full(len(at), UNKNOWN, np.int8)
                    known[1].add([fields[place] for place in at], matrix, places, verdicts)
    told: dict[str, Any] = {}
    for model, known in sorted(seen.items()):
        if known is None:
            told[model] = None
            continue
        drift = compare(known[0], known[1].ordered()[0], labels=labels)
        told[model] = {
            "transactions": drift.rows,
            "columns": columns_of(drift),
            "findings": [one._asdict() for one in drift.findings],
        }
    return told


def together(workers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Several workers as one: shares are added up by their transactions, findings are those of any of them.

    Args:
        workers: what `live_drift` returned in each.
    """
    by_name: dict[str, list[Any]] = {}
    for one in workers:
        for model, drift in one.items():
            by_name.setdefault(model, []).append(drift)
    merged: dict[str, Any] = {}
    for model, parts in sorted(by_name.items()):
        known = [part for part in parts if part is not None]
        if not known:
            merged[model] = None
            continue
        findings: dict[tuple[str, str], Mapping[str, Any]] = {}
        for one in (one for part in known for one in part["findings"]):
            key = one["detector"], one["subject"]
            if key not in findings or one["value"] > findings[key]["value"]:
                findings[key] = one
        merged[model] = {
            "transactions": sum(part["transactions"] for part in known),
            "columns": _columns(known),
            "findings": list(findings.values()),
        }
    return merged


def _columns(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    named: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for part in parts:
        for column in part["columns"]:
            named.setdefault(column["name"], []).append((part["transactions"], column))
    made = []
    for name, columns in named.items():
        rows = np.array([count for count, _ in columns], np.float64)
        weights = rows / rows.sum()
        expected, found = (
            weights @ np.array([column[side] for _, column in columns])
            for side in ("expected", "found")
        )
        made.append({
            "name": name,
            "psi": psi_of(expected, found),
            # more transactions have a lower limit than any of their parts
            "limit": min(column["limit"] for _, column in columns),
            "missing": float(found[-1]),
            "expected": expected.tolist(),
            "found": found.tolist(),
        })  # fmt: skip
    return made


def _alike(rows: Sequence[SampledPrediction]) -> list[list[SampledPrediction]]:
    """The rows by their names of features: those that the deployment had before are apart."""
    found: dict[tuple[str, ...], list[SampledPrediction]] = {}
    for row in rows:
        found.setdefault(row.names, []).append(row)
    return list(found.values())


def _matrix(features: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    at = {name: place for place, name in enumerate(names)}
    made = np.full((len(features), len(wanted)), np.nan)
    for place, name in enumerate(wanted):
        if name in at:
            made[:, place] = features[:, at[name]]
    return made
