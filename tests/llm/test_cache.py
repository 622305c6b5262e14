"""The answer cache and the budget: nothing is asked twice, nothing received is lost, nothing is overspent."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.core.config import Synthesis
from relearn.core.errors import BudgetError, GeneratorError, InputError, RunFailedError
from relearn.llm import Completion, Prompt
from relearn.llm.cache import CachedCompleter, cache_key
from relearn.llm.completer import CallBudget, worst_case_tokens
from relearn.llm.generators import budget_for


class Batch:
    """Answers "re <text>" and remembers what it was asked; texts with "bad" in them fail."""

    name = "fake"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self.asked += [prompt.text for prompt in prompts]
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Completion:
        if "bad" in prompt.text:
            return Completion(error="down")
        return Completion(f"re {prompt.text}", input_tokens=4, output_tokens=6)


class Stream(Batch):
    """The same one by one, last first; breaks down when it meets the text "crash"."""

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        for number, prompt in enumerate(prompts):
            if prompt.text == "crash":
                raise GeneratorError("gone")
            self.asked.append(prompt.text)
            yield number, self._answer(prompt)


def _prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text, "vague", max_tokens=10) for text in texts]


@pytest.mark.parametrize("kind", [Batch, Stream])
def test_a_second_run_makes_no_call(tmp_path, kind):
    first, second = kind(), kind()
    before = CachedCompleter(first, tmp_path / "c.sqlite").complete(_prompts("a", "b"))
    cached = CachedCompleter(second, tmp_path / "c.sqlite")
    after = cached.complete(_prompts("b", "a"))
    assert [one.text for one in after] == ["re b", "re a"] == [one.text for one in reversed(before)]
    assert second.asked == [] and cached.usage.asked == 0 and cached.usage.cached == 2
    assert all(one.cached and one.input_tokens == 4 for one in after)


@pytest.mark.parametrize("kind", [Batch, Stream])
def test_a_prompt_wanted_twice_is_asked_once(kind):
    inner = kind()
    cached = CachedCompleter(inner, None)
    texts = [one.text for one in cached.complete(_prompts("a", "b", "a", "a"))]
    assert texts == ["re a", "re b", "re a", "re a"] and inner.asked == ["a", "b"]
    assert (cached.usage.asked, cached.usage.cached) == (2, 2)


@pytest.mark.parametrize("kind", [Batch, Stream])
def test_trap_4_a_failure_is_a_counted_value_and_never_cached(tmp_path, kind):
    inner = kind()
    cached = CachedCompleter(inner, tmp_path / "c.sqlite")
    good, bad = cached.complete(_prompts("a", "bad"))
    assert good.ok and bad.error == "down" and bad.text == "" and cached.usage.failed == 1
    cached.complete(_prompts("a", "bad"))
    assert inner.asked == ["a", "bad", "bad"]


def test_every_answer_is_kept_the_moment_it_arrives(tmp_path):
    with pytest.raises(GeneratorError):
        CachedCompleter(Stream(), tmp_path / "c.sqlite").complete(_prompts("a", "b", "crash", "d"))
    inner = Stream()
    CachedCompleter(inner, tmp_path / "c.sqlite").complete(_prompts("a", "b", "d"))
    assert inner.asked == ["d"]


def test_a_killed_process_has_lost_only_what_was_under_way(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from relearn.llm import Completion, Prompt
from relearn.llm.cache import CachedCompleter

class Mortal:
    name = "fake"
    def complete(self, prompts): ...
    def stream(self, prompts):
        for number, prompt in enumerate(prompts):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield number, Completion("re " + prompt.text)

CachedCompleter(Mortal(), Path(sys.argv[1])).complete([Prompt(text, "vague", max_tokens=10) for text in "abc"])
"""
    path = tmp_path / "c.sqlite"
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert budget_for(Synthesis(), path).calls == 3  # the pending one was sent, and may have to be paid for
    inner = Stream()
    CachedCompleter(inner, path).complete(_prompts("a", "b", "c"))
    assert inner.asked == ["c"]


def test_the_file_is_private_and_holds_no_prompt(tmp_path):
    path = tmp_path / "new" / "c.sqlite"
    cached = CachedCompleter(Batch(), path)
    cached.complete([Prompt("where is Ada-Lovelace-77", "vague", fields={"subject": "Ada-Lovelace-78"})])
    files = list(path.parent.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    cached.close()
    held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"Ada-Lovelace-78" not in held and held.count(b"where is") == held.count(b"re where is") > 0


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "c.sqlite").write_text("hello " * 1000)
    with pytest.raises(InputError, match="not an answer cache"):
        CachedCompleter(Batch(), tmp_path / "c.sqlite")


