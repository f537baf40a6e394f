"""Whether the running workers can load a model: what commands print, and what they refuse."""

import click

from app.errors import UsageError
from app.settings import Settings


async def require_loadable(settings: Settings, model: str, model_hash: str) -> None:
    """Ask the workers to load a registered model; those that cannot be asked are named on stderr.

    Raises:
        UsageError: a worker cannot load it; the text names worker, reason and remedy.
    """
    from app.change_author import author
    from app.web.model_load_requests import ask_workers

    found = await ask_workers(settings, model_hash, author())
    if found.refuses:
        url, reason = next(iter(found.refuses.items()))
        others = f" (and {len(found.refuses) - 1} more)" if len(found.refuses) > 1 else ""
        msg = f"the worker at {url}{others} cannot load {model}: {reason}"
        raise UsageError(msg)
    for url, reason in found.silent.items():
        click.echo(f"the worker at {url} was not asked to load {model}: {reason}", err=True)
    if not found.loads:
        why = found.fault or ("none answered" if found.silent else "none is running")
        click.echo(
            f"no worker was asked to load {model}: {why}; only this machine has tested it", err=True
        )
