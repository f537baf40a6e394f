"""Settings that say where the servers are and how this deployment proves to them who it is; see app/settings.py."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.address_syntax import CASSANDRA_PORT, KAFKA_PORT, parse_addresses
from app.durations import Duration
from app.encrypted_credentials import refuse_unencrypted
from app.env_file import ENV_PREFIX

_SECRET_CHARACTERS = 32
#: Lists that have a default, and may be empty.
_MAY_BE_EMPTY = frozenset({"drop_fields"})


class AccessSettings(BaseSettings):
    """Names, addresses, users, certificates."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    # Where things are
    home: Path = Field(
        Path(".fraudstream"), description="folder for local servers, logs and worker state"
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="format of log lines of workers and `fraudstream notify`; `json`: an object per line",
    )
    broker: str | None = Field(
        None,
        description="Kafka bootstrap servers, host:port[,host:port]; unset: the local server of `fraudstream up`",
    )
    cassandra: str | None = Field(
        None,
        description="Cassandra contact points, host:port[,host:port]; unset: the local server of `fraudstream up`",
    )
    app_id: str = Field(
        "fraudstream",
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Kafka consumer group and prefix of internal topics",
    )
    topic_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="prefix of every public topic name, to separate deployments",
    )
    keyspace: str = Field(
        "fraud_detection", pattern=r"^[a-z][a-z0-9_]{0,47}$", description="Cassandra keyspace"
    )

    # Kafka
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Kafka security protocol"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "PLAIN", description="SASL mechanism"
    )
    kafka_username: str | None = Field(None, description="SASL user; OAUTHBEARER: client id")
    kafka_password: SecretStr | None = Field(
        None, description="SASL password; OAUTHBEARER: client secret"
    )
    kafka_token_provider: str | None = Field(
        None,
        description="source of OAUTHBEARER tokens: https://... (client credentials), file:PATH, "
        "or MODULE:FUNCTION",
    )
    kafka_token_scope: str | None = Field(
        None, description="scope to request from the token provider"
    )
    kafka_ca_file: Path | None = Field(
        None,
        description="PEM file of the certificate authority of the brokers; unset: the system's certificate authorities",
    )
    kafka_cert_file: Path | None = Field(None, description="PEM file of this client's certificate")
    kafka_key_file: Path | None = Field(None, description="PEM file of this client's key")
    kafka_key_password: SecretStr | None = Field(None, description="password of the key file")

    # Cassandra
    cassandra_username: str | None = Field(None, description="Cassandra user")
    cassandra_password: SecretStr | None = Field(None, description="Cassandra password")
    cassandra_tls: bool = Field(
        False,
        description="connect with TLS; also on when a CA or certificate file is set",
    )
    cassandra_ca_file: Path | None = Field(
        None,
        description="PEM file of the certificate authority of the nodes; unset: the system's certificate authorities",
    )
    cassandra_cert_file: Path | None = Field(
        None, description="PEM file of this client's certificate"
    )
    cassandra_key_file: Path | None = Field(None, description="PEM file of this client's key")
    cassandra_key_password: SecretStr | None = Field(None, description="password of the key file")

    cassandra_compression: Literal["none", "lz4"] = Field(
        "none",
        description="compression of rows on their way to Cassandra: none, or lz4 (about 4 times smaller, for a third "
        "more CPU per row in the sink)",
    )

    # Schema registry
    schema_registry: str | None = Field(
        None,
        description="address of the schema registry's Confluent API, for avro and protobuf: http://host:8081",
    )
    schema_registry_username: str | None = Field(
        None, description="user name for the schema registry"
    )
    schema_registry_password: SecretStr | None = Field(
        None, description="password for the schema registry"
    )
    schema_registry_ca_file: Path | None = Field(
        None, description="PEM file of the certificate authority of the registry"
    )
    allow_unencrypted_credentials: bool = Field(
        False,
        description="allow sending passwords and tokens to other machines without TLS",
    )

    # Web pages
    web_login: Literal["beyond-loopback", "always", "never"] = Field(
        "beyond-loopback",
        description="when the web pages require a login: beyond-loopback (if they listen on more "
        "than loopback), always, never",
    )
    web_open_metrics: bool = Field(
        False, description="serve /metrics without a login; it contains no card or transaction ids"
    )
    web_users: Path | None = Field(
        None,
        description="file with the users and tokens of the web pages; `fraudstream users` prints its lines",
    )
    web_secret: SecretStr | None = Field(
        None,
        description="key that signs sessions and requests between workers: at least 32 "
        "characters, the same for all workers",
    )
    web_session: Duration = Field(
        "8h", validate_default=True, description="how long a login to the web pages lasts"
    )
    web_hosts: str = Field(
        "",
        description="additional host names of the web pages, such as that of a proxy, comma-separated; "
        "requests for other host names are refused",
    )
    web_token: SecretStr | None = Field(
        None, description="token that commands send to workers; see `fraudstream users`"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        """Undo what tools leave around a value: blanks, nothing for "unset"; refuse quotes, as Docker keeps them."""
        assert info.field_name
        field = cls.model_fields[info.field_name]
        if not isinstance(value, str) or "SecretStr" in str(field.annotation):
            return value
        value = value.strip()
        if value == "" and field.default is None:
            return None
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            msg = f"{value} has quotes, which count as a part of it: remove them"
            raise ValueError(msg)
        if value.startswith("~") and "Path" in str(field.annotation):
            return Path(value).expanduser()  # as a shell would have done
        # web_host empty would mean all addresses, home the present folder
        named = field.annotation in (str, Path) and info.field_name not in _MAY_BE_EMPTY
        if value == "" and field.default and named:
            msg = f"it is empty; remove it to get the default, {field.default}"
            raise ValueError(msg)
        return value

    @field_validator("web_secret", "privacy_key", check_fields=False)
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SECRET_CHARACTERS:
            msg = f"write at least {_SECRET_CHARACTERS} random characters, such as from `openssl rand -hex 32`"
            raise ValueError(msg)
        return value

    @field_validator("broker", "cassandra")
    @classmethod
    def _addresses(cls, value: str | None, info: ValidationInfo) -> str | None:
        port = CASSANDRA_PORT if info.field_name == "cassandra" else KAFKA_PORT
        if value:
            parse_addresses(value, port)
        return value

    @property
    def uses_cassandra_tls(self) -> bool:
        """Whether connections to Cassandra use TLS."""
        return self.cassandra_tls or bool(self.cassandra_ca_file or self.cassandra_cert_file)

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        security = f"FRAUDSTREAM_KAFKA_SECURITY={self.kafka_security}"
        password = bool(self.kafka_username and self.kafka_password)
        if self.kafka_security.startswith("SASL"):
            if self.kafka_sasl_mechanism != "OAUTHBEARER":
                if not password:
                    msg = f"{security} needs FRAUDSTREAM_KAFKA_USERNAME and _PASSWORD"
                    raise ValueError(msg)
            elif not self.kafka_token_provider:
                msg = "FRAUDSTREAM_KAFKA_SASL_MECHANISM=OAUTHBEARER needs FRAUDSTREAM_KAFKA_TOKEN_PROVIDER"
                raise ValueError(msg)
            elif self.kafka_token_provider.startswith("http") and not password:
                msg = "a token provider with a URL needs FRAUDSTREAM_KAFKA_USERNAME and _PASSWORD: client id and secret"
                raise ValueError(msg)
        for server in ("kafka", "cassandra"):
            if getattr(self, f"{server}_key_file") and not getattr(self, f"{server}_cert_file"):
                name = f"FRAUDSTREAM_{server.upper()}"
                msg = f"{name}_KEY_FILE needs {name}_CERT_FILE, the certificate that belongs to it"
                raise ValueError(msg)
        if self.cassandra_password and not self.cassandra_username:
            msg = "FRAUDSTREAM_CASSANDRA_PASSWORD needs FRAUDSTREAM_CASSANDRA_USERNAME"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _credentials_are_encrypted(self) -> Self:
        refuse_unencrypted(self)
        return self
