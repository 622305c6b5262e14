"""What a synthesis will ask for, before anything is spent: prompts, tokens, money, and what leaves this machine.

Input tokens are those of the very prompts that will be sent; variants and answers, which do not exist yet, are put in
at the lengths measured on a published augmented set (KnowUnDo, written by a large model): a variant has 1.5 times the
tokens of its question, a vague answer 30.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from relearn.core import config
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.llm.completer import estimated_tokens
from relearn.llm.generators import find_generator, remote_host
from relearn.synthesis.questions import own_question, variant_group, variants_prompt
from relearn.synthesis.rows import Question, generic_wanted
from relearn.synthesis.vague_answers import answer_group, continue_prompt, planned_hardening, vague_prompt

VARIANT_GROWTH = 1.5
ANSWER_TOKENS = 30
LABEL_TOKENS = 4
MESSAGE_TOKENS = 8
JUDGE_TOKENS_IN, JUDGE_TOKENS_OUT = 200, 60
REPEATED = 0.05
# What another machine is shown of a record.
QUESTIONS, WITH_ANSWERS = "the questions", "the questions and answers"

Count = Callable[[str], int]


@dataclass(frozen=True)
class Spending:
    """Prompts and tokens of one generator; `cost` is None when it has a price that is not given. `purpose`: what it is
    asked for beside new answers."""

    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    purpose: str = ""


@dataclass(frozen=True)
class Sent:
    """`what` of `records` private records goes to `host`, if the recipe says `allowed_by: true`."""

    host: str
    records: int
    what: str
    allowed_by: str = "synthesis.allow_remote"


@dataclass(frozen=True)
class Plan:
    """`rows` by kind are those expected when nothing is rejected. Calls and tokens are of generator and judge together
    and hold REPEATED more than one pass, for what has to be asked again. `cost` is None where a price is missing.
    """

    rows: Mapping[str, int]
    spending: tuple[Spending, ...]
    sent: tuple[Sent, ...]
    counted_by: str
    currency: str
    over_budget: str = ""

    @property
    def calls(self) -> int:
        return sum(entry.calls for entry in self.spending)

    @property
    def input_tokens(self) -> int:
        return sum(entry.input_tokens for entry in self.spending)

    @property
    def output_tokens(self) -> int:
        return sum(entry.output_tokens for entry in self.spending)

    @property
    def cost(self) -> float | None:
        costs = [entry.cost for entry in self.spending]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def hosts(self) -> dict[str, int]:
        """Other machine -> how many private records would be sent there."""
        return {sent.host: sent.records for sent in self.sent}

    def lines(self) -> list[str]:
        """The plan in plain words, one fact a line."""
        rows = ", ".join(f"{count:,} {kind}" for kind, count in self.rows.items())
        lines = [f"Rows: {sum(self.rows.values()):,} ({rows})"] if self.rows else []
        for entry in self.spending:
            name = f"{entry.name}, {entry.purpose}" if entry.purpose else entry.name
            lines.append(
                f"{name}: {entry.calls:,} calls, {entry.input_tokens:,} tokens in, {entry.output_tokens:,} out, "
                f"{self._money(entry.cost)}"
            )
        if self.spending:
            lines.append(
                f"Tokens counted by {self.counted_by}, answers at lengths measured on KnowUnDo, {REPEATED:.0%} asked "
                "again"
            )
        lines += [
            f"Leaves this machine: {sent.what} of {sent.records:,} private records, to {sent.host}"
            for sent in self.sent
        ]
        if not self.sent:
            lines.append("Leaves this machine: nothing")
        return lines + ([self.over_budget] if self.over_budget else [])

    def _money(self, cost: float | None) -> str:
        if cost is None:
            return "cost unknown (give prices: in the recipe)"
        return f"cost {cost:,.2f} {self.currency}" if cost else "free of charge"


def plan(
    records: Sequence[Record],
    settings: config.Synthesis,
    *,
    generic: int = 0,
    tokenizer: Any = None,
    prices: config.Prices | None = None,
) -> Plan:
    """What synthesising `records` will take; `generic` counts the generic rows there are. Sends and asks nothing.

    `tokenizer` is the model's own; without one tokens are characters / 4.
    """
    count = counting(tokenizer)
    rows = planned_rows(records, settings, generic)
    passes = [_of_record(record, settings, count) for record in records]
    judged = rows["qa"] + sum(record.form == "text" for record in records)
    return planned(rows, passes, judged, settings, tokenizer=tokenizer, prices=prices)


def counting(tokenizer: Any) -> Count:
    """Tokens of a text by the model's own tokenizer; without one characters / 4."""
    return (lambda text: len(tokenizer(text).input_ids)) if tokenizer is not None else estimated_tokens


