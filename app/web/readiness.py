"""When a worker is ready (`/health/ready`), and the reasons that it gives when it is not."""

from collections.abc import Iterable, Mapping


def why_not_ready(
    *,
    stopping: bool,
    joined: bool,
    rebalancing: bool,
    kafka_answers: bool,
    tables: Mapping[str, bool],
    sink: str | None,
    stopped: Iterable[str] = (),
) -> list[str]:
    """Why a worker cannot work now, one line per reason; empty when it is ready.

    A spare worker, which was assigned no partition, is ready: it does what there is to do.

    Args:
        stopping: it was told to stop.
        joined: it is a member of the consumer group.
        rebalancing: the group is assigning partitions.
        kafka_answers: Kafka answered a request just now.
        tables: by name, whether a table is recovered.
        sink: why predictions wait, None while they are written.
        stopped: why partitions cannot be read further.
    """
    if stopping:
        return ["this worker is stopping"]
    if not joined:
        return ["this worker has not joined the group yet"]
    reasons = [] if kafka_answers else ["Kafka does not answer"]
    reasons += ["partitions are being assigned"] if rebalancing else []
    reasons += [f"table {name} is being recovered" for name, ready in tables.items() if not ready]
    if sink is not None:
        reasons.append(f"predictions wait for Cassandra: {sink}")
    return [*reasons, *stopped]
