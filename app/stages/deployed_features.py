"""The features that the settings select, and the look-back period that they need."""

from app.domain.features import Catalogue
from app.settings import Settings
from app.wire.own_features_file import own_of


def catalogue_of(settings: Settings) -> Catalogue:
    """The features that a deployment computes.

    Raises:
        SettingsError: FRAUDSTREAM_FEATURES names an unknown set, or FRAUDSTREAM_CATALOGUE_FILE is invalid.
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
    """Look-back period of cards, milliseconds: entries this far behind the card's newest event time are evicted."""
    reach = max(settings.windows[-1], catalogue_of(settings).card_reach_ms)
    return reach + settings.allowed_lateness


def terminal_horizon_ms(settings: Settings) -> int:
    """Look-back period of terminals, milliseconds: longer, because their risk is computed beyond the label delay."""
    delay = settings.label_delay
    reach = max(settings.windows[-1] + delay, catalogue_of(settings).terminal_reach_ms)
    return reach + settings.allowed_lateness
