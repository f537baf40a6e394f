"""The Faust transport driver `block`: the aiokafka driver of faust-streaming 0.15.3 with our consumer and producer."""

from typing import Any

from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver

from app.blocks.faust.block_consumer import BlockConsumer
from app.blocks.faust.kafka_connections import drop_broken


class BlockProducer(driver.Producer):
    """The aiokafka producer with idempotence."""

    def _settings_extra(self) -> dict[str, Any]:
        # without idempotence a batch that is sent again looks like a foreign writer's
        return {**super()._settings_extra(), "acks": "all", "enable_idempotence": True}

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        producer = super()._new_producer(transactional_id)
        drop_broken(producer.client)
        # Faust's 20 minutes are how long a batch may wait for a leader. A request that gets no answer (its broker is
        # frozen or cut off) must not take as long: the partition has another leader after seconds.
        producer.client._request_timeout_ms = int(self.app.conf.broker_request_timeout * 1000)
        return producer


class Transport(driver.Transport):
    """The aiokafka transport with our consumer and producer."""

    Consumer = BlockConsumer
    Producer = BlockProducer


drivers.TRANSPORTS.aliases["block"] = f"{__name__}:Transport"
