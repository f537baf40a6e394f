"""Ways to get it wrong, a line or two each: the simulation finds all of them, the crash test some.

Nothing of the project is imported here: in a worker, breaks must be in place before anything is.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Break:
    """One way to get it wrong.

    Attributes:
        name: what is broken.
        module: where.
        changes: text and what replaces it; each text stands exactly once in the module.
        takes: names that other modules have imported from it: (module, name).
    """

    name: str
    module: str
    changes: tuple[tuple[str, str], ...]
    takes: tuple[tuple[str, str], ...]

    def source(self, path: Path) -> str:
        """The module's text with the break.

        Args:
            path: its file.

        Raises:
            AssertionError: the module has changed, and the break does not fit any more.
        """
        text = path.read_text()
        for old, new in self.changes:
            assert text.count(old) == 1, (
                f"{self.module} has changed: {old!r} stands there {text.count(old)} times"
            )
            text = text.replace(old, new)
        return text

    def mutant(self) -> ModuleType:
        """A second module beside the right one, with the break."""
        spec = importlib.util.find_spec(self.module)
        assert spec is not None
        assert spec.origin is not None
        module = ModuleType(self.module)
        module.__file__ = spec.origin
        exec(compile(self.source(Path(spec.origin)), spec.origin, "exec"), vars(module))
        return module

    def install(self) -> None:
        """Let this process import the broken module in the right one's place.

        Raises:
            AssertionError: it is imported already.
        """
        assert self.module not in sys.modules, f"{self.module} is imported already"
        sys.meta_path.insert(0, _Finder(self))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, wrong: Break) -> None:
        self._break = wrong

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        if fullname != self._break.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(self._break, fullname, spec.origin)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, wrong: Break, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._break = wrong

    def get_code(self, fullname: str) -> Any:  # no compiled file is read or written
        return compile(self._break.source(Path(self.path)), self.path, "exec", dont_inherit=True)


def named(name: str) -> Break:
    """The break of a name.

    Raises:
        KeyError: there is none.
    """
    return {wrong.name: wrong for wrong in BREAKS}[name]


_PARTITION = (("app.blocks.faust.pipeline", "Partition"),)
_SETTLING = (("app.blocks.core.partition", "Settling"),)
_PULSE = (("app.blocks.faust.pipeline", "Pulse"),)
_SCORING = (("app.stages.scoring_stage", "ScoringHandler"),)
_SCORER = (("app.stages.scoring_stage", "TransactionScorer"),)
_CARDS = (("app.stages.card_stage", "CardsHandler"),)
_SINK = (("tests.stream.sim_world", "SinkHandler"),)
_CARD_STAGE = (
    ("tests.stream.sim_world", "CardStage"),
    ("app.stages.card_stage", "Enriched"),
    ("app.stages.card_stage", "Duplicate"),
    ("app.stages.card_stage", "Misrouted"),
    ("app.stages.card_stage", "Refund"),
)
_WITH_COMPANY = (
    (
        "        if len(rows) == 1:\n            return [None], f",
        "        if True:\n            return [None] * len(rows), f",
    ),
)

BREAKS = (
    Break(
        "changelog before outputs",
        "app.blocks.core.order_of_effects",
        (
            (
                "            if durable is None or not durable.done() or durable.cancelled():\n",
                "            if durable is None or durable.cancelled():\n",
            ),
            (
                "            if durable.exception() is not None:\n",
                "            if durable.done() and durable.exception() is not None:\n",
            ),
            (
                "                steps, self._taken = self._taken, []\n",
                "                if not all(step.durable.done() for step in self._taken):\n"
                "                    return\n"
                "                steps, self._taken = self._taken, []\n",
            ),
        ),
        _SETTLING,
    ),
    Break(
        "acknowledged before stored",
        "app.blocks.core.order_of_effects",
        (
            (
                "                if not self._taken:\n                    return\n",
                "                if not self._taken:\n                    return\n"
                "                for step in self._taken:\n"
                "                    self._ports.finish(step.block)\n",
            ),
        ),
        _SETTLING,
    ),
    Break(
        "overlay kept on revocation",
        "app.blocks.core.partition",
        (
            (
                "        self._overlay.clear()\n",
                "        ports = vars(self._ports)\n"
                "        ports.setdefault('kept', {})[self.number] = dict(self._overlay)\n",
            ),
            (
                "        self._overlay: dict[bytes, tuple[int, bytes | None]] = {}\n",
                "        self._overlay = vars(ports).get('kept', {}).get(number, {})\n",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "persisted changelog offset off by one",
        "app.blocks.core.order_of_effects",
        (("base + len(chunk) - 1)  # (4)", "base + len(chunk))"),),
        _SETTLING,
    ),
    Break(
        "rows stored under another partition's changelog offset",
        "app.blocks.core.order_of_effects",
        (
            (
                "        self._ports.store(self._number, chunk, base + len(chunk) - 1)  # (4)",
                "        shared = vars(self._ports)\n"
                "        shared['end'] = max(shared.get('end', 0), base + len(chunk) - 1)\n"
                "        self._ports.store(self._number, chunk, shared['end'])",
            ),
        ),
        _SETTLING,
    ),
    Break(
        "outputs called durable when their first batch is",
        "app.blocks.faust.output_sender",
        (("        return all_of(futures)\n", "        return all_of(futures[:1])\n"),),
        (("app.blocks.faust.pipeline", "OutputSender"),),
    ),
    Break(
        "outputs of a pulse handed over with those of its first partition",
        "app.stages.transaction_scoring",
        (
            (
                "            model, threshold, why = champion, judges.threshold, explained.get(index, [])\n",
                "            model, threshold, why = champion, judges.threshold, explained.get(index, [])\n"
                "            outputs = scored[0][-1]\n",
            ),
        ),
        _SCORER,
    ),
    Break(
        "what a pulse computes again is remembered from before",
        "app.stages.scoring_stage",
        (
            (
                "        self._scorer.score([one.segments for one in begun])\n",
                "        for one in begun:\n"
                "            one.keep(self.in_force)\n"
                "        self._scorer.score([one.segments for one in begun])\n",
            ),
        ),
        _SCORING,
    ),
    Break(
        "a partition that is paused for alignment stops its pulse",
        "app.blocks.core.event_loop_turns",
        (
            (
                "                work = member.next_work()\n",
                "                if member.held or vars(self).get('stopped'):\n"
                "                    self.stopped = True\n"
                "                    continue\n"
                "                work = member.next_work()\n",
            ),
        ),
        _PULSE,
    ),
    Break(
        "a prediction acknowledged when one of its block's rows is stored",
        "app.blocks.faust.pipeline",
        (
            (
                "            return parts[0] if len(parts) == 1 else asyncio.gather(*parts)\n",
                "            return parts[0]\n",
            ),
        ),
        (("app.blocks.faust.pipeline", "Pipeline"),),
    ),
    Break(
        "no contiguity check after a seek",
        "app.blocks.core.partition",
        (("if block.begin > self.next_offset:", "if False:"),),
        _PARTITION,
    ),
    Break(
        "no zombie fencing",
        "app.blocks.core.order_of_effects",
        (("if base != self.changelog_next:", "if False:"),),
        _SETTLING,
    ),
    Break(
        "a record whose schema is not here is stepped over",
        "app.stages.card_stage",
        (
            (
                "                taken, needs = index, unread.schema\n                break\n",
                "                del unread\n                continue\n",
            ),
        ),
        _CARDS,
    ),
    Break(
        "gate left out",
        "app.stages.card_stage",
        (
            (
                "        prefix = BatchPrefix(until_ms)\n",
                "        prefix = BatchPrefix(math.inf)\n",
            ),
        ),
        _CARDS,
    ),
    Break(
        "a position that Kafka has forgotten is not committed again",
        "app.blocks.core.alignment",
        (("            self._committed.clear()\n", ""),),
        (("tests.stream.sim_worker", "EventTimeAlignment"),),
    ),
    Break(
        "a partition whose end is not reported holds back nobody",
        "app.blocks.core.alignment",
        (("            processed = False\n", "            processed = True\n"),),
        (("tests.stream.sim_worker", "EventTimeAlignment"),),
    ),
    Break(
        "a partition counts as far as it has computed",
        "app.blocks.core.partition",
        (
            (
                "return self._forwarded.first_ms(self.held_ms)",
                "return self._steps[-1].computed.newest_ms if self._steps else self.held_ms",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "reprocessed record counted as new in the second stage",
        "app.stages.scoring_stage",
        (("if item.offset <= seen:  # the first", "if False:  # the first"),),
        _SCORING,
    ),
    Break(
        "reprocessed label counted as new",
        "app.stages.scoring_stage",
        (("if item.offset <= seen:\n", "if False:\n"),),
        _SCORING,
    ),
    Break(
        "late record does not advance last_offset",
        "app.stages.card_stage",
        (
            (
                "            outcome = self._stage.apply(transaction, row, partition, conflicts=decided)\n",
                "            outcome = self._stage.apply(transaction, row, partition, conflicts=decided)\n"
                "            if 'late' in getattr(outcome, 'flags', ()):\n"
                "                row.last_offset = record.offset - 1\n",
            ),
        ),
        _CARDS,
    ),
    Break(
        "reprocessed record applied again",
        "app.stages.card_stage",
        (
            (
                "            if not rows.advance(row, record.offset):\n",
                "            rows.advance(row, record.offset)\n            if False:\n",
            ),
        ),
        _CARDS,
    ),
    Break(
        "lower offset wins in recovery",
        "app.blocks.core.row_precedence",
        (("current is None or row_offset(candidate)", "True or row_offset(candidate)"),),
        (("app.blocks.core.row_precedence", "supersedes"),),
    ),
    Break(
        "position before the rows",
        "app.stages.scoring_stage",
        (
            (
                "[*self.rows.groups(), *changed, [self.position.encode()]]",
                "[[self.position.encode()], *self.rows.groups(), *changed]",
            ),
        ),
        _SCORING,
    ),
    Break(
        "second batch handed over before the first is known",
        "app.blocks.faust.output_sender",
        (("if self._known_until.get(destination, -math.inf) < time():", "if False:"),),
        (("app.blocks.faust.pipeline", "OutputSender"),),
    ),
    Break(
        "passed on with the next one's offset",
        "app.blocks.faust.output_sender",
        (("enumerate(records, stands.offset)", "enumerate(records, stands.offset + 1)"),),
        (("app.blocks.faust.pipeline", "OutputSender"),),
    ),
    Break(
        "a fetched copy of a passed block computed again",
        "app.blocks.core.partition",
        (
            ("            if block.end <= end:  # fetched by now\n                continue\n", ""),
            (
                "        if block.end <= self.next_offset:  # fetched again after a seek, taken already\n"
                "            self._ports.abandon(block)\n"
                "            return None\n",
                "",
            ),
            ("            block = block.part(records, self.next_offset, block.end)\n", ""),
        ),
        _PARTITION,
    ),
    Break(
        "records of overlapping blocks counted twice",
        "app.blocks.core.partition",
        (
            (
                "            block = block.part(records, self.next_offset, block.end)\n",
                "            self.records_done += len(block.records) - len(records)\n"
                "            block = block.part(records, self.next_offset, block.end)\n",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "offsets without a record are never done",
        "app.blocks.core.partition",
        (
            (
                "            self._admit(block, Computed())\n",
                "            self.next_offset = block.end\n",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "markers acknowledged before what precedes them",
        "app.blocks.core.partition",
        (
            (
                "            self._admit(block, Computed())\n",
                "            self.next_offset = block.end\n            self._ports.finish(block)\n",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "a committed offset taken for that of a record",
        "app.blocks.core.offset_metadata",
        (("return committed if end is None else min(end, committed)", "return committed"),),
        (("tests.stream.sim_worker", "OffsetMetadata"),),
    ),
    Break(
        "lost offsets passed over in silence",
        "app.blocks.core.partition",
        (
            (
                "        if step.block.lost:\n            return None\n",
                "        if step.block.lost:\n            return nothing_to_send()\n",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "a loss acknowledged before its record is durable",
        "app.blocks.core.partition",
        (
            (
                "        self._expect(step, await self._ports.account_for_loss(self.number, begin, block.end))",
                "        await self._ports.account_for_loss(self.number, begin, block.end)\n"
                "        self._expect(step, nothing_to_send())",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "a partition waits for memory that others have",
        "app.blocks.core.partition",
        (
            (
                "return in_flight >= self._depth or (in_flight > 0 and self._budget.exceeded)",
                "return in_flight >= self._depth or self._budget.exceeded",
            ),
        ),
        _PARTITION,
    ),
    Break(
        "a partition of which nothing is here is not fetched",
        "app.blocks.core.partition",
        (("(here and self._budget.exceeded)", "self._budget.exceeded"),),
        _PARTITION,
    ),
    Break(
        "rows logged behind some that are not",
        "app.blocks.faust.unlogged_rows",
        (("            self._database(partition).flush()\n", ""),),
        (("app.blocks.faust.block_table", "UnloggedRows"),),
    ),
    Break(
        "a worker's setting overrides what decides",
        "app.stages.partition_start",
        (("    if in_force is None:\n", "    if True:\n"),),
        (("tests.stream.sim_worker", "bind_model"),),
    ),
    Break(
        "a change applied at another offset on replay",
        "app.stages.scoring_stage",
        (
            (
                "now = self._deciding(message.offset, in_force, state)",
                "now = self._deciding(message.offset, begun.bound, state)",
            ),
        ),
        _SCORING,
    ),
    Break(
        "a challenger applied at another offset on replay",
        "app.stages.scoring_stage",
        (
            (
                "model, in_force.threshold, in_force.challengers,",
                "model, in_force.threshold, self._in_force(state).challengers,",
            ),
        ),
        _SCORING,
    ),
    Break(
        "a canary that is not sticky",
        "app.stages.transaction_scoring",
        (
            (
                "cards = [item.card_id for _, _, item, *_ in scored]",
                "cards = [f'{item.card_id}{len(scored)}' for _, _, item, *_ in scored]",
            ),
        ),
        _SCORER,
    ),
    Break(
        "shadow scores stored as the champion's",
        "app.stages.challenger_scores",
        (("if place != decides", "if place != canary"),),
        (("app.stages.scoring_stage", "Challengers"),),
    ),
    Break(
        "a shadow's score decides",
        "app.stages.challenger_scores",
        (
            ("            if one.challenger.share:\n", "            if True:\n"),
            ("and one.challenger.decides_for(card)", "and True"),
        ),
        (("app.stages.scoring_stage", "Challengers"),),
    ),
    Break(
        "a challenger's failure depends on the company of its rows",
        "app.stages.scoring_models",
        _WITH_COMPANY,
        (("app.stages.challenger_scores", "of_each_row"),),
    ),
    Break(
        "a change applied on some partitions only",
        "app.stages.change_forwarding",
        (("range(topics.enriched.partitions)", "range(1)"),),
        (("app.stages.change_forwarding", "ControlHandler"),),
    ),
    Break(
        "a rule applied at another offset on replay",
        "app.stages.scoring_stage",
        (
            (
                "                policy = kept_policy(state.memo, in_force.rules)\n"
                "                continue\n",
                "                continue\n",
            ),
        ),
        _SCORING,
    ),
    Break(
        "a rule applied on some partitions only",
        "app.stages.change_forwarding",
        (
            (
                "range(topics.enriched.partitions)",
                "range(1 if b'\"rule\"' in record.value else topics.enriched.partitions)",
            ),
        ),
        (("app.stages.change_forwarding", "ControlHandler"),),
    ),
    Break(
        "an expired list entry still in force",
        "app.domain.rules.policy",
        (("if item.event_time_ms < until:", "if True:"),),
        (
            ("app.stages.scoring_stage", "kept_policy"),
            ("app.stages.transaction_scoring", "outcome_of"),
        ),
    ),
    Break(
        "a replayed change applied again",
        "app.stages.scoring_stage",
        (
            (
                "in_force.after(change, message.partition, message.offset, message.received_at)",
                "InForce(in_force.first, in_force.model, in_force.threshold, rules=in_force.rules).after(\n"
                "            change, message.partition, message.offset\n        )",
            ),
        ),
        _SCORING,
    ),
    Break(
        "a change is taken back although another one followed it",
        "app.stages.scoring_stage",
        (
            (
                "in_force.after(change, message",
                "in_force.after(type(change)(**{n: getattr(change, n) for n in change.__struct_fields__ if n != "
                "'reverts'}), message",
            ),
        ),
        _SCORING,
    ),
    Break(
        "a row without a score takes its company along",
        "app.stages.scoring_models",
        _WITH_COMPANY,
        (("app.stages.model_fallbacks", "of_each_row"),),
    ),
    Break(
        "the score of the model before stored as that of the one that decides",
        "app.stages.model_fallbacks",
        (
            (
                "found |= self._by(one.model, one.earlier.threshold, left, features_of)",
                "by = self._by(one.model, one.earlier.threshold, left, features_of)\n"
                "                found |= {n: its._replace(model=judges.model) for n, its in by.items()}",
            ),
        ),
        (("app.stages.scoring_stage", "Champion"),),
    ),
    Break(
        "one earlier model only is asked for a score",
        "app.stages.model_fallbacks",
        (("for one in judges.fallbacks:", "for one in judges.fallbacks[:1]:"),),
        (("app.stages.scoring_stage", "Champion"),),
    ),
    Break(
        "an earlier model that is not here is passed over",
        "app.stages.model_fallbacks",
        (("raise FallbackNeededError(one.earlier.hash)", "continue"),),
        (("app.stages.scoring_stage", "Champion"),),
    ),
    Break(
        "what is computed again has changed rows before",
        "app.stages.all_or_nothing",
        (('state.memo.pop("rows", None)', "pass"),),
        (
            ("app.stages.scoring_stage", "computed_or_needed"),
            ("app.stages.scoring_stage", "all_or_nothing"),
        ),
    ),
    Break(
        "the oldest of the earlier models decides",
        "app.stages.model_fallbacks",
        (("for one in judges.fallbacks:", "for one in judges.fallbacks[::-1]:"),),
        (("app.stages.scoring_stage", "Champion"),),
    ),
    Break(
        "a model that was taken back decides where the other one gives no score",
        "app.stages.scoring_stage",
        (
            (
                "        if changed is not in_force:\n            undone",
                "        if in_force.undone(change, message.partition) and changed.model != in_force.model:\n"
                "            from app.domain.changes_in_force import EarlierModel\n"
                "            before = EarlierModel(in_force.model, in_force.threshold), *changed.fallbacks\n"
                "            changed = type(changed)(**{**{n: getattr(changed, n) for n in changed.__struct_fields__}, "
                "'fallbacks': before})\n"
                "        if changed is not in_force:\n            undone",
            ),
        ),
        _SCORING,
    ),
    Break(
        "another model scores while the right one is loaded",
        "app.stages.scoring_stage",
        (
            (
                "                if isinstance(follows, ModelNeeded):\n",
                "                if isinstance(follows, ModelNeeded) and begun.segments:\n"
                "                    follows = begun.segments[-1].judges\n"
                "                if isinstance(follows, ModelNeeded):\n",
            ),
        ),
        _SCORING,
    ),
    Break(
        "what decides is lost in a crash",
        "app.stages.scoring_stage",
        (("[*self.rows.groups(), *changed, [self", "[*self.rows.groups(), [self"),),
        _SCORING,
    ),
    Break(
        "a reused id taken for a repetition",
        "app.domain.transaction_outcomes",
        (
            (
                "                if at == t and minor in (transaction.minor, UNKNOWN):",
                "                if True:",
            ),
        ),
        _CARD_STAGE,
    ),
    Break(
        "a repetition recognised without its amount",
        "app.domain.transaction_outcomes",
        (("minor in (transaction.minor, UNKNOWN)", "True"),),
        _CARD_STAGE,
    ),
    Break(
        "a refund counted for its card",
        "app.domain.transaction_outcomes",
        (("        if transaction.minor < 0:\n", "        if False:\n"),),
        _CARD_STAGE,
    ),
    Break(
        "alerts grouped by when they were scored",
        "app.stages.transaction_scoring",
        (
            (
                "                **added,\n",
                '                **added,\n                "event_time_ms": self._clock_ms(),\n',
            ),
        ),
        _SCORER,
    ),
    Break(
        "no alert of the last transaction of a block",
        "app.stages.transaction_scoring",
        (('if fraud or flags or added.get("rules"):', "if fraud and index + 1 < len(scored):"),),
        _SCORER,
    ),
    Break(
        "a conflicting transaction counted for its card",
        "app.domain.transaction_outcomes",
        (("        counted = not (late or conflicting)\n", "        counted = not late\n"),),
        _CARD_STAGE,
    ),
    Break(
        "a conflicting transaction counted at its terminal",
        "app.domain.label_outcomes",
        (("counted=not conflicting and LATE not in flags", "counted=LATE not in flags"),),
        (("tests.stream.sim_world", "TerminalStage"), ("app.stages.scoring_stage", "LabelOutcome")),
    ),
    Break(
        "features of the worker instead of those that a transaction was begun with",
        "app.stages.scoring_stage",
        (("            catalogue = catalogue.under(schema)", "            pass"),),
        _SCORING,
    ),
    Break(
        "another stage's fields kept with a card's transactions",
        "app.domain.transaction_outcomes",
        (('own.codes("card", transaction.own)', 'own.codes("terminal", transaction.own)'),),
        _CARD_STAGE,
    ),
    Break(
        "a model that takes columns of other features",
        "app.stages.transaction_scoring",
        (("            if catalogue is self._catalogue:\n", "            if True:\n"),),
        _SCORER,
    ),
    Break(
        "an erased card comes back on replay",
        "app.stages.block_rows",
        (("        row.last_offset = self._deletions.offset(head)\n", ""),),
        (("app.stages.card_stage", "BlockRows"),),
    ),
    Break(
        "a frozen worker brings an erased card back",
        "app.blocks.core.row_precedence",
        (("return deleted_at < 0 or row_offset(raw) > deleted_at", "return True"),),
        (("app.blocks.faust.block_table", "follows"),),
    ),
    Break(
        "an erasure overtakes the transactions before it",
        "app.stages.card_stage",
        (
            (
                "        self._send_items()\n        value = erase_message",
                "        value = erase_message",
            ),
        ),
        _CARDS,
    ),
    Break(
        "segments of an erased card stay",
        "app.stages.block_rows",
        (
            (
                "        keys = [head_key(key), *(segment_key(key, ref.number) for ref in row.refs)]\n",
                "        keys = [head_key(key)]\n",
            ),
        ),
        (("app.stages.card_stage", "BlockRows"),),
    ),
    Break(
        "an erased card's row of a misrouted record stays",
        "app.stages.card_stage",
        (
            (
                "        there = home or rows.read(record.key).last_offset >= 0\n",
                "        there = home\n",
            ),
        ),
        _CARDS,
    ),
    Break(
        "labels of an erased card wait on",
        "app.stages.erase_waiting_labels",
        (("row.waiting = left\n", "pass\n"),),
        (("app.stages.scoring_stage", "forget_labels"),),
    ),
    Break(
        "a prediction acknowledged before its row is stored",
        "app.stages.sink_stage",
        (("Begun(early, rows)", "Begun((), rows)"),),
        _SINK,
    ),
    Break(
        "rows of a block taken for stored because one of them is on its way",
        "app.stages.sink_stage",
        (
            ("if begun is None:", "if begun is None and not early:"),
            ("early.add(begun)", "early.add(begun or next(iter(early)))"),
        ),
        _SINK,
    ),
)

_LABELS = (("app.stages.label_stage", "LabelsHandler"),)
#: Ways to get parked labels wrong; tests/stream/test_parked_labels.py finds all of them.
LABEL_BREAKS: Sequence[Break] = (
    Break(
        "a parked label forgotten at a crash",
        "app.stages.label_stage",
        (
            (
                "[[row] for row in self._rows.items()]",
                "[[row] for row in self._rows.items() if row[1] is None]",
            ),
        ),
        _LABELS,
    ),
    Break(
        "a parked label removed before its forwarding is durable",
        "app.blocks.core.interfaces",
        (("asyncio.gather(first, stored)", "asyncio.ensure_future(stored)"),),
        (
            ("tests.stream.sim_labels", "SentOutputs"),
            ("app.blocks.core.partition", "SentOutputs"),
        ),
    ),
    Break(
        "a label that was looked up deduplicated by its offset",
        "app.stages.label_stage",
        (("pack, looked_up=looked_up)", "pack, looked_up=False)"),),
        _LABELS,
    ),
    Break(
        "parked labels of an erased card stay",
        "app.stages.label_stage",
        (
            (
                '                self._remove(offset)\n        self.counts["erased"]',
                '                pass\n        self.counts["erased"]',
            ),
            # else the next start of the partition makes up for it
            ("        self._erasures = erasures.row(at)\n", ""),
        ),
        _LABELS,
    ),
    Break(
        "a parked label removed when its copy is sent",
        "app.stages.parked_label_retries",
        (
            (
                "                schedule.copied(offset, now_ms)\n",
                "                schedule.copied(offset, now_ms)\n"
                "                self._rows.store(partition, [(row_key(offset), None)], 0)\n",
            ),
        ),
        (("app.stages.parked_label_retries", "LabelRetries"),),
    ),
    Break(
        "a parked label given up while Cassandra is away",
        "app.stages.parked_label_retries",
        (
            (
                "found = await self._find(names) if names else []",
                "found = [[] for _ in names]\n        now_ms += 1 << 40",
            ),
        ),
        (("app.stages.parked_label_retries", "LabelRetries"),),
    ),
)
