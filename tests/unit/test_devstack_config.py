"""Configuration files and command lines of the servers."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.devstack.kafka import escape_property
from app.devstack.server import LaunchSettings
from app.devstack.servers import SERVERS
from app.devstack.stack import Stack
from app.errors import UsageError

JARS = [Path("/c/a.jar"), Path("/c/jamm-0.4.0.jar")]


def launch(home: Path, name: str) -> LaunchSettings:
    (home / "servers" / name).mkdir(parents=True)
    (home / "servers" / name / "formatted").touch()
    return LaunchSettings(home, Path("/java"), JARS, 20_000, "700m")


@pytest.mark.parametrize(
    ("path", "escaped"),
    [("/a b", "/a b"), ("/é", "/\\u00e9"), ("/😀", "/\\ud83d\\ude00"), ("/a\\b", "/a\\\\b")],
)
def test_java_reads_properties_as_latin_1(path: str, escaped: str) -> None:
    assert escape_property(path) == escaped


def test_kafka(tmp_path: Path) -> None:
    command = SERVERS["kafka"].command(launch(tmp_path, "kafka"))
    lines = (tmp_path / "servers/kafka/server.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    assert properties["auto.create.topics.enable"] == "false"
    assert properties["log.retention.ms"] == "-1"
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:20000"
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:20001"
    assert properties["log.dirs"] == str(tmp_path / "servers/kafka/data")
    assert "$" not in "".join(properties.values())
    assert command[0] == "/java"
    assert command[-2:] == ["kafka.Kafka", str(tmp_path / "servers/kafka/server.properties")]
    assert {"-Xmx700m", f"-Dfraudstream.home={tmp_path}", "-Dfraudstream.server=kafka"} <= set(
        command
    )
    assert command[command.index("-cp") + 1] == "/c/a.jar:/c/jamm-0.4.0.jar"


def test_cassandra(tmp_path: Path) -> None:
    home = tmp_path / 'a "b" é'
    command = SERVERS["cassandra"].command(launch(home, "cassandra"))
    text = (home / "servers/cassandra/cassandra.yaml").read_text()
    assert "native_transport_port: 20000\nstart" in text
    assert "storage_port: 20001\nssl_storage_port: 20002\n" in text
    assert r'a \"b\" \u00e9/servers/cassandra/data/commitlog"' in text
    assert "-javaagent:/c/jamm-0.4.0.jar" in command
    assert command[-1].endswith("CassandraDaemon")


def test_a_durable_cassandra_writes_before_it_answers(tmp_path: Path) -> None:
    once = launch(tmp_path, "cassandra")
    configuration = tmp_path / "servers/cassandra/cassandra.yaml"
    SERVERS["cassandra"].command(once)
    assert (
        "\ncommitlog_sync: periodic\ncommitlog_sync_period: 10000ms\n" in configuration.read_text()
    )
    SERVERS["cassandra"].command(replace(once, durable=True))
    assert "\ncommitlog_sync: batch\ncommitlog_seg" in configuration.read_text()


def test_default_ports_do_not_overlap() -> None:
    taken = [port for server in SERVERS.values() for port in server.ports(server.port)]
    assert len(set(taken)) == len(taken) == 5


@pytest.mark.parametrize("heap", ["", "512", "0m", "1.5g", "1t", "512m -Xfoo"])
def test_a_wrong_heap_is_named(tmp_path: Path, heap: str) -> None:
    with pytest.raises(UsageError, match="--kafka-heap"):
        Stack(tmp_path, heaps={"kafka": heap})


@pytest.mark.parametrize("name", ["a,b", "a:b"])
def test_a_home_that_java_cannot_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="must not contain a comma or colon"):
        Stack(tmp_path / name)
