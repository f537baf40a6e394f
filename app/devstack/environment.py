"""The environment variables that a local server gets."""

import os

#: What a server gets of our environment. The rest is none of its business: passwords, tokens, settings.
_INHERITED = ("HOME", "JAVA_HOME", "JAVA_TOOL_OPTIONS", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


def environment() -> dict[str, str]:
    """Environment of a server: what Java needs of this process's, with file names in UTF-8 whatever the locale."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8"}
