"""The settings of alerts, notifications and the guard; see `app.settings`."""

from base64 import b64decode
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from app.durations import Duration, format_duration
from app.notify_routes import DIGESTS, Route, parse_routes
from app.setting_lists import AlertCauses, Losses

#: Length of a webhook secret by its convention: 24 to 64 bytes.
_KEY_BYTES = 24


class AlertSettings(BaseSettings):
    """What raises an alert, its severity, who is notified, and what the guard watches."""

    default_rules: bool = Field(
        True,
        description="whether a new deployment starts with the default rules; later, `fraudstream rules` changes them",
    )
    alert_on: AlertCauses = Field(
        "model,rule",
        validate_default=True,
        description="what raises an alert, comma-separated: model, rule, anomaly; or none",
    )
    alert_window: Duration = Field(
        "1h",
        validate_default=True,
        description="transactions of one card that raise alerts within this time form one alert",
    )
    alert_losses: Losses = Field(
        "50,200,1000",
        validate_default=True,
        description="expected losses from which an alert is medium, high and critical: score times amount, or the "
        "whole amount if a rule fired",
    )
    guard_time: Duration = Field(
        "30m",
        validate_default=True,
        description="how long the guard watches a promoted model or a changed threshold (0s: not at all). It "
        "restores the earlier one if scores are missing, if too many or too few transactions are flagged, or if "
        "scoring is too slow",
    )
    guard_scoring_time: float = Field(
        100,
        gt=0,
        description="scoring time that the guard allows: 1 ms per micro-batch plus this many microseconds per "
        "transaction, or twice the earlier model's time if that is more",
    )
    notify_routes: SecretStr | None = Field(
        None,
        description="notification routes: NAME=SEVERITY:URL, separated by spaces; see docs/alerts.md",
    )
    notify_webhook_limit: int = Field(
        0,
        ge=0,
        description=f"largest number of messages per minute to a webhook, {DIGESTS + 1} or more; beyond it, alerts are "
        "summarised. 0: no limit, each alert is a message",
    )
    notify_secret: SecretStr | None = Field(
        None, description="secret for signing webhooks: whsec_ and base64"
    )
    web_url: str | None = Field(
        None,
        description="address under which people reach the web pages, such as https://fraud.example.com; "
        "notifications link to their alerts there",
    )

    @field_validator("web_url")
    @classmethod
    def _is_an_origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        whole = parts.scheme in {"http", "https"} and parts.hostname
        if not whole or parts.username or parts.path.strip("/") or parts.query or parts.fragment:
            msg = f"{value!r}: write the address without a path, such as https://fraud.example.com"
            raise ValueError(msg)
        return value.rstrip("/")

    @field_validator("notify_webhook_limit")
    @classmethod
    def _has_room_for_digests(cls, value: int) -> int:
        if 0 < value <= DIGESTS:
            msg = f"write 0 for no limit, or at least {DIGESTS + 1}: summaries take {DIGESTS} messages per minute"
            raise ValueError(msg)
        return value

    @field_validator("notify_routes")
    @classmethod
    def _routes_are_named(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_routes(value.get_secret_value())
        return value

    @field_validator("notify_secret")
    @classmethod
    def _is_base64(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                key = b64decode(value.get_secret_value().removeprefix("whsec_"), validate=True)
            except ValueError:
                key = b""
            if len(key) < _KEY_BYTES:
                msg = (
                    f"write whsec_ and the base64 of at least {_KEY_BYTES} random bytes: "
                    "`echo whsec_$(openssl rand -base64 24)` makes one"
                )
                raise ValueError(msg)
        return value

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """Notification routes."""
        return (
            ()
            if self.notify_routes is None
            else parse_routes(self.notify_routes.get_secret_value())
        )

    @field_validator("alert_window")
    @classmethod
    def _whole_seconds(cls, value: int) -> int:
        if value < 1_000 or value % 1_000:
            msg = f"{format_duration(value)} is not a number of whole seconds"
            raise ValueError(msg)
        return value
