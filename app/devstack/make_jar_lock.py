"""Maintainers: resolve both servers and write jars.lock anew.

```text
python -m app.devstack.make_jar_lock
```

To move to another release, change `ROOTS`, run this, and run the integration tests.
"""

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.devstack.jar_downloads import maven, repository
from app.file_writing import write_whole

ROOTS = {
    "kafka": (
        "org.apache.kafka:kafka_2.13:4.1.2",
        # kafka_2.13 depends on no binding for slf4j: without one the broker logs nothing.
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
    ),
    "cassandra": ("org.apache.cassandra:cassandra-all:5.0.9",),
}
#: jgo takes a failed download of a parent for "no dependencies" and says nothing.
_FEWEST_JARS = 40
_HEADER = """\
# Every jar of the local servers: server, group:artifact:version[:classifier], bytes, sha256.
# Written by `python -m app.devstack.make_jar_lock`: do not edit.
"""


def main() -> None:
    """Write the lock beside this module."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [line for server in ROOTS for line in resolve(server, Path(folder))]
    write_whole(Path(__file__).with_name("jars.lock"), _HEADER + "\n".join(lines) + "\n")
    sys.stdout.write(f"jars.lock: {len(lines)} lines\n")


def resolve(server: str, folder: Path) -> list[str]:
    """Lines of the lock for one server, sorted.

    Raises:
        SystemExit: so few jars were found that a download must have failed unnoticed.
    """
    context = maven(folder, repository())
    roots = [_root(context, coordinate) for coordinate in ROOTS[server]]
    resolved, transitive = context.resolver.resolve(roots)
    needed = [*resolved, *(d for d in transitive if d.scope in {"compile", "runtime"})]
    lines = sorted({_line(server, dependency) for dependency in needed})
    if len(lines) < _FEWEST_JARS:
        sys.exit(f"{server}: only {len(lines)} jars: a download failed unnoticed; lock not written")
    return lines


def _root(context: Any, coordinate: str) -> Any:
    dependency = context.create_dependency(coordinate)
    dependency.scope = "compile"
    # Otherwise jgo imports each root as a bill of materials, which changes versions of others.
    dependency.raw = True
    return dependency


def _line(server: str, dependency: Any) -> str:
    data = dependency.artifact.resolve().read_bytes()
    parts = dependency.groupId, dependency.artifactId, dependency.version, dependency.classifier
    coordinate = ":".join(part for part in parts if part)
    return "\t".join([server, coordinate, str(len(data)), hashlib.sha256(data).hexdigest()])


if __name__ == "__main__":
    main()
