"""fraudstream: the application package. `faust -A app` finds the Faust app through this lazy attribute."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    from app import main

    return main.app
