"""Composition root: imports whatever registers itself; `faust -A app.main worker` starts here."""

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    """`app`, made on first use: commands that need no worker never build one."""
    if name != "app":
        raise AttributeError(name)
    from app.errors import FraudstreamError

    try:
        from agents import alerts, cards, control, guard, labels, refunds, scoring, sink  # noqa: F401
        from app.faust_app import app
        from app.web import install_pages  # noqa: F401
    except FraudstreamError as error:  # Faust's command would print a traceback
        print(f"fraudstream: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    globals()["app"] = app
    return app


def main() -> None:
    """The console script."""
    from app.cli.command_errors import run

    sys.exit(run())
