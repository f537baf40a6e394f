"""What decoding asks of schemas, whoever fetches them."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from app.domain.json_text import Fields
from app.domain.transaction import DeadRecordError


class SchemaReader(Protocol):
    """Reads the data of records of one schema."""

    def read(self, data: bytes) -> Fields:
        """The fields of a record.

        Raises:
            DeadRecordError: the data is not of this schema.
        """


class Schemas(Protocol):
    """Schemas by id or GUID."""

    def get(self, schema: Hashable) -> SchemaReader:
        """What reads a schema's records.

        Raises:
            NotReadableYetError: it has not been fetched.
            DeadRecordError: no record of it can be read: it does not exist, or is of another kind.
        """


@dataclass(frozen=True, slots=True)
class RefusedSchema:
    """A schema none of whose records can be read; stands in for its reader.

    Attributes:
        reason, message: see `DeadRecordError`.
    """

    reason: str
    message: str

    def read(self, data: bytes) -> Any:
        """Refuse."""
        raise DeadRecordError(self.reason, self.message)


@dataclass(frozen=True, slots=True)
class RegistrySchema:
    """A schema as a registry has it.

    Attributes:
        kind: `AVRO`, `PROTOBUF` or `JSON`.
        text: the schema.
        references: the schemas that it imports, by the name under which it does.
    """

    kind: str
    text: str
    references: "dict[str, RegistrySchema]"
