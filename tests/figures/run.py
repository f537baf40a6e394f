"""Figures of pages, notifications, the review queue, models and rules: minutes each, on servers of their own.

    python -m tests.figures.run                          # all
    python -m tests.figures.run --only queue,dashboard   # some
    python -m tests.figures.run --quick                  # a tenth of everything: to see that it works

Prints one line per figure. Leave the machine alone meanwhile: the load of others is in what it prints.
"""

import argparse
import os
import sys
import time

from tests.figures import challengers, changing, dashboard, lists, notifying, queue, trial
from tests.figures.servers import own_servers

FIGURES = {
    "queue": queue.measure,
    "notify": notifying.measure,
    "dashboard": dashboard.measure,
    "lists": lists.measure,
    "changing": changing.measure,
    "challengers": challengers.measure,
    "trial": trial.measure,
}


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.figures.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(FIGURES), help="which, comma-separated")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := [name for name in wanted if name not in FIGURES]:
        parser.error(f"--only {unknown[0]}: there are {', '.join(FIGURES)}")
    with own_servers("figures") as servers:
        for name in wanted:
            began = time.monotonic()
            for line in FIGURES[name](servers, 0.1 if arguments.quick else 1.0):
                print(line, flush=True)
            spent = time.monotonic() - began
            print(f"  ({name}: {spent:.0f} s; load average {os.getloadavg()[0]:.1f})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
