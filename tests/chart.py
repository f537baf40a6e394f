"""The Helm chart as Kubernetes gets it: `python -m tests.chart` renders it anew into tests/samples/chart.

Not every machine has helm. So the rendered manifests are kept, with a hash of the chart that they were made from:
their rules are checked everywhere, and a chart that was changed without rendering it again is found everywhere.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "fraudstream"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
HELM = shutil.which("helm")
#: A helm that was built from source believes that it speaks to a very old cluster.
CLUSTER = ("--kube-version", "1.34.0")


def sample(values: Path) -> Path:
    return ROOT / "tests" / "samples" / "chart" / values.name.replace("-values", "")


def chart_hash() -> str:
    """Changes with every file of the chart."""
    digest = hashlib.sha256()
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(CHART)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert HELM, "install helm: https://helm.sh/docs/intro/install/"
    command = [HELM, *map(str, arguments), *CLUSTER]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def render(values: Path, *more: str) -> str:
    done = helm("template", "fraudstream", CHART, "--namespace", "payments", "-f", values, *more)
    assert not done.returncode, done.stderr
    return done.stdout


def manifests(text: str) -> Iterator[dict[str, Any]]:
    return (each for each in yaml.safe_load_all(text) if each)


def pod_specs(all_of_them: list[dict[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Kind and pod of everything that runs containers."""
    for each in all_of_them:
        if each["kind"] in {"StatefulSet", "Deployment", "Job"}:
            yield each["kind"], each["spec"]["template"]["spec"]


if __name__ == "__main__":
    for each in VALUES:
        sample(each).write_text(f"# chart: {chart_hash()}\n{render(each)}")
