"""Scores of answer tokens from one pass equal their definition, computed one row at a time."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from relearn.engine import forward
from relearn.engine import forward as token_values
from relearn.engine.forward import TokenRow, answer_logprobs, answer_scores
from relearn.engine.packing import pack
from tiny import VOCABULARY


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def questions(count: int = 5, answers: int = 4) -> list[TokenRow]:
    """Several answers to each question, of different lengths, in an order that mixes the questions."""
    draw = torch.Generator().manual_seed(3)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, VOCABULARY, (length,), generator=draw).tolist())

    prompts = [ids(12 + 3 * number) for number in range(count)]
    return [
        TokenRow(f"{number}/{answer}", (*prompts[number], *ids(3 + 2 * answer + number)), len(prompts[number]))
        for answer in range(answers)
        for number in range(count)
    ]


@torch.no_grad()
def by_definition(model, row: TokenRow) -> dict[str, torch.Tensor]:
    """Every quantity by itself, from the whole matrix of log-probabilities of a single row, in double precision."""
    logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.answer_start - 1 : -1].double()
    every = logits.log_softmax(-1)
    targets = torch.tensor(row.answer_ids)
    mean = (every.exp() * every).sum(-1)
    return {
        "logprobs": every[torch.arange(len(targets)), targets],
        "hits": logits.argmax(-1) == targets,
        "mean": mean,
        "variance": (every.exp() * every.square()).sum(-1) - mean.square(),
    }


def test_one_pass_equals_separate_passes(model):
    rows = questions()
    for row, found in zip(rows, answer_scores(model, rows, batch_tokens=100), strict=True):
        for name, expected in by_definition(model, row).items():
            value = getattr(found, name)
            assert value.shape == (row.answer_tokens,)
            assert torch.allclose(value.double(), expected.double(), atol=1e-4), (row.id, name)


def test_log_probabilities_alone_are_the_same(model):
    rows = questions()
    for logprobs, scores in zip(answer_logprobs(model, rows), answer_scores(model, rows), strict=True):
        assert torch.equal(logprobs, scores.logprobs)


def test_sharing_prompts_changes_nothing(model):
    rows = questions()
    alone = [answer_scores(model, [row])[0] for row in rows]
    for limit in (30, 10_000):
        for one, other in zip(answer_scores(model, rows, batch_tokens=limit), alone, strict=True):
            assert torch.equal(one.hits, other.hits)
            for name in ("logprobs", "mean", "variance"):
                assert torch.allclose(getattr(one, name), getattr(other, name), atol=1e-5)


def test_answers_to_one_question_go_together_and_their_prompt_is_computed_once():
    rows = questions()
    packs = forward._by_prompt(rows, 60)
    assert sorted(number for numbers in packs for number in numbers) == list(range(len(rows)))
    for numbers in packs:
        asked = {rows[number].id.partition("/")[0] for number in numbers}
        assert all(sum(row.id.startswith(f"{name}/") for row in rows) == 4 for name in asked)
        assert len(numbers) == 4 * len(asked)
        part = [rows[number] for number in numbers]
        answers = sum(row.answer_tokens for row in part)
        prompts = {row.ids[: row.answer_start] for row in part}
        # The last token of a prompt is each row's own.
        assert pack(part, "cpu").ids.numel() == answers + sum(len(prompt) - 1 for prompt in prompts) + 4 * len(prompts)


def test_rows_without_common_prompts_are_packed_by_length():
    rows = [TokenRow(str(length), tuple(range(length, 2 * length)), 2) for length in (30, 10, 20, 40)]
    assert forward._by_prompt(rows, 60) == [[1, 2, 0], [3]]
    assert forward._by_prompt(rows, 1) == [[1], [2], [0], [3]]
    assert forward._by_prompt([], 60) == []


def test_impossible_tokens_weigh_nothing():
    never = -math.inf
    logits = torch.tensor([[0.0, 0.0, never, never], [1000.0, 0.0, 0.0, 0.0]])
    found = token_values.token_scores(logits, torch.tensor([2, 0]))
    assert found[0].tolist() == pytest.approx([never, 0, -math.log(2), 0])
    assert found[1].tolist() == pytest.approx([0, 1, 0, 0])


def test_moments_by_hand():
    # p = 1/2, 1/4, 1/4: mean ln p = -1.5 ln 2, variance = .25 (ln 2)^2.
    logits = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.25)]]) + 7
    logprob, hit, mean, variance = token_values.token_scores(logits, torch.tensor([1]))[0].tolist()
    assert logprob == pytest.approx(-2 * math.log(2)) and hit == 0
    assert mean == pytest.approx(-1.5 * math.log(2)) and variance == pytest.approx(0.25 * math.log(2) ** 2)


def test_an_answer_longer_than_a_chunk(model):
    row = TokenRow("long", tuple(number % VOCABULARY for number in range(3, 3 + 2 * token_values.CHUNK_TOKENS + 9)), 4)
    found = answer_scores(model, [row])[0]
    for name, expected in by_definition(model, row).items():
        assert torch.allclose(getattr(found, name).double(), expected.double(), atol=1e-4)


def test_packs_are_as_large_as_the_device_takes_unless_said(model, monkeypatch):
    """Rows of 20 tokens or so without a common prompt: packs of some 60 tokens, or 10 where that is said."""
    seen = []
    inner = forward.predict
    monkeypatch.setattr(forward, "predict", lambda model, rows: seen.append(len(rows)) or inner(model, rows))
    rows = [TokenRow(str(n), tuple((n + 7 * at) % VOCABULARY for at in range(20)), 9) for n in range(1, 7)]
    monkeypatch.setattr(forward, "CPU_PACK_TOKENS", 60)
    expected = answer_logprobs(model, rows)
    assert seen == [3, 3]
    seen.clear()
    for one, other in zip(answer_logprobs(model, rows, batch_tokens=10), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert seen == [1] * 6


@pytest.mark.parametrize("part", [1, 7, VOCABULARY, 10 * VOCABULARY])
def test_log_probabilities_over_parts_of_the_vocabulary_by_definition(monkeypatch, part):
    monkeypatch.setattr(token_values, "CPU_VOCABULARY", part)
    torch.manual_seed(0)
    head = torch.nn.Linear(5, VOCABULARY)
    states, targets = torch.randn(9, 5), torch.randint(0, VOCABULARY, (9,))
    targets[:2] = torch.tensor([0, VOCABULARY - 1])
    with torch.no_grad():
        found = token_values.logprobs(forward.Predicted(None, states, head), targets)
        expected = head(states).double().log_softmax(-1)[torch.arange(9), targets]
    assert torch.allclose(found[:, 0].double(), expected, atol=1e-5)


def test_a_token_that_cannot_be_is_impossible_and_what_is_no_number_stays_none():
    head = torch.nn.Linear(1, 3)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, -math.inf]))
        seen = forward.Predicted(None, torch.tensor([[0.0], [0.0], [math.nan]]), head)
        found = token_values.logprobs(seen, torch.tensor([0, 2, 1]))[:, 0].tolist()
    assert found[:2] == pytest.approx([-math.log(2), -math.inf]) and math.isnan(found[2])
