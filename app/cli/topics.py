"""`fraudstream topics`: create the Kafka topics."""

import asyncio

import click
import orjson

from app.cli.options import json_option
from app.settings import load_settings


@click.command()
@click.option(
    "--add-partitions",
    is_flag=True,
    help="Add partitions to topics that have too few, except `enriched` and the changelogs. Use it "
    "with a new FRAUDSTREAM_APP_ID after somebody added partitions to `transactions`: the state is then built again. "
    "Otherwise use `fraudstream repartition`, which keeps the state.",
)
@json_option
def topics(add_partitions: bool, as_json: bool) -> None:
    r"""Create the Kafka topics that are missing, and check the others; safe to re-run.

    Exits with 5 if topics differ from each other in their number of partitions, or if `transactions` or `labels` are
    compacted or use the producers' timestamps; the error names the command to run.

    \b
    Examples:  fraudstream topics
               FRAUDSTREAM_PARTITIONS=12 FRAUDSTREAM_REPLICATION=3 fraudstream topics
               FRAUDSTREAM_APP_ID=fraudstream-2 FRAUDSTREAM_PARTITIONS=12 fraudstream topics --add-partitions
    """
    from app.kafka.topic_admin import check_topics, ensure_topics
    from app.topics import Topics

    settings = load_settings()
    wanted = Topics(settings).all
    created = asyncio.run(ensure_topics(settings, wanted, add_partitions=add_partitions))
    warnings = asyncio.run(check_topics(settings, wanted))
    if as_json:
        report = {
            "topics": {spec.name: spec.partitions for spec in wanted},
            "created": created,
            "warnings": warnings,
        }
        click.echo(orjson.dumps(report).decode())
        return
    for spec in wanted:
        state = "created" if spec.name in created else "exists"
        click.echo(f"{spec.name:40} {spec.partitions:3} partitions  {state}")
    for name, warning in warnings.items():
        click.echo(f"warning: topic {name}: {warning}", err=True)
