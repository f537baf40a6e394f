"""What a bench found: one table for people, one object for scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from app.lab.bench.backlog import Throughput
from app.lab.bench.cpu_use import Elsewhere
from app.lab.bench.latency import LatencyRun

OURS, NAIVE = "fraudstream", "naive Faust"
_SERVERS = ("worker", "kafka", "cassandra")
_QUANTILES = ("p50", "p99", "p99.9")


@dataclass
class System:
    """One row of the table: ours, or a design that it is compared with.

    Attributes:
        name: of the design.
        work: what it does, and what it does less than fraudstream; empty for ours.
        runs: over a backlog.
        latency: under open-loop loads.
        skipped: why there is no figure, None when there is.
    """

    name: str
    work: str = ""
    runs: list[Throughput] = field(default_factory=list)
    latency: list[LatencyRun] = field(default_factory=list)
    skipped: str | None = None

    @property
    def rate(self) -> float | None:
        """Median events a second, None without runs."""
        return median(run.rate for run in self.runs) if self.runs else None

    def middle(self, figure: str, name: str) -> float | None:
        """Median over the runs of `cpu_us` or `memory_mib` of a process."""
        found = [getattr(run, figure)[name] for run in self.runs if name in getattr(run, figure)]
        return median(found) if found else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rates = [run.rate for run in self.runs]
        return {
            "name": self.name,
            "work": self.work,
            "events_per_second": self.rate,
            "spread": [min(rates), max(rates)] if rates else None,
            "cpu_us_per_event": {name: self.middle("cpu_us", name) for name in _SERVERS},
            "memory_mib": {name: self.middle("memory_mib", name) for name in _SERVERS},
            "runs": [run.as_dict() for run in self.runs],
            "latency": [run.as_dict() for run in self.latency],
            "skipped": self.skipped,
        }


@dataclass
class Report:
    """Everything that a bench measured.

    Attributes:
        systems: ours first.
        machine: what it ran on.
        verified: runs of ours that `fraudstream verify` found clean.
    """

    systems: list[System]
    machine: dict[str, Any]
    verified: int = 0

    def skip(self, reasons: Mapping[str, str]) -> None:
        """Show designs that could not be measured, with the reason."""
        self.systems += [System(name, skipped=reason) for name, reason in reasons.items()]

    def system(self, name: str) -> System | None:
        """The row of a design, None if it was not measured."""
        return next((one for one in self.systems if one.name == name), None)

    def ratio_to(self, name: str) -> float | None:
        """How many times as fast ours is, by the medians of this run; None where one is missing."""
        ours, other = self.system(OURS), self.system(name)
        if ours is None or other is None or not ours.rate or not other.rate:
            return None
        return ours.rate / other.rate

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able object with `ratio_to_naive` at its top, null without naive runs."""
        return {
            "ratio_to_naive": self.ratio_to(NAIVE),
            "verified_runs": self.verified,
            "systems": [system.as_dict() for system in self.systems],
            "machine": self.machine,
        }

    def text(self) -> str:
        """Tables for people."""
        lines = [_machine_line(self.machine), ""]
        if any(system.runs for system in self.systems):
            lines += aligned([_HEADS, *(self._throughput(one) for one in self.systems)])
            lines += [
                "",
                "CPU: microseconds per event; memory: MiB; both: worker / kafka / cassandra",
            ]
        loads = [(one, load) for one in self.systems for load in one.latency]
        if loads:
            lines += ["", "From due time to acknowledged row, milliseconds"]
            lines += aligned([_LOAD_HEADS, *(_latency(one, load) for one, load in loads)])
        notes = [f"{one.name}: {one.work}" for one in self.systems if one.work]
        if notes:
            lines += ["", *notes]
        if self.verified:
            lines += ["", f"verified: {self.verified} runs of fraudstream, every row recomputed"]
        return "\n".join(lines)

    def _throughput(self, system: System) -> list[str]:
        if system.rate is None:
            return [system.name, "-", *[""] * 4, f"skipped: {system.skipped or 'not measured'}"]
        rates = [run.rate for run in system.runs]
        ratio = self.ratio_to(system.name)
        times = (
            ""
            if ratio is None or system.name == OURS
            else f"fraudstream: {ratio:.1f} times as fast"
        )
        cpu = (system.middle("cpu_us", name) for name in _SERVERS)
        memory = (system.middle("memory_mib", name) for name in _SERVERS)
        return [
            system.name,
            f"{system.rate:,.0f}",
            f"{min(rates):,.0f}-{max(rates):,.0f}",
            str(len(rates)),
            " / ".join("-" if used is None else f"{used:,.0f}" for used in cpu),
            " / ".join("-" if used is None else f"{used:,.0f}" for used in memory),
            times,
        ]


_HEADS = ["", "events/s", "spread", "runs", "CPU", "memory", ""]
_LOAD_HEADS = ["", "events/s", "events", *_QUANTILES, "producer behind p99, max"]


def _latency(system: System, load: LatencyRun) -> list[str]:
    behind = load.behind_ms
    return [
        system.name,
        f"{load.rate:,.0f}",
        f"{load.events:,}",
        *(f"{load.quantiles_ms[name]:,.1f}" for name in _QUANTILES),
        f"{behind['p99']:,.1f}, {behind['max']:,.1f}",
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first and the last column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if at in (0, last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _machine_line(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    servers = "".join(f", {name} {version}" for name, version in machine["servers"].items())
    return (
        f"{machine['cpus']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"load {machine['load_1m']} before and {machine['load_1m_after']} after, other programs on "
        f"{machine['others_cores']} cores meanwhile; "
        f"Python {machine['python']}, {packages}{servers}"
    )


def machine() -> dict[str, Any]:
    """What the figures are measured on; ask before measuring, and `load_after` afterwards."""
    import platform
    from importlib.metadata import version

    import psutil

    from app.devstack.jar_lock import read_lock, version_of

    packages = ("faust-streaming", "aiokafka", "cassandra-driver", "scikit-learn", "rocksdict")
    lock = read_lock()
    return {
        "cpus": psutil.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1m": round(psutil.getloadavg()[0], 2),
        "load_1m_after": None,
        "others_cores": None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in packages},
        "servers": {
            "Kafka": version_of(lock["kafka"], "kafka_2.13"),
            "Cassandra": version_of(lock["cassandra"], "cassandra-all"),
        },
    }


def load_after(machine: dict[str, Any], elsewhere: Elsewhere) -> None:
    """Note the load at the end, and what other programs used."""
    import psutil

    machine["load_1m_after"] = round(psutil.getloadavg()[0], 2)
    machine["others_cores"] = round(elsewhere.cores(), 2)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else "model unknown"
