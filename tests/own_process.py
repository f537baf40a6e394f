"""Code in a Python process of its own: Faust registers its app for good, and the collector is the process's.

And how any process of a test is ended.
"""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
#: After which a process that was asked to stop is killed.
_STOP_SECONDS = 30


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process: by SIGTERM, or by SIGKILL if it does not."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def printed(code: str, **environment: str) -> str:
    """What it prints on standard output; it must end with 0. No setting of ours is in its environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FRAUDSTREAM_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
