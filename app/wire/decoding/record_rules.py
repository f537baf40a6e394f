"""The rules of a deployment's input records, with what decodes them."""

from app.settings import Settings
from app.wire.decoding.decoder import decoder
from app.wire.decoding.schemas import Schemas
from app.wire.input_records import RecordRules


def record_rules(settings: Settings, schemas: Schemas | None = None) -> RecordRules:
    """The rules of a deployment.

    Args:
        settings: the deployment's.
        schemas: where schemas are; needed where `needs_registry` says so.
    """
    assert (schemas is not None) is settings.needs_registry
    decode = decoder(
        schemas,
        debezium=settings.input_envelope == "debezium",
        framed_json=settings.input_format == "json-schema",
    )
    return RecordRules.of(settings, decode)


def json_record_rules(settings: Settings) -> RecordRules:
    """The rules of a deployment for records in JSON, which it reads beside those of its own format."""
    return record_rules(settings.model_copy(update={"input_format": "json"}))
