"""The notifier's own /metrics, for Prometheus."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.errors import UnavailableError
from app.metrics.metric_series import counter, gauge
from app.notify.route_reader import RouteReader


class NotifierMetrics(Collector):
    """Metrics by route.

    Args:
        readers: by the name of their route.
    """

    def __init__(self, readers: Mapping[str, RouteReader]) -> None:
        self._readers = readers
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def text(self) -> bytes:
        """The exposition now."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        routes = self._readers.items()
        yield counter(
            "fraudstream_notify_messages{route}",
            "Messages that the receiver has accepted since this process started.",
            {name: reader.delivery.messages for name, reader in routes},
        )
        yield counter(
            "fraudstream_notify_alerts{route}",
            "Alerts in these messages.",
            {name: reader.delivery.alerts for name, reader in routes},
        )
        yield gauge(
            "fraudstream_notify_parked{route}",
            "Alerts that the receiver does not accept; they are sent again when the notifier starts, for two days.",
            {name: reader.parked for name, reader in routes},
        )
        yield gauge(
            "fraudstream_notify_waiting_seconds{route}",
            "How long the oldest alert has waited to be sent; 0 if there is none.",
            {name: reader.waiting_seconds for name, reader in routes},
        )
        yield gauge(
            "fraudstream_notify_stopped{route}",
            "1 if nothing is sent any more, because the receiver refuses every message until somebody acts.",
            {name: int(reader.delivery.stopped is not None) for name, reader in routes},
        )


@asynccontextmanager
async def serving(metrics: NotifierMetrics, host: str, port: int) -> AsyncIterator[None]:
    """Answer GET /metrics.

    Raises:
        UnavailableError: the port cannot be used.
    """

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            msg = (
                f"cannot listen on {host}:{port} ({error.strerror}): choose another --metrics-port"
            )
            raise UnavailableError(msg) from error
        yield
    finally:
        await runner.cleanup()
