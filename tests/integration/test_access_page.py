"""The steps of docs/access.md from an empty, secured cluster to a verified transaction, run as they are printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from app.devstack import ports
from app.devstack.jar_downloads import ensure_jars
from app.devstack.jar_lock import cache_dir, parse_lock, read_lock
from app.devstack.java import find_java
from app.devstack.progress import NoProgress
from app.settings import ENV_PREFIX
from tests.secret_settings import PASSWORD
from tests.secured_servers import CLIENT, Secured

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ADMIN = "kafka-admin"
#: Kafka's scripts, and what they start.
TOOLS = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
}
STEP_SECONDS = 300


def blocks() -> list[str]:
    """The code of the steps, in order."""
    page = (ROOT / "docs" / "access.md").read_text()
    steps = page[page.index("## From an empty") : page.index("## Kafka\n")]
    found = re.findall(r"^    ```sh\n(.*?)^    ```$", steps, re.DOTALL | re.MULTILINE)
    return [re.sub(r"^    ", "", one, flags=re.MULTILINE) for one in found]


class Terminal:
    """A shell in a folder of its own, with the administrators' logins.

    Args:
        secured: the servers.
        folder: where commands run.
    """

    def __init__(self, secured: Secured, folder: Path) -> None:
        self.folder = folder
        authority, self._port = secured.authority, ports.free_run(1)
        tls, (host, port) = "/etc/fraudstream/tls", secured.cassandra.split(":")
        self._names = {
            "kafka-1.bank.example:9093,kafka-2.bank.example:9093": secured.broker["sasl"],
            "kafka-1.bank.example:9093": secured.broker["sasl"],
            "cassandra-1.bank.example:9042": secured.cassandra,
            f"{tls}/kafka-ca.pem": str(authority.ca),
            f"{tls}/cassandra-ca.pem": str(authority.ca),
            f"{tls}/client.pem": str(authority.folder / f"{CLIENT}.pem"),
            f"{tls}/client-key.pem": str(authority.folder / f"{CLIENT}-key.pem"),
            # there is one broker, and one node
            "REPLICATION=3": "REPLICATION=1",
            "MIN_INSYNC=2": "MIN_INSYNC=1",
            "127.0.0.1:6066": f"127.0.0.1:{self._port}",
        }
        self._used: set[str] = set()
        (folder / "admin.properties").write_text(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.type=PEM\n"
            f"ssl.truststore.location={authority.ca}\n"
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required "
            f'username="{ADMIN}" password="{PASSWORD}";\n'
        )
        (folder / ".cassandra").mkdir()
        (folder / ".cassandra" / "cqlshrc").write_text(
            f"[authentication]\nusername = cassandra\npassword = cassandra\n"
            f"[connection]\nhostname = {host}\nport = {port}\nssl = true\n"
            f"[ssl]\nvalidate = true\ncertfile = {authority.ca}\nusercert = {authority.folder}/{CLIENT}.pem\n"
            f"userkey = {authority.folder}/{CLIENT}-key.pem\n"
        )
        (folder / ".cassandra" / "cqlshrc").chmod(0o600)
        self._programs()

    def _programs(self) -> None:
        """What a person has on PATH."""
        programs = self.folder / "bin"
        programs.mkdir()
        lock = parse_lock((ROOT / "tests" / "java_client.lock").read_text())
        jars = ensure_jars({**lock, "kafka": read_lock()["kafka"]}, cache_dir(), NoProgress())
        java = [
            str(find_java().path), "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={self.folder}",
            "-cp", ":".join(str(jar) for jar in [*jars["java-client"], *jars["kafka"]]),
        ]  # fmt: skip
        for name, main in TOOLS.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join([*java, main])} "$@"\n')
            (programs / name).chmod(0o755)
        own = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m app "$@"\n'
        (programs / "fraudstream").write_text(own)
        (programs / "fraudstream").chmod(0o755)
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)
        } | {
            "HOME": str(self.folder),
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FRAUDSTREAM_WEB_PORT": str(self._port),
            "FRAUDSTREAM_HOME": str(self.folder / "home"),
        }
        if cache := os.environ.get("FRAUDSTREAM_CACHE"):
            self.environ["FRAUDSTREAM_CACHE"] = cache

    def own(self, text: str) -> str:
        """A text with the names of these servers and files."""
        for name, ours in self._names.items():
            if name in text:
                self._used.add(name)
                text = text.replace(name, ours)
        return text

    def run(self, code: str) -> str:
        """Run some code; what it exports stays. Returns what it prints."""
        after = self.folder / "environment"
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", f"{self.own(code)}\nenv -0 > {after}"],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=STEP_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        pairs = after.read_text().split("\0")
        self.environ = dict(pair.split("=", 1) for pair in pairs if pair)
        return done.stdout + done.stderr

    def done(self) -> None:
        """Every name of the page that is replaced here was there."""
        assert self._used == self._names.keys()


@pytest.mark.timeout(900)
def test_the_steps_to_a_verified_transaction(secured: Secured, tmp_path: Path) -> None:
    secured.add_user(ADMIN)
    everything = AclBinding(
        ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL, f"User:{ADMIN}", "*",
        AclOperation.ALL, AclPermissionType.ALLOW,
    )  # fmt: skip
    for future in secured.admin.create_acls([everything]).values():
        future.result(30)
    terminal = Terminal(secured, tmp_path)
    common, users, setup, grants, worker, ready, transaction, verify = blocks()
    (tmp_path / "common.env").write_text(terminal.own(common))
    for step in (users, setup, grants):
        terminal.run(step)
    assert not list(tmp_path.glob("scram*"))
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("*-*.env")} == {0o600}
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"exec env {worker.strip()}"],
            cwd=tmp_path, env=terminal.environ, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            terminal.run(ready)
            terminal.run(transaction)
            said = terminal.run(verify)
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0, (tmp_path / "worker.log").read_text()[-3_000:]
    assert re.search(r"^read +1 ", said, re.MULTILINE), said
    assert "t-1" in said
    terminal.done()
