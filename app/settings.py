"""Every setting, once: its type, unit, default and help.

Settings come from the environment (`FRAUDSTREAM_*`) and, below it, from an optional file named by
`FRAUDSTREAM_ENV_FILE` (lines of `FRAUDSTREAM_NAME=value`). They are read once and never change.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.alert_settings import AlertSettings
from app.durations import DAY_MS, Duration, Windows, format_duration, parse_duration_ms
from app.env_file import names_in
from app.errors import SettingsError
from app.field_names import parse_field_names
from app.oidc_settings import OidcSettings
from app.pseudonyms import Pseudonyms, parse_keys
from app.setting_lists import AllowedConfig, ModelKeys, Sets, parse_dropped, parse_private
from app.unknown_settings import ENV_PREFIX, NOT_SETTINGS, refuse_unknown
from app.worker_settings import WorkerSettings

__all__ = ["ENV_PREFIX", "NOT_SETTINGS", "Settings", "load_settings"]

#: Cassandra keeps no row for more than 20 years.
_MOST_TTL_DAYS = 7_300
#: Errors of the library whose own words are a programmer's.
_WORDS = {"int_parsing": "write a whole number", "float_parsing": "write a number"}


class Settings(AlertSettings, WorkerSettings, OidcSettings):
    """All settings of one deployment. Durations are milliseconds inside, text such as `30d` outside."""

    # Kafka
    partitions: int = Field(
        4,
        ge=1,
        le=1024,
        description="number of partitions of every topic",
    )
    generation: int = Field(
        1,
        ge=1,
        le=999,
        description="generation of the deployment's own topics (`enriched`, changelogs); `fraudstream repartition` "
        "prints the next number",
    )
    kafka_rack: str | None = Field(
        None,
        description="rack or zone of this process, as in `broker.rack`; brokers with a rack-aware replica selector let "
        "it read from the replica there, and standby replicas go to a different rack from the primary",
    )
    replication: int = Field(1, ge=1, le=32_767, description="number of replicas of every topic")
    min_insync: int = Field(
        1, ge=1, description="number of replicas that must have a record before it is acknowledged"
    )
    retention: str = Field(
        "90d",
        description="how long topics keep records: a duration such as 60d, or forever. Exceptions: `control` and the "
        "changelogs are compacted (`control` keeps all changes forever), and `notifications` keeps 2 days",
    )
    allow_topic_config: AllowedConfig = Field(
        (),
        description="accept these normally refused configurations of `transactions` and `labels`, comma-separated: "
        "compact, create-time",
    )
    compaction_lag: Duration = Field(
        "1d",
        validate_default=True,
        description="minimum age of changelog records before compaction (at least 1d)",
    )
    max_message_bytes: int = Field(
        1_048_576,
        ge=524_288,  # rules and lists are one row, of up to ruleset.MAX_RULES_BYTES
        le=1 << 27,
        description="largest record on `transactions`, bytes; the limits of other topics are derived from it",
    )
    # Cassandra
    cassandra_datacenter: str | None = Field(
        None, description="local datacenter; unset: the datacenter of the first contact point"
    )
    cassandra_replication: int = Field(
        1,
        ge=1,
        le=1_000,
        description="number of replicas of the keyspace when `migrate` creates it",
    )
    cassandra_consistency: Literal["ONE", "LOCAL_ONE", "QUORUM", "LOCAL_QUORUM", "ALL"] = Field(
        "LOCAL_QUORUM", description="consistency level of writes and reads"
    )
    prediction_ttl: str = Field(
        "400d",
        description="how long rows in Cassandra are kept: a duration such as 400d, or forever",
    )
    audit_ttl: str = Field(
        "1825d",
        description="how long audit records of changes are kept in Cassandra: a duration such as 1825d, or forever",
    )
    sink_batch_bytes: int = Field(
        40_960,
        ge=1_024,
        le=49_152,
        description="largest Cassandra batch, bytes (servers refuse over 50 KB)",
    )
    sink_in_flight: int = Field(
        8, ge=1, le=256, description="Cassandra batches in flight per worker and table"
    )

    # What a transaction is
    currency: str = Field(
        "EUR", pattern=r"^[A-Z]{3}$", description="ISO 4217 currency of this deployment"
    )
    timezone: str = Field(
        "UTC", description="time zone in which weekends and nights are determined"
    )
    windows: Windows = Field(
        "1h,1d,7d,30d",
        validate_default=True,
        description="window lengths of the set basic; the state reaches back at least as far as the longest one",
    )
    features: Sets = Field(
        "engineered,label_free",
        validate_default=True,
        description="features to compute: feature sets (basic, handbook, engineered, label_free) and single features, "
        "such as card_max_amount_1h, comma-separated; `fraudstream features` lists them",
    )
    catalogue_file: Path | None = Field(
        None,
        description="TOML file with the deployment's own input fields and features; see docs/extending.md",
    )
    allowed_lateness: Duration = Field(
        "1d",
        validate_default=True,
        description="how far behind its card's newest event time a transaction may be before it counts as late",
    )
    max_future_skew: Duration = Field(
        "5m",
        validate_default=True,
        description="how far an event time may be ahead of the broker's timestamp before the record is refused",
    )
    input_format: Literal["json", "avro", "protobuf", "json-schema"] = Field(
        "json",
        description="encoding of `transactions`: json, or avro, protobuf or json-schema in Confluent's wire format",
    )
    input_envelope: Literal["none", "debezium"] = Field(
        "none",
        description="envelope of `transactions`: none, or debezium (the row is taken from the change event, "
        "for inserts and snapshots)",
    )
    event_time_unit: Literal["auto", "s", "ms", "us", "ns"] = Field(
        "auto",
        description="unit of numeric event times: s, ms, us or ns; auto: detect the unit by size, but refuse whole "
        "seconds",
    )
    field_names: str = Field(
        "",
        description="field names that producers use: FIELD=THEIR_NAME[,...]; 2:FIELD=THEIR_NAME applies to "
        "records with schema_version 2; records with that version are then accepted",
    )
    drop_fields: str = Field(
        "is_fraud,isFraud,isFlaggedFraud,Is Fraud?,TX_FRAUD,TX_FRAUD_SCENARIO,Class,fraud_bool",
        description="input fields to drop, comma-separated; by default the label columns of public data sets",
    )
    card_ids: Literal["any", "pseudonyms"] = Field(
        "any",
        description="accepted card ids: any, or pseudonyms (records with any other card_id are "
        "dead-lettered, so that no card number is stored)",
    )
    card_id_keys: SecretStr | None = Field(
        None,
        description="keys for pseudonyms, VERSION:KEY[,VERSION:KEY]; new pseudonyms use the highest version",
    )
    mask_card_numbers: bool = Field(
        True,
        description="mask digits that look like a card number, in unknown fields and dead-letter records",
    )
    dead_letter_values: Literal["keep", "drop"] = Field(
        "keep",
        description="what to do with the value of a refused record that is not a JSON object (its fields cannot be "
        "dropped or hashed): keep it (card numbers masked), or drop it",
    )
    private_fields: str = Field(
        "",
        description="unknown fields to hash or to keep unmasked: device=hash,order=keep; comma-separated",
    )
    privacy_key: SecretStr | None = Field(
        None, description="key for hashing, at least 32 characters; a new key gives new hashes"
    )
    label_delay: Duration = Field(
        "7d",
        validate_default=True,
        description="age at which a transaction's label starts to count in features: how long chargebacks take",
    )
    label_wait: Duration = Field(
        "3d",
        validate_default=True,
        description="how long a label waits for an unknown transaction",
    )
    max_parked_labels: int = Field(
        20_000,
        ge=1,
        le=10_000_000,
        description="largest number of labels per partition that wait for unknown transactions",
    )
    max_event_skew: Duration = Field(
        "1d",
        validate_default=True,
        description="how far a partition may be ahead of the slowest one in event time before it is paused; must be "
        "less than FRAUDSTREAM_LABEL_DELAY",
    )
    moved: Literal["forward", "dead"] = Field(
        "forward",
        description="what to do with a misrouted record (not in the partition of its key): "
        "forward it there (forward), or dead-letter it (dead)",
    )
    refunds: Literal["store", "dead"] = Field(
        "store",
        description="what to do with negative amounts: store them as refunds (store), or dead-letter them (dead)",
    )
    max_entries_per_key: int = Field(
        20_000,
        ge=16,
        le=10_000_000,
        description="transactions retained per card or terminal; older ones are evicted and "
        "truncated windows are flagged",
    )

    # Model
    model: str = Field(
        "default",
        description="model that a new deployment starts with: a name or the path of a folder; later, "
        "`fraudstream models promote` changes it",
    )
    allow_pickled_models: bool = Field(
        False,
        description="load models that are pickles (model.joblib). Loading a pickle runs code from it",
    )
    model_keys: ModelKeys = Field(
        (),
        description="public keys from `fraudstream models keygen`, comma-separated; if set, only models with a "
        "signature by one of these keys are promoted and loaded",
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="lowest score at which a new deployment flags a transaction as fraud (unset: the model's own "
        "threshold). Afterwards, only `fraudstream models threshold` changes it",
    )
    reasons_from: float = Field(
        0.1, ge=0, le=1, description="lowest score for which reasons are stored"
    )

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            msg = f"{value!r} is not a time zone; use a name such as UTC or Europe/Paris"
            raise ValueError(msg) from error
        return value

    @field_validator("currency")
    @classmethod
    def _currency_exists(cls, value: str) -> str:
        from iso4217 import Currency

        try:
            Currency(value)
        except ValueError as error:
            msg = f"{value!r} is not an ISO 4217 currency"
            raise ValueError(msg) from error
        return value

    @field_validator("card_id_keys")
    @classmethod
    def _keys_are_written(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_keys(value.get_secret_value())
        return value

    @field_validator("private_fields")
    @classmethod
    def _private_fields_are_written(cls, value: str) -> str:
        parse_private(value)
        return value

    @field_validator("field_names", "drop_fields")
    @classmethod
    def _fields_are_named(cls, value: str, info: ValidationInfo) -> str:
        (parse_field_names if info.field_name == "field_names" else parse_dropped)(value)
        return value

    @field_validator("retention", "prediction_ttl", "audit_ttl")
    @classmethod
    def _forever_or_duration(cls, value: str) -> str:
        if value != "forever" and parse_duration_ms(value) < 1_000:
            msg = f"{value} is less than a second; write forever, or a duration such as 60d"
            raise ValueError(msg)
        return value

    @field_validator("prediction_ttl", "audit_ttl")
    @classmethod
    def _cassandra_takes_it(cls, value: str) -> str:
        if value != "forever" and parse_duration_ms(value) > _MOST_TTL_DAYS * DAY_MS:
            msg = f"{value} is more than the {_MOST_TTL_DAYS}d that Cassandra allows; write forever"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.compaction_lag < DAY_MS:
            msg = (
                "compaction_lag must be at least 1d: rows written by a frozen worker can be "
                "corrected only before compaction"
            )
            raise ValueError(msg)
        if "hash" in parse_private(self.private_fields).values() and not self.privacy_key:
            msg = "FRAUDSTREAM_PRIVATE_FIELDS hashes fields: set FRAUDSTREAM_PRIVACY_KEY"
            raise ValueError(msg)
        if self.needs_registry and not self.schema_registry:
            msg = f"FRAUDSTREAM_INPUT_FORMAT={self.input_format} needs FRAUDSTREAM_SCHEMA_REGISTRY, its address"
            raise ValueError(msg)
        if self.min_insync > self.replication:
            msg = (
                f"min_insync {self.min_insync} is more than replication {self.replication}: no "
                "record could be written"
            )
            raise ValueError(msg)
        if not 0 < self.max_event_skew < self.label_delay:
            msg = (
                f"FRAUDSTREAM_MAX_EVENT_SKEW={format_duration(self.max_event_skew)} must be more than 0 and less than "
                f"FRAUDSTREAM_LABEL_DELAY={format_duration(self.label_delay)}: a backfill would miss labels"
            )
            raise ValueError(msg)
        return self

    @cached_property
    def minor_unit_digits(self) -> int:
        """Digits after the decimal point in the deployment's currency: 2 for EUR, 0 for JPY."""
        from iso4217 import Currency

        return Currency(self.currency).exponent or 0

    @property
    def deployment(self) -> str:
        """Names this deployment: its consumer group, and who scored a prediction."""
        return self.topic_prefix + self.app_id

    @property
    def pseudonyms(self) -> Pseudonyms | None:
        """Makes pseudonyms of card ids; None without keys."""
        keys = self.card_id_keys
        return None if keys is None else Pseudonyms(parse_keys(keys.get_secret_value()))

    @property
    def needs_registry(self) -> bool:
        """Whether records can only be read with schemas from a registry."""
        return self.input_format in {"avro", "protobuf"}

    @property
    def retention_ms(self) -> int:
        """Retention of topics in milliseconds, -1 for ever."""
        return -1 if self.retention == "forever" else parse_duration_ms(self.retention)

    @property
    def ttl_seconds(self) -> int:
        """Time to live of predictions and labels in seconds, 0 for ever."""
        return _seconds(self.prediction_ttl)

    @property
    def audit_ttl_seconds(self) -> int:
        """The same of audit records."""
        return _seconds(self.audit_ttl)

    @property
    def state_dir(self) -> Path:
        """The folder of this worker's tables."""
        return self.datadir or self.home / "workers" / str(self.web_port)


def _seconds(ttl: str) -> int:
    return 0 if ttl == "forever" else parse_duration_ms(ttl) // 1000


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from the environment and the optional file.

    Args:
        overrides: values that win over the environment, by field name.

    Raises:
        SettingsError: a value is wrong, or the environment or the file has an unknown `FRAUDSTREAM_` name.
    """
    env_file = os.environ.get(ENV_PREFIX + "ENV_FILE")
    known = {(ENV_PREFIX + name).upper() for name in Settings.model_fields}
    try:
        refuse_unknown(os.environ, known)
        if env_file:
            refuse_unknown(names_in(env_file), known, f" (in {env_file})")
        return Settings(_env_file=env_file, **(overrides or {}))  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        text = _WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        text = text.replace("Input should be", "it must be")
        msg = f"{ENV_PREFIX}{name.upper()}: {text}" if name else text
        raise SettingsError(msg) from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
