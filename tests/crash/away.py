"""Cassandra is away for minutes at full load: nothing may be lost, nobody may grow or leave the group.

    python -m tests.crash.away --seconds 600 --rate 3000

It starts a Kafka and a Cassandra of its own and two workers, kills Cassandra, starts it again after the time that
was asked for, and waits until everything has its row; transactions arrive all the time. The last line has the
figures. It exits with 0 only if all of that went well (see `tests/cassandra_outage.py`).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from app.devstack.stack import Stack
from app.settings import Settings
from tests.cassandra_outage import go_away
from tests.crash.run import end_when_told, remove
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.worker_settings import environ_of


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash.away",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=3_000.0, help="transactions per second")
    arguments = parser.parse_args()
    end_when_told()
    home = Path(tempfile.mkdtemp(prefix="fraudstream-away-"))
    stack = Stack(home, quick=True, durable=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    clean = False
    try:
        endpoints = stack.up(free_ports=True)
        assert endpoints is not None
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            home=home,
            broker=endpoints.broker,
            cassandra=",".join(f"{host}:{port}" for host, port in endpoints.cassandra),
            web_port=0,
        )
        deployment = Deployment(settings)
        deployment.prepare()
        with Fleet(environ_of(settings), home / "fleet") as fleet:
            fleet.start("a", "b")
            fleet.await_ready()
            try:
                away = go_away(
                    stack, deployment, fleet,
                    seconds=arguments.seconds, rate=arguments.rate, say=say,
                )  # fmt: skip
                print(away)
                clean = True
            except AssertionError as error:
                say(f"failed: {error}")
                print(f"NOT CLEAN: logs and states are in {home}", file=sys.stderr)
    finally:
        if clean:
            stack.wipe()
            remove(home)
        else:
            stack.down()
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
