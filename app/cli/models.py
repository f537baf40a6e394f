"""`fraudstream models`: list, show, register and import models."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli import model_challengers, model_changes, model_gate, model_text
from app.cli.options import FiniteRange, ListByDefault, json_option
from app.errors import UsageError
from app.settings import load_settings

if TYPE_CHECKING:
    from models.artifact_folders import Entry


@click.group(
    cls=ListByDefault,
    epilog="\b\nExamples:  fraudstream models\n"
    "           fraudstream models register fraud@2\n"
    "           fraudstream models promote fraud@2\n"
    "           fraudstream models shadow fraud@3\n"
    "           fraudstream models rollback\n"
    "           fraudstream models history --at 2026-11-29T12:00Z",
)
def models() -> None:
    r"""List models, register them, and choose the one that scores live transactions.

    Workers load models from a registry in Cassandra. A change takes effect within seconds, without a restart: each
    change is a record on the topic `control`, and each prediction names its model.
    """


for command in (
    model_changes.promote,
    model_changes.rollback,
    model_gate.gate,
    model_challengers.shadow,
    model_challengers.canary,
    model_changes.threshold,
    model_changes.history,
):
    models.add_command(command)


@models.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the registered models, then those in folders on this machine."""
    from app.ops.manage_models import list_models

    settings = load_settings()
    listing = list_models(settings)
    if as_json:
        registered = listing.registered
        click.echo(
            json.dumps(
                {
                    "registered": None
                    if registered is None
                    else [{"model": one.model, **one._asdict()} for one in registered],
                    "models": [model_text.listed(entry) for entry in listing.here],
                    "damaged": listing.damaged,
                    "used": settings.model,
                }
            )
        )
        return
    if listing.registered is None:
        click.echo(f"the registry is not shown: {listing.away}", err=True)
    else:
        click.echo("\n".join(model_text.registered_table(listing.registered)))
        click.echo("\nIn folders on this machine:")
    click.echo("\n".join(model_text.table(listing.here)))
    for line in listing.damaged:
        click.echo(f"damaged: {line}", err=True)


