"""What a load takes, in machines, disks, traffic and money: the tables of docs/sizing.md.

    python -m tests.figures.sizing                              # as in the page
    python -m tests.figures.sizing --rates 500,5000 --worker-us 150 --core 22 --disk 0.1 --cassandra-days 90
    python -m tests.figures.sizing --group                      # what a consumer group of many workers takes

Every option replaces a cost, an assumption or a price. Nothing is measured but by --group.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from tests.consumer_group import Group

RATES = (1_000, 10_000, 1_000_000)
_DAY_SECONDS = 86_400
_MONTH_SECONDS = 30 * _DAY_SECONDS
_TB = 1e12
#: Kafka keeps a group in one record of its offsets topic, of at most so many bytes (`message.max.bytes`).
GROUP_BYTES = 1_048_588


@dataclass(frozen=True)
class Inputs:
    """Costs of one transaction with its label, what is assumed of machines, and prices.

    Attributes:
        worker_us, kafka_us, cassandra_us: processor time, microseconds; of servers, for one replica.
        sent: bytes that workers and producers send to Kafka.
        stored: the same as brokers keep and replicate them, with zstd.
        kept: those of them that are kept for `kafka_days`; changelogs are compacted.
        read: bytes that workers read from Kafka.
        row_sent, row_kept: bytes of rows on their way to Cassandra, and on its disks.
        state: bytes in the state and in the compacted changelogs, as long as windows look back.
        kafka_days, cassandra_days, state_days: how long these are kept.
        replicas: of Kafka and Cassandra.
        standbys: replicas of the state on workers' disks, beside the first copy.
        deployment: transactions per second of one deployment; more are split by ranges of cards.
        broker_cores, broker_tb, broker_mb: of a broker: cores, disk (70 % full), and MB/s that it takes in.
        node_cores, node_tb: of a Cassandra node: cores, and disk (half full, because compaction needs room).
        core: price of a core with 4 GiB, per month.
        disk: price of a GB of SSD, per month.
        traffic: price of a GB that crosses zones.
    """

    worker_us: float = 219
    kafka_us: float = 29
    cassandra_us: float = 196
    sent: float = 3_790
    stored: float = 1_100
    kept: float = 375
    read: float = 375
    row_sent: float = 1_600
    row_kept: float = 385
    state: float = 95
    kafka_days: float = 90
    cassandra_days: float = 400
    state_days: float = 38
    replicas: float = 3
    standbys: float = 1
    deployment: float = 100_000
    broker_cores: float = 8
    broker_tb: float = 16
    broker_mb: float = 300
    node_cores: float = 16
    node_tb: float = 8
    core: float = 30
    disk: float = 0.08
    traffic: float = 0.02

    @property
    def worker_rate(self) -> float:
        """Transactions per second for which a worker is planned: half of its core, in hundreds."""
        return max(100.0, 1e6 / self.worker_us / 2 // 100 * 100)


class Size(NamedTuple):
    """What a load takes. Disks in TB, traffic in MB/s, processors in cores, money per month."""

    deployments: int
    workers: int
    spare: int
    partitions: int
    state_tb: float
    brokers: int
    kafka_cores: float
    kafka_tb: float
    nodes: int
    cassandra_cores: float
    cassandra_tb: float
    into_kafka: float
    replication: float
    out_of_kafka: float
    into_cassandra: float
    between_nodes: float
    across_zones: float
    money: dict[str, float]


def size(rate: float, given: Inputs) -> Size:
    """What a steady load takes.

    Args:
        rate: transactions per second, each with a label.
        given: costs, assumptions and prices.
    """
    copies = given.replicas
    deployments = math.ceil(rate / given.deployment)
    each = math.ceil(math.ceil(rate / given.worker_rate) / deployments)
    workers = each * deployments
    spare = max(deployments, math.ceil(workers / 50))
    partitions = max(4, math.ceil(2 * each / 4) * 4)
    state = rate * given.state * given.state_days * _DAY_SECONDS
    state_tb = state * (1 + given.standbys) / _TB
    kept = rate * given.kept * given.kafka_days * _DAY_SECONDS
    kafka_tb = (kept + state) * copies / _TB
    cassandra_tb = rate * given.row_kept * given.cassandra_days * _DAY_SECONDS * copies / _TB
    kafka_cores, cassandra_cores = (
        rate * us * copies / 1e6 for us in (given.kafka_us, given.cassandra_us)
    )
    into = rate * given.sent / 1e6
    replication = rate * given.stored * (copies - 1) / 1e6
    brokers = max(
        int(copies),
        math.ceil(kafka_tb / (given.broker_tb * 0.7)),
        math.ceil(2 * kafka_cores / given.broker_cores),  # half busy
        math.ceil((into + replication) / given.broker_mb),
    )
    nodes = max(
        int(copies),
        math.ceil(2 * cassandra_tb / given.node_tb),
        math.ceil(2 * cassandra_cores / given.node_cores),
    )
    out = rate * given.read / 1e6
    rows = rate * given.row_sent / 1e6
    between = rows * (copies - 1)
    # three zones: two of three requests go to another one, but reads stay (FRAUDSTREAM_KAFKA_RACK)
    across = (into + rows) * 2 / 3 + replication + between
    cores = workers + spare + brokers * given.broker_cores + nodes * given.node_cores
    disks = state_tb + brokers * given.broker_tb + nodes * given.node_tb
    money = {
        "cores": cores * given.core,
        "disks": disks * 1_000 * given.disk,
        "traffic between zones": across * _MONTH_SECONDS / 1_000 * given.traffic,
    }
    return Size(
        deployments, workers, spare, partitions, state_tb, brokers, kafka_cores, kafka_tb, nodes,
        cassandra_cores, cassandra_tb, into, replication, out, rows, between, across, money,
    )  # fmt: skip


def table(rates: Sequence[float], given: Inputs) -> Iterator[str]:
    """The table in Markdown, a line at a time."""
    sizes = [size(rate, given) for rate in rates]
    yield "| | " + " | ".join(f"{rate:,.0f}/s" for rate in rates) + " |"
    yield "|---" * (len(rates) + 1) + "|"
    keep = f"{given.kafka_days:g} days", f"{given.cassandra_days:g} days"
    rows: list[tuple[str, Iterable[str]]] = [
        (f"deployments of at most {given.deployment:,.0f}/s", (f"{s.deployments}" for s in sizes)),
        (
            f"workers at {given.worker_rate:,.0f}/s, one core each, plus spare ones",
            (f"{s.workers:,} + {s.spare}" for s in sizes),
        ),
        (
            "partitions per deployment: two per worker (spare workers not counted), rounded up to a multiple of four",
            (f"{s.partitions}" for s in sizes),
        ),
        (
            f"state on workers' disks, {given.standbys:g} standby replica, TB",
            (_few(s.state_tb) for s in sizes),
        ),
        ("**brokers**", (f"**{s.brokers:,}**" for s in sizes)),
        ("Kafka: busy cores", (_few(s.kafka_cores) for s in sizes)),
        (f"Kafka: disks, {keep[0]}, TB", (_few(s.kafka_tb) for s in sizes)),
        ("**Cassandra nodes**", (f"**{s.nodes:,}**" for s in sizes)),
        ("Cassandra: busy cores", (_few(s.cassandra_cores) for s in sizes)),
        (f"Cassandra: data, {keep[1]}, TB", (_few(s.cassandra_tb) for s in sizes)),
        ("network into Kafka, MB/s", (_few(s.into_kafka) for s in sizes)),
        ("network between brokers, MB/s", (_few(s.replication) for s in sizes)),
        ("network from Kafka to workers, MB/s", (_few(s.out_of_kafka) for s in sizes)),
        ("network into Cassandra, MB/s", (_few(s.into_cassandra) for s in sizes)),
        ("network between nodes, MB/s", (_few(s.between_nodes) for s in sizes)),
        ("of all that, between zones, MB/s", (_few(s.across_zones) for s in sizes)),
    ]
    for name in sizes[0].money:
        rows.append((f"{name}, per month", [_money(s.money[name]) for s in sizes]))
    rows.append(("**in all, per month**", (f"**{_money(sum(s.money.values()))}**" for s in sizes)))
    rows.append((
        "per million transactions",
        (
            f"{sum(s.money.values()) / (rate * _MONTH_SECONDS) * 1e6:.2f}"
            for rate, s in zip(rates, sizes, strict=True)
        ),
    ))  # fmt: skip
    for name, cells in rows:
        yield f"| {name} | " + " | ".join(cells) + " |"


def _few(value: float) -> str:
    """Two digits are known."""
    if value < 1:
        return f"{value:.1g}" if value < 0.1 else f"{value:.1f}"
    digits = max(0, 2 - len(str(int(value))))
    rounded = round(value, digits) if value < 100 else round(value, 2 - len(str(int(value))))
    return f"{rounded:,.{digits}f}"


def _money(value: float) -> str:
    return f"{round(value, 2 - len(str(int(value)))):,.0f}"


def group(partitions: int, workers: int, standbys: int) -> tuple[float, float, int]:
    """A group in three zones: CPU seconds to assign it at first, and after a worker died; bytes that Kafka keeps."""
    made = Group(partitions, standbys)
    for number in range(workers):
        made.join(
            f"worker-{number}.fraudstream-workers.payments.svc",
            host=f"host-{number}",
            zone=f"z{number % 3}",
        )
    took = []
    size_bytes = 0
    for _ in range(2):
        began = time.process_time()
        size_bytes = max(size_bytes, made.rebalance(next(iter(made.members))))
        took.append(time.process_time() - began)
        made.leave([list(made.members)[-1]])
    return took[0], took[1], size_bytes


def group_table() -> Iterator[str]:
    """Groups of several sizes, in Markdown."""
    yield "| partitions | workers | standby replicas | first assignment, CPU s | a worker died, CPU s | group, KB |"
    yield "|---|---|---|---|---|---|"
    for partitions, workers in ((96, 48), (256, 64), (1_000, 30), (1_000, 100)):
        for standbys in (0, 1):
            first, later, kept = group(partitions, workers, standbys)
            told = f"{kept / 1_000:,.0f}{' (too large)' if kept > GROUP_BYTES else ''}"
            yield f"| {partitions:,} | {workers} | {standbys} | {first:.2f} | {later:.2f} | {told} |"


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.figures.sizing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rates", default=",".join(map(str, RATES)), help="transactions per second"
    )
    parser.add_argument(
        "--group", action="store_true", help="measure how a large group is assigned"
    )
    for one in fields(Inputs):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default)
    options = vars(parser.parse_args())
    if options.pop("group"):
        for line in group_table():
            print(line, flush=True)
        return 0
    rates = [float(rate) for rate in options.pop("rates").split(",")]
    print("\n".join(table(rates, Inputs(**options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
