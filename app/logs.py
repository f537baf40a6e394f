"""What a worker writes to standard error."""

import logging

#: Their INFO lines are about themselves; a person who runs a worker needs their warnings only.
# our subclasses of Faust services log under their own modules.
_LIBRARIES = (
    "aiokafka",
    "asyncio",
    "cassandra",
    "faust",
    "mode",
    "app.blocks",
    "app.faust_app",
)


def quiet_libraries(level: str) -> None:
    """Show our own lines at `level`, those of libraries from warnings on; `debug` shows everything.

    At INFO and above, DEBUG records are disabled altogether: Faust makes one for each message, and
    formatting them for nobody took 14 % of a worker's time.
    """
    if level == "debug":
        return
    logging.disable(logging.DEBUG)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