@models.command(
    epilog="\b\nExamples:  fraudstream models show default\n           fraudstream models show fraud@2"
)
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show a model: a name (its newest version), name@version, hash or folder.

    A registered model takes precedence. Without one, or without Cassandra, folders on this machine are searched.
    """
    from app.ops.manage_models import find_model

    entry = find_model(load_settings(), model)
    if as_json:
        click.echo(json.dumps(model_text.described(*entry)))
    else:
        click.echo("\n".join(model_text.details(*entry)))


@models.command(epilog="\b\nExample:  fraudstream models diff fraud@1 fraud@2")
@click.argument("one")
@click.argument("other")
@json_option
def diff(one: str, other: str, as_json: bool) -> None:
    """Compare the manifests of two models."""
    from app.ops.manage_models import find_model

    settings = load_settings()
    entries = [find_model(settings, name) for name in (one, other)]
    found = model_text.difference(*(entry.manifest for entry in entries))
    if as_json:
        click.echo(json.dumps({name: {"one": a, "other": b} for name, a, b in found}))
        return
    for name, a, b in found:
        click.echo(f"{name}\n  {entries[0].model}  {a}\n  {entries[1].model}  {b}")
    if not found:
        click.echo("the manifests are the same")


@models.command(
    epilog="\b\nExamples:  fraudstream models register fraud\n"
    "           fraudstream models register ./fraud-2"
)
@click.argument("model")
@click.option(
    "--sign",
    "key",
    type=click.Path(path_type=Path),
    metavar="KEYFILE",
    help="Sign it with this private key; see `models sign`.",
)
def register(model: str, key: Path | None) -> None:
    r"""Upload a model to the registry, where every worker finds it.

    MODEL is the name of a model in FRAUDSTREAM_HOME, or a folder. A version is registered once and never changes;
    training again creates the next version.

    \b
    Exit codes:  0  the model is registered, or was already
                 2  it is damaged, or this version is registered with other contents
                 3  Cassandra does not answer
                 4  there is no such model on this machine
    """
    from app.ops.manage_models import register as run
    from app.ops.manage_models import sign as run_sign

    settings = load_settings()
    entry, new = run(settings, model)
    said = "is registered" if new else "was registered already"
    if key is not None:
        run_sign(settings, entry.manifest.scoring_hash, key, approved=entry)
        said += " and is signed"
    click.echo(f"{entry.model} ({entry.manifest.model_hash}) {said}")


@models.command(epilog="\b\nExample:  fraudstream models keygen model-key.pem")
@click.argument("file", type=click.Path(path_type=Path))
def keygen(file: Path) -> None:
    """Make a key for signing models: the private key goes into FILE, the public key is printed.

    The file is not encrypted, and only its owner can read it. Workers need only the public key.
    """
    from app.ops.manage_models import make_key

    public = make_key(file)
    click.echo(
        f"The private key is in {file}. To require its signatures, set for all workers and commands:"
    )
    click.echo(f"FRAUDSTREAM_MODEL_KEYS={public}")


@models.command(
    epilog="\b\nExample:  fraudstream models sign fraud@2 --key model-key.pem --hash 79b0e1c4a5d2f386"
)
@click.argument("model")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="KEYFILE",
    help="File of the private key, from `models keygen`.",
)
@click.option(
    "--hash",
    "expected",
    metavar="HASH",
    help="Hash of the model that you approve (16 digits or more); a model with another hash is not signed.",
)
def sign(model: str, key: Path, expected: str | None) -> None:
    r"""Sign a registered model, so that workers and commands that require signatures accept it.

    The signature covers the whole manifest: name, version, hash of the model's file, features, threshold and the rest.
    An earlier signature is replaced. Whoever can write to Cassandra can change the model in the registry: give the
    hash that `register` has printed, so that no other model is signed.

    \b
    Exit codes:  0  it is signed
                 2  the key cannot be used, or the model has another hash
                 3  Cassandra does not answer
                 4  there is no such model in the registry
    """
    from app.ops.manage_models import sign as run

    entry = run(load_settings(), model, key, expected=expected)
    manifest = entry.manifest
    click.echo(f"{entry.model} ({manifest.model_hash}) is signed")
    click.echo(f"hash       {manifest.scoring_hash}")
    click.echo(f"threshold  {manifest.threshold}")
    click.echo(f"file       sha256 {manifest.sha256}")


@models.command(
    "import",
    epilog="\b\nExamples:  fraudstream models import clf.skops --name mine --threshold 0.4\n"
    "           fraudstream models import clf.skops --name mine --threshold 0.4 \\\n"
    "               --features amount,card_count_1h --usual amount=42.5",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the model.")
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    required=True,
    help="Lowest score at which a transaction is flagged as fraud.",
)
@click.option(
    "--features",
    metavar="NAME,...",
    help="Features of the model, in its order.  [default: all of --set]",
)
@click.option(
    "--set",
    "feature_set",
    metavar="SET",
    help="Feature set that the names in --features belong to; see `fraudstream features`.  "
    "[default: FRAUDSTREAM_FEATURES]",
)
@click.option(
    "--usual",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Normal value of a feature, such as its median in your training data. A reason shows how far a transaction "
    "is from it; repeatable.  [default: 0]",
)
def import_(
    file: Path,
    name: str,
    threshold: float,
    features: str | None,
    feature_set: str | None,
    usual: tuple[str, ...],
) -> None:
    r"""Import your own scikit-learn estimator or pipeline, and register it.

    FILE is a fitted classifier of the classes 0 and 1 (fraud), saved by skops.io.dump. With
    FRAUDSTREAM_ALLOW_PICKLED_MODELS=true it may also be saved by joblib.dump. Loading a joblib file runs code from it:
    import only files that you trust.

    \b
    Exit codes:  0  the model is registered
                 2  FILE is not such a classifier, contains types that are not trusted, or needs features that this
                    deployment does not compute
                 3  Cassandra does not answer, or FRAUDSTREAM_HOME is not writable
    """
    from app.ops.import_models import import_model

    entry = import_model(
        load_settings(),
        file,
        name=name,
        features=None if features is None else tuple(features.split(",")),
        feature_set=feature_set,
        threshold=threshold,
        usual=dict(map(_usual, usual)),
    )
    _tell_imported(entry)


def _tell_imported(entry: "Entry") -> None:
    click.echo(
        f"{entry.model} ({entry.manifest.model_hash}) is registered; it is in {entry.folder}"
    )
    click.echo(f"To use it: fraudstream models promote {entry.model}")


@models.command(
    epilog="\b\nExample:  FRAUDSTREAM_ALLOW_PICKLED_MODELS=true fraudstream models convert fraud@1"
)
@click.argument("model")
def convert(model: str) -> None:
    r"""Convert a pickled model to skops' format: save it as its next version, and register it.

    Earlier releases saved models as pickles. Loading a pickle runs code from it, so FRAUDSTREAM_ALLOW_PICKLED_MODELS
    must allow this: convert only models that you trust. The scores of the new version are bit-identical.

    \b
    Exit codes:  0  the new version is registered
                 2  MODEL is not a pickle, pickles are not allowed, or it contains types that are not trusted
                 3  Cassandra does not answer, or FRAUDSTREAM_HOME is not writable
                 4  there is no such model
    """
    from app.ops.import_models import convert_model

    old, new = convert_model(load_settings(), model)
    click.echo(f"{new.model} ({new.manifest.model_hash}) is registered; it is in {new.folder}")
    click.echo(
        f"Its scores are bit-identical to those of {old.model}. To use it without a comparison:"
    )
    click.echo(f"fraudstream models promote {new.model} --force --note 'converted {old.model}'")


@models.command(epilog="\b\nExample:  fraudstream models download fraud@2 ./fraud-2")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
def download(model: str, folder: Path) -> None:
    """Download a registered model into a new folder."""
    from app.ops.manage_models import download as run

    entry = run(load_settings(), model, folder)
    click.echo(f"{entry.model} ({entry.manifest.model_hash}) is in {folder}")


def _usual(text: str) -> tuple[str, Any]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        msg = f"--usual {text}: write NAME=NUMBER, such as amount=42.5"
        raise UsageError(msg) from None
