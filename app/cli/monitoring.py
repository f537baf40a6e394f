"""`fraudstream monitoring`: rules and a dashboard for Prometheus and Grafana."""

from pathlib import Path

import click

from app.file_writing import explained


@click.group()
def monitoring() -> None:
    """Write alerting rules and a dashboard for Prometheus and Grafana."""


@monitoring.command(
    epilog="\b\nExample:  fraudstream monitoring export /etc/prometheus/fraudstream"
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def export(folder: Path) -> None:
    """Write alerting rules, their tests, a scrape configuration and a Grafana dashboard into FOLDER.

    Existing files are replaced. Each alert names its section of docs/runbook.md.
    """
    from app.monitoring import FILES
    from app.monitoring import export as write

    with explained(folder, "FOLDER"):
        written = write(folder)
    for path in written:
        click.echo(f"{path}  {FILES[path.name]}")
