"""`fraudstream worker`: one stream-processing process, in the foreground."""

import errno
import json
import os
import socket
import sys
from pathlib import Path

import click

from app.errors import UnavailableError
from app.settings import ENV_PREFIX, Settings, load_settings


@click.command()
@click.option(
    "--web-port",
    type=int,
    help="Port of the web pages; 0 chooses a free one.  [default: FRAUDSTREAM_WEB_PORT]",
)
@click.option(
    "--datadir",
    type=click.Path(path_type=Path),
    help="State folder, one per worker.  [default: FRAUDSTREAM_DATADIR]",
)
def worker(web_port: int | None, datadir: Path | None) -> None:
    r"""Score transactions until stopped. On SIGTERM, the worker finishes the records in progress before it exits.

    Workers share the partitions, so at most one worker per partition has work; more are spares. Each worker needs its
    own port and state folder.

    \b
    Example:  fraudstream worker
              fraudstream worker --web-port 6067
    """
    overrides = {"web_port": web_port, "datadir": datadir}
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = load_settings(given)
    if settings.web_port == 0:
        given["web_port"] = free_port(settings.web_host)
        settings = load_settings(given)
    os.environ |= {ENV_PREFIX + name.upper(): str(value) for name, value in given.items()}
    code = run_worker(settings)
    from app.blocks.faust.fatal_errors import leave

    sys.stdout.flush()
    sys.stderr.flush()
    leave(code)


def free_port(host: str) -> int:
    """A free TCP port.

    Raises:
        UnavailableError: the address is not this machine's.
    """
    with _listening(host, 0) as server:
        port: int = server.getsockname()[1]
        return port


def check_port(settings: Settings) -> None:
    """Make sure that the web pages can listen.

    Raises:
        UnavailableError: the port is taken, or the address is not this machine's.
    """
    _listening(settings.web_host, settings.web_port).close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        hint = "--web-port" if taken else "FRAUDSTREAM_WEB_HOST"
        msg = f"the web pages cannot listen on {host}:{port} ({why}): choose another {hint}"
        raise UnavailableError(msg) from error


def run_worker(settings: Settings) -> int:
    """Run the Faust worker in this process until a signal ends it; returns its exit code.

    Raises:
        UnavailableError: the port of the web pages or the state folder is in use.
    """
    check_port(settings)
    # Before other modules: skops searches all modules, in the order of their import, for each of its 300 functions.
    # Behind a thousand others, that took a worker half a second.
    import scipy.special  # type: ignore[import-untyped]  # isort: skip  # noqa: F401

    import asyncio

    import uvloop
    from faust.worker import Worker

    from app.file_writing import explained
    from app.logs import quiet_libraries, worker_logging
    from app.main import app  # builds the app from the environment

    from app.start_checks import claim_state  # isort: skip

    state = settings.state_dir
    claim_state(settings)
    where = state / "worker.json"
    url = f"http://{settings.advertised_host or settings.web_host}:{settings.web_port}"
    with explained(state, "FRAUDSTREAM_DATADIR or --datadir"):
        where.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    # a policy, not just a loop: the thread that fetches makes a loop of its own
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    faust_worker = Worker(
        app,
        loglevel=settings.log_level,
        loop=loop,
        redirect_stdouts=False,
        quiet=True,
        logging_config=worker_logging(settings.log_format),
    )
    quiet_libraries(settings.log_level)
    try:
        faust_worker.execute_from_commandline()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        where.unlink(missing_ok=True)
    return 0
