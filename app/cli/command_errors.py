"""What a command prints of an error, foreseen or not: one line, no traceback; and the exit code that it ends with."""

import errno
import logging
import os
import sys
import traceback
from pathlib import Path

import click

from app.cli import cli
from app.cli.interrupt import interruptible
from app.display import printable
from app.errors import FraudstreamError, UnavailableError, UsageError

#: Errors of writing to a closed pipe, a full disk or a broken one.
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
_ROOT = Path(__file__).parents[2]
#: Modules whose errors mean that a server did not answer or refused, and what the server is called.
_SERVERS = {"aiokafka": "Kafka", "cassandra": "Cassandra"}
_TRACE = "FRAUDSTREAM_LOG_LEVEL"


def _refuse_bytes(args: list[str]) -> None:
    """Names of cards and topics are UTF-8: what is not would fail wherever it is first sent."""
    for text in args:
        try:
            text.encode()
        except UnicodeEncodeError:
            msg = f"the argument {os.fsencode(text)!r} is not UTF-8 text"
            raise UsageError(msg) from None


def run(args: list[str] | None = None) -> int:
    """Run the command line; errors become one line on standard error and an exit code."""
    try:
        code = _run(args)
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
            return _unexpected(error)
        # otherwise Python would try again at its end, and print an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # the reader went away (| head): print nothing
            click.echo(f"fraudstream: cannot write the output: {error.strerror}", err=True)
        return UnavailableError.exit_code
    return code


def _run(args: list[str] | None) -> int:
    try:
        _refuse_bytes(sys.argv[1:] if args is None else args)
        with interruptible():
            result = cli.main(args=args, prog_name="fraudstream", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("fraudstream: interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FraudstreamError as error:
        # one line, whatever names of columns and files are in it
        click.echo(f"fraudstream: {printable(str(error))}", err=True)
        return error.exit_code
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 -- the last resort: a line in place of a traceback
        return _unexpected(error)
    return result if isinstance(result, int) else 0  # click returns the code of `ctx.exit`


def _unexpected(error: Exception) -> int:
    _show_trace(error)
    text, code = explain(error)
    click.echo(f"fraudstream: {printable(text)}", err=True)
    return code


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


def _show_trace(error: Exception) -> None:
    """Print the trace for whoever debugs."""
    if os.environ.get(_TRACE, "").lower() == logging.getLevelName(logging.DEBUG).lower():
        traceback.print_exception(error, file=sys.stderr)


def _is_ours(filename: str) -> bool:
    file = Path(filename)
    return file.is_relative_to(_ROOT) and ".venv" not in file.parts
