"""`fraudstream models promote`, `rollback`, `threshold` and `history`: changes of what decides."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from app.cli.model_gate import require_pass
from app.cli.options import FiniteRange, json_option, moment_ms, note_option
from app.errors import UsageError
from app.formats import iso, printable
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.ops.change_history import Decides, Made


class _Threshold(click.ParamType):
    """A number from 0 to 1, or `model`."""

    name = "NUMBER|model"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | None:
        """None for `model`."""
        return None if value == "model" else FiniteRange(0, 1).convert(value, param, ctx)


@click.command(
    epilog="\b\nExamples:  fraudstream models promote fraud@2\n"
    "           fraudstream models promote fraud@2 --threshold 0.42 --note 'retrained on May'"
)
@click.argument("model")
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    help="Score from which it calls a transaction fraud.  [the model's own]",
)
@click.option("--force", is_flag=True, help="Without a pass of `models gate`; the history says so.")
@note_option
def promote(model: str, threshold: float | None, force: bool, note: str) -> None:
    r"""Let a registered model decide, from the next transactions on.

    It is loaded and tried here first, with this deployment's settings: what workers could not load is refused.
    Then workers are told to load it, and a second later the change is written. Each partition has an offset from
    which the new model decides; what precedes it is decided by the old one, however often it is replayed.

    `fraudstream models gate` must have compared it with the model that decides, and it must have passed. A new
    deployment without labels has nothing to compare: --force promotes without a pass.

    \b
    Exit codes:  0  the change is written, or the model decides already
                 2  workers could not load the model, or it has not passed the gate; the line says what to do
                 3  Kafka or Cassandra does not answer
                 4  the model is not registered
                 5  topics or tables are missing
    """
    from app.domain.changes import LoadChange, ModelChange
    from app.ops.change_history import read_history, send_changes
    from app.ops.models import checked

    settings = load_settings()
    with checked(settings, model) as entry:
        name, model_hash = entry.model, entry.manifest.scoring_hash
        own = entry.manifest.threshold
    history = asyncio.run(read_history(settings))
    now = history.decides()
    if now is not None and (now.hash, now.threshold) == (model_hash, threshold):
        click.echo(f"{name} decides already")
        return
    if now is not None and now.hash != model_hash and not force:
        require_pass(settings, name, model_hash, now, threshold, own)
    loaded = any(one.hash == model_hash for one in history.in_force().challengers)
    load = () if loaded else (LoadChange(model=name, hash=model_hash),)
    change = ModelChange(model=name, hash=model_hash, threshold=threshold, forced=force, note=note)
    asyncio.run(send_changes(settings, *load, change))
    click.echo(f"{name} decides, by {_by(threshold, own)}")
    if now is not None:
        click.echo(f"Back to {now.model}: fraudstream models rollback")


@click.command(epilog="\b\nExample:  fraudstream models rollback --note 'too many alerts'")
@note_option
def rollback(note: str) -> None:
    r"""Let the model before the present one decide again, with the threshold that it had.

    Further calls go further back, up to the model that the deployment has started with.

    \b
    Exit codes:  0  the change is written
                 2  there is no model before it, or workers could not load it
                 3  Kafka or Cassandra does not answer
    """
    from app.domain.changes import LoadChange, ModelChange
    from app.ops.change_history import need_decides, read_history, send_changes
    from app.ops.models import checked

    settings = load_settings()
    history = asyncio.run(read_history(settings))
    now, before = need_decides(history, _topic(settings)), history.before()
    if before is None:
        msg = f"{now.model} is the first model that has decided: there is none to go back to"
        raise UsageError(msg)
    with checked(settings, before.hash) as entry:
        own = entry.manifest.threshold
    change = ModelChange(
        model=before.model, hash=before.hash, threshold=before.threshold, how="rollback", note=note
    )
    asyncio.run(send_changes(settings, LoadChange(model=before.model, hash=before.hash), change))
    click.echo(
        f"{before.model} decides again, by {_by(before.threshold, own)}; {now.model} does not"
    )


@click.command(
    epilog="\b\nExamples:  fraudstream models threshold 0.42\n"
    "           fraudstream models threshold model"
)
@click.argument("value", type=_Threshold())
@note_option
def threshold(value: float | None, note: str) -> None:
    r"""Change the score from which a transaction is called fraud; `model` restores the model's own.

    It counts for the model that decides now: a promotion goes back to the new model's own threshold.

    \b
    Exit codes:  0  the change is written
                 2  it is no number from 0 to 1, or nothing decides yet
                 3  Kafka does not answer
    """
    from app.domain.changes import ThresholdChange
    from app.ops.change_history import need_decides, read_history, send_changes

    settings = load_settings()
    now = need_decides(asyncio.run(read_history(settings)), _topic(settings))
    asyncio.run(send_changes(settings, ThresholdChange(threshold=value, note=note)))
    was = _by(now.threshold, None)
    click.echo(f"{now.model} decides by {_by(value, None)}; it was {was}")


@click.command(
    epilog="\b\nExamples:  fraudstream models history\n"
    "           fraudstream models history --at 2026-11-29T12:00Z"
)
@click.option(
    "--at",
    "at_ms",
    metavar="TIME",
    callback=moment_ms,
    help="What decided then, instead of all changes.",
)
@json_option
def history(at_ms: int | None, as_json: bool) -> None:
    """Show every change of what decides: when, what, who and why; then what decides now.

    Times are those at which the changes were written. Each partition follows within a second as long as workers run.
    The prediction of a transaction names the model and threshold that decided it.
    """
    from app.domain.changes import ListChange, RuleChange
    from app.ops.change_history import read_history

    settings = load_settings()
    found = asyncio.run(read_history(settings))
    decides, in_force = found.decides(at_ms), found.in_force(at_ms)
    of_models = [
        one for one in found.changes if not isinstance(one.change, RuleChange | ListChange)
    ]
    changes = [] if at_ms is not None else of_models
    if as_json:
        report = {
            "changes": [_described(one) for one in changes],
            "decides": None if decides is None else _state(decides),
            "challengers": [
                {"model": c.model, "hash": c.hash, "share": c.share, "threshold": c.threshold}
                for c in in_force.challengers
            ],
        }
        click.echo(json.dumps(report))
        return
    for one in changes:
        click.echo(f"{iso(one.at_ms)}  {_line(one)}")
    when = "now" if at_ms is None else f"at {iso(at_ms)}"
    if decides is None:
        click.echo(f"nothing decides {when}: no worker has started before")
    else:
        click.echo(
            f"{when}, {decides.model} ({decides.hash[:16]}) decides by {_by(decides.threshold, None)}"
        )
    for each in in_force.challengers:
        click.echo(f"beside it, {each.model} ({each.hash[:16]}): {challenging(each.share)}")


def challenging(share: float | None) -> str:
    """What a challenger does, in words."""
    if share is None:
        return "stop"
    return f"canary, decides for {100 * share:.6g} % of the cards" if share else "shadow"


def _line(made: "Made") -> str:
    from app.domain.changes import ChallengerChange, LoadChange, ModelChange, ThresholdChange

    match made.change:
        case ModelChange(model=model, threshold=value, how=how, forced=forced):
            what = f"{how} {model}" + ("" if value is None else f", threshold {value:g}")
            what += ", forced" if forced else ""
        case ThresholdChange(threshold=value):
            what = f"threshold {'of the model' if value is None else f'{value:g}'}"
        case LoadChange(model=model):
            what = f"load {model}"
        case ChallengerChange(model=model, share=share, threshold=value):
            own = "" if value is None or share is None else f", threshold {value:g}"
            what = f"challenger {model}: {challenging(share)}{own}"
        case _:
            what = "another kind of change"
    note = f": {printable(made.change.note)}" if made.change.note else ""
    return f"{what}  by {printable(made.change.by)}{note}"


def _described(made: "Made") -> dict[str, Any]:
    import msgspec

    told: dict[str, Any] = msgspec.to_builtins(made.change)
    how = getattr(made.change, "how", None)  # the usual one is left out on the log
    told |= {} if how is None else {"how": how}
    return {"at": iso(made.at_ms), "offset": made.offset, **told}


def _state(decides: "Decides") -> dict[str, Any]:
    return {
        "model": decides.model,
        "hash": decides.hash,
        "threshold": decides.threshold,
        "since": iso(decides.since.at_ms),
    }


def _by(value: float | None, own: float | None) -> str:
    if value is not None:
        return f"threshold {value:g}"
    return "its own threshold" + ("" if own is None else f", {own:g}")


def _topic(settings: Settings) -> str:
    from app.topics import Topics

    return Topics(settings).control.name
