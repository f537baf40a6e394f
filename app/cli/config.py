"""`fraudstream config`: every setting, its value, where it comes from and what it means."""

import os
from pathlib import Path
from typing import Any, get_args

import click
import orjson
from pydantic import SecretStr

from app.cli.options import json_option
from app.durations import format_duration, is_duration
from app.settings import ENV_PREFIX, Settings, load_settings


@click.command()
@json_option
@click.option("--changed", is_flag=True, help="Show only settings that differ from their default.")
@click.option(
    "--markdown", is_flag=True, help="Print all settings as a Markdown table: docs/settings.md."
)
def config(as_json: bool, changed: bool, markdown: bool) -> None:
    r"""Show the settings; secrets are masked.

    Settings are read from the environment, or else from the file that FRAUDSTREAM_ENV_FILE names.

    \b
    Example:  FRAUDSTREAM_WINDOWS=1h,1d fraudstream config --changed
    """
    if markdown:
        click.echo(_table(), nl=False)
        return
    settings = load_settings()
    shown = {name: display(settings, name) for name in Settings.model_fields}
    defaults = {name: display(Settings.model_construct(), name) for name in Settings.model_fields}
    names = [name for name in shown if not changed or shown[name] != defaults[name]]
    if as_json:
        click.echo(
            orjson.dumps({ENV_PREFIX + name.upper(): shown[name] for name in names}).decode()
        )
        return
    for name in names:
        variable = ENV_PREFIX + name.upper()
        source = "" if shown[name] == defaults[name] else "  (set)"
        click.echo(f"{variable}={'' if shown[name] is None else shown[name]}{source}")
        click.echo(click.style(f"    {_meaning(name)}", dim=True))
    if os.environ.get(f"{ENV_PREFIX}ENV_FILE"):
        click.echo(f"# file: {os.environ[f'{ENV_PREFIX}ENV_FILE']}")


def _meaning(name: str) -> str:
    text = Settings.model_fields[name].description or ""
    choices = [str(choice) for choice in get_args(Settings.model_fields[name].annotation)]
    if choices and all(choice.isupper() for choice in choices):
        text += f" ({', '.join(choices)})"
    return text


def _table() -> str:
    """Every setting with its default and meaning, as a table of Markdown."""
    defaults = Settings.model_construct()
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name in Settings.model_fields:
        value = display(defaults, name)
        shown = "" if value in (None, "") else f"`{value}`"
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {shown} | {_meaning(name)} |")
    return "\n".join(lines) + "\n"


def _part(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else format_duration(value)


def display(settings: Settings, name: str) -> Any:
    """A setting's value as it would be written: durations as text, secrets as stars."""
    value = getattr(settings, name)
    metadata = Settings.model_fields[name]
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return ",".join(map(_part, value))
    if is_duration(metadata) and isinstance(value, int):
        return format_duration(value)
    return value
