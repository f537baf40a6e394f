"""The fields and features that a deployment adds: its file, read once."""

from functools import lru_cache
from pathlib import Path

from app.domain.features.feature_sets import FEATURES, SETS
from app.domain.features.own_features import NOTHING, OwnCatalogue, parse_own
from app.errors import SettingsError
from app.settings import Settings
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
        _check_free(own)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        msg = f"FRAUDSTREAM_CATALOGUE_FILE={path}: {why}"
        raise SettingsError(msg) from None
    return own


def _check_free(own: OwnCatalogue) -> None:
    taken = {field.name for field in FIELDS}
    for each in own.fields:
        if each.name in taken or each.name.startswith("input_"):
            msg = f"fields.{each.name}: fraudstream has a field of that name; choose another"
            raise ValueError(msg)
    families = {feature.family for feature in FEATURES} | SETS.keys()
    for feature in own.features:
        if not families.isdisjoint((feature.name, *feature.columns)):
            msg = f"features.{feature.name}: fraudstream has a feature of that name; choose another"
            raise ValueError(msg)


def fields_with(own: OwnCatalogue) -> tuple[PredictionField, ...]:
    """The table of a prediction's fields, with a deployment's own."""
    added = (
        PredictionField(
            each.name, INPUT, _CQL[each.kind], meaning=each.meaning, optional=True, default=each.default
        )
        for each in own.fields
    )  # fmt: skip
    return (*FIELDS, *added)
