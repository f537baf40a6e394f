"""Which artifacts a deployment loads at all."""

from typing import NamedTuple

from app.settings import Settings


class Trust(NamedTuple):
    """What a deployment's settings say of artifacts.

    Attributes:
        pickled: whether pickles are loaded: loading one runs what is in it.
    """

    pickled: bool = False


def trust_of(settings: Settings) -> Trust:
    """What a deployment trusts."""
    return Trust(pickled=settings.allow_pickled_models)
