"""What is left of a crash test: states that must equal the rebuilt ones, and the figures."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.ops.state_comparison import TABLES, differences, heads, labels, read_rows
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.parked_labels import PREFIX
from tests.crash.schedule import KILLS, Act
from tests.crash.watch import Sample, Watch

_SHOWN = 10
#: Of the column with the names of figures.
_NAME_WIDTH = 20

#: What was done, and how often: acts, or a server and what was done to it.
Done = Counter[Act | tuple[str, Act]]


@dataclass
class States:
    """Compared states.

    Attributes:
        keys: cards and terminals.
        marked: transactions with a label.
        waiting: labels that wait for their transaction.
        different: what differs, a line each.
    """

    keys: int = 0
    marked: int = 0
    waiting: int = 0
    different: list[str] = field(default_factory=list)

    def said(self) -> str:
        """What differs, for people."""
        shown = "\n  ".join(self.different[:_SHOWN])
        return f"{len(self.different)} of {self.keys:,} states differ from the rebuilt ones:\n  {shown}"


def compare_states(
    settings: Settings, live: Mapping[int, tuple[str, Path]], rebuilt: Path
) -> States:
    """The rows of workers against those that a new one has rebuilt; all of them stopped.

    Args:
        settings: the deployment.
        live: by partition, the worker that had it and its state folder.
        rebuilt: state folder of the new one.
    """
    states = States()
    rules = dict(zip(TABLES, (row_rules(settings), terminal_rules(settings)), strict=True))
    for table in TABLES:
        for partition, (name, datadir) in sorted(live.items()):
            rows = read_rows(datadir, table, partition)
            fresh = read_rows(rebuilt, table, partition)
            where = f"{table}/{partition} of {name}"
            states.different += map(str, differences(where, rows, fresh, rules[table]))
            states.keys += heads(rows)
            marked, waiting = labels(rows, rules[table])
            states.marked += marked
            states.waiting += waiting
    for partition, (name, datadir) in sorted(live.items()):
        rows, fresh = (
            {
                key: raw
                for key, raw in read_rows(folder, "labels", partition).items()
                if key.startswith(PREFIX)
            }
            for folder in (datadir, rebuilt)
        )
        if rows != fresh:
            where = f"labels/{partition} of {name}"
            states.different.append(f"{where}: {len(rows)} labels are parked, {len(fresh)} rebuilt")
    return states


def figures(
    seed: int, done: Done, report: dict[str, Any], states: States, old: Sample, fresh: Sample,
    watch: Watch,
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """The figures of a crash test: name and value.

    Args:
        seed: of the crash test.
        done: what was done.
        report: of `verify`.
        states: as compared.
        old, fresh: the worker that lived longest, and one that had just started, with all partitions each.
        watch: what all workers took.
    """
    yield "seed", str(seed)
    outcomes = ("scored", "late", "conflicting", "duplicate", "dead", "moved")
    yield "records", f"{report['read']:,} = {_sum(report, outcomes)}"
    told = report["labels"]
    waiting = states.waiting + told["waiting"]  # at their terminal, or parked
    # `verify` found every label: what is neither dead nor waits was applied
    applied = told["read"] - told["dead"] - waiting
    yield (
        "labels",
        f"{told['read']:,} = {applied:,} applied + {waiting:,} waiting + {told['dead']:,} dead",
    )
    yield "labels expired", f"{told['expired']:,} at their terminal (among the dead)"
    for name in ("missing", "differing", "pending"):
        yield name, str(report[name])
    yield "repeated outputs", f"{report['repeated_outputs']:,}, all identical"
    yield "rebuilt states", f"{states.keys:,}, all equal"
    yield "labels in states", f"{states.marked:,}"
    yield "kills", f"{sum(done[act] for act in KILLS)}, {done[Act.WIPE]} with a wiped state folder"
    yield "joins and leaves", str(done[Act.ADD] + done[Act.REMOVE])
    yield "zombies", str(done[Act.ZOMBIE])
    for server in ("Kafka", "Cassandra"):
        name = server.lower()
        outages = sum(n for act, n in done.items() if isinstance(act, tuple) and act[0] == name)
        yield f"{server} outages", str(outages)
    yield "delays", str(done[Act.DELAY])
    yield "stalls", str(done[Act.STALL])
    assert watch.highest is not None, "no worker was ever sampled"
    yield "longest-lived", str(old)
    yield "new worker", str(fresh)
    yield "most memory", f"{watch.highest[1].memory_mib:.0f} MiB in {watch.samples:,} samples"
    yield "most tasks", str(watch.most_tasks)


def lines(named: Iterable[tuple[str, str]]) -> str:
    """Figures for people, one per line."""
    return "\n".join(f"{name:<{_NAME_WIDTH}}{value}" for name, value in named)


def _sum(report: Mapping[str, int], names: Sequence[str]) -> str:
    return " + ".join(f"{report[name]:,} {name}" for name in names)
