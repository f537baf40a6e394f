"""The file in which a deployment declares fields and features of its own: read once, and named by its faults."""

from functools import lru_cache
from pathlib import Path

from app.domain.features.own_features import NOTHING, OwnCatalogue, parse_own
from app.errors import SettingsError
from app.settings import Settings
from app.wire.own_names import check_names
from app.wire.prediction_fields import FIELDS, INPUT, PredictionField

_CQL = {"text": "text", "integer": "bigint", "number": "double", "boolean": "boolean"}


def own_of(settings: Settings) -> OwnCatalogue:
    """What a deployment adds.

    Raises:
        SettingsError: the file cannot be read, or declares what it cannot.
    """
    return _read(settings.catalogue_file.resolve()) if settings.catalogue_file else NOTHING


@lru_cache(maxsize=64)
def _read(path: Path) -> OwnCatalogue:
    try:
        own = parse_own(path.read_text())
        check_names(own)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        msg = f"FRAUDSTREAM_CATALOGUE_FILE={path}: {why}"
        raise SettingsError(msg) from None
    return own


def fields_with(own: OwnCatalogue) -> tuple[PredictionField, ...]:
    """The table of a prediction's fields, with a deployment's own."""
    added = (
        PredictionField(
            each.name, INPUT, _CQL[each.kind], meaning=each.meaning, optional=True, default=each.default
        )
        for each in own.fields
    )  # fmt: skip
    return (*FIELDS, *added)
