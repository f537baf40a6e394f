"""Pictures of a training's report, as SVG files; matplotlib draws them, and is an extra."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from app.errors import UsageError
from app.file_writing import require_writable

if TYPE_CHECKING:
    from app.ops.train import TrainedModel

#: Features that the picture of importance shows.
SHOWN = 20


def check_plots(folder: Path) -> None:
    """Refuse before the work begins.

    Args:
        folder: where to draw; made if it is not there.

    Raises:
        UsageError: matplotlib is not installed.
        UnavailableError: the folder cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        msg = "--plots needs matplotlib: pip install 'fraudstream[report]'"
        raise UsageError(msg) from None
    require_writable(folder, "--plots")


def draw_plots(folder: Path, trained: "TrainedModel") -> list[Path]:
    """Draw `roc`, `precision_recall`, `calibration`, `scores` and `importance`; existing files are replaced.

    Args:
        folder: where to; made if it is not there.
        trained: with what judged it.

    Returns:
        The files.

    Raises:
        UsageError: the folder cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    paths = []
    # a fixed salt: equal trainings draw equal files
    with mpl.rc_context({"svg.hashsalt": "fraudstream", "font.size": 9}):
        for name, draw in _PLOTS.items():
            figure = Figure(figsize=(5, 4), layout="constrained")
            axes = figure.subplots()
            draw(axes, trained)
            path = folder / f"{name}.svg"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, metadata={"Date": None})
            except OSError as error:
                msg = f"cannot write {path}: {error.strerror}"
                raise UsageError(msg) from error
            paths.append(path)
    return paths


def _roc(axes: Any, trained: "TrainedModel") -> None:
    wrong, found, _ = roc_curve(trained.fraud, trained.scores)
    axes.plot(wrong, found)
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.set(title="ROC", xlabel="others called fraud", ylabel="frauds found")


def _precision_recall(axes: Any, trained: "TrainedModel") -> None:
    precision, recall, _ = precision_recall_curve(trained.fraud, trained.scores)
    axes.plot(recall, precision, drawstyle="steps-post")
    confusion = trained.manifest.metrics
    axes.plot(confusion["recall"], confusion["precision"], "o", label="threshold")
    axes.set(title="Precision and recall", xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    axes.legend()


def _calibration(axes: Any, trained: "TrainedModel") -> None:
    rows = trained.manifest.metrics["calibration"]
    # without zero: the axes are logarithmic
    points = [(row["mean_score"], row["fraud_share"]) for row in rows if row["fraud_share"] > 0]
    lowest = min((min(point) for point in points), default=0.001)
    axes.plot([lowest, 1], [lowest, 1], linestyle=":", color="grey")
    axes.plot(*zip(*points, strict=True), "o-")
    axes.set(title="Calibration", xlabel="mean score", ylabel="really fraud")
    axes.set(xscale="log", yscale="log")


def _scores(axes: Any, trained: "TrainedModel") -> None:
    bins = np.linspace(0, 1, 51)
    for label, rows in (("others", ~trained.fraud), ("frauds", trained.fraud)):
        axes.hist(trained.scores[rows], bins=bins, histtype="step", label=label)
    axes.axvline(trained.manifest.threshold, linestyle=":", color="grey", label="threshold")
    axes.set(title="Scores", xlabel="score", ylabel="transactions", yscale="log")
    axes.legend()


def _importance(axes: Any, trained: "TrainedModel") -> None:
    lost = list(trained.manifest.metrics["importance"].items())[:SHOWN][::-1]
    axes.barh([name for name, _ in lost], [loss for _, loss in lost])
    axes.set(title="Importance", xlabel="average precision lost when shuffled")


_PLOTS: dict[str, Callable[[Any, "TrainedModel"], None]] = {
    "roc": _roc,
    "precision_recall": _precision_recall,
    "calibration": _calibration,
    "scores": _scores,
    "importance": _importance,
}
