"""`fraudstream models shadow` and `canary`: challengers, which score beside the current model."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from app.cli.model_changes import challenging
from app.cli.model_load_check import require_loadable
from app.cli.options import FiniteRange, note_option
from app.errors import UsageError
from app.settings import Settings, load_settings
from models.manifest import HASH_DIGITS

if TYPE_CHECKING:
    from app.domain.challengers import Challenger

stop_option = click.option("--stop", is_flag=True, help="Stop the challenger.")
threshold_option = click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    help="Lowest score at which it flags a transaction as fraud.  [default: the challenger's present threshold; for a "
    "new challenger, the model's own]",
)


class _Share(click.ParamType):
    """A share of the cards: `5%` or `0.05`."""

    name = "5%"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """More than 0, at most 1."""
        text = str(value).strip()
        number = text.removesuffix("%")
        try:
            share = float(number) / (100 if number != text else 1)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is not a share of the cards: write 5% or 0.05", param, ctx)
        return share


@click.command(
    epilog="\b\nExamples:  fraudstream models shadow fraud@2\n"
    "           fraudstream models shadow fraud@2 --stop"
)
@click.argument("model")
@stop_option
@threshold_option
@note_option
def shadow(model: str, stop: bool, threshold: float | None, note: str) -> None:
    r"""Let a registered model score the same transactions as the current model, without deciding anything.

    Its scores are in the field shadow_scores of each prediction, and what it would have flagged is in shadow_flagged.
    At most three challengers (shadows and the canary) run at a time. If a shadow fails, its score is null, and the
    current model is not affected.

    \b
    Exit codes:  0  the change is recorded, or the model is a shadow already
                 2  workers could not load the model, there are three challengers already, or
                    MODEL, given with --stop, is not a challenger
                 3  Kafka or Cassandra does not answer
                 4  the model is not registered
                 5  topics or tables are missing
    """
    if stop:
        _stop(load_settings(), model, note, canary=False)
    else:
        _begin(load_settings(), model, 0.0, threshold, note)


@click.command(
    epilog="\b\nExamples:  fraudstream models canary fraud@2 --share 5%\n"
    "           fraudstream models canary fraud@2 --share 20%\n"
    "           fraudstream models canary fraud@2 --stop"
)
@click.argument("model")
@click.option(
    "--share", type=_Share(), help="Share of the cards that it scores instead of the current model."
)
@stop_option
@threshold_option
@note_option
def canary(model: str, share: float | None, stop: bool, threshold: float | None, note: str) -> None:
    r"""Use a registered model instead of the current one for a share of the cards.

    A keyed hash of the card id selects the cards. A card that is selected stays selected when the share grows. Each
    prediction names the model that decided, and its field shadow_scores has the other model's score. There is one
    canary at a time.
    `models shadow` turns it into a shadow, `models promote` makes it the current model.

    \b
    Exit codes:  0  the change is recorded, or the model is the canary with that share already
                 2  workers could not load the model, another model is the canary, or --share is missing
                 3  Kafka or Cassandra does not answer
                 4  the model is not registered
                 5  topics or tables are missing
    """
    if stop == (share is not None):
        msg = "give --share 5%, for example, or --stop"
        raise UsageError(msg)
    if share is None:
        _stop(load_settings(), model, note, canary=True)
    else:
        _begin(load_settings(), model, share, threshold, note)


def _begin(
    settings: Settings, model: str, share: float, threshold: float | None, note: str
) -> None:
    from app.domain.changes import ChallengerChange, LoadChange
    from app.kafka.change_history import need_decides, read_history, send_changes
    from app.ops.model_checks import checked
    from app.topics import Topics

    with checked(settings, model) as entry:
        name, model_hash = entry.model, entry.manifest.scoring_hash
    history = asyncio.run(read_history(settings))
    need_decides(history, Topics(settings).control.name)
    in_force = history.in_force()
    there = next((one for one in in_force.challengers if one.hash == model_hash), None)
    if threshold is None and there is not None:
        threshold = there.threshold
    change = ChallengerChange(
        model=name, hash=model_hash, share=share, threshold=threshold, note=note
    )
    refusal = in_force.refusal(change)
    if refusal is not None:
        hint = "" if model_hash == in_force.model else "; stop one with --stop"
        raise UsageError(refusal + hint)
    if there is not None and (there.share, there.threshold) == (share, threshold):
        click.echo(f"nothing to change: {name} is a {challenging(share)} already")
        return
    if there is None:
        asyncio.run(require_loadable(settings, name, model_hash))
    load = () if there is not None else (LoadChange(model=name, hash=model_hash),)
    asyncio.run(send_changes(settings, *load, change))
    click.echo(f"{name}: {challenging(share)}")
    click.echo(f"To stop it: fraudstream models {'canary' if share else 'shadow'} {name} --stop")


def _stop(settings: Settings, model: str, note: str, *, canary: bool) -> None:
    from app.domain.changes import ChallengerChange
    from app.kafka.change_history import read_history, send_changes

    challengers = asyncio.run(read_history(settings)).in_force().challengers
    one = find(challengers, model, canary=canary)
    change = ChallengerChange(model=one.model, hash=one.hash, share=None, note=note)
    asyncio.run(send_changes(settings, change))
    click.echo(f"{one.model} is stopped")


def find(
    challengers: "tuple[Challenger, ...]", wanted: str, *, canary: bool = False
) -> "Challenger":
    """The shadow or the canary that a person means: `name@version`, `name`, or a hash, whole or abbreviated.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = [one for one in challengers if wanted in (one.model, one.model.partition("@")[0])]
    if not found and len(wanted) >= HASH_DIGITS:
        found = [one for one in challengers if one.hash.startswith(wanted)]
    of_kind = [one for one in found if bool(one.share) == canary]
    if len(of_kind) == 1:
        return of_kind[0]
    if of_kind:
        msg = f"{wanted} is ambiguous: name one of {', '.join(one.model for one in of_kind)}"
        raise UsageError(msg)
    if found:
        other, kind = found[0].model, "a shadow" if canary else "the canary"
        command = "shadow" if canary else "canary"
        msg = f"{other} is {kind}: use fraudstream models {command} {other} --stop"
        raise UsageError(msg)
    there = ", ".join(one.model for one in challengers) or "none"
    msg = f"{wanted} is not a challenger; challengers: {there}"
    raise UsageError(msg)
