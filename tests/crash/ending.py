"""What is left of an ordeal: states that must equal the rebuilt ones, and the line of figures."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.ops.states import TABLES, differences, heads, labels, read_rows
from app.settings import Settings
from app.stages.parked import PREFIX
from app.stages.state import row_rules, terminal_rules
from tests.crash.schedule import KILLS, Act
from tests.crash.watch import Sample, Watch

_SHOWN = 10

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
) -> Iterator[str]:  # fmt: skip
    """The parts of the line of figures.

    Args:
        seed: of the ordeal.
        done: what was done.
        report: of `verify`.
        states: as compared.
        old, fresh: the worker that lived longest, and one that had just started, with all partitions each.
        watch: what all workers took.
    """
    yield (
        f"seed {seed}: {report['read']:,} records = {report['scored']:,} scored"
        f" + {report['late']:,} late + {report['conflicting']:,} conflicting"
        f" + {report['duplicate']:,} duplicate + {report['dead']:,} dead + {report['moved']:,} moved"
    )
    told = report["labels"]
    applied = told["forwarded"] - told["given_up"] - states.waiting
    yield (
        f"{told['read']:,} labels = {applied:,} applied + {states.waiting:,} waiting +"
        f" {told['dead']:,} dead ({told['given_up']:,} given up by their terminal)"
    )
    yield f"missing {report['missing']}, differing {report['differing']}, pending {report['pending']}"
    servers = ", ".join(
        f"{sum(n for act, n in done.items() if isinstance(act, tuple) and act[0] == server)} {server}"
        for server in ("kafka", "cassandra")
    )
    yield (
        f"{sum(done[act] for act in KILLS)} kills ({done[Act.WIPE]} wiped),"
        f" {done[Act.ADD] + done[Act.REMOVE]} moves, {done[Act.ZOMBIE]} zombies, outages: {servers},"
        f" {done[Act.DELAY]} delays, {done[Act.STALL]} stalls"
    )
    yield f"{report['repeated_outputs']:,} repeated outputs, all identical"
    yield (
        f"{states.keys:,} states with {states.marked:,} labelled transactions equal the rebuilt ones"
    )
    assert watch.highest is not None, "no worker was ever sampled"
    yield (
        f"longest-lived worker: {old} (a new one: {fresh}); most memory"
        f" {watch.highest[1].memory_mib:.0f} MiB, most tasks {watch.most_tasks} in {watch.samples:,} samples"
    )
