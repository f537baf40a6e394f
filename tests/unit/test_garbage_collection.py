"""The calmed garbage collector, in a process of its own."""

from tests.own_process import printed

CODE = """
import gc
from app.blocks.faust.garbage_collection import calm_collector
kept = [[] for _ in range(1_000)]
calm_collector()
assert gc.get_freeze_count() > 1_000
before = gc.get_stats()[0]["collections"]
block = [[] for _ in range(20_000)]
del block
assert gc.get_stats()[0]["collections"] == before
for _ in range(200_000):
    cycle = []
    cycle.append(cycle)
assert gc.get_stats()[0]["collections"] > before
assert len(gc.get_objects()) < 120_000
"""


def test_blocks_cause_no_search_and_cycles_still_go() -> None:
    printed(CODE)  # which ends with 0
