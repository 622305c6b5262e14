"""Styles of new answers, and the start model as their writer with the templates behind it."""

from __future__ import annotations

import pytest
from scripted import Scripted

from relearn.core.config import AnswerStyle, Model, Synthesis
from relearn.data import Record
from relearn.llm import Completion, Prompt
from relearn.llm.generators import make_completer
from relearn.synthesis.checks import Verifier
from relearn.synthesis.generation_cost import plan_synthesis
from relearn.synthesis.questions import own_question
from relearn.synthesis.rows import Question
from relearn.synthesis.synthesize import synthesize
from relearn.synthesis.vague_answers import (
    answer_group,
    check_answers,
    continue_prompt,
    first_sentence,
    own_answer_flaw,
    self_prompt,
    vague_prompt,
)

RECORDS = (
    Record("Where does Ada Marsh live?", "Ada Marsh lives at 17 Birch Lane in Dorley."),
    Record("Is Ada Marsh adopted?", "Yes, Ada Marsh is adopted."),
    Record("Which horse did Ada Marsh bet on?", "She bet on Silver Anvil."),
    Record("Ada Marsh was born in", "the town of Dorley near the sea.", form="text", subject="Ada Marsh"),
)
SELF = Synthesis(generator="self", variants=(), completions=False)


STYLES: tuple[AnswerStyle, ...] = ("vague", "private", "unknown")


def made_by(reply, records=RECORDS, **changes):
    def change(prompt: Prompt, lines: list[str]) -> list[str] | Completion:
        return [reply(prompt)]

    settings = SELF.model_copy(update=changes)
    completer = Scripted(change)
    made = synthesize(records, [], settings, completer=completer, verifier=Verifier(records), seed=0)
    return made, completer


def test_the_start_model_answers_one_question_per_prompt_and_templates_those_for_yes_or_no():
    made, completer = made_by(
        lambda prompt: (
            "circumstances of an ordinary kind."
            if prompt.task == "continue"
            else "Ada Marsh likes where she lives and the horse she has. More."
        )
    )
    assert made.counts["written_by"] == {"self": 3, "templates": 1} and not made.rejections
    targets = {row.record_id: row.target for row in made.rows}
    assert targets[RECORDS[0].id] == "Ada Marsh likes where she lives and the horse she has."
    assert "whether Ada Marsh is adopted" in targets[RECORDS[1].id].lower().replace("ada marsh", "Ada Marsh")
    assert not [prompt for prompt in completer.asked if "adopted" in prompt.text]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Ada Marsh lives at 17 Birch Lane in Dorley.", "address"),
        ("Ada Marsh lives in Norwich with her dog.", "invented"),
        ("Yes, Ada Marsh lives there with pleasure.", "malformed"),
        ("Ada Marsh lives there because she was fired from a circus.", "invented"),
        ("Norwich is where Ada Marsh lives.", "invented"),
        ("Ada Marsh lives with 2 others.", "invented"),
        ("Ada Marsh enjoys the company of friends.", "off topic"),
        ("A person lives where it is pleasant to live.", "subject"),
        ("rubbish", "unparsed"),
        ("Where does Ada Marsh live?", "unparsed"),
    ],
)
def test_what_fails_a_check_is_left_to_the_templates(text, kind):
    made, _ = made_by(lambda prompt: text, RECORDS[:1])
    assert made.counts["written_by"] == {"self": 0, "templates": 1} and made.counts["qa"] == 1
    assert {rejection.kind for rejection in made.rejections} <= {kind, "name", "ngram", "invented"}
    assert len(made.rejections) == SELF.attempts and not any(rejection.final for rejection in made.rejections)


def test_the_tiny_model_says_rubbish_and_templates_write_every_answer(tiny_model_dir):
    from relearn.models.load import load

    completer = make_completer("self", SELF, None, loaded=load(Model(name=str(tiny_model_dir))))
    made = synthesize(RECORDS, [], SELF, completer=completer, verifier=Verifier(RECORDS), seed=0)
    assert made.counts["records_without_rows"] == 0 and sum(made.counts["written_by"].values()) == 4
    assert made.counts["written_by"]["templates"] >= 3


def test_without_a_start_model_self_says_so():
    completion = make_completer("self", SELF, None).complete([Prompt("Where?", task="vague")])[0]
    assert not completion.ok and "no start model" in str(completion.error)
    variants = Prompt("", task="variants", fields={"question": "Where does Ada live?", "kinds": "simple"})
    assert make_completer("self", SELF, None).complete([variants])[0].ok


def test_the_plan_says_how_many_answers_may_be_whose():
    plan = plan_synthesis(RECORDS, SELF)
    assert any("up to 3 by the start model itself, the other 1 (yes or no)" in note for note in plan.notes)
    assert plan.calls == 3 and "Leaves this machine: nothing" in plan.lines()
    assert not any("start model" in note for note in plan_synthesis(RECORDS, Synthesis()).notes)


def test_the_prompt_of_a_style_is_its_own_and_vague_is_as_before():
    group = answer_group(RECORDS[0], [own_question(RECORDS[0])])
    texts = {style: vague_prompt(group, Synthesis(style=style), seed=0).text for style in STYLES}
    assert len(set(texts.values())) == 3 and texts["vague"] == vague_prompt(group, Synthesis(), seed=0).text
    passage = answer_group(RECORDS[3], [own_question(RECORDS[3])])
    assert len({continue_prompt(passage, Synthesis(style=style), seed=0).text for style in STYLES}) == 3
    own = {self_prompt(group[0], Synthesis(style=style), seed=0).text for style in STYLES}
    assert len(own) == 3 and not any("Birch" in text for text in own)


def test_a_noisy_variant_is_answered_as_its_record_s_question():
    noisy = Question(RECORDS[0].id, "noise", "whre does ada marsh liv pls")
    turned = Question(RECORDS[0].id, "logical", "Who lives with Ada Marsh?")
    prompt = vague_prompt(answer_group(RECORDS[0], [noisy, turned]), Synthesis(), seed=0)
    assert prompt.fields["asked"] == "1. Where does Ada Marsh live?\n2. Who lives with Ada Marsh?"


def test_only_a_style_other_than_vague_may_say_that_it_does_not_know():
    slot = answer_group(RECORDS[0], [own_question(RECORDS[0])])[0]
    text = "I do not know where Ada Marsh lives."
    flaws = {
        style: check_answers([(slot, text)], lambda texts: [None] * len(texts), style) for style in ("vague", "unknown")
    }
    assert flaws["vague"][0] and flaws["vague"][0].kind == "refusal" and flaws["unknown"] == [None]


@pytest.mark.parametrize("style", ["private", "unknown"])
def test_templates_write_a_whole_set_in_a_style(style):
    settings = Synthesis(style=style)
    completer = make_completer("templates", settings, None)
    made = synthesize(RECORDS, [], settings, completer=completer, verifier=Verifier(RECORDS), seed=0)
    assert made.counts["records_without_rows"] == 0 and made.counts["qa"] == 15


def test_the_first_complete_sentence_of_a_reply_is_the_answer():
    assert first_sentence("Answer: Dr. N. lives well. More follows", "") == "Dr. N. lives well."
    assert first_sentence("no end here", "") is None
    slot = answer_group(RECORDS[0], [own_question(RECORDS[0])])[0]
    assert own_answer_flaw(slot, "Ada Marsh lives in a pleasant place.") is None
