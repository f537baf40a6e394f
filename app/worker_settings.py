"""The settings of one worker: its folder, address, memory and intervals, and `POST /score`; see app/settings.py."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from app.address_syntax import is_loopback
from app.durations import Duration, format_duration

_LEAST_INTERVAL_MS = 10


class WorkerSettings(BaseSettings):
    """How a worker runs."""

    datadir: Path | None = Field(
        None, description="state folder, one per worker; unset: FRAUDSTREAM_HOME/workers/PORT"
    )
    web_host: str = Field("127.0.0.1", description="address that the web pages listen on")
    web_port: int = Field(
        6066, ge=0, le=65535, description="port of the web pages; 0 chooses a free one"
    )
    advertised_host: str | None = Field(
        None, description="host name under which other workers reach this worker's web pages"
    )
    score: bool = Field(
        False, description="serve POST /score, which responds with the prediction of a transaction"
    )
    score_token: SecretStr | None = Field(
        None,
        description="bearer token of POST /score; required unless FRAUDSTREAM_WEB_HOST is loopback",
    )
    score_timeout: Duration = Field(
        "2s",
        validate_default=True,
        description="how long POST /score waits for the prediction before it responds with 504",
    )
    score_waiting: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="largest number of POST /score requests that wait at one worker; further requests get 429",
    )
    standby_replicas: int = Field(
        0, ge=0, le=3, description="number of standby replicas of each partition's state tables"
    )
    host_name: str | None = Field(
        None,
        description="machine that this worker runs on: standby replicas of its partitions go to workers on other "
        "machines; unset: the host name",
    )
    block_records: int = Field(
        1_000, ge=1, le=20_000, description="largest number of records in a block (micro-batch)"
    )
    blocks_in_flight: int = Field(
        4, ge=1, le=64, description="number of blocks per partition whose writes may overlap"
    )
    max_waiting_bytes: int = Field(
        128 << 20,
        ge=8 << 20,
        le=1 << 40,
        description="memory for records between fetch and acknowledgement, per worker, bytes",
    )
    isolation_level: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed",
        description="read_committed, or read_uncommitted: also read records of open and aborted Kafka transactions",
    )
    state_memory_mb: int = Field(
        384,
        ge=24,
        le=1 << 20,
        description="memory for state per worker, MiB: a third each for decoded rows, RocksDB's block cache and its "
        "buffered writes",
    )
    commit_interval: Duration = Field(
        "1s", validate_default=True, description="how often offsets are committed"
    )
    session_timeout: Duration = Field(
        "10s",
        validate_default=True,
        description="time without a heartbeat after which a worker loses its partitions",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="worker log level"
    )
    trace_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP address to which spans of sampled transactions are sent, such as "
        "http://127.0.0.1:4318/v1/traces (see docs/tracing.md). Unset: nothing is traced",
    )
    trace_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the transactions to trace, among those without a `traceparent` header; with the "
        "header, its sampled flag decides",
    )

    @field_validator("trace_endpoint")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "http://unset")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = "write an address such as http://127.0.0.1:4318/v1/traces"
            raise ValueError(msg)
        if parts.username or parts.password:
            msg = "the address must not contain a password: OTEL_EXPORTER_OTLP_HEADERS sends one"
            raise ValueError(msg)
        return value

    @field_validator("commit_interval", "session_timeout")
    @classmethod
    def _takes_a_while(cls, value: int) -> int:
        if value < _LEAST_INTERVAL_MS:
            msg = f"{format_duration(value)} is less than {_LEAST_INTERVAL_MS}ms"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _score_is_protected(self) -> Self:
        if self.score and not self.score_token and not is_loopback(self.web_host):
            msg = f"FRAUDSTREAM_SCORE on web_host {self.web_host} needs FRAUDSTREAM_SCORE_TOKEN: others can reach it"
            raise ValueError(msg)
        return self
