"""Models as people and scripts read them: the list, one model, the report of a training."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.display import iso, printable

if TYPE_CHECKING:
    from app.cassandra.model_registry import RegisteredModel
    from models.artifact_folders import Entry
    from models.manifest import AnomalyPart, Manifest

#: Features whose importance is told.
MOST_IMPORTANT = 5


def described(folder: Path, manifest: "Manifest") -> dict[str, Any]:
    """One model with everything in its manifest, for JSON."""
    return {"folder": str(folder), "hash": manifest.model_hash, **manifest.model_dump(mode="json")}


def listed(entry: "Entry") -> dict[str, Any]:
    """One model of the list, for JSON."""
    folder, manifest = entry
    return {
        "name": manifest.name,
        "version": manifest.version,
        "hash": manifest.model_hash,
        "kind": manifest.kind,
        "feature_schema": manifest.feature_schema,
        "trained": manifest.trained.get("at"),
        "average_precision": manifest.metrics.get("average_precision"),
        "threshold": manifest.threshold,
        "folder": str(folder),
    }


def registered_table(models: list["RegisteredModel"]) -> Iterator[str]:
    """The models of the registry, line by line."""
    if not models:
        yield "no model is registered; `fraudstream models register` registers one"
        return
    rows = [("MODEL", "HASH", "BYTES", "REGISTERED", "BY")]
    rows += [
        (
            one.model,
            one.hash[:16],
            f"{one.bytes:,}",
            (iso(one.registered_at) or "-")[:16],
            printable(one.registered_by),
        )
        for one in models
    ]
    yield from _columns(rows)


def difference(one: "Manifest", other: "Manifest") -> list[tuple[str, Any, Any]]:
    """The fields in which two manifests differ, and what is there; of features those that the other lacks."""
    found: list[tuple[str, Any, Any]] = []
    mine, theirs = (each.model_dump(mode="json") for each in (one, other))
    for name, value in mine.items():
        if value == theirs[name]:
            continue
        if name == "features":
            mine_alone, theirs_alone = [
                [each for each in a if each not in b] or ["the same, in another order"]
                for a, b in ((value, theirs[name]), (theirs[name], value))
            ]
            found.append((name, mine_alone, theirs_alone))
        elif name == "distribution":  # hundreds of numbers
            told = [
                each and f"of {each.get('rows', 0):,} transactions"
                for each in (value, theirs[name])
            ]
            found.append((name, told[0], told[1]))
        elif isinstance(value, dict) and isinstance(theirs[name], dict):
            found += [
                (f"{name}.{key}", value.get(key), theirs[name].get(key))
                for key in sorted({*value, *theirs[name]})
                if value.get(key) != theirs[name].get(key)
            ]
        else:
            found.append((name, value, theirs[name]))
    return found


def table(entries: list["Entry"]) -> Iterator[str]:
    """The list, line by line; columns are as wide as their widest cell."""
    if not entries:
        yield "no models; `fraudstream train` creates one"
        return
    titles = ("NAME", "VERSION", "HASH", "KIND", "TRAINED", "AP", "THRESHOLD", "FOLDER")
    rows = [titles]
    for each in map(listed, entries):
        precision = each["average_precision"]
        rows.append(
            (
                each["name"],
                str(each["version"]),
                each["hash"],
                each["kind"],
                (each["trained"] or "-")[:10],
                f"{precision:.3f}" if isinstance(precision, float | int) else "-",
                f"{each['threshold']:.4f}",
                each["folder"],
            )
        )
    yield from _columns(rows)


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Lines whose columns are as wide as their widest cell."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def report(folder: Path, manifest: "Manifest", use: str) -> Iterator[str]:
    """What a training made, line by line; `use` is the model for a command: its name and version, or its folder."""
    facts = manifest.trained
    chosen = ", ".join(f"{name} {value:g}" for name, value in facts["parameters"].items())
    yield (
        f"{manifest.name} version {manifest.version} ({manifest.kind}, {chosen}), trained on "
        f"{facts['learned_rows']:,} of {facts['rows']:,} transactions ({facts['frauds']:,} frauds)"
    )
    yield f"  folder  {folder}"
    yield f"  hash    {manifest.model_hash}"
    yield ""
    yield from _figures(manifest)
    yield ""
    yield f"A new deployment starts with it if you set FRAUDSTREAM_MODEL={use}."
    yield f"On a running one, use `fraudstream models register {use}`, then `models promote`."


def details(folder: Path, manifest: "Manifest") -> Iterator[str]:
    """One model, line by line."""
    facts, libraries = manifest.trained, manifest.libraries
    yield f"{manifest.name} version {manifest.version} ({manifest.kind})"
    yield f"  folder     {folder}"
    yield f"  hash       {manifest.model_hash}"
    yield f"  sha256     {manifest.sha256}"
    yield f"  threshold  {manifest.threshold:.6f} ({facts.get('threshold_by', 'given')})"
    yield f"  features   {manifest.feature_schema}: {', '.join(manifest.features)}"
    yield f"  trained    {facts.get('at', '-')}, {_source(facts.get('source', {}))}"
    learned_from = facts.get("learned_from", facts.get("from", "-"))
    yield f"  data from  {learned_from} to {facts.get('learned_to', '-')}"
    if manifest.anomaly is not None:
        part = manifest.anomaly
        yield f"  anomaly    {part.feature_schema}: {', '.join(part.features)}"
    if manifest.signature is not None:
        yield f"  signed by  {printable(manifest.signature.key)}"
    yield f"  libraries  {', '.join(f'{name} {libraries[name]}' for name in libraries)}"
    yield ""
    yield from _figures(manifest)


def _source(source: dict[str, Any]) -> str:
    if "simulated" in source:
        numbers = ", ".join(f"{name} {value}" for name, value in source["simulated"].items())
        return f"on simulated transactions ({numbers})"
    if "stored_in" in source:
        after = f", after {source['parent']}" if "parent" in source else ""
        return f"on scored transactions from {source['stored_in']}{after}"
    if "file" not in source:
        return "source unknown"
    counted = {
        "rounded_amounts": "amounts rounded",
        "refunds": "refunds left out",
        "malformed": "malformed rows left out",
    }
    told = [f"{source[name]:,} {text}" for name, text in counted.items() if source.get(name)]
    return ", ".join((f"on {source['file']}", *told))


def _figures(manifest: "Manifest") -> list[str]:
    """The report on the test set; a manifest may have been made elsewhere."""
    try:
        return list(_report(manifest))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [f"the figures in the manifest cannot be read: {error!r}"]


def _report(manifest: "Manifest") -> Iterator[str]:
    figures = manifest.metrics
    if "confusion" not in figures:
        yield "no figures in the manifest"
        return
    confusion = figures["confusion"]
    called = confusion["true_positive"] + confusion["false_positive"]
    facts = manifest.trained
    span = ""
    if "judged_to" in facts:
        span = f" from {facts['judged_from'][:10]} to {facts['judged_to'][:10]}"
    yield (
        f"on {figures['rows']:,} transactions{span} with {figures['frauds']:,} frauds (test set):"
    )
    yield from _ranking(figures)
    yield (
        f"  at threshold {manifest.threshold:.4f}: {called:,} alerts, "
        f"{confusion['true_positive']:,} true positives; precision {figures['precision']:.3f}, "
        f"recall {figures['recall']:.3f}, F1 {figures['f1']:.3f}"
    )
    yield from _weeks(figures.get("weeks", []))
    if manifest.anomaly is not None:
        yield from _anomalies(manifest.anomaly)
    kinds = figures.get("recall_by_kind", {})
    if kinds:
        found = ", ".join(f"{name} {share:.0%}" for name, share in kinds.items())
        yield f"  found of each kind of fraud: {found}"
    yield "  calibration:   score        rows  mean score  really fraud"
    for row in figures["calibration"]:
        span = f"{row['from']:g} to {row['to']:g}"
        yield (
            f"    {span:>16}  {row['rows']:>10,}  {row['mean_score']:>10.4f}  "
            f"{row['fraud_share']:>12.4f}"
        )
    important = [(n, loss) for n, loss in figures.get("importance", {}).items() if loss > 0]
    if important:
        told = ", ".join(f"{name} {loss:.3f}" for name, loss in important[:MOST_IMPORTANT])
        yield f"  average precision lost without: {told}"


def _ranking(figures: dict[str, Any]) -> Iterator[str]:
    """How well it ranks; older manifests judged by all transactions, and had no intervals."""
    ranked = figures.get("ranked", figures)
    if ranked["rows"] != figures["rows"]:
        yield (
            f"  excluding cards with known fraud: {ranked['rows']:,} transactions with "
            f"{ranked['frauds']:,} frauds"
        )
    if figures["auc"] is None:
        yield "  nothing to rank: every fraud is on a card with earlier known fraud; use more transactions"
        return
    between = {
        name: f"  95 % interval {low:.4f} to {high:.4f}"
        for name, (low, high) in figures.get("intervals", {}).items()
    }
    yield (
        f"  average precision   {figures['average_precision']:.4f}{between.get('average_precision', '')}"
        f"  (by chance: {figures['average_precision_by_chance']:.4f})"
    )
    yield f"  AUC ROC             {figures['auc']:.4f}{between.get('auc', '')}"
    yield (
        f"  card precision@100  {figures['card_precision_at_100']:.4f}"
        f"{between.get('card_precision_at_100', '')}"
        f"  (at best: {figures['card_precision_at_100_at_best']:.4f})"
    )


def _anomalies(part: "AnomalyPart") -> Iterator[str]:
    figures = part.metrics
    if not figures:
        return
    yield (
        f"  anomaly scores: average precision {figures['average_precision']:.4f}, AUC ROC "
        f"{figures['auc']:.4f}; from {part.threshold:.4f}: {figures['flagged']:,} flagged, "
        f"{figures['flagged_frauds']:,} true positives"
    )


def _weeks(weeks: list[dict[str, Any]]) -> Iterator[str]:
    """Each week's figures, and their means."""
    if not weeks:
        return
    names = ("auc", "average_precision", "card_precision_at_100")
    yield "  per week, with a model retrained each week:     AUC      AP  CP@100"
    for week in weeks:
        figures = "".join(f"{week[name]:8.4f}" for name in names)
        yield f"    from {week['test_from']}, trained from {week['train_from']}  {figures}"
    means = "".join(f"{sum(week[name] for week in weeks) / len(weeks):8.4f}" for name in names)
    yield f"    {'mean':41}{means}"
