"""`fraudstream models`: list and show models."""

import json

import click

from app.cli import model_text
from app.cli.options import json_option
from app.errors import UsageError
from app.settings import load_settings


@click.command(
    epilog="\b\nExamples:  fraudstream models\n           fraudstream models show default"
)
@click.argument("words", nargs=-1, metavar="[show MODEL]")
@json_option
def models(words: tuple[str, ...], as_json: bool) -> None:
    """List the models; `models show MODEL` shows one: a name (its newest version), name@version, hash or folder."""
    from models.holder import registry_of

    settings = load_settings()
    registry = registry_of(settings)
    if words:
        if len(words) != 2 or words[0] != "show":
            msg = "`fraudstream models` lists, `fraudstream models show MODEL` shows one"
            raise UsageError(msg)
        folder, manifest = registry.find(words[1])
        if as_json:
            click.echo(json.dumps(model_text.described(folder, manifest)))
        else:
            click.echo("\n".join(model_text.details(folder, manifest)))
        return
    entries, damaged = registry.scan()
    if as_json:
        listed = [model_text.listed(entry) for entry in entries]
        click.echo(json.dumps({"models": listed, "damaged": damaged, "used": settings.model}))
        return
    click.echo("\n".join(model_text.table(entries)))
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)
