"""A Kafka and a Cassandra as a bank has them: TLS, users, grants. One Kafka with a listener for each way in.

Certificates are made by trustme. A session starts them once; users and grants are made by the tests.
"""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from app.devstack import ports
from app.devstack.server import ExtraConfiguration
from app.devstack.stack import Stack
from app.ops.role_grants import Grant
from app.settings import Settings
from tests.real_servers import servers_folder
from tests.secret_settings import PASSWORD

CLIENT = "fraud-worker"
AUDIENCE = "kafka"
_HOST = "127.0.0.1"
_PLAIN, _SCRAM, _OAUTH = "plain", "scram-sha-512", "oauthbearer"
_LOGIN = "org.apache.kafka.common.security"


class Authority:
    """Certificates in a folder, as PEM files.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ca, self._stranger = trustme.CA(), trustme.CA()
        self._ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self._stranger.cert_pem.write_to_path(str(folder / "stranger-ca.pem"))

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    def issue(
        self,
        name: str,
        *hosts: str,
        stranger: bool = False,
        expired: bool = False,
        password: str | None = None,
    ) -> tuple[Path, Path]:
        """Files of a certificate and its key, encrypted by a password; NAME-both.pem has both, as Java reads them."""
        ca = self._stranger if stranger else self._ca
        over = datetime.now(UTC) - timedelta(days=1) if expired else None
        made = ca.issue_cert(*(hosts or (f"{name}.test",)), common_name=name, not_after=over)
        key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption(),
        )
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        files = [self.folder / f"{name}{end}.pem" for end in ("", "-key", "-both")]
        for file, text in zip(files, (chain, pem, pem + chain), strict=True):
            file.write_bytes(text)
        return files[0], files[1]


@dataclass
class Secured:
    """The servers of the session.

    Attributes:
        authority: signs certificates.
        broker: Kafka's address by listener: plaintext, mtls, sasl, other_name, expired, sasl_plaintext, and one
            (advertised) that advertises itself by a name which clients cannot know to be this machine.
        cassandra: its address; TLS with client certificates, users and grants.
        stack: both servers.
        key: signs tokens that Kafka accepts.
    """

    authority: Authority
    broker: dict[str, str]
    cassandra: str
    stack: Stack
    key: RSAKey

    @cached_property
    def admin(self) -> AdminClient:
        """Kafka's administrator: a superuser."""
        return AdminClient({"bootstrap.servers": self.broker["plaintext"]})

    def add_user(self, user: str) -> None:
        """A SCRAM user with `PASSWORD`."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, info, PASSWORD.encode())
        for future in self.admin.alter_user_scram_credentials([change]).values():
            future.result(30)

    def grant(self, user: str, grants: list[Grant]) -> None:
        """Give a Kafka user these, and nothing else."""
        self._change("create", user, grants)

    def revoke(self, user: str, grants: list[Grant]) -> None:
        """Take these from a Kafka user."""
        self._change("delete", user, grants)

    def _change(self, what: str, user: str, grants: list[Grant]) -> None:
        kind = AclBinding if what == "create" else AclBindingFilter
        bindings = [
            kind(
                ResourceType[grant.kind.upper()], grant.name,
                ResourcePatternType.PREFIXED if grant.prefixed else ResourcePatternType.LITERAL,
                f"User:{user}", "*", AclOperation[operation], AclPermissionType.ALLOW,
            )
            for grant in grants
            for operation in grant.operations
        ]  # fmt: skip
        if bindings:
            for future in getattr(self.admin, f"{what}_acls")(bindings).values():
                future.result(30)

    @property
    def client_certificate(self) -> dict[str, Path]:
        """Settings with which Cassandra lets a connection in, whoever logs in then."""
        folder = self.authority.folder
        return {
            "cassandra_ca_file": self.authority.ca,
            "cassandra_cert_file": folder / f"{CLIENT}.pem",
            "cassandra_key_file": folder / f"{CLIENT}-key.pem",
        }

    def token(self, user: str, **claims: Any) -> str:
        """A signed token for SASL/OAUTHBEARER."""
        now = int(time.time())
        known = {"sub": user, "aud": AUDIENCE, "iss": "tests", "iat": now, "exp": now + 600}
        key: RSAKey | OctKey = claims.pop("key", self.key)
        return jwt.encode({"alg": "RS256", "kid": key.kid}, known | claims, key)

    def settings(self, tmp_path: Path, listener: str = "sasl", **more: Any) -> Settings:
        """Settings of a deployment of its own, that trusts the authority and logs in by SCRAM."""
        unique = uuid.uuid4().hex[:8]
        values: dict[str, Any] = {
            "home": tmp_path / "home",
            "broker": self.broker[listener],
            "cassandra": self.cassandra,
            "app_id": f"s{unique}",
            "topic_prefix": f"s{unique}-",
            "keyspace": f"s{unique}",
            "kafka_security": "SASL_SSL",
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_username": CLIENT,
            "kafka_password": PASSWORD,
            "kafka_ca_file": self.authority.ca,
            "web_port": 0,
        }
        return Settings(_env_file=None, **values | more)  # type: ignore[call-arg]


@pytest.fixture(scope="session")
def secured() -> Iterator[Secured]:
    """Both servers, with certificates, and a user `CLIENT` at Kafka that may do nothing."""
    with servers_folder("fraudstream-secure-") as home:
        folder = home / "tls"
        folder.mkdir()
        authority = Authority(folder)
        authority.issue("node", _HOST)
        authority.issue("other", "kafka.bank.example")
        authority.issue("old", _HOST, expired=True)
        authority.issue(CLIENT)
        key = RSAKey.generate_key(2048, {"kid": "tests", "use": "sig", "alg": "RS256"})
        (folder / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
        first = ports.free_run(8)
        names = ("sasl", "mtls", "other_name", "expired", "sasl_plaintext", "advertised")
        at = {name: first + 2 + number for number, name in enumerate(names)}
        jwks = (folder / "jwks.json").as_uri()
        extras = {
            "kafka": ExtraConfiguration(
                _kafka_lines(folder, first, at, jwks),
                (f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks}",),
            ),
            "cassandra": ExtraConfiguration(_cassandra_lines(folder), tls=_client_context(folder)),
        }
        heaps = {"kafka": "384m", "cassandra": "768m"}
        local = Stack(home / "home", heaps=heaps, quick=True, durable=True, extras=extras)
        # Cassandra's ports are looked for first: Kafka's are known
        cassandra = ports.free_run(3, set(range(first, first + 8)))
        endpoints = local.up(at={"kafka": first, "cassandra": cassandra})
        assert endpoints
        broker = {name: f"{_HOST}:{port}" for name, port in at.items()}
        servers = Secured(
            authority, broker | {"plaintext": endpoints.broker}, f"{_HOST}:{cassandra}", local, key
        )
        try:
            servers.add_user(CLIENT)
            yield servers
        finally:
            local.wipe()


def _client_context(folder: Path) -> Any:
    import ssl

    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / f"{CLIENT}.pem", folder / f"{CLIENT}-key.pem")
    return context


def _kafka_lines(folder: Path, port: int, at: dict[str, int], jwks: str) -> str:
    plain = dict.fromkeys(("sasl_plaintext", "advertised"), "SASL_PLAINTEXT")
    protocol = dict.fromkeys(at, "SASL_SSL") | {"mtls": "SSL"} | plain
    told = {
        name: "127.1" if name == "advertised" else _HOST for name in at
    }  # 127.1 is resolved, like a name
    advertised = ",".join(f"{name.upper()}://{told[name]}:{number}" for name, number in at.items())
    own = ",".join(f"{name.upper()}://{_HOST}:{number}" for name, number in at.items())
    protocols = ",".join(f"{name.upper()}:{kind}" for name, kind in protocol.items())
    lines = [
        "",
        f"listeners=PLAINTEXT://{_HOST}:{port},CONTROLLER://{_HOST}:{port + 1},{own}",
        f"advertised.listeners=PLAINTEXT://{_HOST}:{port},{advertised}",
        f"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,{protocols}",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # whoever comes to the listener without TLS: tests, and the broker itself
        "super.users=User:ANONYMOUS",
        "ssl.principal.mapping.rules=RULE:^.*CN=([^,]*).*$/$1/,DEFAULT",
        f"sasl.oauthbearer.jwks.endpoint.url={jwks}",
        f"sasl.oauthbearer.expected.audience={AUDIENCE}",
    ]
    for name in at:
        listener = f"listener.name.{name}."
        certificate = {"other_name": "other", "expired": "old"}.get(name, "node")
        if name not in plain:
            lines += [
                f"{listener}ssl.keystore.type=PEM",
                f"{listener}ssl.keystore.location={folder}/{certificate}-both.pem",
                f"{listener}ssl.truststore.type=PEM",
                f"{listener}ssl.truststore.location={folder}/ca.pem",
                f"{listener}ssl.client.auth={'required' if name == 'mtls' else 'none'}",
            ]
        if name != "mtls":
            lines += [
                f"{listener}sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER",
                f"{listener}{_PLAIN}.sasl.jaas.config={_LOGIN}.plain.PlainLoginModule required "
                f'user_{CLIENT}="{PASSWORD}";',
                f"{listener}{_SCRAM}.sasl.jaas.config={_LOGIN}.scram.ScramLoginModule required;",
                f"{listener}{_OAUTH}.sasl.jaas.config={_LOGIN}.oauthbearer.OAuthBearerLoginModule "
                "required;",
                f"{listener}{_OAUTH}.sasl.server.callback.handler.class="
                f"{_LOGIN}.oauthbearer.OAuthBearerValidatorCallbackHandler",
            ]
    return "\n".join(lines) + "\n"


def _cassandra_lines(folder: Path) -> str:
    return f"""
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
permissions_validity: 100ms
roles_validity: 100ms
credentials_validity: 100ms
client_encryption_options:
  enabled: true
  optional: false
  require_client_auth: true
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: {folder}/node-both.pem
  truststore: {folder}/ca.pem
"""


def cassandra_administrator(secured: Secured) -> Any:
    """A session of Cassandra's superuser, for `disconnect`."""
    from app.cassandra.session import connect

    return connect(
        Settings(
            _env_file=None,  # type: ignore[call-arg]
            cassandra=secured.cassandra,
            cassandra_username="cassandra",
            cassandra_password="cassandra",
            **secured.client_certificate,
        )
    )
