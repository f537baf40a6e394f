"""A deployment on secured servers, seen by each of its server roles: with exactly the grants that are printed for it.

Every secret setting has a value, and all that commands and workers write is kept, so that a test can search it.
"""

import hashlib
import io
import json
import logging
import os
import shlex
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from standardwebhooks.webhooks import Webhook

from app.cassandra.session import close_shared_sessions
from app.cli import cli
from app.cli.command_errors import run
from app.ops.role_grants import DUTIES, ROLES, Grant, Role, TableGrant, grants_of, table_grants_of
from app.settings import ENV_PREFIX, Settings
from tests.deployment import Deployment
from tests.local_http_server import LocalHttpServer, QuietHandler
from tests.oidc_provider import CLIENT as OIDC_CLIENT
from tests.secret_settings import CASSANDRA_PASSWORD, ROUTES, SECRETS
from tests.secured_servers import Secured, cassandra_administrator
from tests.unit.test_grants_command import leaves
from tests.worker_settings import environ_of

REGISTRY_USER = "reg"
_SAMPLE_SECONDS = 0.2


class Outside(LocalHttpServer):
    """A schema registry with a login, and a receiver of notifications.

    Args:
        schema: what the registry gives as schema 1.

    Attributes:
        asked: logins that the registry accepted.
        signed: webhooks with the right signature.
        paths: where messages were sent.
    """

    def __init__(self, schema: str) -> None:
        self.asked = self.signed = 0
        self.paths: set[str] = set()
        outside, login = self, f"{REGISTRY_USER}:{SECRETS['schema_registry_password']}"

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802 -- a name of http.server
                right = (
                    self.headers["Authorization"] == f"Basic {b64encode(login.encode()).decode()}"
                )
                outside.asked += right
                self.answer(200 if right else 401, json.dumps({"schema": schema}).encode())

            def do_POST(self) -> None:  # noqa: N802 -- a name of http.server
                body = self.rfile.read(int(self.headers["content-length"]))
                outside.paths.add(self.path)
                if "webhook-id" in self.headers:
                    Webhook(SECRETS["notify_secret"]).verify(body, dict(self.headers))
                    outside.signed += 1
                self.answer(200, b"{}")

        super().__init__(Handler)


