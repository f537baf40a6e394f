"""Which of a deployment's features a training takes, as a manifest names them."""

from typing import NamedTuple

from app.domain.features.feature import window_name
from app.domain.features.feature_schema import part_of
from app.domain.features.feature_sets import SETS, column_of, set_names
from app.errors import UsageError
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.wire.own_features_file import own_of
from models.manifest import Manifest, check_features


class FeatureChoice(NamedTuple):
    """Features to learn from, as a manifest names them, and where they stand in the catalogue."""

    names: tuple[str, ...]
    schema: str
    columns: list[int]


def choose_features(settings: Settings, wanted: str | None) -> FeatureChoice:
    """The features of a set, or all that the deployment computes.

    Raises:
        UsageError: there is no such set, or the deployment does not compute it.
    """
    catalogue = catalogue_of(settings)
    if wanted is None:
        return FeatureChoice(catalogue.names, catalogue.schema, list(range(len(catalogue.names))))
    if wanted not in SETS:
        msg = f"--features {wanted} is unknown; choose from {', '.join(SETS)}"
        raise UsageError(msg)
    if wanted not in settings.features:
        msg = f"--features {wanted}: add {wanted} to FRAUDSTREAM_FEATURES, so that the stream computes it"
        raise UsageError(msg)
    names = set_names(wanted, settings.windows)
    schema = str(part_of(wanted, settings.windows, settings.label_delay))
    return FeatureChoice(names, schema, [catalogue.names.index(name) for name in names])


def features_of(settings: Settings, manifest: Manifest) -> FeatureChoice:
    """The features that a model takes.

    Raises:
        UsageError: the deployment does not compute them.
    """
    catalogue = catalogue_of(settings)
    columns = check_features(manifest, catalogue.names, catalogue.schema)
    return FeatureChoice(manifest.features, manifest.feature_schema, columns)


def label_free_choice(settings: Settings, choice: FeatureChoice) -> FeatureChoice:
    """What anomaly scores go by: the set `label_free` if there is one, else the model's without labels."""
    if "label_free" in settings.features:
        return choose_features(settings, "label_free")
    longest = window_name(settings.windows[-1])
    free = [
        (name, column)
        for name, column in zip(choice.names, choice.columns, strict=True)
        if not column_of(name, longest, own_of(settings)).labels
    ]
    return FeatureChoice(
        tuple(name for name, _ in free), choice.schema, [column for _, column in free]
    )
