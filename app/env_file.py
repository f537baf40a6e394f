"""Names of settings in the environment and in the settings file; what the libraries would skip is refused."""

import logging
from collections.abc import Iterable, Set
from difflib import get_close_matches
from pathlib import Path

import dotenv

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
_COMPLAINT = "python-dotenv could not parse statement starting at "


class _Refusing(logging.Handler):
    """The library only logs what it cannot read, and goes on with the next line."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        msg = f"{self._path}, {record.getMessage().replace(_COMPLAINT, '')}: write NAME=value"
        raise ValueError(msg)


def names_in(path: str) -> list[str]:
    """The names that a file gives values to.

    Raises:
        ValueError: it cannot be read, or has a line that is no `NAME=value`.
    """
    if not Path(path).is_file():
        msg = f"{ENV_PREFIX}ENV_FILE names {path}, which is not a file"
        raise ValueError(msg)
    logger, refusing = logging.getLogger("dotenv.main"), _Refusing(path)
    logger.addHandler(refusing)
    try:
        values = dotenv.dotenv_values(path)
    except UnicodeDecodeError:  # a ValueError, of other words
        msg = f"{ENV_PREFIX}ENV_FILE names {path}, which is not UTF-8 text"
        raise ValueError(msg) from None
    except OSError as error:
        msg = f"{ENV_PREFIX}ENV_FILE names {path}, which cannot be read: {error.strerror}"
        raise ValueError(msg) from None
    finally:
        logger.removeHandler(refusing)
    empty = [
        name for name, value in values.items() if value is None and name.startswith(ENV_PREFIX)
    ]
    if empty:
        msg = f"{path} has a line {empty[0]!r} without a value: write NAME=value"
        raise ValueError(msg)
    return list(values)


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
