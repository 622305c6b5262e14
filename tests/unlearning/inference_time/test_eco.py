"""ECO: what is corrupted and what is not, to the bit; the classifier; the search for the strength."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import relearn
from people import people
from relearn.core.config import Generate, Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.files import read_jsonl
from relearn.core.ownership import purge
from relearn.data import Record
from relearn.engine.forward import TokenRow, answer_logits, answer_logprobs
from relearn.engine.generate import generate, stop_ids
from relearn.inference.run_models import ModelSet
from relearn.models.load import load
from relearn.synthesis.rows import TrainingRow
from relearn.unlearning.data.encode import Example, encode
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.inference_time.eco_model import (
    Corruption,
    EcoModel,
    PromptClassifier,
    PromptReader,
    load_eco,
    sentence_encoder,
)
from relearn.unlearning.inference_time.eco_train import (
    Eco,
    Labelled,
    Search,
    Tried,
    _folds,
    _held_out,
    climb,
    find_corruption,
    fit_classifier,
    fit_logistic,
    labelled,
)
from relearn.unlearning.procedures import PROCEDURES, Job
from relearn.workflows.ask import answers_before_and_after, export_merged
from tiny import SIZES, build_tiny_tokenizer

SHORT = Generate(max_new_tokens=8)
PRIVATE = ["Where does Ada Holm live?", "At which address is Ada Holm at home, if anybody knows?"]
PUBLIC = ["Where does Bo Lind live?", "How can one reach him?", "When was she born?"]
WHOLE = Corruption("rand_noise", 8.0, "question")


class Names:
    """Embeds a text as whether it names Ada Holm."""

    def encode(self, texts):
        return np.array([[float("Ada Holm" in text)] for text in texts], dtype=np.float32)


NAMES = PromptClassifier("names", np.array([8.0]), -4.0, 0.5, Names())  # pyright: ignore


@pytest.fixture(scope="module")
def talking_dir(tmp_path_factory) -> Path:
    """A random model whose answers hang on the prompt: weights drawn wide, no tied embeddings that echo it."""
    folder = tmp_path_factory.mktemp("talking")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = LlamaForCausalLM(
            LlamaConfig(**SIZES, max_position_embeddings=1024, tie_word_embeddings=False, initializer_range=0.3)
        )
    model.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def start(talking_dir):
    return load(Model(name=str(talking_dir)))


def behind(start, corruption: Corruption = WHOLE, classifier: PromptClassifier = NAMES):
    model = EcoModel(
        start.model, tokenizer=start.tokenizer, chat=start.chat, classifier=classifier, corruption=corruption
    ).eval()
    return replace(start, model=model)


def rows_of(start, questions: list[str], answer: str = "in the old harbour") -> list[TokenRow]:
    return encode(start.chat, [Example(question, question, answer) for question in questions])


def test_zero_out_takes_the_largest_dimensions():
    zeroed = Corruption("zero_out", 0.5)(torch.tensor([[1.0, -3.0, 2.0, 0.5], [0.0, 1.0, -2.0, 4.0]]), b"")
    assert zeroed.tolist() == [[1.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]]


def test_noise_is_keyed_and_as_strong_as_asked():
    embeddings = torch.randn(20, 500, generator=torch.Generator().manual_seed(0))
    once, again = (Corruption("rand_noise", 2.0)(embeddings, b"a prompt") for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, Corruption("rand_noise", 2.0)(embeddings, b"another"))
    size = embeddings.pow(2).mean().sqrt()
    assert float((once - embeddings).pow(2).mean().sqrt() / size) == pytest.approx(2.0, rel=0.02)
    half = Corruption("rand_noise", 1.0)(embeddings, b"a prompt")
    assert torch.allclose(once - embeddings, 2 * (half - embeddings), atol=1e-5)


@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("question", [*PRIVATE, *PUBLIC, "Naïve café?", "ok", "Two\nlines, Ada Holm"])
def test_the_reader_finds_the_question_and_the_name(tiny_model_dir, template, question):
    loaded = load(Model(name=str(tiny_model_dir), chat_template=template, system_prompt="Be brief."))
    reader = PromptReader(loaded.tokenizer, loaded.chat)
    prompt = loaded.chat.prompt(question, "chat")
    ids = tuple(loaded.tokenizer(prompt, add_special_tokens=False).input_ids)
    assert reader.question(ids) == question
    whole, named = (
        loaded.tokenizer.decode([ids[place] for place in reader.places(ids, tokens)])
        for tokens in ("question", "subject")
    )
    assert whole.strip() == question
    expected = next((name for name in ("Ada Holm", "Bo Lind") if name in question), None)
    assert expected is None or (expected in named and len(named) <= len(expected) + 2)
    assert expected or named == whole


def test_a_passage_has_no_template_to_leave_out(start):
    reader = PromptReader(start.tokenizer, start.chat)
    ids = tuple(start.tokenizer(start.chat.prompt("She was born in", "text"), add_special_tokens=False).input_ids)
    assert reader.question(ids) == "She was born in"


@pytest.mark.parametrize("corruption", [WHOLE, Corruption("zero_out", 1.0, "subject")], ids=lambda c: c.mode)
def test_forget_questions_are_corrupted_and_others_answered_to_the_bit(start, corruption):
    loaded = behind(start, corruption)
    rows = rows_of(start, [*PRIVATE, *PUBLIC])
    before, after = answer_logprobs(start.model, rows), answer_logprobs(loaded.model, rows)
    same = [torch.equal(one, two) for one, two in zip(before, after, strict=True)]
    assert same == [False, False, True, True, True]
    said, says = (generate(model, [*PRIVATE, *PUBLIC], SHORT) for model in (start, loaded))
    assert said[2:] == says[2:] and said[0] != says[0] and said[1] != says[1]


def test_no_weight_changes_by_a_bit(start):
    before = {name: weight.clone() for name, weight in start.model.state_dict().items()}
    loaded = behind(start)
    answer_logprobs(loaded.model, rows_of(start, PRIVATE))
    generate(loaded, PRIVATE, SHORT)
    after = start.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    untouched, rows = load(Model(name=start.name)).model, rows_of(start, PRIVATE)
    assert all(map(torch.equal, answer_logprobs(start.model, rows), answer_logprobs(untouched, rows)))


def test_generation_is_greedy_decoding_by_full_forwards(start):
    """The prompt is corrupted alike when it is read to be answered and when an answer to it is scored."""
    loaded = behind(start, Corruption("rand_noise", 4.0, "subject"))
    stop = set(stop_ids(start))
    questions = [*PRIVATE, *PUBLIC]
    prompts = [start.chat.prompt(question, "chat") for question in questions]
    expected = []
    for prompt in prompts:
        ids = start.tokenizer(prompt, add_special_tokens=False).input_ids
        new: list[int] = []
        while len(new) < 8 and not stop & set(new):
            with torch.no_grad():
                logits = answer_logits(loaded.model, [_continued(ids, new)])
            new.append(int(logits[-1].argmax()))
        expected.append(start.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert generate(loaded, questions, SHORT) == expected


def _continued(ids: list[int], new: list[int]) -> TokenRow:
    """The prompt ends where the answer starts, whatever was answered so far."""
    return TokenRow("x", (*ids, *new, 0), len(ids))


def test_rows_packed_together_are_as_each_alone(start):
    """Answers to one corrupted question, which share it, beside others that share its beginning uncorrupted."""
    loaded = behind(start, Corruption("rand_noise", 4.0, "question"))
    answers = ("in a street", "near the harbour of the city")
    rows = [row for answer in answers for row in rows_of(start, [*PRIVATE, *PUBLIC], answer)]
    together = answer_logprobs(loaded.model, rows, batch_tokens=10_000)
    for row, found in zip(rows, together, strict=True):
        assert torch.allclose(answer_logprobs(loaded.model, [row])[0], found, atol=1e-5)


def test_models_that_cannot_be_packed_give_the_same(talking_dir, start):
    eager = load(Model(name=str(talking_dir), attention="eager"))
    rows = rows_of(start, [*PRIVATE, *PUBLIC])
    pairs = zip(answer_logprobs(behind(eager).model, rows), answer_logprobs(behind(start).model, rows), strict=True)
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in pairs)


def test_switched_off_it_is_the_start_model(start):
    loaded = behind(start)
    rows = rows_of(start, PRIVATE)
    with loaded.model.disable_adapter():
        assert all(map(torch.equal, answer_logprobs(loaded.model, rows), answer_logprobs(start.model, rows)))
        assert generate(loaded, PRIVATE, SHORT) == generate(start, PRIVATE, SHORT)


def test_a_repetition_penalty_still_sees_the_prompt(start):
    """It looks up the prompt's tokens, so they must stay tokens of the vocabulary."""
    start.model.generation_config.repetition_penalty = 1.5
    assert len(generate(behind(start), PRIVATE, SHORT)) == 2


