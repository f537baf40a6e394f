"""The reserved rows of a partition: its position, deduplication offsets, and which models and changes are in force."""

from dataclasses import dataclass, field

import msgspec

from app.blocks.core.partition import RowReader
from app.blocks.core.row_groups import Row
from app.domain.changes_in_force import InForce
from app.errors import SchemaError, SettingsError, StateError
from app.stages.state_settings import (
    as_now,
    differences,
    is_of_before,
    schema_of_before,
    stored_settings,
)

#: Reserved rows start with a null byte; rows of cards and terminals with a letter.
POSITION_KEY = b"\0position"
PINS_KEY = b"\0pins"
IN_FORCE_KEY = b"\0in-force"


@dataclass
class StatePosition:
    """The reserved row with the position of a partition's state; written with every block, after all its other rows.

    Attributes:
        last_offset: every record up to here is in the state, its outputs durable.
        settings: `state_settings` under which the state was built.
        unnamed: feature schema of messages on `enriched` that name none: release 0.1.0 sent them.
        seen: deduplication offsets (terminal stage): by partition of `transactions`, the highest source offset that was
            processed; an item at or below it is a replay.
        labels: the same for labels, by topic and partition.
    """

    last_offset: int = -1
    settings: str = ""
    seen: dict[int, int] = field(default_factory=dict)
    labels: dict[str, dict[int, int]] = field(default_factory=dict)
    unnamed: str = ""

    @classmethod
    def read(cls, state: RowReader, settings: str) -> "StatePosition":
        """The stored position, or that of a new partition."""
        raw = state.get(POSITION_KEY)
        return cls(settings=settings) if raw is None else cls.decode(raw, settings)

    @classmethod
    def decode(cls, raw: bytes, settings: str) -> "StatePosition":
        """The position of a stored row."""
        stored = _position_decoder.decode(raw[8:])
        last_offset = int.from_bytes(raw[:8], "big", signed=True)
        built, unnamed = stored.settings, stored.unnamed
        if is_of_before(built):
            built, unnamed = as_now(built, settings), schema_of_before(built)
        return cls(last_offset, built, stored.seen, stored.labels, unnamed)

    def advance(self, offset: int, settings: str) -> None:
        """Record that everything up to an offset is in the state, under these settings."""
        self.last_offset = offset
        self.settings = stored_settings(self.settings, settings)

    def encode(self) -> Row:
        """The reserved row."""
        body = msgspec.msgpack.encode((self.settings, self.seen, self.labels, self.unnamed))
        return POSITION_KEY, self.last_offset.to_bytes(8, "big", signed=True) + body

    def check(
        self,
        where: str,
        settings: str,
        *,
        log_end: int,
        log_start: int,
        start: int,
        model: str = "default@1",
    ) -> None:
        """Refuse a state that does not fit the source topic or the settings.

        Args:
            where: topic and partition, for the error.
            settings: `state_settings` of this start.
            log_end: offset after the last record of the source partition.
            log_start: offset of its first record.
            start: offset at which it will be read: the committed one, or the first.
            model: the setting, for the error.

        Raises:
            SchemaError, StateError: it does not fit the topic; the text says what differs and what to do.
            SettingsError: it was built with other settings.
        """
        if self.last_offset >= log_end:
            msg = (
                f"the state contains offset {self.last_offset} of {where}, which ends at {log_end}: the "
                "topic was deleted and created again; start with another FRAUDSTREAM_APP_ID, after `fraudstream "
                "topics` with the same, to build the state from the topic as it is now"
            )
            raise SchemaError(msg)
        # The state is normally ahead of the commit. It is behind if the changelog was deleted, or if this worker was
        # frozen between recovery and this check while others took over. Its features would be wrong, and so would be
        # the outputs that it sends before its first changelog record is refused.
        if start > max(self.last_offset + 1, log_start):
            msg = (
                f"{where} was read up to {start}, but its state contains it only up to {self.last_offset}: start "
                "again; if that does not help, its changelog was deleted: start with another "
                "FRAUDSTREAM_APP_ID to build the state again from the log"
            )
            raise StateError(msg)
        differing = differences(self.settings, settings)
        if differing:
            was, now = differing
            msg = (
                f"the state of {where} was built with {was}, but the settings are {now} (and "
                f"FRAUDSTREAM_MODEL={model}): restore these settings{_before(was, model)}, or start with another "
                "FRAUDSTREAM_APP_ID, after `fraudstream topics` with the same, to build the state from the log"
            )
            raise SettingsError(msg)


def _before(was: str, model: str) -> str:
    """How to keep a state that was built with the defaults of earlier releases."""
    if "FEATURES" not in was or model != "default":
        return ""
    return " (for the defaults of earlier releases: FRAUDSTREAM_FEATURES=basic FRAUDSTREAM_MODEL=default@1)"


class _StoredPosition(msgspec.Struct, array_like=True):
    settings: str
    seen: dict[int, int]
    labels: dict[str, dict[int, int]] = {}
    unnamed: str = ""


_position_decoder = msgspec.msgpack.Decoder(_StoredPosition)
#: Number of values in a position row of release 0.1.0.
_VALUES_OF_0_1_0 = 2


def is_of_later_than_0_1_0(raw: bytes | None) -> bool:
    """Whether a position row is there, and a release later than 0.1.0 wrote it."""
    return raw is not None and len(msgspec.msgpack.decode(raw[8:])) > _VALUES_OF_0_1_0


class ModelOffsets:
    """The model that scores from each offset on, as release 0.1.0 stored it at each start (the row `pins`).

    Args:
        pins: pairs of first offset and model hash, in order of offsets.
    """

    def __init__(self, pins: list[tuple[int, str]]) -> None:
        self.pins = pins

    @classmethod
    def read(cls, raw: bytes | None) -> "ModelOffsets":
        """The stored pairs; none for a partition of a later release."""
        return cls([] if raw is None else _pins_decoder.decode(raw[8:]))

    def encode(self) -> Row:
        """The reserved row."""
        return PINS_KEY, bytes(8) + _pins_encoder(self.pins)

    def models_of(self, start: int, log_end: int) -> list[str]:
        """Hashes of the models that score the records from an offset on to the end."""
        ends = [*(first for first, _ in self.pins[1:]), log_end][: len(self.pins)]
        return [
            model for (_, model), end in zip(self.pins, ends, strict=True) if start < end <= log_end
        ]

    def model_at(self, offset: int) -> str:
        """Hash of the model that scores this offset."""
        return next(model for first, model in reversed(self.pins) if first <= offset)


_pins_encoder = msgspec.msgpack.Encoder().encode
_pins_decoder = msgspec.msgpack.Decoder(list[tuple[int, str]])
_in_force_decoder = msgspec.msgpack.Decoder(InForce)


def read_in_force(raw: bytes | None) -> InForce | None:
    """The changes in force, from the reserved row; None for a partition that no worker of this release has opened."""
    return None if raw is None else _in_force_decoder.decode(raw[8:])


def in_force_row(in_force: InForce, offset: int) -> Row:
    """The reserved row.

    Args:
        in_force: the changes in force.
        offset: offset on `enriched` of the newest change; -1 for what a deployment starts with.
    """
    return IN_FORCE_KEY, offset.to_bytes(8, "big", signed=True) + _pins_encoder(in_force)
