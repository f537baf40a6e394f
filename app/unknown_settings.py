"""Which names under `FRAUDSTREAM_` are settings: any other is refused, in the environment and in files."""

import re
from collections.abc import Iterable, Set
from difflib import get_close_matches

#: Of every setting's name in the environment.
ENV_PREFIX = "FRAUDSTREAM_"
#: Names under the prefix that are not settings of a deployment: read where they are used.
NOT_SETTINGS = frozenset(
    {
        ENV_PREFIX + "ENV_FILE",  # app/settings.py
        ENV_PREFIX + "CACHE",  # app/devstack: shared folder for downloaded servers
        ENV_PREFIX + "JAVA",  # app/devstack: the Java 17 to use
        ENV_PREFIX + "MAVEN_URL",  # app/devstack: where jars come from
        ENV_PREFIX + "TEST_SEED",  # tests
    }
)
#: What Kubernetes puts into the environment of every pod for a service with such a name.
_OF_SERVICES = re.compile(r"FRAUDSTREAM_(.+_)?(SERVICE_HOST|SERVICE_PORT.*|PORT(_\d+_.*)?)")


def _letters(name: str) -> str:
    return re.sub(r"[^A-Z]", "", name.upper())


def refuse_unknown(names: Iterable[str], known: Set[str], where: str = "") -> None:
    """Refuse names under the prefix that are not settings.

    Args:
        names: from the environment or a file.
        known: variables of all settings.
        where: added to the error.

    Raises:
        ValueError: a name is unknown; the text suggests a similar one.
    """
    meant = {
        _letters(name): name for name in known
    }  # FRAUDSTREAM-BROKER is none, and not of others
    unknown = sorted(
        name
        for name in names
        if (name.upper().startswith(ENV_PREFIX) or _letters(name) in meant)
        and name.upper() not in known
        and name not in NOT_SETTINGS
    )
    if unknown:
        if _OF_SERVICES.fullmatch(unknown[0]):
            why = "Kubernetes adds it for a service; set enableServiceLinks: false"
            msg = f"{unknown[0]} is not a setting{where}: {why}"
            raise ValueError(msg)
        ours = [name.removeprefix(ENV_PREFIX) for name in known]
        same = meant.get(_letters(unknown[0]), "").removeprefix(ENV_PREFIX)
        name = unknown[0].upper().removeprefix(ENV_PREFIX)
        close = [same] if same else get_close_matches(name, ours, 1)
        hint = (
            f"; did you mean {ENV_PREFIX}{close[0]}?"
            if close
            else "; `fraudstream config` lists them"
        )
        msg = f"{unknown[0]} is not a setting{where}{hint}"
        raise ValueError(msg)
