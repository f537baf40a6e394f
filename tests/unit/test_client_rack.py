"""The rack of the settings reaches the consumer of a worker."""

import subprocess
import sys


def test_a_worker_says_where_it_is() -> None:
    # a process of its own: Faust registers its app for good
    code = (
        "import asyncio\n"
        "from types import SimpleNamespace\n"
        "from app.blocks.faust.app import BlockApp\n"
        "from app.blocks.faust.transport import BlockConsumerThread\n"
        "app = BlockApp('a', broker='block://127.0.0.1:1', store='memory://')\n"
        "async def rack(name):\n"
        "    app.client_rack = name\n"
        "    thread = object.__new__(BlockConsumerThread)\n"
        "    thread.app, thread.consumer = app, SimpleNamespace(app=app, in_transaction=False)\n"
        "    consumer = thread._create_worker_consumer(app.transport)\n"
        "    print(consumer._client_rack)\n"
        "for name in (None, 'zone-b'):\n"
        "    asyncio.run(rack(name))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["None", "zone-b"], done.stderr
