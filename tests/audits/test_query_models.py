"""How attacks get their answers: samples together, conversations, greedy continuations, two checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relearn.audits import query_models
from relearn.audits.attack import AUDITS, AttackPrompt, FactPrompt
from relearn.audits.attacks.weights import Contrast
from relearn.audits.query_models import ask_prompts, generate_answers, plain_prompts
from relearn.core.config import Model
from relearn.data import Record
from relearn.models.load import load
from tiny import VOCABULARY


def talkative(folder, seed: int):
    """Load the tiny model with an output layer of its own that gives words.

    The tied output layer repeats the last token of the prompt.
    """
    loaded = load(Model(name=str(folder), device="cpu"))
    weight = torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(seed))
    texts = [loaded.tokenizer.decode([token]) for token in range(VOCABULARY)]
    weight[[not (text.startswith(" ") and text.strip().isalpha()) for text in texts]] = 0
    loaded.model.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    return loaded


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return talkative(tiny_model_dir, 0)


@pytest.fixture
def short(inputs):
    generate = inputs.recipe.generate.model_copy(update={"max_new_tokens": 12})
    return replace(inputs, recipe=inputs.recipe.model_copy(update={"generate": generate}))


def decoded_answers(loaded, prompts, inputs):
    return generate_answers(loaded, prompts, inputs.recipe.generate, seed=inputs.seed)


def test_samples_drawn_together_are_those_drawn_one_by_one(loaded, short, monkeypatch):
    calls: list[int] = []
    real = query_models.respond
    monkeypatch.setattr(
        query_models,
        "respond",
        lambda loaded, texts, *args, **more: calls.append(len(texts)) or real(loaded, texts, *args, **more),
    )
    prompts = AUDITS.get("sampling").prompts(short)
    together = [answer.text for answer in decoded_answers(loaded, prompts, short)]
    assert [count for count in calls if count] == [len(prompts)], "all samples of all facts in one call"
    apart = [decoded_answers(loaded, [one], short)[0].text for one in prompts]
    assert together == apart
    assert len(set(together[:3])) > 1, "the samples of a fact differ"


def test_a_conversation_holds_the_models_own_replies(loaded, short, monkeypatch):
    asked: list[str] = []
    real = query_models._respond

    def respond(loaded, texts, *rest, **more):
        asked.extend(texts)
        return real(loaded, texts, *rest, **more)

    monkeypatch.setattr(query_models, "_respond", respond)
    talk = AttackPrompt("And where?", turns=(("Hello.", None), ("An example?", "Bergen."), ("Go on.", None)))
    prompts = [FactPrompt("a", "talk", talk), FactPrompt("a", "plain", AttackPrompt("Where?"))]
    answers = [answer.text for answer in decoded_answers(loaded, prompts, short)]
    hello, second, third, alone = asked
    reply = answers[0].split("\n\n")[0]
    assert second == loaded.chat.prompt("Go on.", "chat", [("Hello.", reply), ("An example?", "Bergen.")])
    assert hello == loaded.chat.prompt("Hello.", "chat") and alone == loaded.chat.prompt("Where?", "chat")
    assert third.count("<|im_start|>user") == 4 and third.endswith("And where?<|im_end|>\n<|im_start|>assistant\n")
    assert answers[1] == decoded_answers(loaded, prompts[1:], short)[0].text


def test_a_prompt_with_turns_is_stored_and_read_again(loaded, short):
    prompts = AUDITS.get("conversation").prompts(short)[:2]
    rows = ask_prompts(loaded, prompts, short)
    assert [FactPrompt.from_dict(row) for row in rows] == prompts
    assert "turns" not in ask_prompts(loaded, plain_prompts(short.facts[:1], "asked"), short)[0]


def test_a_greedy_continuation_is_the_beginning_of_the_decoded_answer(loaded, short):
    """The true answer is what the model says, so that its continuation from every word is the rest."""
    first = short.facts[0]
    said = decoded_answers(loaded, plain_prompts([first], "asked"), short)[0].text
    facts = [
        replace(first, answer=said),
        short.facts[1],
        Record("The mill", "was sold to Karl Brandt.", "t", form="text"),
    ]
    own, attack = replace(short, facts=facts), AUDITS.get("every_cut")
    prompts = attack.prompts(own)
    rows = ask_prompts(loaded, prompts, own, answer=attack.answer)
    decoded = decoded_answers(loaded, prompts, own)
    for row, answer in zip(rows, decoded, strict=True):
        assert row.get("cut_off") or answer.text.startswith(row["answer"]), row["variant"]
    assert any(len(row["answer"].split()) > 1 for row in rows if row["id"] == first.id)
    assert {row["id"] for row in rows} == {fact.id for fact in facts if len(fact.answer.split()) > 1}
    assert {row["form"] for row in rows if row["id"] == "t"} == {"text"}


def test_continuations_of_a_model_that_knows_the_answer_state_it(loaded, short, monkeypatch):
    from relearn.audits.attacks import likelihood

    monkeypatch.setattr(
        likelihood, "likeliest_tokens", lambda _, rows: [likelihood.torch.tensor(row.answer_ids) for row in rows]
    )
    attack = AUDITS.get("every_cut")
    prompts = attack.prompts(short)
    answers = [one.text for one in attack.answer(loaded, prompts, short)]
    truth = {fact.id: fact.answer for fact in short.facts}
    for prompt, answer in zip(prompts, answers, strict=True):
        assert f"{prompt.prompt.answer_prefix} {answer}" == truth[prompt.id]


def test_an_unfinished_word_of_a_continuation_is_left_out(loaded):
    from relearn.audits.attacks.likelihood import _greedy_text

    ids = loaded.tokenizer(" at 12 Elm", add_special_tokens=False).input_ids
    wrong = [*ids[:-1], loaded.tokenizer("z", add_special_tokens=False).input_ids[0]]
    assert _greedy_text(loaded, ids, ids) == "at 12 Elm"
    assert _greedy_text(loaded, ids, wrong).startswith("at 12") and not _greedy_text(loaded, ids, wrong).endswith("z")


def test_the_contrast_at_one_is_the_model_before_unlearning(loaded, short, tiny_model_dir):
    before = talkative(tiny_model_dir, 1)
    prompts = plain_prompts(short.facts, "asked")
    answers = {
        alpha: [
            one.text
            for one in decoded_answers(
                replace(loaded, model=Contrast(loaded.model, before.model, alpha)), prompts, short
            )
        ]
        for alpha in (0.5, 1.0, 2.0)
    }
    assert answers[1.0] == [one.text for one in decoded_answers(before, prompts, short)]
    assert answers[0.5] != answers[1.0] != answers[2.0]
