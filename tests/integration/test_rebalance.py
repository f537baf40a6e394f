"""Workers come and go under load: partitions move, and every figure stays right."""

from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import orjson
import pytest

from app.settings import Settings
from tests.builders import tx_bytes
from tests.crash.feed import Feed
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet, prompt_seconds
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

QUIET = [f"quiet-{number}" for number in range(12)]
EACH = 5


def card(fleet: Fleet, worker: str, name: str) -> tuple[bytes, str]:
    """A card's state as one worker shows it, and who answered; empty while nobody can."""
    try:
        with fleet[worker].ask(f"/cards/{name}.json") as answer:
            return answer.read(), answer.headers["X-Fraudstream-Served-By"]
    except HTTPError as error:
        with error:
            assert error.code == 503, (name, error.code, error.read())
            return b"", ""


def held(fleet: Fleet, worker: str) -> dict[str, list[int]]:
    """Partitions by worker, as one of them says."""
    with fleet[worker].ask("/index.json") as answer:
        overview: dict[str, Any] = orjson.loads(answer.read())
    return {url: partitions for url, partitions in overview["workers"].items() if partitions}


def test_a_killed_worker_is_replaced_under_load(settings: Settings, tmp_path: Path) -> None:
    # some labels of the feed fit nothing: each keeps its partition waiting for so long, and the others in step
    settings = settings.model_copy(update={"session_timeout": 6_000, "label_wait": 2_000})
    deployment = Deployment(settings)
    deployment.prepare()
    feed = Feed(settings, seed=11, events=6_000, say=lambda *_: None)
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a", "b")
        fleet.await_ready()
        urls = {fleet[name].url for name in "ab"}
        wait_until(lambda: held(fleet, "a").keys() == urls, "both to have partitions")
        deployment.send(
            Send(tx_bytes(f"{name}-{number}", card=name, at=number * 60_000), name.encode())
            for number in range(EACH)
            for name in QUIET
        )
        deployment.drain()

        # either worker answers for every card, with the same bytes
        shown = {name: card(fleet, "b", name) for name in QUIET}
        assert {served_by for _, served_by in shown.values()} == urls
        before = {name: state for name, (state, _) in shown.items()}
        assert {name: card(fleet, "a", name)[0] for name in QUIET} == before
        assert all(orjson.loads(state)["entries"] == EACH for state in before.values())

        # one is killed: until the other has taken over there is no answer, never a wrong one
        feed.rate = 400
        feed.start()
        wait_until(lambda: feed.sent > 800, "load")
        fleet.kill("a")
        feed.rate = 50  # until the next blow, however long this machine takes
        waiting = set(QUIET)

        def taken_over() -> bool:
            for name in sorted(waiting):
                state, _ = card(fleet, "b", name)
                assert state in (b"", before[name])
                if state:
                    waiting.discard(name)
            return not waiting

        wait_until(taken_over, "the other worker to take over")
        assert held(fleet, "b") == {fleet["b"].url: list(range(settings.partitions))}

        # it comes back, and leaves again in order
        fleet.start("a")
        wait_until(lambda: held(fleet, "b").keys() == urls, "partitions to move back")
        fleet.await_ready("a")
        before_it, feed.rate = feed.sent, 400
        wait_until(lambda: feed.sent > before_it + 400, "load")
        assert fleet.terminate("a") < prompt_seconds()
        assert fleet["a"].exit_code() == 0

        feed.rate = 1e6
        feed.join()
        assert feed.error is None
        report = deployment.verify()
    # what the killed worker had sent on without acknowledging it is sent on once more: a duplicate
    repeated = report["read"] - (feed.total + EACH * len(QUIET) + report["moved"])
    assert 0 <= repeated <= report["moved"]
    assert report["moved"] > 0
    assert report["duplicate"] > 0
