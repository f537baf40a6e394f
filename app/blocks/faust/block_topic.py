"""A topic that is read in blocks: an event's value is the list of records of one fetch."""

from typing import Any

from faust.events import Event
from faust.topics import Topic


class BlockTopic(Topic):
    """As `faust.Topic`, but `decode` hands the fetched records on untouched."""

    def __init__(self, app: Any, *, topics: list[str], **kwargs: Any) -> None:
        kwargs = {
            "key_type": bytes,
            "value_type": bytes,
            "key_serializer": "raw",
            "value_serializer": "raw",
            **kwargs,
        }
        super().__init__(app, topics=topics, **kwargs)
        app.block_topics.update(topics)
        if self.acks:
            app.block_sources.update(topics)

    def _compile_decode(self) -> None:
        app = self.app

        async def decode(message: Any, *, propagate: bool = False) -> Event:
            return Event(app, None, message.value, (), message)

        self.decode = decode
