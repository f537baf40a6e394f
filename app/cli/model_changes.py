"""`fraudstream models promote`, `rollback`, `threshold` and `history`: changes of the current model."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from app.cli.model_gate import require_pass
from app.cli.model_load_check import require_loadable
from app.cli.options import FiniteRange, json_option, moment_ms, note_option
from app.display import iso, printable
from app.errors import UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.kafka.change_history import DecidingModel, LoggedChange


class _Threshold(click.ParamType):
    """A number from 0 to 1, or `model`."""

    name = "NUMBER|model"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | None:
        """None for `model`."""
        return None if value == "model" else FiniteRange(0, 1).convert(value, param, ctx)


_no_guard_option = click.option(
    "--no-guard", is_flag=True, help="Do not watch this change; recorded in the history."
)


@click.command(
    epilog="\b\nExamples:  fraudstream models promote fraud@2\n"
    "           fraudstream models promote fraud@2 --threshold 0.42 --note 'retrained on data up to May'"
)
@click.argument("model")
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    help="Lowest score at which it flags a transaction as fraud.  [default: the model's own]",
)
@click.option(
    "--force",
    is_flag=True,
    help="Promote without a pass of `models gate`; recorded in the history.",
)
@_no_guard_option
@note_option
def promote(model: str, threshold: float | None, force: bool, no_guard: bool, note: str) -> None:
    r"""Make a registered model the current one. Takes effect with the next transactions.

    The model is loaded and tested on this machine first, with this deployment's settings. Then the running workers are
    asked to load it; if one cannot, the command refuses and names the worker and the reason. A second later the change
    is recorded. On each partition the new model applies from a definite offset onwards. Transactions before that
    offset keep the old model, even in a replay.

    The model must have passed `fraudstream models gate` against the current model. Without labels, as in a new
    deployment, there is nothing to compare: use --force.

    For FRAUDSTREAM_GUARD_TIME after the change the workers watch the new model (the guard). If it returns no scores,
    flags far more or far fewer transactions or is too slow, they restore the earlier model; the history shows why.

    If workers could not load the present model again (because it is a pickle or not signed), the guard would go back
    to the one before it; the command warns of this. If there is none before it, the command refuses: use --no-guard.

    \b
    Exit codes:  0  the change is recorded, or the model is the current one already
                 2  workers could not load the model, it has not passed the gate, or the guard could not restore an
                    earlier one; the error says what to do
                 3  Kafka or Cassandra does not answer
                 4  the model is not registered
                 5  topics or tables are missing
    """
    from app.domain.changes import LoadChange, ModelChange
    from app.kafka.change_history import read_history, send_changes
    from app.ops.model_checks import checked
    from app.ops.revertible_promotion import check_restorable

    settings = load_settings()
    with checked(settings, model) as entry:
        name, model_hash = entry.model, entry.manifest.scoring_hash
        own = entry.manifest.threshold
    history = asyncio.run(read_history(settings))
    now = history.decides()
    if now is not None and (now.hash, now.threshold) == (model_hash, threshold):
        click.echo(f"{name} is the current model already")
        return
    if now is not None and now.hash != model_hash and not force:
        require_pass(settings, name, model_hash, now, threshold, own)
    watched = now is not None and now.hash != model_hash and not no_guard
    if watched and (warning := check_restorable(settings, history.in_force())):
        click.echo(f"warning: {warning}", err=True)
    loaded = any(one.hash == model_hash for one in history.in_force().challengers)
    asyncio.run(require_loadable(settings, name, model_hash))
    load = () if loaded else (LoadChange(model=name, hash=model_hash),)
    change = ModelChange(
        model=name,
        hash=model_hash,
        threshold=threshold,
        forced=force,
        unguarded=no_guard,
        note=note,
    )
    asyncio.run(send_changes(settings, *load, change))
    click.echo(f"{name} is the current model, with {_by(threshold, own)}")
    if now is not None:
        click.echo(f"To go back to {now.model}: fraudstream models rollback")


@click.command(epilog="\b\nExample:  fraudstream models rollback --note 'too many alerts'")
@click.option(
    "--further",
    is_flag=True,
    help="Go back one more model, although the guard has already restored one.",
)
@note_option
def rollback(further: bool, note: str) -> None:
    r"""Return to the previous model and its threshold.

    Each further rollback goes back one more model, up to the model that the deployment started with. If the current
    model is one that the guard restored, a rollback needs --further. If the guard or another user records a change
    first, the rollback has no effect.

    \b
    Exit codes:  0  the change is recorded
                 2  there is no previous model, workers could not load it, the guard has gone back already, or
                    another change was first
                 3  Kafka or Cassandra does not answer
    """
    from app.domain.changes import LoadChange
    from app.kafka.change_history import need_decides, read_history, send_in_time
    from app.ops.model_checks import checked

    settings = load_settings()
    history = asyncio.run(read_history(settings))
    now, before = need_decides(history, _topic(settings)), history.before()
    if before is None:
        msg = f"{now.model} is the first model of this deployment: there is no previous one"
        raise UsageError(msg)
    if history.reverted_by_guard() and not further:
        msg = (
            f"the guard has gone back to {now.model} already, at {iso(now.since.at_ms)}; "
            f"to go back further, to {before.model}: fraudstream models rollback --further"
        )
        raise UsageError(msg)
    try:
        with checked(settings, before.hash) as entry:
            own = entry.manifest.threshold
    except UsageError as error:
        msg = f"cannot go back to {before.model}: {error}; or promote another model"
        raise UsageError(msg) from error
    asyncio.run(require_loadable(settings, before.model, before.hash))
    load = LoadChange(model=before.model, hash=before.hash)
    asyncio.run(send_in_time(settings, load, history.rollback_to(before, note)))
    click.echo(
        f"{before.model} is the current model again, with {_by(before.threshold, own)}; it replaces {now.model}"
    )


@click.command(
    epilog="\b\nExamples:  fraudstream models threshold 0.42\n"
    "           fraudstream models threshold model"
)
@click.argument("value", type=_Threshold())
@_no_guard_option
@note_option
def threshold(value: float | None, no_guard: bool, note: str) -> None:
    r"""Change the threshold: the lowest score at which a transaction is flagged as fraud.

    VALUE is a number from 0 to 1, or `model` for the model's own threshold. It applies to the current model only: a
    promotion starts with the new model's own threshold. The workers watch the change as they watch a promotion.
    If another model becomes the current one first, the change has no effect.

    \b
    Exit codes:  0  the change is recorded
                 2  VALUE is not a number from 0 to 1, no worker has ever started, or another model became the
                    current one first
                 3  Kafka does not answer
    """
    from app.domain.changes import ThresholdChange
    from app.kafka.change_history import need_decides, read_history, send_in_time

    settings = load_settings()
    now = need_decides(asyncio.run(read_history(settings)), _topic(settings))
    change = ThresholdChange(threshold=value, hash=now.hash, unguarded=no_guard, note=note)
    asyncio.run(send_in_time(settings, change))
    was = _by(now.threshold, None)
    click.echo(f"{now.model} has {_by(value, None)} now; it was {was}")


@click.command(
    epilog="\b\nExamples:  fraudstream models history\n"
    "           fraudstream models history --at 2026-11-29T12:00Z"
)
@click.option(
    "--at",
    "at_ms",
    metavar="TIME",
    callback=moment_ms,
    help="Show what decided at that time instead: model, threshold, challengers, rules and list entries.",
)
@json_option
def history(at_ms: int | None, as_json: bool) -> None:
    """Show all changes of model, threshold and challengers, with time, author and note; then the current state.

    With --at, show instead what was in force at that time: model, threshold, challengers, rules and list entries.
    `fraudstream rules history` shows the changes of rules and lists.

    Times are those at which the changes were recorded. While workers run, each partition applies a change within a
    second. Each prediction names its model and threshold.
    """
    from app.cli.rule_text import beside_model, described_entry, described_rule
    from app.domain.changes import ListChange, RuleChange
    from app.domain.rules.ruleset import entries
    from app.kafka.change_history import read_history

    settings = load_settings()
    found = asyncio.run(read_history(settings))
    decides, in_force = found.decides(at_ms), found.in_force(at_ms)
    of_models = [
        one for one in found.changes if not isinstance(one.change, RuleChange | ListChange)
    ]
    changes = [] if at_ms is not None else of_models
    ignored = found.ignored()
    if as_json:
        report = {
            "changes": [_described(one, ignored) for one in changes],
            "decides": None if decides is None else _state(decides),
            "challengers": [
                {"model": c.model, "hash": c.hash, "share": c.share, "threshold": c.threshold}
                for c in in_force.challengers
            ],
            "rules": [described_rule(rule) for rule in in_force.rules.rules],
            "entries": [described_entry(*one) for one in entries(in_force.rules.listed)],
        }
        click.echo(json.dumps(report))
        return
    for one in changes:
        without = "" if one[:2] not in ignored else "  (without effect)"
        click.echo(f"{iso(one.at_ms)}  {_line(one)}{without}")
    when = "now" if at_ms is None else f"at {iso(at_ms)}"
    if decides is None:
        click.echo(f"no model {when}: no worker had started")
    else:
        click.echo(
            f"{when}: {decides.model} ({decides.hash[:16]}), with {_by(decides.threshold, None)}"
        )
    for each in in_force.challengers:
        click.echo(f"challenger: {each.model} ({each.hash[:16]}), {challenging(each.share)}")
    if decides is not None and at_ms is not None:
        for line in beside_model(in_force.rules):
            click.echo(line)


def challenging(share: float | None) -> str:
    """What a challenger does, in words."""
    if share is None:
        return "stop"
    return f"canary for {100 * share:.6g} % of the cards" if share else "shadow"


def _line(made: "LoggedChange") -> str:
    from app.domain.changes import ChallengerChange, LoadChange, ModelChange, ThresholdChange

    match made.change:
        case ModelChange(model=model, threshold=value, how=how, forced=forced):
            what = f"{how} {model}" + ("" if value is None else f", threshold {value:g}")
            what += ", forced" if forced else ""
            what += ", unguarded" if made.change.unguarded else ""
        case ThresholdChange(threshold=value):
            what = "threshold: the model's own" if value is None else f"threshold {value:g}"
            what += ", unguarded" if made.change.unguarded else ""
        case LoadChange(model=model):
            what = f"load {model}"
        case ChallengerChange(model=model, share=share, threshold=value):
            own = "" if value is None or share is None else f", threshold {value:g}"
            what = f"challenger {model}: {challenging(share)}{own}"
        case _:
            what = "another kind of change"
    note = f": {printable(made.change.note)}" if made.change.note else ""
    return f"{what}  by {printable(made.change.by)}{note}"


def _described(made: "LoggedChange", ignored: set[tuple[int, int]]) -> dict[str, Any]:
    import msgspec

    told: dict[str, Any] = msgspec.to_builtins(made.change)
    how = getattr(made.change, "how", None)  # the usual one is left out on the log
    told |= {} if how is None else {"how": how}
    told |= {"ignored": True} if made[:2] in ignored else {}
    return {"at": iso(made.at_ms), "offset": made.offset, **told}


def _state(decides: "DecidingModel") -> dict[str, Any]:
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
