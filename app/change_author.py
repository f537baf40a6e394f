"""Who makes a change that is recorded."""

import getpass
import socket


def user_name() -> str:
    """Who runs this, as far as the system knows: a container's user often has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def author() -> str:
    """Who makes a change that is recorded: user and host."""
    return f"{user_name()}@{socket.gethostname()}"