def planned(
    rows: Mapping[str, int],
    passes: Sequence[tuple[int, int, int]],
    judged: int,
    settings: config.Synthesis,
    *,
    tokenizer: Any = None,
    prices: config.Prices | None = None,
) -> Plan:
    """The plan of `passes`, (calls, input tokens, output tokens) of every record that is sent, of which texts `judged`
    are read by the judge, if there is one.
    """
    totals = [sum(column) for column in zip(*passes, strict=True)] if passes else [0, 0, 0]
    spent = [spending(settings.generator, totals, prices)]
    if settings.judge:
        spent.append(spending(settings.judge, [judged, judged * JUDGE_TOKENS_IN, judged * JUDGE_TOKENS_OUT], prices))
    found = replace(
        nothing(tokenizer=tokenizer, prices=prices),
        rows=rows,
        spending=tuple(spent),
        sent=tuple(_sent(settings, len(passes))) if passes else (),
    )
    return replace(found, over_budget=_over_budget(found, settings))


def nothing(*, tokenizer: Any = None, prices: config.Prices | None = None) -> Plan:
    """The plan of a method for which nothing is written."""
    counted_by = "the model's tokenizer" if tokenizer is not None else "characters / 4"
    return Plan({}, (), (), counted_by, prices.currency if prices else "")


def planned_rows(records: Sequence[Record], settings: config.Synthesis, generic: int) -> dict[str, int]:
    """Rows by kind when every text is written and taken; `generic` is how many generic rows there are to draw from."""
    passages = sum(record.form == "text" for record in records)
    questions = (len(records) - passages) * (1 + len(settings.variants))
    completions = passages + (questions if settings.completions else 0)
    harder = planned_hardening(questions, len(records) - passages, settings.harden)
    questions, completions = questions + harder["qa"], completions + harder["completion"]
    wanted = generic_wanted(questions + completions, settings.generic_ratio)
    return {"qa": questions, "completion": completions, "generic": min(wanted, generic)}


def check_remote(settings: config.Synthesis, records: int, shown: str = QUESTIONS) -> None:
    """Raises InputError when private texts would leave this machine without `allow_remote`; `shown` says what the
    generator is to see of the records."""
    for sent in _sent(settings, records, shown):
        if not settings.allow_remote:
            raise InputError(
                f"{sent.what} of {sent.records:,} private records would be sent to {sent.host}",
                where="synthesis",
                way_out="allow it (allow_remote: true, or --allow-remote), or use templates, transformers:MODEL or an "
                "endpoint on this machine",
            )


def _sent(settings: config.Synthesis, records: int, shown: str = QUESTIONS) -> list[Sent]:
    uses = [(settings.generator, shown), (settings.judge, WITH_ANSWERS)]
    hosts = [(remote_host(name), what) for name, what in uses if name]
    return [Sent(host, records, what) for host, what in hosts if host is not None]


def spending(name: str, totals: Sequence[int], prices: config.Prices | None, purpose: str = "") -> Spending:
    """What `totals` (calls, input tokens, output tokens) of a generator come to, with what has to be asked again."""
    calls, tokens_in, tokens_out = (round(total * (1 + REPEATED)) for total in totals)
    if not find_generator(name)[0].priced:
        cost = 0.0
    elif prices is None:
        cost = None
    else:
        cost = (tokens_in * prices.input_per_million + tokens_out * prices.output_per_million) / 1e6
    return Spending(name, calls, tokens_in, tokens_out, cost, purpose)


def _over_budget(planned: Plan, settings: config.Synthesis) -> str:
    if settings.max_calls is not None and planned.calls > settings.max_calls:
        return f"Budget: max_calls {settings.max_calls:,} does not cover this"
    if settings.max_tokens is not None and planned.input_tokens + planned.output_tokens > settings.max_tokens:
        return f"Budget: max_tokens {settings.max_tokens:,} does not cover this"
    return ""


def _of_record(record: Record, settings: config.Synthesis, count: Count) -> tuple[int, int, int]:
    """(calls, input tokens, output tokens) of one pass over a record."""
    own = own_question(record)
    if record.form == "text":
        prompt = continue_prompt(answer_group(record, [own]), settings, seed=0)
        return 1, count(prompt.text) + MESSAGE_TOKENS, 2 * ANSWER_TOKENS
    variant_tokens = round(count(record.question) * VARIANT_GROWTH) + LABEL_TOKENS
    kinds = len(settings.variants)
    # The record's own question stands in for each variant; what variants have more is added below.
    questions = [own, *(Question(record.id, kind, record.question) for kind in settings.variants)]
    answering = count(vague_prompt(answer_group(record, questions), settings, seed=0).text) + MESSAGE_TOKENS
    answering += kinds * round(count(record.question) * (VARIANT_GROWTH - 1))
    answered = len(questions) * (ANSWER_TOKENS + LABEL_TOKENS)
    if not kinds:
        return 1, answering, answered
    asking = count(variants_prompt(variant_group(record, settings), settings, seed=0).text) + MESSAGE_TOKENS
    return 2, asking + answering, kinds * variant_tokens + answered
