"""The alert policy that the settings select."""

from app.domain.alert_policy import AlertPolicy
from app.settings import Settings


def alert_policy(settings: Settings) -> AlertPolicy | None:
    """The deployment's policy; None if nothing raises an alert."""
    if not settings.alert_on:
        return None
    minor = 10**settings.minor_unit_digits
    return AlertPolicy(
        settings.alert_on,
        settings.alert_window,
        tuple(loss * minor for loss in settings.alert_losses),
        settings.currency,
    )