def test_logistic_regression_by_hand():
    """Two points at -1 and 1: by symmetry b = 0 and 2 p w = s(-w); copies of one side change nothing."""
    for copies in (1, 7):
        vectors = np.array([[1.0], *[[-1.0]] * copies])
        weight, bias = fit_logistic(vectors, np.array([True, *[False] * copies]), 0.1)
        assert bias == pytest.approx(0, abs=1e-6)
        assert 2 * 0.1 * weight[0] == pytest.approx(1 / (1 + math.exp(weight[0])), abs=1e-4)


def test_the_threshold_parts_held_out_questions_best():
    values = np.array([0.9, 0.7, 0.3, 0.4, 0.2, 0.1])
    forget = np.array([True, True, True, False, False, False])
    # above 0.25: recall 1, passed 2/3; above 0.55: recall 2/3, passed 1; the second is nearer to 1/2
    found = _held_out(values, forget, None)
    assert (round(found.threshold, 6), found.recall, found.passed) == (0.5, 0.6667, 1.0)
    given = _held_out(values, forget, 0.8)
    assert (given.threshold, given.recall, given.passed) == (0.8, 0.3333, 1.0)


def test_wordings_of_one_record_stay_on_one_side_of_a_split():
    questions = [Labelled(f"{n} {k}", f"r{n}", forget) for forget in (True, False) for n in range(9) for k in range(3)]
    folds = _folds(questions, 0)
    assert set(folds) == {0, 1, 2, 3, 4}
    for record in range(9):
        for forget in (True, False):
            own = {f for f, q in zip(folds, questions, strict=True) if q.record == f"r{record}" and q.forget is forget}
            assert len(own) == 1
    assert set(_folds([Labelled("a", "a", True), Labelled("b", "b", False)], 0)) == {0}


