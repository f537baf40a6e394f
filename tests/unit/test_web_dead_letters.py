"""`/dead-letters/`: what is shown of refused records, filters, and what cannot be asked for."""

from collections import Counter
from typing import Any

import pytest

from app.kafka.dead_letter_list import DeadLetter
from app.kafka.recent_dead_letters import DeadLetterQuery, RecentDeadLetters
from app.web.dead_letters_page import MEANINGS
from tests.builders import T0
from tests.web_worker import DictWorker, client_of


def letter(**fields: Any) -> DeadLetter:
    known: dict[str, Any] = {
        "source": "transactions/2/17", "reason": "invalid_json", "message": "cut <off>", "key": b"c1",
        "value": b'{"card_id": "<b>', "timestamp_ms": T0, "position": (2, 5), **fields,
    }  # fmt: skip
    return DeadLetter(**known)


async def test_refused_records_are_shown_with_counts_and_the_way_back() -> None:
    worker = DictWorker()
    worker.letters = RecentDeadLetters(
        [letter(), letter(source="transactions/0/1", value=b"\xff" * 3_000, key=None)],
        Counter({"invalid_json": 2, "odd<code>": 1}),
        read=3,
        complete=False,
    )
    async with client_of(worker) as client:
        page = await (await client.get("/dead-letters/?from=2023-11-14")).text()
        told = await (await client.get("/dead-letters.json")).json()
        home = await (await client.get("/")).text()
    for shown in (
        "cut &lt;off&gt;", "{&#34;card_id&#34;: &#34;&lt;b&gt;", "transactions/2/17", "2023-11-14 22:13:20",
        "fraudstream deadletters redrive transactions/2/17", "Only the newest 3", "odd&lt;code&gt;", "3,000 bytes",
        "unknown to this release", 'href="/dead-letters/?reason=invalid_json&amp;from=2023-11-14&amp;to="',
        "the value is not JSON",
    ):  # fmt: skip
        assert shown in page, shown
    assert 'href="/dead-letters/"' in home
    assert (told["counts"], told["read"], told["complete"]) == (
        {"invalid_json": 2, "odd<code>": 1}, 3, False,
    )  # fmt: skip
    first, cut = told["dead_letters"]
    assert (first["value"], first["value_bytes"]) == ('{"card_id": "<b>', 16)
    assert (len(cut["value"]), cut["value_bytes"], cut["key"]) == (4 * 2_000, 3_000, None)


async def test_filters_reach_the_reader_and_mistakes_are_one_line() -> None:
    worker = DictWorker()
    async with client_of(worker) as client:
        path = "/dead-letters/?reason=moved&from=2023-11-14&to=2023-11-15T06:00&limit=7"
        assert "No dead-letter records match" in await (await client.get(path)).text()
        assert worker.wanted_letters == DeadLetterQuery(
            "moved", 1_699_920_000_000, 1_700_028_000_000, 7
        )
        await client.get("/dead-letters/")
        assert worker.wanted_letters == DeadLetterQuery()
        for bad in ("reson=moved", "from=yesterday", "limit=0", "limit=5000"):
            assert (await client.get(f"/dead-letters.json?{bad}")).status == 400, bad


@pytest.mark.parametrize("code", ["negative_amount", "unknown_transaction", "lost_to_retention"])
def test_reasons_of_every_topic_have_a_meaning(code: str) -> None:
    assert code in MEANINGS
