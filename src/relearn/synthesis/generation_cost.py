"""Estimate a synthesis before anything is sent: calls, tokens, cost, and what leaves this machine.

Input tokens are counted on the prompts that will be sent. Variants and answers, which do not exist yet, have the
lengths measured on a published augmented set (KnowUnDo, written by a large model): a variant 1.5 times the tokens of
its question, a vague answer 30.
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
from relearn.synthesis.rows import Question, count_attack_shaped_rows, generic_wanted
from relearn.synthesis.vague_answers import answer_group, continue_prompt, vague_prompt

VARIANT_GROWTH = 1.5
ANSWER_TOKENS = 30
LABEL_TOKENS = 4
MESSAGE_TOKENS = 8
JUDGE_TOKENS_IN, JUDGE_TOKENS_OUT = 200, 60
RETRIED = 0.05
# The part of a record that is sent to another machine.
QUESTIONS, WITH_ANSWERS = "the questions", "the questions and answers"

TokenCounter = Callable[[str], int]


@dataclass(frozen=True)
class Spending:
    """Calls and tokens of one generator; `cost` is None when its price is unknown.

    `purpose`: what it writes, where that is not new answers.
    """

    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    purpose: str = ""


@dataclass(frozen=True)
class Sent:
    """The part `what` of `records` private records is sent to `host`, if the recipe has `allowed_by: true`."""

    host: str
    records: int
    what: str
    allowed_by: str = "synthesis.allow_remote"


@dataclass(frozen=True)
class Plan:
    """Expected rows by kind, if nothing is rejected, and the spending of generator and judge.

    Calls and tokens include a share RETRIED of prompts that are sent again. `cost` is None where a price is missing.
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
        """Return other machine -> number of private records sent there."""
        return {sent.host: sent.records for sent in self.sent}

    def lines(self) -> list[str]:
        """Format the plan, one fact a line."""
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
                f"Tokens counted by {self.counted_by}, answers at lengths measured on KnowUnDo, {RETRIED:.0%} asked "
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


def plan_synthesis(
    records: Sequence[Record],
    settings: config.Synthesis,
    *,
    generic: int = 0,
    tokenizer: Any = None,
    prices: config.Prices | None = None,
) -> Plan:
    """Estimate the synthesis of `records`, with `generic` generic rows to draw from; sends nothing.

    `tokenizer` is the model's own; without one tokens are characters / 4.
    """
    count = token_counter(tokenizer)
    rows = expected_rows(records, settings, generic)
    passes = [_tokens_of_record(record, settings, count) for record in records]
    judged = rows["qa"] + sum(record.form == "text" for record in records)
    return make_plan(rows, passes, settings, judged=judged, tokenizer=tokenizer, prices=prices)


def token_counter(tokenizer: Any) -> TokenCounter:
    """Return a function that counts the tokens of a text: with the tokenizer, or as characters / 4 without one."""
    return (lambda text: len(tokenizer(text).input_ids)) if tokenizer is not None else estimated_tokens


def make_plan(
    rows: Mapping[str, int],
    passes: Sequence[tuple[int, int, int]],
    settings: config.Synthesis,
    *,
    judged: int,
    tokenizer: Any = None,
    prices: config.Prices | None = None,
) -> Plan:
    """Make the plan from the expected `rows` and `passes`, the (calls, input tokens, output tokens) of every record.

    `judged`: number of texts that the judge reads, if there is one.
    """
    totals = [sum(column) for column in zip(*passes, strict=True)] if passes else [0, 0, 0]
    spending = [estimate_spending(settings.generator, totals, prices)]
    if settings.judge:
        judge_totals = [judged, judged * JUDGE_TOKENS_IN, judged * JUDGE_TOKENS_OUT]
        spending.append(estimate_spending(settings.judge, judge_totals, prices))
    sent = tuple(_sent(settings, len(passes))) if passes else ()
    plan = replace(empty_plan(tokenizer=tokenizer, prices=prices), rows=rows, spending=tuple(spending), sent=sent)
    return replace(plan, over_budget=_over_budget(plan, settings))


