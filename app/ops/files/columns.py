"""Which column of a file becomes which field of the record, and which are left out."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from zoneinfo import ZoneInfo

from app.errors import UsageError
from app.ops.files.amount_rounding import Rounding
from app.ops.files.dataset_recipes import Recipe, recognised
from app.ops.files.file_times import TimeRules
from app.ops.files.label_columns import is_answer
from app.wire.prediction_fields import INPUT_FIELDS

REQUIRED = ("transaction_id", "card_id", "amount", "event_time")
KNOWN = (*REQUIRED, *sorted(INPUT_FIELDS.difference(REQUIRED)))


@dataclass(frozen=True)
class FileOptions:
    """How a file is read, as a person asks for it.

    Attributes:
        mapping: field of the record -> column of the file.
        drop: columns to leave out.
        keep: label columns to send all the same.
        only_known: leave out all columns that the input record does not define.
        own: names of the deployment's own fields, which it defines, too.
        run: prefix of transaction ids, "" for none.
        times: how times are read.
        rounding: rounds amounts; None leaves them as they are.
        recipe: of the data set that the file is from.
        origin_ms: from when the recipe's times count, epoch milliseconds; None: as the recipe says.
        command: reads such a file with a recipe, for messages; `{file}` is its name.
        pseudonym: makes the pseudonym of a card id; None: card ids stay.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    only_known: bool = False
    own: tuple[str, ...] = ()
    run: str = ""
    times: TimeRules = TimeRules()
    rounding: Rounding | None = None
    recipe: Recipe | None = None
    origin_ms: int | None = None
    command: str = "fraudstream produce {file}"
    pseudonym: Callable[[str], str] | None = None

    def with_recipe(self, currency: Rounding | None) -> "FileOptions":
        """What these options are with the recipe's own, where nobody has given others.

        Args:
            currency: rounds as the deployment's currency does; None: recipes round nothing.
        """
        recipe = self.recipe
        if recipe is None:
            return self
        zone = self.times.zone or ZoneInfo("UTC")
        made = {name: name for name in recipe.fields}
        return replace(
            self,
            mapping={**recipe.mapping, **made, **self.mapping},
            times=replace(self.times, zone=zone),
            rounding=self.rounding or (currency if recipe.rounds else None),
        )


@dataclass(frozen=True)
class ColumnPlan:
    """What becomes of each column.

    Attributes:
        targets: name in the record of each column of the file; None leaves it out.
        answers: label columns, which are left out.
        options: how the file is read.
    """

    targets: Mapping[str, str | None]
    answers: tuple[str, ...] = ()
    options: FileOptions = FileOptions()
    columns: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Note what the file calls each field, for messages."""
        names = {target: name for name, target in self.targets.items() if target}
        object.__setattr__(self, "columns", names)

    @property
    def dropped(self) -> list[str]:
        """Columns that are left out."""
        return [name for name, target in self.targets.items() if target is None]

    @property
    def passes(self) -> bool:
        """Whether a record can be sent as it stands, when nothing in it needs to change."""
        options = self.options
        same = all(name == target for name, target in self.targets.items())
        return same and not options.run and not options.only_known

    def hides(self, name: str) -> bool:
        """Whether a column that was not known when the plan was made is a label."""
        return is_answer(name) and name not in self.options.keep


def make_plan(path: object, columns: Iterable[str], options: FileOptions) -> ColumnPlan:
    """Decide what becomes of each column.

    Args:
        path: the file, for messages.
        columns: the file's columns; those without a name are never sent.
        options: as `FileOptions.with_recipe` gives them.

    Raises:
        UsageError: a column does not exist, or a required field has none.
    """
    columns, mapping, recipe = [name for name in columns if name], options.mapping, options.recipe
    have = f"its columns are {', '.join(columns)}"
    if columns:
        _check(path, columns, options)
    chosen = {name: target for target, name in mapping.items()}
    if len(chosen) < len(mapping):
        msg = "--map uses one column for two fields; each needs its own"
        raise UsageError(msg)
    unused = frozenset((*recipe.unused, recipe.label)) if recipe else frozenset()
    consumed = recipe.consumed if recipe else frozenset()
    targets: dict[str, str | None] = {}
    answers = []
    for name in columns:
        answer = (is_answer(name) or name in unused) and name not in options.keep
        unwanted = (
            answer
            or name in options.drop
            or name in mapping  # another column takes its name
            or name in consumed  # a made field has it
            or (options.only_known and name not in (*KNOWN, *options.own))
        )
        targets[name] = chosen.get(name, None if unwanted else name)
        if answer and targets[name] is None and name not in options.drop:
            answers.append(name)
    missing = [name for name in REQUIRED if name not in targets.values()]
    if missing and columns:
        named = f"{path} has no column for {', '.join(missing)}"
        if recipe is None and (known := recognised(columns)):
            command = options.command.format(file=shlex.quote(str(path)))
            msg = f"{named}; it looks like {known.title}: {command} --recipe {known.name}"
            raise UsageError(msg)
        pairs = ",".join(f"{name}={_spelt_otherwise(name, columns)}" for name in missing)
        msg = f"{named}: give --map {pairs}; {have}"
        raise UsageError(msg)
    return ColumnPlan(targets, tuple(answers), options)


def _spelt_otherwise(field: str, columns: list[str]) -> str:
    """The one column that is called so but for case, spaces and punctuation; else the word COLUMN."""
    plain = field.replace("_", "")
    found = [name for name in columns if re.sub(r"[\W_]", "", name).lower() == plain]
    return shlex.quote(found[0]) if len(found) == 1 else "COLUMN"


def _check(path: object, columns: list[str], options: FileOptions) -> None:
    """Refuse fields that no record has, and columns that this file does not have."""
    have = f"its columns are {', '.join(columns)}"
    for target, name in options.mapping.items():
        if target not in KNOWN:
            close = get_close_matches(target, KNOWN, 1)
            hint = f"did you mean {close[0]}?" if close else f"its fields are {', '.join(KNOWN)}"
            msg = f"--map {target}={name}: the input record has no field {target}; {hint}"
            raise UsageError(msg)
    wanted = [(f"--map {target}={name}", name) for target, name in options.mapping.items()]
    wanted += [(f"--drop {name}", name) for name in options.drop]
    wanted += [(f"--keep {name}", name) for name in options.keep]
    for option, name in wanted:
        if name not in columns:
            msg = f"{option}: {path} has no column {name}; {have}"
            raise UsageError(msg)
