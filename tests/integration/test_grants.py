"""Everything from an empty cluster to a verified transaction, each role with exactly the grants printed for it.

And what is written meanwhile, at log level debug, holds no password, no token and nothing of a record.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cassandra.session import connected, disconnect
from app.devstack.environment import environment
from app.errors import SettingsError, UnavailableError
from app.ops.role_grants import ROLES, Role, grants_of, table_grants_of
from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import PATIENCE_SECONDS, Deployment, Send
from tests.fleet import Fleet
from tests.secret_settings import CASSANDRA_PASSWORD, PASSWORD
from tests.secured_servers import Secured, cassandra_administrator
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

WEB_SECRET = "Zq8-hidden-web-secret-of-all-workers"
CARD, NOTE = "Zq8-card-4242", "Zq8-note-of-a-record"
OIDC_SECRET = "Zq8-hidden-secret-of-the-pages"
KEY_PASSWORD = "Zq8-hidden-password-of-a-key"
SECRETS = (PASSWORD, CASSANDRA_PASSWORD, WEB_SECRET, OIDC_SECRET)
PAGES: dict[str, Any] = {
    "web_secret": WEB_SECRET,
    "web_oidc_issuer": "https://login.test",
    "web_oidc_client_id": "pages",
    "web_oidc_client_secret": OIDC_SECRET,
    "web_oidc_roles": "team=viewer",
}
#: What commands say is searched as well, whether or not there is anything for them to do.
COMMANDS: tuple[tuple[Role, str], ...] = (
    ("auditor", "drift"),
    ("auditor", "transaction x1"),
    ("auditor", "deadletters list"),
    ("modeller", "models list"),
    ("modeller", "retrain"),
    ("analyst", "alerts list"),
)
#: Changes with an author, and who reads of them.
RECORDED: tuple[tuple[Role, str], ...] = (
    ("analyst", "label tx-x1 fraud --by ann"),
    ("analyst", "alerts snooze --rule r --for 1h"),
    ("auditor", "audit --by ann"),
)
LOADED = {"FRAUDSTREAM_LOG_LEVEL": "debug"}


class Bank:
    """A deployment, seen by each of its roles."""

    def __init__(self, secured: Secured, folder: Path) -> None:
        self.secured = secured
        self._base = secured.settings(folder)
        self.admin = cassandra_administrator(secured)
        for role in ROLES:
            secured.add_user(self.user(role))
            self.cql(
                f"CREATE ROLE \"{self.user(role)}\" WITH LOGIN = true AND PASSWORD = '{CASSANDRA_PASSWORD}'"
            )
            secured.grant(self.user(role), grants_of(role, self._base))
            if role == "setup":
                self.grant_tables(role)

    def cql(self, statement: str) -> None:
        self.admin.execute(statement, timeout=30)

    def user(self, role: Role) -> str:
        return f"{self._base.app_id}_{role}"

    def grant_tables(self, role: Role) -> None:
        for table in table_grants_of(role, self._base):
            for permission in table.permissions:
                self.cql(f'GRANT {permission} ON {table.resource} TO "{self.user(role)}"')

    def settings(self, role: Role, **more: Any) -> Settings:
        """Those with which a role's processes run."""
        changes = {
            "kafka_username": self.user(role),
            "cassandra_username": self.user(role),
            "cassandra_password": CASSANDRA_PASSWORD,
            **self.secured.client_certificate,
        }
        values = {name: getattr(self._base, name) for name in self._base.model_fields_set}
        return Settings(_env_file=None, **values | changes | more)  # type: ignore[call-arg]

    def deployment(self, role: Role, **more: Any) -> Deployment:
        return Deployment(self.settings(role, **more))


