"""What the page of models shows, as plain values: from changes, gates and manifests. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from app.display import iso
from app.domain.changes import ListChange, RuleChange
from app.kafka.change_history import ChangeHistory
from models.manifest import Manifest

#: Changes that are shown; `models history` has all.
MOST_CHANGES = 50
#: Facts of training, as a manifest names them, and their titles.
_TRAINED = {
    "at": "Trained at",
    "learned_from": "Learned from",
    "learned_to": "Learned until",
    "learned_rows": "Transactions learned from",
    "rows": "Transactions in all",
    "frauds": "Frauds",
    "label_delay": "Label delay",
    "threshold_by": "Threshold by",
    "seed": "Seed",
    "source": "Source",
}


def history_facts(history: ChangeHistory) -> dict[str, Any]:
    """What decides, challengers and the newest changes of models.

    Returns:
        JSON-ready: `decides` (None: nothing yet), `challengers`, `changes` (newest first), `more_changes`.
    """
    decides = history.decides()
    of_models = [
        one for one in history.changes if not isinstance(one.change, RuleChange | ListChange)
    ]
    shown = of_models[: -MOST_CHANGES - 1 : -1]
    ignored = history.ignored()
    return {
        "decides": None
        if decides is None
        else {
            "model": decides.model,
            "hash": decides.hash,
            "threshold": decides.threshold,
            "since": iso(decides.since.at_ms),
            "by": decides.since.change.by,
        },
        "challengers": [
            {"model": one.model, "hash": one.hash, "share": one.share, "threshold": one.threshold}
            for one in history.in_force().challengers
        ],
        "changes": [{**_change(one), "ignored": one[:2] in ignored} for one in shown],
        "more_changes": len(of_models) - len(shown),
    }


def _change(made: Any) -> dict[str, Any]:
    fields: Mapping[str, Any] = msgspec.to_builtins(made.change)
    kind = getattr(made.change, "how", fields["change"])  # the usual one is left out on the log
    if kind == "challenger":
        share = getattr(made.change, "share", None)
        kind = "stop challenger" if share is None else "canary" if share else "shadow"
    return {
        "at": iso(made.at_ms),
        "change": kind,
        "model": fields.get("model"),
        "threshold": fields.get("threshold"),
        "share": fields.get("share"),
        "forced": bool(fields.get("forced")),
        "by": made.change.by,
        "note": made.change.note,
    }


def gate_facts(gates: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Comparisons, as `app.cassandra.gate_results.recent` has them, in what a table shows."""
    return [
        {
            **{name: one[name] for name in ("model", "against", "passed", "reasons", "by")},
            "at": iso(one["at"]),
            "labelled": one["labelled"],
            "frauds": one["frauds"],
            "average_precision": one["challenger"]["average_precision"],
            "against_average_precision": one["champion"]["average_precision"],
            "alerts_per_day": one["challenger"]["alerts_per_day"],
            "against_alerts_per_day": one["champion"]["alerts_per_day"],
        }
        for one in gates
    ]


def lineage_facts(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """By name and version of each model: `hash`, `threshold`, `facts` for people and all of `trained`."""
    return {
        f"{one.name}@{one.version}": {
            "hash": one.model_hash,
            "threshold": one.threshold,
            "facts": _facts(one),
            "trained": one.trained,
        }
        for one in manifests
    }


def _facts(manifest: Manifest) -> dict[str, str]:
    trained = manifest.trained
    facts = {
        "Kind": manifest.kind,
        "Features": f"{len(manifest.features)} of {manifest.feature_schema}",
    }
    for name, title in _TRAINED.items():
        if (value := trained.get(name)) not in (None, "", {}):
            facts[title] = _text(value)
    precision = manifest.metrics.get("average_precision")
    if isinstance(precision, int | float):
        facts["Average precision on its test set"] = f"{precision:.3f}"
    return facts


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
