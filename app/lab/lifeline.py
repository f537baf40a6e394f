"""Runs a `fraudstream` command for as long as its parent lives: standard input is the lifeline.

A parent that is killed cannot stop its children. The kernel closes its end of the pipe all the same: then
the command is asked to end, as a supervisor would ask, and ended if it does not.
"""

import os
import runpy
import signal
import sys
import threading
import time

#: What a worker is given to finish its blocks once its parent is gone, seconds.
GRACE_SECONDS = 15.0


def main() -> None:
    """Run the command that the arguments name, in this process."""
    threading.Thread(target=_follow, name="lifeline", daemon=True).start()
    sys.argv[0] = "fraudstream"
    runpy.run_module("app", run_name="__main__")


def _follow() -> None:
    while os.read(0, 1024):  # nobody writes: it returns nothing when the other end is closed
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
