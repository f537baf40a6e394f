"""What `fraudstream monitoring export` writes: rules and a dashboard for Prometheus and Grafana, as data files."""

from importlib.resources import files
from pathlib import Path

#: File name -> what it is for.
FILES = {
    "prometheus.yml": "a scrape configuration, to be adapted: the workers' addresses",
    "rules.yml": "recording and alerting rules",
    "rules-test.yml": "tests of the rules, for `promtool test rules`",
    "dashboard.json": "a Grafana dashboard",
}


def export(folder: Path) -> list[Path]:
    """Write the files into a folder, which is made; files of the same name are replaced.

    Returns:
        The files, in the order of `FILES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FILES:
        path = folder / name
        path.write_bytes(files(__name__).joinpath(name).read_bytes())
        written.append(path)
    return written
