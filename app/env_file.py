"""The file that `FRAUDSTREAM_ENV_FILE` names; lines that the library would skip are refused."""

import logging
from pathlib import Path

import dotenv

from app.unknown_settings import ENV_PREFIX

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
