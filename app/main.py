"""Composition root: imports whatever registers itself; `faust -A app.main worker` starts here."""

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    """`app`, made on first use: commands that need no worker never build one."""
    if name != "app":
        raise AttributeError(name)
    import agents.cards
    import agents.scoring
    import agents.sink  # noqa: F401

    import app.web.register  # noqa: F401
    from app.faust_app import app

    globals()["app"] = app
    return app


def main() -> None:
    """The console script."""
    from app.cli import run

    sys.exit(run())