@pytest.fixture(scope="module")
def bank(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """An empty cluster, and then topics and tables by the commands of the setup role."""
    made = Bank(secured, tmp_path_factory.mktemp("bank"))
    setup = made.deployment("setup")
    for command in ("topics", "migrate"):
        done = setup.run(command)
        assert done.returncode == 0, done.stderr
    for role in ("worker", "auditor", "eraser", "modeller", "analyst", "keeper"):
        made.grant_tables(role)
    yield made
    disconnect(made.admin)


def test_each_role_does_its_work_and_nothing_secret_is_written(bank: Bank, tmp_path: Path) -> None:
    worker = bank.settings("worker", **PAGES)
    sends = [
        Send(tx_bytes(f"x{number}", card=CARD, at=number * 60_000, note=NOTE), CARD.encode())
        for number in range(20)
    ]
    sends += [Send(b'{"broken": "' + NOTE.encode() + b'"}', CARD.encode()), sends[0]]
    arguments: list[str] = []
    with Fleet(environ_of(worker) | LOADED, tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready("one")
        bank.deployment("producer").send(sends)
        auditor = bank.deployment("auditor")
        auditor.drain()
        done = auditor.run("verify", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        told = [bank.deployment(role).run(*line.split()) for role, line in COMMANDS]
        for role, line in RECORDED:
            told.append(bank.deployment(role).run(*line.split()))
            assert told[-1].returncode == 0, told[-1].stderr
        assert "label  card/" in told[-1].stdout
        saved = str(tmp_path / "saved")
        for line in (["backup", saved, "--rows"], ["restore", saved]):
            told.append(bank.deployment("keeper").run(*line))
            assert told[-1].returncode == 0, told[-1].stderr
        eraser, erased = bank.deployment("eraser"), []
        for options in (["--card", CARD, "--reason", "asked", "--yes"], ["--again"], ["--list"]):
            erased.append(eraser.run("erase", *options))
            assert erased[-1].returncode == 0, erased[-1].stdout + erased[-1].stderr
        # refused: the secrets are at hand where the error is written
        for wrong in (
            {"kafka_password": f"{PASSWORD}-"},
            {"cassandra_password": f"{CASSANDRA_PASSWORD}-"},
        ):
            erased.append(bank.deployment("eraser", **wrong).run("erase", "--again"))
            assert erased[-1].returncode == 3, erased[-1].stderr
            assert len(erased[-1].stderr.strip().splitlines()) == 1, erased[-1].stderr
        done = auditor.run("verify", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        pages = "".join(
            fleet["one"].ask(path).read().decode() for path in ("/", "/metrics", "/health/ready")
        )
        arguments += _arguments(fleet["one"].pid)
    log = fleet["one"].log.read_text(errors="replace")
    assert "[DEBUG]" in log
    assert "SaslAuthenticateRequest" in log
    config = bank.deployment("worker", **PAGES).run("config").stdout
    written = {
        "log": log,
        "arguments": "\n".join(arguments),
        "pages": pages,
        "config": config,
        "commands": "\n".join(done.stdout + done.stderr for done in told),
        "erase": "\n".join(done.stdout + done.stderr for done in erased),
    }
    for where, text in written.items():
        for secret in SECRETS:
            assert secret not in text, f"{where}: {_around(text, secret)}"
    for where in ("log", "arguments", "erase"):
        for content in (CARD, NOTE):
            assert content not in written[where], f"{where}: {_around(written[where], content)}"


def _arguments(pid: int | None) -> list[str]:
    process = psutil.Process(pid)
    return [" ".join(one.cmdline()) for one in (process, *process.children(recursive=True))]


def _around(text: str, found: str) -> str:
    at = text.index(found)
    return text[max(0, at - 300) : at + 60]


def test_local_servers_inherit_no_secret(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in ("kafka", "cassandra"):
        running = secured.stack.running(server)
        assert running
        names = set(psutil.Process(running.pid).environ())
        assert not [name for name in names if name.startswith(("FRAUDSTREAM", "PYTEST"))]
    monkeypatch.setenv("FRAUDSTREAM_KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    assert PASSWORD not in str(environment())


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("transactions", "Kafka forbids topic"),
        ("predictions", "Kafka forbids topic"),
        ("group", "Kafka forbids consumer group"),
    ],
)
def test_a_missing_grant_is_named(bank: Bank, tmp_path: Path, missing: str, says: str) -> None:
    worker = bank.settings("worker")
    wanted = worker.topic_prefix + missing
    [grant] = [
        one for one in grants_of("worker", worker) if one.name == wanted or one.kind == missing
    ]
    bank.secured.revoke(bank.user("worker"), [grant])
    try:
        line = ended(worker, tmp_path)
    finally:
        bank.secured.grant(bank.user("worker"), [grant])
    assert says in line
    assert grant.name in line
    assert ": grant " in line


def test_a_missing_grant_at_cassandra_is_named(bank: Bank, tmp_path: Path) -> None:
    worker = bank.settings("worker")
    table = f"{worker.keyspace}.schema_migrations"
    bank.cql(f'REVOKE SELECT ON TABLE {table} FROM "{bank.user("worker")}"')
    try:
        line = ended(worker, tmp_path)
    finally:
        bank.cql(f'GRANT SELECT ON TABLE {table} TO "{bank.user("worker")}"')
    assert "Cassandra forbids it" in line
    assert "has no SELECT permission" in line
    assert "grant it to FRAUDSTREAM_CASSANDRA_USERNAME" in line


def test_a_change_whose_audit_record_cannot_be_written_is_refused(bank: Bank) -> None:
    analyst, table = (
        bank.deployment("analyst"),
        f"{bank.settings('analyst').keyspace}.audit_records",
    )
    snooze = ("alerts", "snooze", "--rule", "refused", "--for", "1h")
    bank.cql(f'REVOKE MODIFY ON TABLE {table} FROM "{bank.user("analyst")}"')
    try:
        done = analyst.run(*snooze)
    finally:
        bank.cql(f'GRANT MODIFY ON TABLE {table} TO "{bank.user("analyst")}"')
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.strip().splitlines()
    assert "nothing was changed: the audit record cannot be written: Cassandra forbids it" in line
    assert "refused" not in analyst.run("alerts", "snooze").stdout
    assert analyst.run(*snooze).returncode == 0


def ended(settings: Settings, folder: Path) -> str:
    """The last line of a worker that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "worker", "--web-port", "0", "--datadir", str(folder / "state")],
        env=environ_of(settings), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_cassandra_says_why_it_refuses(bank: Bank, secured: Secured, tmp_path: Path) -> None:
    authority = secured.authority
    old = authority.issue("late-client", expired=True)
    other = authority.folder / "stranger-ca.pem"
    encrypted = authority.issue("encrypted-client", password=KEY_PASSWORD)
    files = {"cassandra_cert_file": encrypted[0], "cassandra_key_file": encrypted[1]}
    right = bank.settings("worker", **files, cassandra_key_password=KEY_PASSWORD)
    with connected(right):
        pass
    for password in ("wrong", None):
        with pytest.raises(SettingsError, match="FRAUDSTREAM_CASSANDRA_KEY_PASSWORD as well"):
            _refusal(bank.settings("worker", **files, cassandra_key_password=password))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cassandra_password": "wrong"}, "refuses user '"),
        (
            {"cassandra_username": "nobody"},
            "refuses user 'nobody': check FRAUDSTREAM_CASSANDRA_USER",
        ),
        ({"cassandra_username": None, "cassandra_password": None}, "requires a user: set FRAUD"),
        (
            {"cassandra_ca_file": other},
            "an authority that is not trusted here: name its certificate",
        ),
        (
            {"cassandra_cert_file": None, "cassandra_key_file": None},
            "requires a client certificate",
        ),
        ({"cassandra_cert_file": old[0], "cassandra_key_file": old[1]}, "refuses our certificate"),
    ]
    for changes, says in cases:
        line = _refusal(bank.settings("worker", **changes))
        assert says in line, f"{changes}: {line}"
        assert "\n" not in line
        assert CASSANDRA_PASSWORD not in line


def _refusal(settings: Settings) -> str:
    with pytest.raises(UnavailableError) as caught, connected(settings):
        pass
    return str(caught.value)
