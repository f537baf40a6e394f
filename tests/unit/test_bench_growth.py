"""What longer histories and more windows cost is measured on the real rows; its tables are readable."""

from pathlib import Path

from app.lab.bench.filled_state import row_with_past
from app.lab.bench.growth import HISTORIES, WINDOW_COUNTS, by_history, by_windows
from app.lab.bench.scale import PARTS, _stored_rows, scale_text
from app.lab.bench.stage_store import write_store
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.ops.temporary_stores import open_store
from app.settings import Settings
from app.stages.block_rows import row_rules
from app.windows.window_row import WindowRow

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


def test_a_row_of_so_many_entries_is_one_that_is_read_back() -> None:
    rules = row_rules(SETTINGS)
    stored = dict(row_with_past(rules, b"C1", 1_000, 1_790_000_000_000).encode())
    again = WindowRow.read(b"C1", rules, stored.get)
    assert again.count == 1_000
    assert again.newest_ms < 1_790_000_000_000
    assert again.last_offset == -1, (
        "or the first transaction of a partition would be taken for a replay"
    )


def test_a_past_is_of_the_cards_and_terminals_that_pay() -> None:
    drawn = simulate(SimulationConfig(cards=50, terminals=20, count=1_000, seed=3), now_ms=10**12)
    assert set(drawn.card_id.tolist()) <= set(drawn.names.cards(50))
    assert set(drawn.terminal_id.tolist()) <= {"", *drawn.names.terminals(20)}


def test_longer_histories_write_no_more_than_their_last_part() -> None:
    lines = list(by_history(SETTINGS))
    assert [line["entries a card"] for line in lines] == list(HISTORIES)
    assert all(line["us per event"] > 0 for line in lines)
    written = [line["bytes written per event"] for line in lines]
    assert written[0] < written[1] < 100 * 24 * 1.2
    assert written[-1] < 10_000 * 24 / 10  # a heavy key is kept in segments


def test_more_windows_write_no_more() -> None:
    lines = list(by_windows(SETTINGS))
    assert [line["windows"] for line in lines] == list(WINDOW_COUNTS)
    assert len({line["bytes written per event"] for line in lines}) == 1


def test_the_table_is_aligned() -> None:
    text = scale_text([{"cards": 5, "events/s": 12_000}, {"cards": 1_000_000, "events/s": 900}])
    assert text.splitlines() == [
        "    cards  events/s",
        "        5    12,000",
        "1,000,000       900",
    ]


def test_every_part_can_be_asked_for() -> None:
    from app.cli.bench import bench

    (scale,) = [option for option in bench.params if option.name == "scale"]
    assert sorted(scale.type.choices) == sorted(PARTS)  # type: ignore[attr-defined]


def test_rows_of_a_rebuild_are_counted_in_the_stores(tmp_path: Path) -> None:
    for partition in range(2):
        folder = tmp_path / "v1" / f"cards-{partition}.db"
        folder.parent.mkdir(exist_ok=True)
        with open_store(folder) as database:
            groups = [[(b"hC%d" % number, b"x" * 8)] for number in range(10 + partition)]
            write_store(database, [[*groups, [(b"\0position", b"x" * 8)]]], 1 << 20)
    assert _stored_rows(tmp_path) == 21