class Bank:
    """A deployment with a user per server role on both servers.

    Args:
        secured: the servers.
        folder: for its files.
        outside: what is neither Kafka nor Cassandra.
        more: further settings of all roles.

    Attributes:
        base: settings that all roles share.
        written: all that was written, by who or what wrote it.
        ran: the commands that succeeded, with their role.
    """

    def __init__(self, secured: Secured, folder: Path, outside: Outside, **more: Any) -> None:
        self.secured, self.folder = secured, folder
        self.written: dict[str, str] = {}
        self.ran: set[tuple[Role, str]] = set()
        self.base = secured.settings(folder, **(self._every_secret(outside) | more))
        for role in ROLES:
            secured.add_user(self.user(role))
            self.cql(
                f"CREATE ROLE \"{self.user(role)}\" WITH LOGIN = true AND PASSWORD = '{CASSANDRA_PASSWORD}'"
            )
        self.grant("setup")

    def _every_secret(self, outside: Outside) -> dict[str, Any]:
        """All secret settings, and the others that they need."""
        users = self.folder / "users"
        token = hashlib.sha256(SECRETS["web_token"].encode()).hexdigest()
        users.write_text(f"commands analyst sha256:{token}\n")
        files = {
            server: self.secured.authority.issue(
                f"{server}-client", password=SECRETS[f"{server}_key_password"]
            )
            for server in ("kafka", "cassandra")
        }
        return {
            **SECRETS,
            **{f"{server}_cert_file": pair[0] for server, pair in files.items()},
            **{f"{server}_key_file": pair[1] for server, pair in files.items()},
            "cassandra_username": "of-the-role",
            "cassandra_ca_file": self.secured.authority.ca,
            "schema_registry": f"http://127.0.0.1:{outside.port}",
            "schema_registry_username": REGISTRY_USER,
            "web_users": users,
            "web_login": "always",
            "web_oidc_issuer": "https://login.test",
            "web_oidc_client_id": OIDC_CLIENT,
            "web_oidc_roles": "fraud-team=analyst",
            "score": True,
            "private_fields": "device=hash",
            "notify_routes": ROUTES.format(port=outside.port),
            "log_level": "debug",
        }

    @cached_property
    def admin(self) -> Any:
        """A session of Cassandra's superuser."""
        return cassandra_administrator(self.secured)

    def cql(self, statement: str) -> Any:
        return self.admin.execute(statement, timeout=60)

    def user(self, role: Role) -> str:
        return f"{self.base.app_id}_{role}"

    def settings(self, role: Role, **more: Any) -> Settings:
        """Those with which a role's processes run."""
        values = {name: getattr(self.base, name) for name in self.base.model_fields_set}
        own = {"kafka_username": self.user(role), "cassandra_username": self.user(role)}
        return Settings(_env_file=None, **values | own | more)  # type: ignore[call-arg]

    def deployment(self, role: Role, **more: Any) -> Deployment:
        return Deployment(self.settings(role, **more))

    def grant(self, *roles: Role) -> None:
        """Give roles all of their grants, and nothing else."""
        for role in roles:
            self.secured.grant(self.user(role), grants_of(role, self.base))
            for table in table_grants_of(role, self.base):
                self._cql_grant("GRANT", "TO", role, table)

    def _cql_grant(self, verb: str, to: str, role: Role, table: TableGrant) -> None:
        for permission in table.permissions:
            self.cql(f'{verb} {permission} ON {table.resource} {to} "{self.user(role)}"')

    @contextmanager
    def without(self, role: Role, grant: Grant | TableGrant) -> Iterator[None]:
        """A role lacks one of its grants meanwhile."""
        if isinstance(grant, Grant):
            self.secured.revoke(self.user(role), [grant])
        else:
            self._cql_grant("REVOKE", "FROM", role, grant)
        try:
            yield
        finally:
            if isinstance(grant, Grant):
                self.secured.grant(self.user(role), [grant])
            else:
                self._cql_grant("GRANT", "TO", role, grant)

    def does(self, role: Role, line: str, *, code: int = 0, **more: Any) -> Any:
        """What a command of a role prints; with `--json`, what that is. It runs in this process, to save its start.

        Raises:
            AssertionError: it ends with another exit code, or is not the role's.
        """
        command = max((one for one in LEAVES if f"{line} ".startswith(f"{one} ")), key=len)
        assert owner_of(command) == role, command
        out, err, log = _stream(), io.StringIO(), io.StringIO()
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)
        }
        with (
            patch.dict(os.environ, kept | environ_of(self.settings(role, **more)), clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
            logged(log),
        ):
            ended = run(shlex.split(line))
        close_shared_sessions()
        printed = out.buffer.getvalue().decode()
        place = f"{role}: {line} #{len(self.written)}"
        self.written[place] = f"{printed}\n{err.getvalue()}"
        self.written[f"unfiltered {place}"] = log.getvalue()
        assert ended == code, (
            f"{role}: {line}: exit code {ended}\n{printed[-3_000:]}{err.getvalue()[-3_000:]}"
        )
        if code == 0:
            self.ran.add((role, command))
        return json.loads(printed) if line.endswith("--json") else printed or err.getvalue()


def _stream() -> Any:
    """Like standard output: some commands write bytes to it."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


@contextmanager
def logged(stream: io.StringIO) -> Iterator[None]:
    """All log lines of this process go to a stream meanwhile: more than the product's handlers let pass."""
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    before, root.level = root.level, logging.DEBUG
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.level = before


LEAVES = tuple(leaves(cli))


def owner_of(command: str) -> Role | None:
    """The role that runs a command; None: no role does."""
    found = [
        (len(one), role)
        for role, duty in DUTIES.items()
        for one in duty.commands
        if f"{command} ".startswith(f"{one} ")
    ]
    return max(found)[1] if found else None


@contextmanager
def arguments_seen() -> Iterator[set[str]]:
    """The arguments of every process that is started meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            for process in psutil.Process().children(recursive=True):
                try:
                    seen.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
