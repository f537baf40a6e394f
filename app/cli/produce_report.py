"""What `fraudstream produce` reports: one object for scripts, lines for people."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.display import printable

if TYPE_CHECKING:
    from app.ops.files.file_pass import FilePass
    from app.ops.produce import ProduceReport


def summary_of(
    path: Path,
    reading: "FilePass[Any]",
    report: "ProduceReport",
    labels: "ProduceReport | None",
    recipe: str | None,
) -> dict[str, Any]:
    """Everything, as one object."""
    from app.ops.files.dataset_recipes import RECIPES

    summary = {
        "file": str(path),
        **report.as_dict(),
        "malformed": reading.bad,
        "first_malformed": reading.first_bad,
        "rounded": reading.rounded,
        "refunds": reading.refunds,
        "times_resolved": reading.resolved,
        "left_out": reading.left_out,
        "left_out_as_labels": reading.answers,
        "warnings": list(reading.warnings),
    }
    if recipe and RECIPES[recipe].note:
        summary["warnings"].append(f"{recipe}: {RECIPES[recipe].note}")
    if labels:
        summary["labels"] = labels.as_dict()
    return summary


def lines_of(summary: dict[str, Any]) -> Iterator[str]:
    """The same for people: a sentence, then a line for each thing to know."""
    yield printable("; ".join(_parts(summary)))
    if answers := summary["left_out_as_labels"]:
        named = printable(", ".join(answers))
        yield f"Label columns, not sent: {named} (--keep COLUMN sends one)"
    for warning in summary["warnings"]:
        yield printable(f"Warning: {warning}")


def _parts(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{summary['records']:,} records ({summary['bytes'] / 1e6:,.1f} MB) to {summary['topic']} in "
        f"{summary['seconds']:.1f} s, {summary['rate']:,.0f}/s"
    )
    if labels := summary.get("labels"):
        yield f"{labels['records']:,} labels to {labels['topic']}"
    if summary["behind_ms"] >= 1000:
        yield f"up to {summary['behind_ms'] / 1000:.1f} s behind the schedule"
    if summary["malformed"]:
        yield f"{summary['malformed']:,} malformed left out, the first: {summary['first_malformed']}"
    if summary["rounded"]:
        yield f"{summary['rounded']:,} amounts rounded"
    if summary["refunds"]:
        yield f"{summary['refunds']:,} refunds (stored, not scored)"
    if summary["times_resolved"]:
        yield f"{summary['times_resolved']:,} local times at clock changes resolved"
    others = [name for name in summary["left_out"] if name not in summary["left_out_as_labels"]]
    if others:
        yield f"columns left out: {', '.join(others)}"
