"""How clients prove to Kafka who they are: TLS, SASL, tokens; and why a connection was refused, in one line."""

import asyncio
import ssl
import struct
from collections.abc import Iterable
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from app.address_syntax import KAFKA_PORT, parse_addresses
from app.blocks.faust.kafka_connections import allow_unencrypted_logins
from app.encrypted_credentials import others_can_read, to_kafka
from app.errors import FraudstreamError
from app.kafka.oauth_tokens import token_provider
from app.settings import Settings
from app.tls import client_context, first_bytes, meaning

#: What one look at a broker may take.
_LOOK_SECONDS = 5.0
#: ApiVersions, version 0: any broker answers it before a login.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 7, -1)
#: The first byte of what a TLS server answers to one that does not speak it: an alert.
_TLS_ALERT = 0x15


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of the Kafka settings, None without TLS.

    Raises:
        SettingsError: a file cannot be read.
    """
    return client_context(settings, "kafka") if "SSL" in settings.kafka_security else None


def security(settings: Settings) -> dict[str, Any]:
    """Arguments of aiokafka that say who we are.

    Raises:
        SettingsError: a file or the token provider cannot be used.
    """
    allow_unencrypted_logins(settings.allow_unencrypted_credentials)
    kwargs: dict[str, Any] = {
        "security_protocol": settings.kafka_security,
        "ssl_context": ssl_context(settings),
    }
    if settings.kafka_security.startswith("SASL"):
        kwargs["sasl_mechanism"] = settings.kafka_sasl_mechanism
        if settings.kafka_sasl_mechanism == "OAUTHBEARER":
            kwargs["sasl_oauth_token_provider"] = token_provider(settings)
        else:
            password = settings.kafka_password
            kwargs |= {
                "sasl_plain_username": settings.kafka_username,
                "sasl_plain_password": password.get_secret_value() if password else None,
            }
    return kwargs


async def refusal(
    settings: Settings, broker: str, more: Iterable[tuple[str, int]] = ()
) -> str | None:
    """Why brokers will not have us, in one line with the remedy; None: they do not answer, or now they do.

    aiokafka only logs the reason. This looks once more, step by step.

    Args:
        settings: the deployment's.
        broker: bootstrap servers.
        more: further addresses, which brokers advertise.
    """
    for host, port in dict.fromkeys([*parse_addresses(broker, KAFKA_PORT), *more]):
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                found = await _look(settings, host, port)
        except TimeoutError:
            continue
        if found:
            return found
    return None


async def _look(settings: Settings, host: str, port: int) -> str | None:
    what = f"Kafka at {host}:{port}"
    unencrypted = settings.kafka_security == "SASL_PLAINTEXT"
    if unencrypted and others_can_read(host, allowed=settings.allow_unencrypted_credentials):
        return f"brokers advertise {host}:{port}: {to_kafka(host)}"
    context = ssl_context(settings)
    try:
        first = await asyncio.to_thread(
            first_bytes, host, port, context, _API_VERSIONS, _LOOK_SECONDS
        )
    except OSError as error:  # an ssl.SSLError is one
        return meaning(error, what, "kafka", host, certificate=settings.kafka_cert_file is not None)
    if not first:
        return (
            f"{what} closes the connection at once: check the port and FRAUDSTREAM_KAFKA_SECURITY"
        )
    if context is None and first[0] == _TLS_ALERT:
        return (
            f"{what} speaks TLS: set FRAUDSTREAM_KAFKA_SECURITY=SSL, or SASL_SSL where users log in"
        )
    return await _log_in(settings, host, port, what)


async def _log_in(settings: Settings, host: str, port: int, what: str) -> str | None:
    try:
        connection = await create_conn(host, port, **security(settings))
    except FraudstreamError as error:  # of the token provider
        return str(error)
    except (KafkaError, OSError) as error:
        return _refused(settings, what, error)
    try:
        await connection.send(MetadataRequest([]))
    except KafkaError:
        if not settings.kafka_security.startswith("SASL"):
            return f"{what} requires a login: set FRAUDSTREAM_KAFKA_SECURITY=SASL_SSL and a user"
    finally:
        connection.close()
    return None


def _refused(settings: Settings, what: str, error: Exception) -> str | None:
    mechanism = settings.kafka_sasl_mechanism
    if not settings.kafka_security.startswith("SASL"):
        return None
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"{what} does not offer {mechanism}: set FRAUDSTREAM_KAFKA_SASL_MECHANISM to what it offers"
    if isinstance(error, IllegalSaslStateError):
        return f"{what} expects no login at this port: set FRAUDSTREAM_KAFKA_SECURITY as this listener is"
    if mechanism == "OAUTHBEARER":
        return (
            f"{what} refuses the token ({error}): check FRAUDSTREAM_KAFKA_TOKEN_PROVIDER, and what the broker expects "
            "of issuer, audience and scope"
        )
    if isinstance(error, SaslAuthenticationFailed):
        return (
            f"{what} refuses user {settings.kafka_username!r}: check FRAUDSTREAM_KAFKA_USERNAME and "
            "FRAUDSTREAM_KAFKA_PASSWORD"
        )
    return f"{what} breaks off the login as user {settings.kafka_username!r} ({error})"
