"""All routes in one process, until a signal."""

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.cassandra.session import close_shared_sessions
from app.errors import SettingsError, UnavailableError
from app.kafka.clients import client_kwargs, started
from app.kafka.topic_admin import check_topics
from app.notify.message_text import test_message
from app.notify.metrics import NotifierMetrics, serving
from app.notify.notification_log import Told
from app.notify.reopened_alerts import HandledCheck
from app.notify.route_reader import RouteReader
from app.notify.senders import sender_of
from app.notify.snooze_check import SnoozeCheck
from app.notify_routes import Route
from app.settings import Settings
from app.topics import Topics

logger = logging.getLogger("fraudstream")

#: Longer than any outage of a receiver: while one is away nothing is read, and that is no reason to leave the group.
_MAX_POLL_MS = 7 * 86_400_000
_HEARTBEAT_SECONDS = 5.0
_NO_ROUTES = (
    "FRAUDSTREAM_NOTIFY_ROUTES is empty: write NAME=SEVERITY:URL, such as "
    "ops=high:https://alerts.example.org/hook; docs/alerts.md has more"
)


def routes_of(settings: Settings) -> tuple[Route, ...]:
    """The deployment's routes.

    Raises:
        SettingsError: there are none.
    """
    if not settings.routes:
        raise SettingsError(_NO_ROUTES)
    return settings.routes


async def notify(
    settings: Settings, heartbeat: Path | None = None, metrics_port: int | None = None
) -> None:
    """Tell all routes of alerts until SIGTERM or SIGINT; without a route only wait for that.

    Programs that run several processes end all of them when one ends: a deployment without routes must not end here.

    Args:
        settings: the deployment.
        heartbeat: a file whose time shows that the event loop runs; made once Kafka has answered.
        metrics_port: port of `/metrics`, on the address of `FRAUDSTREAM_WEB_HOST`; None: there is none.

    Raises:
        SettingsError: a route cannot be used, or the heartbeat cannot be written.
        SchemaError: a topic is missing.
        UnavailableError: Kafka does not answer at the start, or the port cannot be used.
    """
    routes, topics = settings.routes, Topics(settings)
    if not routes:
        logger.warning("nobody is notified of alerts: %s", _NO_ROUTES)
        ended = _end_wanted()
        async with AsyncExitStack() as stack:
            await _serve(stack, settings, metrics_port, {})
            await _until(ended, _beats(heartbeat))
        return
    senders = {route.name: sender_of(route, settings) for route in routes}
    await check_topics(settings, [topics.alerts, topics.notifications])
    ended = _end_wanted()
    kwargs = client_kwargs(settings)
    snoozed = SnoozeCheck(settings, time.monotonic, lambda: time.time_ns() // 1_000_000)
    handled = HandledCheck(settings, time.monotonic)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, close_shared_sessions)
        producer = await stack.enter_async_context(
            started(AIOKafkaProducer(**kwargs, acks="all", enable_idempotence=True), settings)
        )
        tasks, readers = [], dict[str, RouteReader]()
        for route in routes:
            consumer = AIOKafkaConsumer(
                **kwargs,
                group_id=f"{settings.deployment}-notify-{route.name}",
                enable_auto_commit=False,
                auto_offset_reset="earliest",  # of a committed offset that retention took
                isolation_level=settings.isolation_level,
                client_rack=settings.kafka_rack,
                max_poll_interval_ms=_MAX_POLL_MS,
                session_timeout_ms=settings.session_timeout,
                heartbeat_interval_ms=max(100, settings.session_timeout // 4),
            )
            sender = senders[route.name]
            stack.push_async_callback(sender.close)
            reader = RouteReader(
                route,
                settings,
                consumer,
                Told(settings, route.name, producer),
                sender,
                snoozed,
                handled,
            )
            readers[route.name] = reader
            await stack.enter_async_context(started(consumer, settings))
            consumer.subscribe([topics.alerts.name], listener=reader)
            tasks.append(asyncio.create_task(reader.run(), name=route.name))
        await _serve(stack, settings, metrics_port, readers)
        logger.info(
            "ready: notifies %s",
            ", ".join(f"{one.name} (severity {one.severity} and above)" for one in routes),
        )
        await _until(ended, [*tasks, *_beats(heartbeat)])


async def _serve(
    stack: AsyncExitStack, settings: Settings, port: int | None, readers: dict[str, RouteReader]
) -> None:
    if port is not None:
        metrics = NotifierMetrics(readers)
        await stack.enter_async_context(serving(metrics, settings.web_host, port))


def _beats(file: Path | None) -> list["asyncio.Task[None]"]:
    return [] if file is None else [asyncio.create_task(_beat(file), name="heartbeat")]


async def _beat(file: Path) -> None:
    while True:
        try:
            await asyncio.to_thread(file.touch)
        except OSError as error:
            msg = f"the heartbeat {file} cannot be written: {error.strerror}"
            raise SettingsError(msg) from error
        await asyncio.sleep(_HEARTBEAT_SECONDS)


def _end_wanted() -> asyncio.Event:
    """Set by SIGTERM and SIGINT from now on."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return ended


async def _until(ended: asyncio.Event, tasks: Sequence["asyncio.Task[None]"]) -> None:
    waiting = asyncio.create_task(ended.wait())
    done, others = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()  # a route that failed for a reason that nobody foresaw ends the process


async def test_routes(settings: Settings, names: Sequence[str]) -> dict[str, str | None]:
    """Send a test message to routes; what went wrong by name, None where nothing did.

    Args:
        settings: the deployment.
        names: of the routes; all if empty.

    Raises:
        SettingsError: a name is unknown, or a route cannot be used.
    """
    routes = routes_of(settings)
    known = [route.name for route in routes]
    if unknown := [name for name in names if name not in known]:
        msg = f"there is no route {unknown[0]}: FRAUDSTREAM_NOTIFY_ROUTES names {', '.join(known)}"
        raise SettingsError(msg)
    senders = {
        route: sender_of(route, settings) for route in routes if not names or route.name in names
    }
    found: dict[str, str | None] = {}
    for route, sender in senders.items():
        try:
            await sender.send(test_message(route.name))
            found[route.name] = None
        except UnavailableError as error:
            found[route.name] = str(error)
        finally:
            await sender.close()
    return found
