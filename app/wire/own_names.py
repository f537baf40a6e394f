"""Which names a deployment may give its own fields and features: their form, CQL keywords, and what fraudstream has."""

import re

from app.domain.features.feature import WINDOW
from app.domain.features.feature_sets import FEATURES, SETS
from app.domain.features.own_features import OwnCatalogue
from app.wire.prediction_fields import FIELDS

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
#: What Cassandra takes for a word of its language.
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        add allow alter and apply asc authorize batch begin by columnfamily create default delete desc describe drop
        entries execute from full grant if in index infinity insert into is keyspace limit materialized modify nan
        norecursive not null of on or order primary rename replace revoke schema select set table to token truncate
        unlogged unset update use using view where with
        """,
    )
)


def check_names(own: OwnCatalogue) -> None:
    """Check the names of a deployment's fields and features.

    Raises:
        ValueError: one cannot be used; the text says which, and why.
    """
    taken = {field.name for field in FIELDS}
    for each in own.fields:
        _check_form("fields", each.name)
        if each.name in taken or each.name.startswith("input_"):
            msg = f"fields.{each.name}: fraudstream has a field of that name; choose another"
            raise ValueError(msg)
    families = {feature.family for feature in FEATURES} | SETS.keys()
    for feature in own.features:
        _check_form("features", feature.name)
        if WINDOW.fullmatch(feature.name):
            msg = f"features.{feature.name}: leave the window out of the name; windows = [...] adds it"
            raise ValueError(msg)
        if not families.isdisjoint((feature.name, *feature.columns)):
            msg = f"features.{feature.name}: fraudstream has a feature of that name; choose another"
            raise ValueError(msg)


def _check_form(table: str, name: str) -> None:
    if not _NAME.fullmatch(name) or (table == "fields" and name in _RESERVED):
        msg = (
            f"{table}.{name}: a name consists of lower-case letters, digits and _, begins with a letter, "
            "and is not a CQL keyword"
        )
        raise ValueError(msg)
