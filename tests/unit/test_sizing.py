"""docs/sizing.md has the table that its script computes, and the script's arithmetic is right."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.figures.sizing import GROUP_BYTES, RATES, Inputs, group, size, table

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"


def test_the_page_has_the_table_of_the_script() -> None:
    made = "\n".join(table(RATES, Inputs()))
    assert made in PAGE.read_text(), f"put this into {PAGE.name}:\n{made}"


def test_the_page_states_the_inputs_of_the_script() -> None:
    text = PAGE.read_text()
    given = Inputs()
    for cell in (
        f"worker {given.worker_us:g} us, Kafka {given.kafka_us:g} us, Cassandra {given.cassandra_us:g} us",
        f"| **sent to Kafka** | **{given.sent:,.0f}** | **{given.stored:,.0f}** |",
        f"(without changelogs) | 2,534 | {given.kept:g} |",
        f"about {given.state:g} bytes per transaction",
    ):
        assert cell in text, cell


def test_a_load_that_can_be_computed_by_hand() -> None:
    given = Inputs(
        worker_us=100, kafka_us=10, cassandra_us=100, sent=3_000, stored=1_000, kept=500, read=300,
        row_sent=1_000, row_kept=500, state=100, kafka_days=10, cassandra_days=100, state_days=10,
        broker_cores=4, broker_tb=10, broker_mb=100, node_cores=8, node_tb=4, core=10, disk=0.1, traffic=0.01,
    )  # fmt: skip
    found = size(20_000, given)
    assert given.worker_rate == 5_000
    assert (found.deployments, found.workers, found.spare, found.partitions) == (1, 4, 1, 8)
    assert found.state_tb == pytest.approx(20_000 * 100 * 10 * 86_400 * 2 / 1e12)
    assert found.kafka_tb == pytest.approx((500 + 100) * 20_000 * 10 * 86_400 * 3 / 1e12)
    assert found.cassandra_tb == pytest.approx(500 * 20_000 * 100 * 86_400 * 3 / 1e12)
    assert (found.kafka_cores, found.cassandra_cores) == (0.6, 6)
    assert found.brokers == 5, "31 TB on disks of 10 TB that are 70 % full"
    assert found.nodes == 130, "259 TB on disks of 4 TB that are half full"
    assert (found.into_kafka, found.replication, found.out_of_kafka) == (60, 40, 6)
    assert (found.into_cassandra, found.between_nodes) == (20, 40)
    assert found.across_zones == pytest.approx((60 + 20) * 2 / 3 + 40 + 40)
    assert found.money["cores"] == (5 + 5 * 4 + 130 * 8) * 10
    assert found.money["disks"] == pytest.approx((5 * 10 + 130 * 4 + found.state_tb) * 1_000 * 0.1)
    assert found.money["traffic between zones"] == pytest.approx(
        133.333 * 2_592_000 / 1_000 * 0.01, rel=1e-4
    )


def test_what_limits_a_load_decides_the_number_of_machines() -> None:
    busy = replace(Inputs(), kafka_days=1, cassandra_days=1, state_days=1)
    assert size(100_000, replace(busy, cassandra_us=400)).nodes == 15, "120 busy cores of 16, half"
    assert size(100_000, busy).brokers == 3
    assert size(100_000, replace(busy, broker_mb=10)).brokers == 60, "590 MB/s"
    assert size(10, Inputs()).nodes == 3, "one per replica"
    assert size(250_000, Inputs()).deployments == 3


def test_a_group_of_many_workers_fits_into_the_record_that_kafka_keeps_of_it() -> None:
    """With Faust's own metadata it takes 2 MB."""
    *_, kept = group(256, 64, 0)
    assert kept < GROUP_BYTES / 3
