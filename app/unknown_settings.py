"""Which names under `FRAUDSTREAM_` are settings: any other is refused, in the environment and in files."""

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


def refuse_unknown(names: Iterable[str], known: Set[str], where: str = "") -> None:
    """Refuse names under the prefix that are not settings.

    Args:
        names: from the environment or a file.
        known: variables of all settings.
        where: added to the error.

    Raises:
        ValueError: a name is unknown; the text suggests a similar one.
    """
    unknown = sorted(
        name
        for name in names
        if name.startswith(ENV_PREFIX) and name not in known and name not in NOT_SETTINGS
    )
    if unknown:
        ours = [name.removeprefix(ENV_PREFIX) for name in known]
        close = get_close_matches(unknown[0].removeprefix(ENV_PREFIX), ours, 1)
        hint = (
            f"; did you mean {ENV_PREFIX}{close[0]}?"
            if close
            else "; `fraudstream config` lists them"
        )
        msg = f"{unknown[0]} is not a setting{where}{hint}"
        raise ValueError(msg)
