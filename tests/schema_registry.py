"""A real schema registry for tests: Apicurio on a free port, its schemas in memory."""

import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from app.devstack.jar_downloads import ensure_jars
from app.devstack.jar_lock import cache_dir, parse_lock
from app.devstack.java import find_java
from app.devstack.progress import NoProgress

_LOCK = Path(__file__).with_name("registry.lock")
_START_SECONDS = 300.0
#: The API that Confluent's client speaks.
PATH = "/apis/ccompat/v7"


@pytest.fixture(scope="session")
def registry() -> Iterator[int]:
    """The port of a registry that answers."""
    (archive,) = ensure_jars(parse_lock(_LOCK.read_text()), cache_dir(), NoProgress())["registry"]
    with tempfile.TemporaryDirectory(prefix="fraudstream-registry-") as folder:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (runner,) = Path(folder).glob("*-runner.jar")
        log = Path(folder, "registry.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    find_java().path,
                    "-Xmx192m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    f"-Djava.io.tmpdir={folder}",
                    "-Dquarkus.http.port=0",
                    "-Dquarkus.http.host=127.0.0.1",
                    "-jar",
                    runner,
                ],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            )
        try:
            yield _port(process, log)
        finally:
            process.kill()
            process.wait()


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """Where it listens, once it answers."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        listening = [
            each.laddr.port
            for each in psutil.Process(process.pid).net_connections("tcp")
            if each.status == psutil.CONN_LISTEN
        ]
        for port in listening:
            client = SchemaRegistryClient({"url": url(port), "timeout": 30, "max.retries": 0})
            try:
                client.get_subjects()
            except Exception:  # not yet
                continue
            return port
        time.sleep(0.5)
    pytest.fail(f"the schema registry did not start: {log.read_text(errors='replace')[-2_000:]}")


def url(port: int) -> str:
    """The address of a registry, or of a proxy before it."""
    return f"http://127.0.0.1:{port}{PATH}"
