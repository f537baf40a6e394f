"""The features that the settings ask for, and how far back the state must reach for them."""

from app.domain.features import Catalogue
from app.settings import Settings
from app.wire.own_catalogue import own_of


def catalogue_of(settings: Settings) -> Catalogue:
    """The features that a deployment computes.

    Raises:
        SettingsError: FRAUDSTREAM_FEATURES names a set that there is not, or FRAUDSTREAM_CATALOGUE_FILE is wrong.
    """
    return Catalogue(
        settings.windows,
        settings.minor_unit_digits,
        settings.timezone,
        settings.features,
        settings.label_delay,
        own_of(settings),
    )


def card_horizon_ms(settings: Settings) -> int:
    """How far behind its card's newest event time an entry is kept, milliseconds."""
    reach = max(settings.windows[-1], catalogue_of(settings).card_reach_ms)
    return reach + settings.allowed_lateness


def terminal_horizon_ms(settings: Settings) -> int:
    """The same at terminals, whose risk looks at what is older than the label delay, milliseconds."""
    delay = settings.label_delay
    reach = max(settings.windows[-1] + delay, catalogue_of(settings).terminal_reach_ms)
    return reach + settings.allowed_lateness
