"""A worker's producer: a request gives up long before a batch does."""

from tests.own_process import printed


def test_a_request_is_given_up_before_a_batch() -> None:
    code = (
        "import asyncio\n"
        "from app.blocks.faust.block_app import BlockApp\n"
        "app = BlockApp('a', broker='block://127.0.0.1:1', store='memory://', broker_request_timeout=20.0)\n"
        "async def made():\n"
        "    producer = app.producer._new_producer()\n"
        "    print(producer.client._request_timeout_ms, producer._message_accumulator._batch_ttl)\n"
        "asyncio.run(made())\n"
    )
    assert printed(code).split() == ["20000", "1200.0"]
