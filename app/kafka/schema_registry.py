"""Schemas from a registry: by Confluent's client, off the event loop, each kept once it is here.

A schema never changes under its id, so what is kept stays right while the registry is away.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from typing import Any

from app.domain.transaction import NotReadableYetError
from app.errors import UnavailableError, UsageError
from app.repeated_warnings import RepeatedWarning
from app.settings import Settings
from app.wire.decoding.avro import AvroReader
from app.wire.decoding.protobuf import ProtobufReader
from app.wire.decoding.schemas import RefusedSchema, RegistrySchema, SchemaReader

logger = logging.getLogger(__name__)

_KINDS: dict[str, tuple[str, Callable[[RegistrySchema], SchemaReader]]] = {
    "avro": ("AVRO", AvroReader),
    "protobuf": ("PROTOBUF", ProtobufReader),
}
#: What registries answer where there is no such schema. Any other 404 is a wrong address.
_NO_SUCH_SCHEMA = 40403
#: Schemas that are kept: the oldest one goes.
_KEPT = 1_000
_TIMEOUT_SECONDS = 10
_RETRY_SECONDS = 1.0
#: How long a command waits for the registry.
_PATIENCE_SECONDS = 60.0


class SchemaRegistry:
    """Fetches schemas; blocks while it does.

    Args:
        settings: address, user and format.

    Raises:
        UsageError: the client is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient
        except ImportError as error:
            msg = (
                f"FRAUDSTREAM_INPUT_FORMAT={settings.input_format} needs the extra `registry`: "
                f"pip install 'fraudstream[registry]' ({error})"
            )
            raise UsageError(msg) from error
        assert settings.schema_registry
        self.url = settings.schema_registry
        self._format = settings.input_format
        conf: dict[str, Any] = {"url": self.url, "timeout": _TIMEOUT_SECONDS, "max.retries": 0}
        if settings.schema_registry_username:
            password = settings.schema_registry_password
            secret = password.get_secret_value() if password else ""
            conf["basic.auth.user.info"] = f"{settings.schema_registry_username}:{secret}"
        if settings.schema_registry_ca_file:
            conf["ssl.ca.location"] = str(settings.schema_registry_ca_file)
        try:
            self._client = SchemaRegistryClient(conf)
        except (OSError, ValueError) as error:
            msg = f"FRAUDSTREAM_SCHEMA_REGISTRY={self.url}: {error}"
            raise UsageError(msg) from error

    def fetch(self, schema: Hashable) -> SchemaReader:
        """What reads a schema's records.

        Raises:
            UnavailableError: the registry does not answer, or not as one.
        """
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        kind, make = _KINDS[self._format]
        try:
            source = self._source(self._get(schema))
        except SchemaRegistryError as error:
            if error.error_code == _NO_SUCH_SCHEMA:
                return RefusedSchema(
                    "unknown_schema", f"the schema registry has no schema {schema}: {error}"
                )
            raise self._away(error) from error
        except Exception as error:  # whatever its HTTP client raises
            raise self._away(error) from error
        if source.kind != kind:
            msg = (
                f"schema {schema} is {source.kind}, but FRAUDSTREAM_INPUT_FORMAT is {self._format}"
            )
            return RefusedSchema("unsupported_schema", msg)
        try:
            return make(source)
        except ValueError as error:
            return RefusedSchema("unsupported_schema", f"schema {schema} cannot be used: {error}")

    def _get(self, schema: Hashable) -> Any:
        how = "serialized" if self._format == "protobuf" else None
        if isinstance(schema, int):
            return self._client.get_schema(schema, fmt=how)
        return self._client.get_schema_by_guid(str(schema), fmt=how)

    def _source(self, found: Any) -> RegistrySchema:
        how = "serialized" if self._format == "protobuf" else None
        references = {
            each.name: self._source(
                self._client.get_version(each.subject, each.version, fmt=how).schema
            )
            for each in found.references or ()
        }
        return RegistrySchema(found.schema_type or "AVRO", found.schema_str or "", references)

    def _away(self, error: Exception) -> UnavailableError:
        why = f"{type(error).__name__}: {error}"
        msg = f"the schema registry at {self.url} does not return schemas ({why}); see FRAUDSTREAM_SCHEMA_REGISTRY"
        return UnavailableError(msg)


class _SchemaCache:
    """The schemas that are here."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self.registry = registry
        self._readers: dict[Hashable, SchemaReader] = {}

    def keep(self, schema: Hashable, reader: SchemaReader) -> SchemaReader:
        if len(self._readers) >= _KEPT:
            del self._readers[next(iter(self._readers))]
        self._readers[schema] = reader
        return reader


class WorkerSchemas(_SchemaCache):
    """Of a worker: `get` never blocks; what it lacks is obtained by whoever waits for it.

    Attributes:
        waiting: schemas that are being obtained.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        super().__init__(registry)
        self.waiting: dict[Hashable, asyncio.Task[None]] = {}

    def get(self, schema: Hashable) -> SchemaReader:
        """See `app.wire.decoding.schemas.Schemas`."""
        reader = self._readers.get(schema)
        if reader is None:
            raise NotReadableYetError(schema)
        return reader

    async def obtain(self, schema: Hashable) -> None:
        """Return when a schema is here, however long the registry is away."""
        if schema in self._readers:
            return
        task = self.waiting.get(schema)
        if task is None:
            task = self.waiting[schema] = asyncio.create_task(self._fetch(schema))
            task.add_done_callback(lambda _: self.waiting.pop(schema, None))
        await asyncio.shield(task)  # others may wait for the same one

    async def _fetch(self, schema: Hashable) -> None:
        reminder = RepeatedWarning()
        while True:
            try:
                self.keep(schema, await asyncio.to_thread(self.registry.fetch, schema))
            except UnavailableError as error:
                if reminder.due():
                    logger.warning("records of schema %s wait: %s", schema, error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                logger.info("schema %s has been fetched", schema)
                return


class CommandSchemas(_SchemaCache):
    """Of a command: `get` fetches what it lacks, and gives up when the registry stays away."""

    def get(self, schema: Hashable) -> SchemaReader:
        """See `app.wire.decoding.schemas.Schemas`.

        Raises:
            UnavailableError: the registry gives no schemas.
        """
        reader = self._readers.get(schema)
        if reader is not None:
            return reader
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return self.keep(schema, self.registry.fetch(schema))
            except UnavailableError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_SECONDS)


def waited_schemas(settings: Settings) -> WorkerSchemas | None:
    """Schemas of a worker; None where records need none."""
    return WorkerSchemas(SchemaRegistry(settings)) if settings.needs_registry else None


def fetched_schemas(settings: Settings) -> CommandSchemas | None:
    """Schemas of a command; None where records need none."""
    return CommandSchemas(SchemaRegistry(settings)) if settings.needs_registry else None