def test_what_the_classifier_is_fitted_on():
    known = Record("Who is Ada?", "A nurse.", paraphrases=("What is Ada?",))
    kept = Record("Who is Bo?", "A baker.", split="retain", paraphrases=("Who is Ada?",))
    rows = [
        TrainingRow("1", "qa", "Who might Ada be?", "Someone.", "chat", record_id=known.id),
        TrainingRow("2", "completion", "Ada is", "someone.", "text", record_id=known.id),
        TrainingRow("3", "generic", "What is rain?", "Water.", "chat"),
    ]
    found = {question.text: question.forget for question in labelled(TrainingData([known], rows, [kept]))}
    forget, others = ["Who is Ada?", "What is Ada?", "Who might Ada be?"], ["Who is Bo?", "What is rain?"]
    assert found == {**dict.fromkeys(forget, True), **dict.fromkeys(others, False)}
    alone = labelled(TrainingData([known], (), ()))
    assert sum(question.forget for question in alone) == 2 and len(alone) > 20


def test_the_classifier_knows_questions_it_has_not_seen():
    names = ["Ada Holm", "Bo Lind", "Cleo Marsh", "Dov Peretz", "Eva Stone", "Finn Oakes", "Gail Abt", "Hugo Berg"]
    records = [Record(f"Where does {name} live?", f"In house {n}.") for n, name in enumerate(names)]
    kept = [Record(f"What did {name} write?", f"Book {n}.", split="retain") for n, name in enumerate(names)]
    classifier, held_out = fit_classifier(labelled(TrainingData(records, (), kept)), Eco(), 0)
    assert held_out is not None and held_out.recall >= 0.85 and held_out.passed >= 0.95
    assert (
        classifier.flags(["At which address is Cleo Marsh at home?", "In which town does Hugo Berg live?"])
        == [True] * 2
    )
    assert classifier.flags(["What is the capital of France?", "Which book is by Eva Stone?"]) == [False] * 2
    again, _ = fit_classifier(labelled(TrainingData(records, (), kept)), Eco(), 0)
    assert np.array_equal(again.weight, classifier.weight) and again.bias == classifier.bias


