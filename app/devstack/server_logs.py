"""The log files of servers: kept small, and read back when a server dies."""

import re
from pathlib import Path

from app.machine_requirements import MIB

_KEEP_BYTES = 10 * MIB
_TELLING = re.compile(r"ERROR|FATAL|Exception|Caused by|Error:|Could not|No space left|in use")
_LINES = 8


def rotate(log: Path) -> int:
    """Make room before a start: a long log becomes NAME.1, in place of the one before.

    Returns:
        Bytes in the log now: what this start writes comes after them.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _KEEP_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    return log.stat().st_size if log.exists() else 0


def since(log: Path, offset: int) -> str:
    """What was written behind an offset, its last MiB at most."""
    with log.open("rb") as file:
        file.seek(max(offset, log.stat().st_size - MIB))
        return file.read().decode(errors="replace")


def telling_lines(text: str) -> str:
    """The few lines of a log that tell why a server ended, indented, without stack frames."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    frames = re.compile(r"\s+at |\s+\.\.\. \d+ more")
    lines = [line for line in lines if not frames.match(line)]
    chosen = [line for line in lines if _TELLING.search(line)] or lines
    return "\n".join("  " + line[:300] for line in chosen[-_LINES:]) or "  (it is empty)"
