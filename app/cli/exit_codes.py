"""How every command ends: its exit code, and one line on standard error in place of a traceback."""

import errno
import os
import sys

import click

from app.cli import cli
from app.cli.interrupt import interruptible
from app.display import printable
from app.errors import FraudstreamError, UnavailableError, UsageError

#: Errors of writing to a closed pipe, a full disk or a broken one.
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


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
    from app.cli.unexpected_errors import explain, show_trace

    show_trace(error)
    text, code = explain(error)
    click.echo(f"fraudstream: {printable(text)}", err=True)
    return code