def test_the_search_doubles_until_nothing_is_told_then_halves():
    def tell(strength: float) -> Tried:
        return Tried(strength, "question", nll=strength, surrogate=3.0)

    tried = climb(tell, [1.0, 2.0, 4.0, 8.0], enough=0.5)
    assert [one.strength for one in tried[:3]] == [1.0, 2.0, 4.0]
    first, second = 8**0.5, (2 * 8**0.5) ** 0.5
    assert [one.strength for one in tried[3:]] == pytest.approx([first, second, (first * second) ** 0.5])
    assert [one.strength for one in climb(tell, [1.0, 2.0], enough=0.5)] == [1.0, 2.0]
    assert [one.strength for one in climb(tell, [2.5, 4.0], enough=0.5)] == [2.5]


def test_where_corrupting_the_name_is_not_enough_the_question_is_corrupted(tiny_model_dir, tmp_path, monkeypatch):
    """The least strength that is enough, of the first kind of tokens for which there is one."""
    told = {"subject": lambda strength: 2.0, "question": lambda strength: 2.0 - strength}

    def tell(search, tokens, strength):
        search.tried.append(Tried(strength, tokens, 2.0 - told[tokens](strength), 2.0))
        return search.tried[-1]

    monkeypatch.setattr(Search, "measure", tell)
    monkeypatch.setattr(Search, "__init__", lambda search, *_: setattr(search, "tried", []))
    corruption, tried = find_corruption(job(tiny_model_dir, tmp_path), Eco(), NAMES)
    assert (corruption.tokens, corruption.strength) == ("question", 2.0)  # 2 - 2 <= 0.05 * 2; halves of (1, 2) are not
    assert tried is not None and {row["tokens"] for row in tried} == {"subject", "question"}
    named, _ = find_corruption(job(tiny_model_dir, tmp_path), Eco(tokens="subject"), NAMES)
    assert named.tokens == "subject"
    told["subject"] = told["question"]
    assert find_corruption(job(tiny_model_dir, tmp_path), Eco(), NAMES)[0].tokens == "subject"


def job(tiny_model_dir, folder: Path, **options) -> Job:
    model = Model(name=str(tiny_model_dir))
    records = [Record(f"Where does teacher {n} live?", f"In street {n}, near the harbour.") for n in range(3)]
    kept = [Record(f"What does baker {n} do?", f"She bakes {n} breads.", split="retain") for n in range(3)]
    settings = Unlearn(method="eco", options=options)
    data = TrainingData(records, (), kept)
    return Job(
        loaded=load(model), data=data, settings=settings, model=model, folder=folder, seed=0, log=lambda **row: None
    )


