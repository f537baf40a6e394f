"""Several brokers and nodes on one machine: their configuration, their addresses, and what is refused."""

import json
from pathlib import Path

import pytest

from app.cli.command_errors import run
from app.devstack.cluster import Cluster, Place, Shape, cluster_of
from app.devstack.server import LaunchSettings
from app.devstack.servers import SERVERS
from app.errors import UsageError
from app.server_addresses import members, resolve
from app.settings import Settings


def up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Start its servers, as far as that goes without Java; returns which."""
    started: list[tuple[str, int]] = []
    for key, stack in cluster.stacks.items():
        monkeypatch.setattr(stack, "up", lambda *_, key=key, **__: started.append(key))
    cluster.up(list(SERVERS))
    return started


def test_each_knows_the_others(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 3, 2)
    assert cluster.addresses("kafka") == "127.0.0.1:19092,127.0.0.2:19092,127.0.0.3:19092"
    assert cluster.addresses("cassandra") == "127.0.0.1:19042,127.0.0.2:19042"
    extras = dict(cluster._configurations())
    for number in (1, 2, 3):
        lines = extras["kafka", number].lines
        assert f"node.id={number}\n" in lines
        assert "voters=1@127.0.0.1:19093,2@127.0.0.2:19093,3@127.0.0.3:19093\n" in lines
        assert "min.insync.replicas=2\n" in lines
        assert extras["kafka", number].cluster == cluster.shape.id
    assert 'initial_token: "-9223372036854775807"' in extras["cassandra", 1].lines
    assert 'initial_token: "1"' in extras["cassandra", 2].lines
    assert "127.0.0.1:19043,127.0.0.2:19043" in extras["cassandra", 2].lines


def test_a_server_listens_on_its_own_address(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 3, 3, place=lambda _server, number: Place(f"10.0.0.{number}"))
    launch = LaunchSettings(
        tmp_path, Path("java"), [Path("jamm-1.jar")], 19_042, "384m", host="10.0.0.2",
        extra=dict(cluster._configurations())["cassandra", 2],
    )  # fmt: skip
    command = SERVERS["cassandra"].command(launch)
    assert "-Dfraudstream.host=10.0.0.2" in command
    assert command.index("-Dcassandra.load_ring_state=true") > command.index(
        "-Dcassandra.load_ring_state=false"
    ), "the last one counts"
    text = (SERVERS["cassandra"].folder(tmp_path) / "cassandra.yaml").read_text()
    assert "listen_address: 10.0.0.2\n" in text


def test_a_home_stays_as_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_of(tmp_path) is None
    made = cluster_of(tmp_path, 3, 3, at={"kafka": 20_000})
    assert made is not None
    started = up(made, monkeypatch)
    assert sorted(started[:3]) == [("kafka", 1), ("kafka", 2), ("kafka", 3)]
    assert started[3:] == [("cassandra", 1), ("cassandra", 2), ("cassandra", 3)], "one by one"
    again = cluster_of(tmp_path)
    assert again is not None
    assert again.shape == made.shape == Shape.read(tmp_path)
    for brokers, nodes, at in ((1, 3, {}), (3, 2, {}), (3, 3, {"kafka": 20_002})):
        with pytest.raises(UsageError, match="3 brokers and 3 nodes at ports 20000 and 19042"):
            cluster_of(tmp_path, brokers, nodes, at=at)
    single = tmp_path / "single"
    (single / "servers").mkdir(parents=True)
    with pytest.raises(UsageError, match="a single Kafka and Cassandra"):
        cluster_of(single, 3, 3)


def test_clients_are_told_of_all(tmp_path: Path) -> None:
    for server, number, port in (("kafka", 1, 1), ("kafka", 2, 1), ("cassandra", 1, 2)):
        folder = members(tmp_path, server) / str(number)
        folder.mkdir(parents=True)
        record = {server: {"host": f"127.0.0.{number}", "port": port}}
        (folder / "stack.json").write_text(json.dumps(record))
    found = resolve(Settings(home=tmp_path, broker=None, cassandra=None))
    assert found.broker == "127.0.0.1:1,127.0.0.2:1"
    assert found.cassandra == [("127.0.0.1", 2)]


def test_commands_speak_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    made = cluster_of(tmp_path, 2, 2)
    assert made is not None
    up(made, monkeypatch)
    with pytest.raises(SystemExit):
        run(["status"])
    said = capsys.readouterr().out
    assert all(
        name in said for name in ("Kafka 1 stopped", "Kafka 2 stopped", "Cassandra 2 stopped")
    )
    assert run(["wipe", "--yes"]) in (0, None)
    assert Shape.read(tmp_path) is None