def empty_plan(*, tokenizer: Any = None, prices: config.Prices | None = None) -> Plan:
    """Return the plan of a method for which nothing is written."""
    counted_by = "the model's tokenizer" if tokenizer is not None else "characters / 4"
    return Plan({}, (), (), counted_by, prices.currency if prices else "")


def expected_rows(records: Sequence[Record], settings: config.Synthesis, generic: int) -> dict[str, int]:
    """Return the rows by kind if every text is written and accepted, with `generic` generic rows to draw from."""
    passages = sum(record.form == "text" for record in records)
    questions = (len(records) - passages) * (1 + len(settings.variants))
    completions = passages + (questions if settings.completions else 0)
    shaped = count_attack_shaped_rows(questions, len(records) - passages, settings.harden)
    questions, completions = questions + shaped["qa"], completions + shaped["completion"]
    wanted = generic_wanted(questions + completions, settings.generic_ratio)
    return {"qa": questions, "completion": completions, "generic": min(wanted, generic)}


def check_remote(settings: config.Synthesis, records: int, shown: str = QUESTIONS) -> None:
    """Raise InputError when private texts would leave this machine without `allow_remote`.

    `shown`: the part of a record that the generator gets.
    """
    sent = _sent(settings, records, shown)
    if sent and not settings.allow_remote:
        problem = f"{sent[0].what} of {records:,} private records would be sent to {sent[0].host}"
        allow = "allow it (allow_remote: true, or --allow-remote)"
        way_out = f"{allow}, or use templates, transformers:MODEL or an endpoint on this machine"
        raise InputError(problem, where="synthesis", way_out=way_out)


def _sent(settings: config.Synthesis, records: int, shown: str = QUESTIONS) -> list[Sent]:
    uses = [(settings.generator, shown), (settings.judge, WITH_ANSWERS)]
    hosts = [(remote_host(name), what) for name, what in uses if name]
    return [Sent(host, records, what) for host, what in hosts if host is not None]


def estimate_spending(name: str, totals: Sequence[int], prices: config.Prices | None, *, purpose: str = "") -> Spending:
    """Estimate the spending of a generator from its `totals` (calls, input tokens, output tokens), retries added."""
    calls, tokens_in, tokens_out = (round(total * (1 + RETRIED)) for total in totals)
    if not find_generator(name)[0].priced:
        cost = 0.0
    elif prices is None:
        cost = None
    else:
        cost = (tokens_in * prices.input_per_million + tokens_out * prices.output_per_million) / 1e6
    return Spending(name, calls, tokens_in, tokens_out, cost, purpose)


def _over_budget(plan: Plan, settings: config.Synthesis) -> str:
    if settings.max_calls is not None and plan.calls > settings.max_calls:
        return f"Budget: max_calls {settings.max_calls:,} does not cover this"
    if settings.max_tokens is not None and plan.input_tokens + plan.output_tokens > settings.max_tokens:
        return f"Budget: max_tokens {settings.max_tokens:,} does not cover this"
    return ""


def _tokens_of_record(record: Record, settings: config.Synthesis, count: TokenCounter) -> tuple[int, int, int]:
    """Return (calls, input tokens, output tokens) of one pass over a record."""
    own = own_question(record)
    if record.form == "text":
        prompt = continue_prompt(answer_group(record, [own]), settings, seed=0)
        return 1, count(prompt.text) + MESSAGE_TOKENS, 2 * ANSWER_TOKENS
    variant_tokens = round(count(record.question) * VARIANT_GROWTH) + LABEL_TOKENS
    kinds = len(settings.variants)
    # The record's own question replaces each variant here; the longer variants are accounted for below.
    questions = [own, *(Question(record.id, kind, record.question) for kind in settings.variants)]
    answering = count(vague_prompt(answer_group(record, questions), settings, seed=0).text) + MESSAGE_TOKENS
    answering += kinds * round(count(record.question) * (VARIANT_GROWTH - 1))
    answered = len(questions) * (ANSWER_TOKENS + LABEL_TOKENS)
    if not kinds:
        return 1, answering, answered
    asking = count(variants_prompt(variant_group(record, settings), settings, seed=0).text) + MESSAGE_TOKENS
    return 2, asking + answering, kinds * variant_tokens + answered