def test_a_cache_that_cannot_be_opened_or_filled_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFailedError, match=r"the answer cache cannot be used: .* -> see that"):
        CachedCompleter(Batch(), tmp_path / "folder")
    with pytest.raises(InputError, match=r"file: cannot be made: .* -> choose another"):
        CachedCompleter(Batch(), tmp_path / "file" / "c.sqlite")
    full = CachedCompleter(Batch(), tmp_path / "c.sqlite")
    full._store._run("PRAGMA max_page_count = 1")
    with pytest.raises(RunFailedError, match="disk is full"):
        full.complete(_prompts("a" * 100_000))


@pytest.mark.parametrize(
    ("text", "error"), [("", "an empty answer"), (" \n", "an empty answer"), ("Fine \ud83d", "not valid Unicode")]
)
def test_an_answer_that_is_empty_or_cannot_be_written_is_a_failure_that_costs_its_tokens(tmp_path, text, error):
    class Broken(Batch):
        def _answer(self, prompt: Prompt) -> Completion:
            return Completion(text, input_tokens=4, output_tokens=6)

    path = tmp_path / "c.sqlite"
    cached = CachedCompleter(Broken(), path)
    (completion,) = cached.complete(_prompts("a"))
    assert error in str(completion.error) and completion.text == "" and cached.stored(_prompts("a")) == [None]
    assert (budget_for(Synthesis(), path).calls, budget_for(Synthesis(), path).tokens) == (1, 10)


def test_a_prompt_with_half_a_character_has_a_key():
    assert cache_key("x", Prompt("\ud83d", "vague")) != cache_key("x", Prompt("\ud83e", "vague"))


def test_the_key_holds_whatever_shapes_the_answer():
    base = Prompt("a", "vague", max_tokens=10, temperature=0.5, seed=1)
    others = [
        replace(base, text="b"),
        replace(base, max_tokens=11),
        replace(base, temperature=0.6),
        replace(base, seed=2),
        replace(base, attempt=1),
    ]
    keys = {cache_key("x", prompt) for prompt in [base, *others]} | {cache_key("y", base)}
    assert len(keys) == 7
    assert cache_key("x", base) == cache_key("x", replace(base, task="judge", fields={"a": "b"}))
    greedy = replace(base, temperature=0.0)
    assert cache_key("x", greedy) == cache_key("x", replace(greedy, seed=9))


def test_arrivals_are_told_one_by_one():
    cached = CachedCompleter(Stream(), None)
    cached.complete(_prompts("a"))
    seen = []
    cached.on_arrival = lambda: seen.append(1)
    cached.complete(_prompts("a", "b", "c"))
    assert len(seen) == 3


@pytest.mark.parametrize("kind", [Batch, Stream])
def test_the_call_budget_stops_before_it_is_passed_and_keeps_what_came(tmp_path, kind):
    inner = kind()
    cached = CachedCompleter(inner, tmp_path / "c.sqlite", CallBudget(max_calls=2))
    with pytest.raises(BudgetError, match=r"max_calls 2 \(2 used\)"):
        cached.complete(_prompts("a", "b", "c"))
    assert inner.asked == ["a", "b"]
    assert [one.text for one in cached.complete(_prompts("b", "a"))] == ["re b", "re a"]


def test_a_budget_goes_on_counting_when_a_run_is_started_again(tmp_path):
    path = tmp_path / "c.sqlite"
    CachedCompleter(Batch(), path).complete(_prompts("a", "b"))
    budget = budget_for(Synthesis(max_calls=3), path)
    assert (budget.calls, budget.tokens) == (2, 20)
    cached = CachedCompleter(Batch(), path, budget)
    cached.complete(_prompts("a", "b", "c"))
    with pytest.raises(BudgetError):
        cached.complete(_prompts("d"))


def test_the_token_budget_counts_true_tokens_once_they_are_known():
    """Each prompt may cost 42 tokens and costs 10: with 60 there is room for one at a time, and for two in all."""
    assert worst_case_tokens(Prompt("a", "vague", max_tokens=10)) == 42
    inner = Batch()
    cached = CachedCompleter(inner, None, CallBudget(max_tokens=60))
    with pytest.raises(BudgetError):
        cached.complete(_prompts("a", "b", "c", "d"))
    assert inner.asked == ["a", "b"] and cached.budget.tokens == 20


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.integers(0, 6))
def test_calls_never_pass_the_budget(texts, limit):
    inner = Stream()
    cached = CachedCompleter(inner, None, CallBudget(max_calls=limit))
    if len(set(texts)) <= limit:
        assert [one.text for one in cached.complete(_prompts(*texts))] == [f"re {text}" for text in texts]
    else:
        with pytest.raises(BudgetError):
            cached.complete(_prompts(*texts))
    assert len(inner.asked) == len(set(inner.asked)) <= limit
