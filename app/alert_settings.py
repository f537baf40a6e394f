"""The settings of alerts and of telling people about them; see `app.settings`."""

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from app.durations import Duration, format_duration
from app.words import AlertCauses, Losses


class AlertSettings(BaseSettings):
    """What is an alert, how urgent it is, and who is told."""

    alert_on: AlertCauses = Field(
        "model,rule",
        validate_default=True,
        description="what makes a scored transaction an alert: model, rule, anomaly; comma separated, none: nothing",
    )
    alert_window: Duration = Field(
        "1h", validate_default=True, description="alerts of one card within this time are one alert"
    )
    alert_losses: Losses = Field(
        "50,200,1000",
        validate_default=True,
        description="expected loss (score times amount) from which an alert is medium, high, critical",
    )
    notify_routes: SecretStr | None = Field(
        None,
        description="who is told of alerts: NAME=SEVERITY:URL, separated by spaces; see docs/alerts.md",
    )
    notify_secret: SecretStr | None = Field(
        None, description="secret that webhooks are signed with: whsec_ and base64"
    )

    @field_validator("alert_window")
    @classmethod
    def _whole_seconds(cls, value: int) -> int:
        if value < 1_000 or value % 1_000:
            msg = f"{format_duration(value)} is not a number of whole seconds"
            raise ValueError(msg)
        return value
