"""`fraudstream up`, `down`, `status` and `wipe`: Kafka and Cassandra on this machine."""

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from app.cli.options import FiniteRange, json_option
from app.errors import UnavailableError, UsageError
from app.settings import Settings, load_settings

NAMES = ("kafka", "cassandra")
_TITLES = {"kafka": "Kafka", "cassandra": "Cassandra"}

_names = click.argument("servers", nargs=-1, type=click.Choice(NAMES), metavar="[SERVERS]...")
_port = click.IntRange(1024, 65_000)


@click.command(epilog="\b\nExample:  fraudstream up\n          fraudstream up --free-ports --json")
@_names
@click.option(
    "--free-ports",
    is_flag=True,
    help="Use free ports instead of 19092 and 19042; later starts keep them.",
)
@click.option("--kafka-port", type=_port, help="Port of Kafka.  [default: 19092]")
@click.option("--cassandra-port", type=_port, help="Port of Cassandra.  [default: 19042]")
@click.option(
    "--brokers",
    type=click.IntRange(1, 5),
    help="Kafka brokers, at 127.0.0.1, 127.0.0.2 and so on.  [default: 1]",
)
@click.option(
    "--nodes",
    type=click.IntRange(1, 5),
    help="Cassandra nodes, at the same addresses.  [default: 1]",
)
@click.option(
    "--kafka-heap", help="Java heap of each Kafka.  [default: 512m; 256m each if there are several]"
)
@click.option(
    "--cassandra-heap",
    help="Java heap of each Cassandra.  [default: 1g; 384m each if there are several]",
)
@click.option(
    "--durable",
    is_flag=True,
    help="Cassandra acknowledges rows only when they are on disk: half as fast, but a killed Cassandra loses no "
    "rows (without this option: those of the last 100 ms).",
)
@click.option(
    "--timeout",
    default=180.0,
    show_default=True,
    type=FiniteRange(min=1),
    help="Seconds to wait until the servers answer.",
)
@json_option
def up(
    servers: tuple[str, ...],
    free_ports: bool,
    kafka_port: int | None,
    cassandra_port: int | None,
    brokers: int | None,
    nodes: int | None,
    kafka_heap: str | None,
    cassandra_heap: str | None,
    durable: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Start a real Kafka and a real Cassandra on this machine, without Docker.

    The first start downloads their jars (113 MB); later starts take seconds. Each server also uses some ports after
    its own. A running server is not restarted. SERVERS: kafka, cassandra; default: both.

    With --brokers 3 --nodes 3, topics and tables can have three replicas, to test what happens while a server is down.
    Later starts with the same FRAUDSTREAM_HOME start the same number.
    """
    from app.devstack.cluster import START_SECONDS, cluster_of
    from app.devstack.progress import ConsoleProgress
    from app.devstack.stack import Stack

    settings = load_settings()
    asked = servers or NAMES
    elsewhere = _elsewhere(settings)
    console = ConsoleProgress(lambda line: click.echo(line, err=as_json))
    for name in asked:
        if name in elsewhere:
            console.step(
                f"{_TITLES[name]} is not started here: FRAUDSTREAM_{_variable(name)} names "
                f"{elsewhere[name]}"
            )
            if _ask_elsewhere(name, elsewhere[name], settings)["state"] != "running":
                msg = (
                    f"{_TITLES[name]} at {elsewhere[name]} does not answer: start it, or unset "
                    f"FRAUDSTREAM_{_variable(name)}"
                )
                raise UnavailableError(msg)
    local = [name for name in asked if name not in elsewhere]
    chosen = {"kafka": kafka_port, "cassandra": cassandra_port}
    at = {name: port for name, port in chosen.items() if port}
    given = {"kafka": kafka_heap, "cassandra": cassandra_heap}
    heaps = {name: heap for name, heap in given.items() if heap}
    options: dict[str, Any] = {"heaps": heaps, "progress": console, "durable": durable}
    cluster = cluster_of(settings.home, brokers, nodes, at=at, free_ports=free_ports, **options)
    if cluster is not None:
        cluster.up(local, timeout_seconds=max(timeout, START_SECONDS))
        addresses = {name: cluster.addresses(name) for name in NAMES}
        replicas = {"REPLICATION": min(3, cluster.shape.brokers), "MIN_INSYNC": min(2, cluster.shape.brokers),
                    "CASSANDRA_REPLICATION": min(3, cluster.shape.nodes)}  # fmt: skip
        words = " ".join(f"FRAUDSTREAM_{name}={count}" for name, count in replicas.items())
        console.step(f"For replicas set {words} before `fraudstream topics` and `migrate`.")
    else:
        stack = Stack(settings.home, **options)
        if local:
            stack.up(local, free_ports=free_ports, at=at, timeout_seconds=timeout)
            console.step(
                f"Data is in {stack.home / 'servers'}. `fraudstream down` stops the servers and keeps the data."
            )
        addresses = {s.server: s.address or "" for s in stack.status()}
    if as_json:
        addresses |= elsewhere
        click.echo(json.dumps({name: addresses[name] for name in NAMES}))


@click.command(epilog="\b\nExample:  fraudstream down\n          fraudstream down cassandra")
@_names
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=FiniteRange(min=0),
    help="Seconds to wait before a server is killed.",
)
def down(servers: tuple[str, ...], timeout: float) -> None:
    """Stop the local servers and keep their data.

    SERVERS: kafka, cassandra; default: both.
    """
    from app.devstack.cluster import cluster_of
    from app.devstack.progress import ConsoleProgress
    from app.devstack.stack import Stack

    home, progress = load_settings().home, ConsoleProgress(click.echo)
    stack = cluster_of(home, progress=progress) or Stack(home, progress=progress)
    if stopped := stack.down(servers or NAMES, timeout_seconds=timeout):
        named = (" ".join([_TITLES[name], *number]) for name, *number in map(str.split, stopped))
        click.echo(f"Stopped: {', '.join(named)}. Data stays.")
    else:
        click.echo(f"No local server of {stack.home} is running.")


@click.command(epilog="\b\nExample:  fraudstream status\n          fraudstream status --json")
@json_option
def status(as_json: bool) -> None:
    """Check whether Kafka and Cassandra answer; exit code 3 if one does not.

    Checks the servers in FRAUDSTREAM_BROKER and FRAUDSTREAM_CASSANDRA, or else the local ones.
    """
    from app.devstack.cluster import cluster_of
    from app.devstack.stack import Stack

    settings = load_settings()
    cluster = cluster_of(settings.home)
    if cluster is not None:
        local = _summaries([(number, asdict(one)) for number, one in cluster.status()])
    else:
        local = {s.server: asdict(s) for s in Stack(settings.home).status()}
    found = {
        name: _ask_elsewhere(name, address, settings)
        for name, address in _elsewhere(settings).items()
    }
    states: dict[str, dict[str, Any]] = {name: found.get(name, local[name]) for name in NAMES}
    if as_json:
        click.echo(json.dumps(states))
    else:
        for name, state in states.items():
            for number, one in state.get("members") or [(0, state)]:
                click.echo(_describe(name, one, number))
    if any(state["state"] != "running" for state in states.values()):
        sys.exit(UnavailableError.exit_code)


@click.command(epilog="\b\nExample:  fraudstream wipe --yes")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def wipe(yes: bool) -> None:
    """Stop the local servers; delete their data and the state of workers."""
    from app.devstack.cluster import cluster_of
    from app.devstack.progress import ConsoleProgress
    from app.devstack.stack import Stack

    settings = load_settings()
    stack = Stack(settings.home, progress=ConsoleProgress(click.echo))
    names = ("servers", "brokers", "nodes", "workers")
    folders = [path for name in names if (path := stack.home / name).exists()]
    if folders and not yes:
        named = " and ".join(map(str, folders))
        if not sys.stdin.isatty():
            msg = f"wipe deletes {named}: without a terminal, confirm with --yes"
            raise UsageError(msg)
        click.confirm(f"Delete {named}?", abort=True)
    deleted = stack.wipe()
    if cluster := cluster_of(settings.home, progress=ConsoleProgress(click.echo)):
        deleted += cluster.wipe()
    for folder in deleted:
        click.echo(f"Deleted {folder}")
    if not deleted:
        click.echo(f"Nothing to delete in {stack.home}.")
    if settings.datadir and settings.datadir.exists():
        click.echo(
            f"Worker state in {settings.datadir} (FRAUDSTREAM_DATADIR) is not deleted; delete it yourself."
        )


def _variable(name: str) -> str:
    return {"kafka": "BROKER", "cassandra": "CASSANDRA"}[name]


def _elsewhere(settings: Settings) -> dict[str, str]:
    """Addresses of servers that the settings name, which are none of ours."""
    named = {"kafka": settings.broker, "cassandra": settings.cassandra}
    return {name: address for name, address in named.items() if address}


def _ask_elsewhere(name: str, address: str, settings: Settings) -> dict[str, Any]:
    """State of a server that the settings name: running when any of its addresses answers."""
    from app.address_syntax import CASSANDRA_PORT, KAFKA_PORT, parse_addresses
    from app.devstack.servers import SERVERS

    tls = _tls(name, settings)
    points = parse_addresses(address, {"kafka": KAFKA_PORT, "cassandra": CASSANDRA_PORT}[name])
    answers = any(SERVERS[name].answers(host, port, tls) for host, port in points)
    return {"server": name, "state": "running" if answers else "silent", "address": address}


def _tls(name: str, settings: Settings) -> Any:
    import ssl

    if name == "cassandra":
        if not settings.cassandra_ca_file:
            return None
        return ssl.create_default_context(cafile=str(settings.cassandra_ca_file))
    if not settings.kafka_security.endswith("SSL"):
        return None
    authority = settings.kafka_ca_file
    context = ssl.create_default_context(cafile=str(authority) if authority else None)
    if settings.kafka_cert_file:
        context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
    return context


def _summaries(members: list[tuple[int, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """State by server of several brokers and nodes: running where all of them are."""
    found = {}
    for name in NAMES:
        own = [(number, one) for number, one in members if one["server"] == name]
        states = {one["state"] for _, one in own}
        found[name] = {
            "server": name,
            "state": next(state for state in ("stopped", "silent", "running") if state in states),
            "address": ",".join(one["address"] for _, one in own if one["address"]),
            "members": own,
        }
    return found


def _describe(name: str, state: dict[str, Any], number: int = 0) -> str:
    words = {"running": "running", "silent": "does not answer", "stopped": "stopped"}
    title = f"{_TITLES[name]} {number}" if number else f"{_TITLES[name]:<9}"
    parts = [f"{title} {words[state['state']]}"]
    if state["address"] and state["state"] != "stopped":
        parts.append(f"at {state['address']}")
    if state.get("pid"):
        parts.append(f"pid {state['pid']}")
    if state.get("uptime_seconds") is not None:
        minutes, seconds = divmod(int(state["uptime_seconds"]), 60)
        parts.append(f"up {minutes} min {seconds} s")
    if state.get("memory_bytes"):
        parts.append(f"{state['memory_bytes'] / (1 << 20):.0f} MiB")
    if state.get("log"):
        parts.append(f"log {state['log']}")
    return ", ".join(parts)