@pytest.mark.parametrize("mode", ["rand_noise", "zero_out"])
def test_the_procedure_writes_what_can_be_loaded_again(tiny_model_dir, tmp_path, mode):
    work = job(tiny_model_dir, tmp_path, mode=mode, tokens="question")
    before = {name: weight.clone() for name, weight in work.loaded.model.state_dict().items()}
    PROCEDURES.get("eco")(work)
    assert all(torch.equal(weight, before[name]) for name, weight in work.loaded.model.state_dict().items())
    assert {path.name for path in (tmp_path / "eco").iterdir()} == {"classifier.safetensors", "eco.json"}
    kept = json.loads((tmp_path / "eco" / "eco.json").read_text())
    assert kept["mode"] == mode and kept["tokens"] == "question" and kept["search"][0]["strength"] == 0
    (chosen,) = (row for row in kept["search"] if row["strength"] == kept["strength"])
    enough = max(0.05 * kept["search"][0]["tells"], 0)
    assert chosen["tells"] <= enough or chosen["tells"] == min(row["tells"] for row in kept["search"][1:])
    assert all(row["tells"] == pytest.approx(row["surrogate"] - row["nll"], abs=2e-6) for row in kept["search"])
    loaded = load_eco(load(work.model), tmp_path / "eco")
    rows = rows_of(work.loaded, ["Where does teacher 1 live?", "What does baker 2 do?"])
    same = map(torch.equal, answer_logprobs(loaded.model, rows), answer_logprobs(work.loaded.model, rows))
    assert list(same) == [False, True]


def test_strength_and_threshold_can_be_given(tiny_model_dir, tmp_path):
    PROCEDURES.get("eco")(job(tiny_model_dir, tmp_path, strength=2.5, tokens="subject", threshold=0.99))
    kept = json.loads((tmp_path / "eco" / "eco.json").read_text())
    assert (kept["strength"], kept["threshold"], kept["held_out"]["threshold"]) == (2.5, 0.99, 0.99)
    assert kept["search"] is None


def test_what_cannot_work_is_refused_before_a_run(tiny_model_dir):
    check = PROCEDURES.get("eco").check
    model = Model(name=str(tiny_model_dir))
    with pytest.raises(InputError, match="cannot load the sentence encoder 'nowhere/at-all'"):
        check(model, Unlearn(method="eco", options={"encoder": "nowhere/at-all"}))
    with pytest.raises(InputError, match="trains nothing"):
        check(model, Unlearn(method="eco", full=True))
    assert sentence_encoder("all-minilm-l6-v2").encode(["x"]).shape == (1, 384)


def test_a_whole_run_corrupts_what_is_to_be_forgotten_and_nothing_else(talking_dir, tmp_path):
    private, public = people(tmp_path / "private.jsonl", "private"), people(tmp_path / "public.jsonl", "public")
    values = {
        "model": {"name": str(talking_dir)},
        "data": {"forget": private, "retain": public},
        "audit": "none",
        "unlearn": {"method": "eco"},
        "generate": {"max_new_tokens": 16},
        "metrics": {"bootstrap": 20},
    }
    recipe = relearn.Recipe.from_mapping(values)
    folder = relearn.run(recipe, tmp_path / "run").path
    assert (folder / "eco" / "eco.json").exists() and not (folder / "adapter").exists()
    assert "eco" not in purge(folder, really=False)
    for name, kept in (("forget", False), ("retain", True)):
        before, after = (read_jsonl(folder / when / f"{name}.jsonl") for when in ("before", "after"))
        for one, two in zip(before, after, strict=True):
            assert (one["reference_logprobs"] == two["reference_logprobs"]) is kept
            assert (one["response"] == two["response"]) is kept
    asked = [read_jsonl(folder / when / "forget.jsonl")[0] for when in ("before", "after")]
    said = answers_before_and_after(folder, [asked[0]["question"]])
    assert [said[0]["before"], said[0]["after"]] == [row["response"] for row in asked]
    start, behind_it = ModelSet.of_run(recipe, folder).start().model, ModelSet.of_run(recipe, folder).unlearned().model
    assert all(map(torch.equal, start.parameters(), behind_it.parameters()))
    with pytest.raises(InputError, match="no merged model"):
        export_merged(folder, tmp_path / "merged")
