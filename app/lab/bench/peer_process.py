"""Runs a design that is compared with ours: a process that says when it begins and when it has ended.

It prints two JSON lines: `{"mark": "begin"}` at its first event, and `{"mark": "end", "events": .., "seconds":
..}` once its last row is acknowledged, with `latency_ms` (p50, p99, p99.9) when it was asked for that, and
anything else that is worth telling of its work. Then it waits to be ended. Between the two lines its CPU time,
that of its children and that of the servers is counted: starting up is nobody's speed.

Its environment has the deployment's settings and

| variable | |
|---|---|
| BENCH_EVENTS | transactions in all |
| BENCH_WARM_UP | so many of them are not counted in `latency_ms` |
| BENCH_MODEL | file of the scikit-learn pipeline, as joblib saves it: peers need no package of ours |
| BENCH_MODEL_JSON | its numbers, for peers without Python: see exported_model.py. Not set for other kinds of models |
| BENCH_FEATURES, BENCH_THRESHOLD | number of columns that it takes, score from which it says fraud |
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import joblib

from app.errors import UnavailableError
from app.lab.bench.backlog import RUN_SECONDS, Throughput, servers_of
from app.lab.bench.cpu_use import CpuClock
from app.lab.bench.deployment import environment
from app.lab.bench.exported_model import exported_model
from app.settings import Settings
from models.artifact import load_artifact
from models.artifact_folders import artifact_folders

_END_SECONDS = 10.0


class Peer:
    """One process of a design that is compared; as a context it is ended with everything below it.

    Args:
        settings: the deployment that it works in.
        command: what is run.
        events: transactions that it gets.
        warm_up: so many of them are not counted in latencies.
        environ: further variables.
    """

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str | Path],
        events: int,
        *,
        warm_up: int = 0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._command = [str(part) for part in command]
        entry = artifact_folders(settings).find(settings.model)
        self._artifact = entry.folder
        self._model = settings.home / "peer-model.joblib"
        self._environ = environment(
            settings,
            BENCH_EVENTS=str(events),
            BENCH_WARM_UP=str(warm_up),
            BENCH_MODEL=str(self._model),
            BENCH_FEATURES=str(len(entry.manifest.features)),
            BENCH_THRESHOLD=repr(entry.manifest.threshold),
            **(environ or {}),
        )
        self._log = settings.home / "peer.log"
        self._process: subprocess.Popen[str] | None = None
        self._clock: CpuClock | None = None
        self._watchdog = threading.Timer(RUN_SECONDS, self._kill)

    def __enter__(self) -> Self:
        """Start it."""
        self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        model = load_artifact(self._artifact).model
        joblib.dump(model, self._model)
        if exported := exported_model(model):
            numbers = self._model.with_suffix(".json")
            numbers.write_text(json.dumps(exported))
            self._environ["BENCH_MODEL_JSON"] = str(numbers)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603  designs of this project
                self._command,
                env=self._environ,
                cwd=self._settings.home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # what it starts goes with it
            )
        self._watchdog.daemon = True
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._watchdog.cancel()
        self._kill()

    def await_begin(self) -> None:
        """Wait until it has taken its first event.

        Raises:
            UnavailableError: it ended before.
        """
        self._mark("begin")
        assert self._process
        self._clock = CpuClock({"worker": self._process.pid, **servers_of(self._settings)})

    def await_end(self) -> Throughput:
        """Wait until it is done; what it says beyond events and seconds stands in `work`.

        Raises:
            UnavailableError: it ended before.
        """
        said = self._mark("end")
        assert self._clock
        del said["mark"]
        events, seconds = said.pop("events"), said.pop("seconds")
        cpu, memory = self._clock.us_per_event(events), self._clock.memory_mib()
        return Throughput(events, seconds, cpu, memory, said)

    def _mark(self, name: str) -> dict[str, Any]:
        assert self._process
        assert self._process.stdout
        said = []
        for line in self._process.stdout:
            if line.startswith("{") and '"mark"' in line:
                found: dict[str, Any] = json.loads(line)
                if found["mark"] == name:
                    return found
            said.append(line)
        words = [line for line in (self._log.read_text().splitlines() or said) if line.strip()]
        msg = f"it ended before its {name}: {words[-1] if words else 'it said nothing'}"
        raise UnavailableError(msg)

    def _kill(self) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: nothing else is in it
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
