"""`fraudstream train` makes a model, `fraudstream models` shows those that there are."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from app.cli.counter import counter
from app.errors import UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.tools.train import Labelled, Trained
    from models.artifact import Manifest
    from models.holder import Entry

#: 2025-01-01: a fixed beginning, so that equal seeds give equal models on any day.
_SIMULATED_FROM_MS = 1_735_689_600_000
_POSITIVE = click.IntRange(min=1)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command(
    epilog="\b\nExamples:  fraudstream train\n"
    "           fraudstream train --name shop --from-file history.csv.gz --alerts-per-day 50\n"
    "           fraudstream train --from-file handbook.csv.gz --assume-zone UTC --label TX_FRAUD \\\n"
    "             --map transaction_id=TRANSACTION_ID --map card_id=CUSTOMER_ID \\\n"
    "             --map terminal_id=TERMINAL_ID --map amount=TX_AMOUNT --map event_time=TX_DATETIME"
)
@click.option(
    "--from-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Labelled transactions: .csv, .jsonl (both also .gz) or .parquet.  [default: simulate]",
)
@click.option(
    "--label",
    metavar="COLUMN",
    help="Column that says what is fraud, 0 or 1.  [default: is_fraud or TX_FRAUD]",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Take a field from this column; repeatable.",
)
@click.option(
    "--assume-zone",
    metavar="ZONE",
    help="Time zone of event times that name none, such as UTC.  [default: refuse them]",
)
@click.option(
    "--cards", type=_POSITIVE, default=2_000, show_default=True, help="Cards to simulate."
)
@click.option(
    "--terminals", type=_POSITIVE, default=4_000, show_default=True, help="Terminals to simulate."
)
@click.option("--days", type=_POSITIVE, default=90, show_default=True, help="Days to simulate.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Equal seeds and options give equal models.",
)
@click.option(
    "--name", default="fraud", show_default=True, help="Name; each training is its next version."
)
@click.option("--kind", default="logistic", show_default=True, help="Kind of model.")
@click.option(
    "--alerts-per-day",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Choose the threshold so that about N a day are called fraud.  [default: best F1]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the model.  [default: HOME/models/NAME-VERSION]",
)
@_json
def train(**options: Any) -> None:
    """Train a model, and report how it does on transactions that it has never seen.

    The features are those of the stream, by the same code. The oldest 60 % are learned from, the
    next 20 % choose regularisation and threshold, the newest 20 % are what the report is about.
    """
    from app.tools import train as tool
    from models.training import KINDS

    if options["kind"] not in KINDS:
        msg = f"--kind {options['kind']!r}: there are {', '.join(KINDS)}"
        raise UsageError(msg)
    settings = load_settings()
    columns, kinds, source = _transactions(settings, options)
    trained = tool.train(
        columns,
        settings,
        tool.TrainingOptions(
            name=options["name"],
            kind=options["kind"],
            seed=options["seed"],
            alerts_a_day=options["alerts_per_day"],
            out=options["out"],
            source=source,
        ),
        now_ms=time.time_ns() // 1_000_000,
        kinds_of_fraud=kinds,
        stage=_stage,
    )
    if options["as_json"]:
        click.echo(json.dumps(_described(trained.folder, trained.manifest)))
    else:
        click.echo("\n".join(_report(trained, settings)))


@click.command(
    epilog="\b\nExamples:  fraudstream models\n           fraudstream models show default"
)
@click.argument("words", nargs=-1, metavar="[show MODEL]")
@_json
def models(words: tuple[str, ...], as_json: bool) -> None:
    """List the models, or show one: a name (its newest version), name@version, hash or folder."""
    from models.holder import registry_of

    settings = load_settings()
    registry = registry_of(settings)
    if words:
        if len(words) != 2 or words[0] != "show":
            msg = "`fraudstream models` lists, `fraudstream models show MODEL` shows one"
            raise UsageError(msg)
        folder, manifest = registry.find(words[1])
        if as_json:
            click.echo(json.dumps(_described(folder, manifest)))
        else:
            click.echo("\n".join(_details(folder, manifest)))
        return
    entries, damaged = registry.scan()
    if as_json:
        listed = [_listed(entry) for entry in entries]
        click.echo(json.dumps({"models": listed, "damaged": damaged, "used": settings.model}))
        return
    click.echo("\n".join(_table(entries)))
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)


def _transactions(
    settings: Settings, options: dict[str, Any]
) -> tuple["Labelled", Any, dict[str, Any]]:
    """Labelled transactions, kinds of fraud where they are known, and where they came from."""
    path = options["from_file"]
    if path is None:
        from app.tools.simulate import SimulationConfig, simulate

        source = {name: options[name] for name in ("cards", "terminals", "days", "seed")}
        config = SimulationConfig(
            **source,
            start_ms=_SIMULATED_FROM_MS,
            currency=settings.currency,
            minor_digits=settings.minor_unit_digits,
        )
        drawn = simulate(config)
        return drawn, drawn.fraud_kind, {"simulated": source}

    from app.tools.labelled import read_labelled

    with _stage(f"reading {path.name}", path.stat().st_size if path.exists() else 0) as tell:
        columns = read_labelled(
            path,
            settings,
            label=options["label"],
            mapping=_mapping(options["mapping"]),
            zone=_zone(options["assume_zone"]),
            progress=tell,
        )
    return columns, None, {"file": path.name}


@contextmanager
def _stage(text: str, length: int) -> Iterator[Callable[[int], None]]:
    with counter(text, length) as show:
        yield lambda done: show(done, None)


def _mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            msg = f"--map {pair}: write FIELD=COLUMN, such as card_id=CUSTOMER_ID"
            raise UsageError(msg)
        mapping[name] = column
    return mapping


def _zone(name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        msg = f"--assume-zone {name!r} is not a time zone; use a name such as UTC or Europe/Paris"
        raise UsageError(msg) from None


def _described(folder: Path, manifest: "Manifest") -> dict[str, Any]:
    return {"folder": str(folder), "hash": manifest.model_hash, **manifest.model_dump(mode="json")}


def _listed(entry: "Entry") -> dict[str, Any]:
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


def _table(entries: list["Entry"]) -> Iterator[str]:
    """Columns as wide as their widest cell."""
    if not entries:
        yield "no models; `fraudstream train` makes one"
        return
    titles = ("NAME", "VERSION", "HASH", "KIND", "TRAINED", "AP", "THRESHOLD", "FOLDER")
    rows = [titles]
    for each in map(_listed, entries):
        precision = each["average_precision"]
        rows.append(
            (
                each["name"],
                str(each["version"]),
                each["hash"],
                each["kind"],
                (each["trained"] or "-")[:10],
                "-" if precision is None else f"{precision:.3f}",
                f"{each['threshold']:.4f}",
                each["folder"],
            )
        )
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _report(trained: "Trained", settings: Settings) -> Iterator[str]:
    manifest = trained.manifest
    facts = manifest.trained
    chosen = ", ".join(f"{name} {value:g}" for name, value in facts["parameters"].items())
    yield (
        f"{manifest.name} version {manifest.version} ({manifest.kind}, {chosen}), trained on "
        f"{facts['rows']:,} transactions with {facts['frauds']:,} frauds"
    )
    yield f"  folder  {trained.folder}"
    yield f"  hash    {manifest.model_hash}"
    yield ""
    yield from _figures(manifest)
    yield ""
    by_name = trained.folder.parent == settings.home / "models"
    named = manifest.name if by_name else trained.folder.resolve()
    yield f"Score with it: FRAUDSTREAM_MODEL={named} fraudstream worker"


def _details(folder: Path, manifest: "Manifest") -> Iterator[str]:
    facts, libraries = manifest.trained, manifest.libraries
    yield f"{manifest.name} version {manifest.version} ({manifest.kind})"
    yield f"  folder     {folder}"
    yield f"  sha256     {manifest.sha256}"
    yield f"  threshold  {manifest.threshold:.6f} ({facts.get('threshold_by', 'given')})"
    yield f"  features   {manifest.feature_schema}: {', '.join(manifest.features)}"
    yield f"  trained    {facts.get('at', '-')}, {_source(facts.get('source', {}))}"
    yield f"  learned    {facts.get('from', '-')} to {facts.get('learned_to', '-')}"
    yield f"  libraries  {', '.join(f'{name} {libraries[name]}' for name in libraries)}"
    yield ""
    yield from _figures(manifest)


def _source(source: dict[str, Any]) -> str:
    if "simulated" in source:
        numbers = ", ".join(f"{name} {value}" for name, value in source["simulated"].items())
        return f"on simulated transactions ({numbers})"
    return f"on {source['file']}" if "file" in source else "source unknown"


def _figures(manifest: "Manifest") -> Iterator[str]:
    """The report on what training never saw."""
    figures = manifest.metrics
    if "confusion" not in figures:
        yield "no figures in the manifest"
        return
    confusion = figures["confusion"]
    called = confusion["true_positive"] + confusion["false_positive"]
    yield (
        f"on the newest {figures['rows']:,} transactions with {figures['frauds']:,} frauds, which it "
        "never saw:"
    )
    yield (
        f"  average precision   {figures['average_precision']:.4f}  "
        f"(by chance {figures['average_precision_by_chance']:.4f})"
    )
    yield f"  AUC ROC             {figures['auc']:.4f}"
    yield (
        f"  card precision@100  {figures['card_precision_at_100']:.4f}  "
        f"(at best {figures['card_precision_at_100_at_best']:.4f})"
    )
    yield (
        f"  at threshold {manifest.threshold:.4f}: {called:,} called fraud, "
        f"{confusion['true_positive']:,} of them are; precision {figures['precision']:.3f}, "
        f"recall {figures['recall']:.3f}, F1 {figures['f1']:.3f}"
    )
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
