"""`fraudstream notify`: sends notifications about alerts, in a separate process."""

import asyncio
import logging
from pathlib import Path

import click

from app.settings import load_settings


@click.command()
@click.option(
    "--heartbeat",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that is written again every 5 seconds while the process works, for a liveness probe.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    help="Port of /metrics for Prometheus, at the address FRAUDSTREAM_WEB_HOST. Without it there are no metrics.",
)
def notify(heartbeat: Path | None, metrics_port: int | None) -> None:
    r"""Send notifications about alerts until stopped: signed webhooks, e-mail, Slack, Teams, PagerDuty.

    FRAUDSTREAM_NOTIFY_ROUTES defines the routes: NAME=SEVERITY:URL, separated by spaces. http and https are
    webhooks, signed with FRAUDSTREAM_NOTIFY_SECRET; other URLs are those of apprise (https://appriseit.com/services/).

    An alert is sent once, and again if it becomes more severe or is reopened. Alerts wait in Kafka while a receiver is
    unavailable. Routes other than webhooks (e-mail, Slack, ...) get at most ten messages per minute each.
    docs/alerts.md describes delivery.

    Several processes share the work. Without routes the command prints a line and waits, so that compose or Helm can
    start it before routes are set.

    \b
    Example:  FRAUDSTREAM_NOTIFY_ROUTES="ops=high:slack://TOKEN siem=low:https://siem.example.org/hook" \
                fraudstream notify
    Exit codes:  2  a route is wrong, or the heartbeat cannot be written
                 3  Kafka does not answer at the start, or the port is taken
                 5  topics are missing: run `fraudstream topics`
    """
    from app.logs import JsonFormatter, quiet_libraries
    from app.notify.run import notify as run

    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="[%(asctime)s] %(levelname)s %(message)s"
    )
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    quiet_libraries(settings.log_level)
    for name in ("apprise", "httpx", "urllib3"):  # they print URLs, which are secrets
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(run(settings, heartbeat, metrics_port))
