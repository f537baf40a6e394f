"""`fraudstream bench`: figures of this machine."""

import click
import orjson

from app.settings import load_settings


@click.command()
@click.option("--quick", is_flag=True, help="One short run of each: under three minutes.")
@click.option(
    "--events", type=click.IntRange(min=1000), help="Backlog of each run.  [default: 150000]"
)
@click.option(
    "--naive-events",
    type=click.IntRange(min=0),
    help="Backlog of the naive design; 0 leaves it out.",
)
@click.option(
    "--runs", type=click.IntRange(min=1), help="Runs of each; the median counts.  [default: 3]"
)
@click.option("--rates", help="Open-loop loads, events a second.  [default: 200,1000,3000,6000]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    quick: bool,
    events: int | None,
    naive_events: int | None,
    runs: int | None,
    rates: str | None,
    as_json: bool,
) -> None:
    r"""Measure throughput beside the naive Faust design, and latency by rate.

    Runs on the real servers with topics, a keyspace and state of its own, which it removes.
    One worker. Ratios within one run say more than absolute figures on a shared machine.

    \b
    Example:  fraudstream bench --quick
              fraudstream bench --events 300000 --rates 1000,5000 --json
    """
    from app.errors import UsageError
    from app.tools.bench.run import bench as measure

    wanted = rates if rates is not None else ("500" if quick else "200,1000,3000,6000")
    try:
        loads = tuple(float(rate) for rate in wanted.split(",") if rate.strip())
    except ValueError:
        msg = f"--rates {wanted!r}: write numbers with commas, such as 200,1000"
        raise UsageError(msg) from None
    report = measure(
        load_settings(),
        events=events or (20_000 if quick else 150_000),
        naive_events=naive_events if naive_events is not None else (1_000 if quick else 4_000),
        runs=runs or (1 if quick else 3),
        rates=loads,
        rate_seconds=5 if quick else 20,
        tell=lambda line: click.echo(line, err=True),
    )
    found = report.as_dict()
    if as_json:
        click.echo(orjson.dumps(found).decode())
        return
    click.echo(f"{'':24}{'events/s':>12}{'runs':>8}")
    spread = found["events_per_second_runs"]
    click.echo(f"{'fraudstream':24}{found['events_per_second']:12,.0f}{len(spread):8}")
    if found["ratio_to_naive"]:
        naive = found["naive_events_per_second"]
        click.echo(f"{'naive Faust':24}{naive:12,.0f}{len(report.naive):8}")
        click.echo(f"{'ratio':24}{found['ratio_to_naive']:12.1f}")
    last = report.throughput[-1]
    for name, cpu in last.cpu_us.items():
        click.echo(f"{name:24}{cpu:9.0f} us CPU an event, {last.memory_mib[name]:6.0f} MiB")
    for run in report.latency:
        marks = ", ".join(f"{name} {value:.1f} ms" for name, value in run.quantiles_ms.items())
        click.echo(f"at {run.rate:,.0f}/s: broker to row {marks}")
