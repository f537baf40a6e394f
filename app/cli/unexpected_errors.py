"""What a command says of an error that nobody foresaw: one line that names the place, no traceback."""

import logging
import os
import sys
import traceback
from pathlib import Path

from app.errors import FraudstreamError, UnavailableError

_ROOT = Path(__file__).parents[2]
#: Modules whose errors mean that a server did not answer or refused, and what the server is called.
_SERVERS = {"aiokafka": "Kafka", "cassandra": "Cassandra"}
_TRACE = "FRAUDSTREAM_LOG_LEVEL"


def explain(error: Exception) -> tuple[str, int]:
    """One line on an unexpected error, and the exit code.

    Args:
        error: raised by whatever the command runs.
    """
    from app.blocks.faust.fatal_errors import (  # here, where its imports are no loss
        exhausted,
        forbidden,
    )

    known = exhausted(error) or forbidden(error)
    if known is not None:
        return str(known), known.exit_code
    what = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_ours(frame.filename)]
    frame = ours[-1] if ours else frames[-1] if frames else None
    place = ""
    if frame is not None:
        file = Path(frame.filename)
        shown = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else file.name
        place = f" (at {shown}:{frame.lineno})"
    server = _SERVERS.get(type(error).__module__.split(".")[0])
    if server is not None:
        return f"{server} does not answer as expected: {what}{place}", UnavailableError.exit_code
    if isinstance(error, OSError):
        return f"the operating system refused: {what}{place}", UnavailableError.exit_code
    hint = f"; {_TRACE}=debug shows the full traceback"
    return f"an unexpected error: {what}{place}{hint}", FraudstreamError.exit_code


def show_trace(error: Exception) -> None:
    """Print the trace for whoever debugs."""
    if os.environ.get(_TRACE, "").lower() == logging.getLevelName(logging.DEBUG).lower():
        traceback.print_exception(error, file=sys.stderr)


def _is_ours(filename: str) -> bool:
    file = Path(filename)
    return file.is_relative_to(_ROOT) and ".venv" not in file.parts
