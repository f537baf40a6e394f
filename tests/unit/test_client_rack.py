"""The rack of the settings reaches the consumer of a worker."""

from tests.own_process import printed


def test_a_worker_says_where_it_is() -> None:
    code = (
        "import asyncio\n"
        "from types import SimpleNamespace\n"
        "from app.blocks.faust.block_app import BlockApp\n"
        "from app.blocks.faust.fetch_thread import BlockConsumerThread\n"
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
    assert printed(code).split() == ["None", "zone-b"]
