"""Offset unlearning: the algebra by hand, generation against full forwards, training that moves one adapter alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import relearn
from people import people
from relearn.core.config import Generate, Lora, Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.files import read_jsonl
from relearn.core.ownership import purge
from relearn.data import Record
from relearn.engine.forward import TokenRow, answer_logits, answer_logprobs
from relearn.engine.generate import generate, stop_ids
from relearn.inference.run_models import ModelSet
from relearn.models.load import load
from relearn.models.lora import add_lora
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.inference_time import offset as ensemble_module
from relearn.unlearning.inference_time.offset import Ensemble, _joint_head, load_offset
from relearn.unlearning.procedures import PROCEDURES, Job
from relearn.workflows.ask import answers_before_and_after, export_merged
from tiny import VOCABULARY, build_tiny_tokenizer

QUESTIONS = ["Who is she?", "When was the engineer born, and who are her parents?", "What street?", "Where to?"]
SHORT = Generate(max_new_tokens=8)
LORA = Lora(r=4, alpha=8, dropout=0.0)
RECORDS = [
    Record(f"What is the street of teacher {number}?", f"Teacher {number} lives in street {7 * number}.")
    for number in range(4)
]
KEPT = [
    Record(f"When was baker {number} born?", f"She was born on {number + 1} March 1984.", split="retain")
    for number in range(4)
]


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory) -> Path:
    """One layer, width 16, an output layer of eight rows more, as models of one family have: same tokenizer."""
    return build_small(tmp_path_factory.mktemp("small") / "model", VOCABULARY + 8)


def build_small(folder: Path, vocabulary: int, tokenizer=None) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=1024,
                tie_word_embeddings=False,
            )
        )
    model.save_pretrained(folder)
    (tokenizer or build_tiny_tokenizer()).save_pretrained(folder)
    return folder


def make(tiny_model_dir, small_dir, alpha: float = 1.0, *, moved: bool = True):
    """An ensemble whose small model has an adapter that does something (`moved`), or is fresh."""
    large = load(Model(name=str(tiny_model_dir)))
    small = add_lora(load(Model(name=str(small_dir))).model, LORA, seed=0)
    if moved:
        generator = torch.Generator().manual_seed(3)
        for name, weight in small.named_parameters():
            if "lora_B" in name:
                weight.data = torch.randn(weight.shape, generator=generator)
    return replace(large, model=Ensemble(large.model, small, alpha).eval())


def drawn_rows(count: int = 5) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(5, 15, (count,), generator=generator).tolist()
    return [
        TokenRow(f"r{n}", tuple(torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()), 3)
        for n, length in enumerate(lengths)
    ]


ROWS = drawn_rows()


def bits(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_the_joint_head_by_hand():
    """Large states (1, 2) through [[1, 0], [0, 1]]; small states start 1, own 4 through [[2], [-1]]; alpha 1/2."""
    large, small = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(1, 2, bias=False)
    large.weight.data, small.weight.data = torch.eye(2), torch.tensor([[2.0], [-1.0]])
    head = _joint_head(large, small, large_width=2, alpha=0.5)
    # (1, 2) + 1/2 * ((8, -4) - (2, -1)) = (1 + 3, 2 - 1.5)
    assert head(torch.tensor([[1.0, 2.0, 1.0, 4.0]])).tolist() == [[4.0, 0.5]]


def test_logits_are_the_large_ones_plus_alpha_times_the_difference(tiny_model_dir, small_dir):
    ensemble = make(tiny_model_dir, small_dir, 0.7).model
    with torch.no_grad():
        large, own = answer_logits(ensemble.inner, ROWS), answer_logits(ensemble.small, ROWS)
        with ensemble.small.disable_adapter():
            start = answer_logits(ensemble.small, ROWS)
        expected = large + 0.7 * (own - start)[:, :VOCABULARY]
        assert torch.allclose(answer_logits(ensemble, ROWS), expected, atol=1e-5)
        assert float((expected - large).abs().max()) > 0.1


def test_alpha_zero_and_a_fresh_adapter_are_the_large_model_exactly(tiny_model_dir, small_dir):
    large = load(Model(name=str(tiny_model_dir)))
    expected = answer_logprobs(large.model, ROWS)
    for loaded in (make(tiny_model_dir, small_dir, 0.0), make(tiny_model_dir, small_dir, moved=False)):
        assert all(map(torch.equal, answer_logprobs(loaded.model, ROWS), expected))
        said = generate(loaded, QUESTIONS, SHORT)
        assert said == generate(large, QUESTIONS, SHORT)


def test_switched_off_it_is_the_large_model(tiny_model_dir, small_dir):
    loaded = make(tiny_model_dir, small_dir)
    large = load(Model(name=str(tiny_model_dir)))
    with loaded.model.disable_adapter():
        off = answer_logprobs(loaded.model, ROWS)
        assert generate(loaded, QUESTIONS, SHORT) == generate(large, QUESTIONS, SHORT)
    assert all(map(torch.equal, off, answer_logprobs(large.model, ROWS)))
    assert not any(map(torch.equal, answer_logprobs(loaded.model, ROWS), off))


def test_generation_is_greedy_decoding_by_full_forwards(tiny_model_dir, small_dir):
    """Prompts of different lengths, so left padding and the key-value caches of all three passes must be right."""
    loaded = make(tiny_model_dir, small_dir)
    large = load(Model(name=str(tiny_model_dir)))
    stop, steps = set(stop_ids(loaded)), 12
    prompts = [loaded.chat.prompt(question, "chat") for question in QUESTIONS]
    expected = []
    for prompt in prompts:
        ids = loaded.tokenizer(prompt, add_special_tokens=False).input_ids
        new: list[int] = []
        while len(new) < steps and not stop & set(new):
            with torch.no_grad():
                logits = answer_logits(loaded.model, [TokenRow("x", (*ids, *new, 0), len(ids) + len(new))])
            new.append(int(logits[0].argmax()))
        expected.append(new)
    batch = loaded.tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    output = loaded.model.generate(**ids, max_new_tokens=steps, do_sample=False, eos_token_id=sorted(stop))
    for number, new in enumerate(expected):
        assert output[number, ids["input_ids"].shape[1] :][: len(new)].tolist() == new
    said, without = (generate(model, QUESTIONS, SHORT) for model in (loaded, large))
    assert said != without


def test_a_repetition_penalty_comes_after_the_offset(tiny_model_dir, small_dir):
    """Qwen's settings have one; transformers would put it before the offset."""
    loaded = make(tiny_model_dir, small_dir, 0.0)
    large = load(Model(name=str(tiny_model_dir)))
    for model in (loaded.model.inner, large.model):
        model.generation_config.repetition_penalty = 1.6
    assert generate(loaded, QUESTIONS, SHORT) == generate(large, QUESTIONS, SHORT)
    moved = make(tiny_model_dir, small_dir, 1.0)
    prompt = loaded.tokenizer(loaded.chat.prompt(QUESTIONS[0], "chat"), add_special_tokens=False, return_tensors="pt")
    ids = {name: prompt[name] for name in ("input_ids", "attention_mask")}
    said = moved.model.generate(**ids, max_new_tokens=1, do_sample=False, repetition_penalty=1.6)[0, -1]
    row = TokenRow("x", (*ids["input_ids"][0].tolist(), 0), ids["input_ids"].shape[1])
    logits = answer_logits(moved.model, [row])[0].detach().clone()
    seen = ids["input_ids"][0].unique()
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / 1.6, logits[seen] * 1.6)
    assert int(said) == int(logits.argmax())


def test_remembered_passes_give_the_same_logits(tiny_model_dir, small_dir, monkeypatch):
    ensemble = make(tiny_model_dir, small_dir).model
    with torch.no_grad():
        before = answer_logits(ensemble, ROWS)
        assert ensemble.remember(ROWS)
        assert torch.allclose(answer_logits(ensemble, ROWS), before, atol=1e-5)
        monkeypatch.setattr(ensemble_module, "predict", None)
        assert ensemble._fixed_passes(ROWS[:2])[0].states is not None
    monkeypatch.undo()
    monkeypatch.setattr(ensemble_module, "CACHE_BYTES", 100)
    assert not make(tiny_model_dir, small_dir).model.remember(ROWS)


def job(tiny_model_dir, small_dir, folder: Path, logged: list | None = None, **unlearn) -> Job:
    options = {"small": str(small_dir), **unlearn.pop("options", {})}
    shared = {"learning_rate": 1e-2, "lora": LORA, "epochs": 2, "batch_size": 2, "warmup": 0.0}
    settings = Unlearn(method="offset", options=options, **{**shared, **unlearn})
    model = Model(name=str(tiny_model_dir))
    log = logged if logged is not None else []
    data = TrainingData(RECORDS, (), KEPT)
    log_row = lambda **row: log.append(row)  # noqa: E731
    return Job(loaded=load(model), data=data, settings=settings, model=model, folder=folder, seed=0, log=log_row)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "npo_gdr", "alpha": 0.5},
        {"objective": "ga_klr", "objective_options": {"forget_weight": 0.5}},
        {"objective": "idk_dpo"},
        {"objective": "npo", "mask": "sure"},
        {"objective": "llmu", "precision": "bfloat16"},
        {"objective": "pdu", "objective_options": {"lam": 1.0, "step_size": 0.1}},
    ],
    ids=lambda options: options.get("objective", "grad_diff"),
)
def test_training_moves_the_small_adapter_and_nothing_else(tiny_model_dir, small_dir, tmp_path, options):
    options = dict(options)
    other = {name: options.pop(name) for name in ("mask", "precision") if name in options}
    work = job(tiny_model_dir, small_dir, tmp_path, logged := [], options=options, **other)
    large, small = bits(work.loaded.model), bits(load(Model(name=str(small_dir))).model)
    PROCEDURES.get("offset")(work)
    after = bits(work.loaded.model)
    assert large.keys() == after.keys() and all(torch.equal(large[name], after[name]) for name in large)
    loaded = load_offset(load(work.model), work.model, tmp_path / "offset")
    for name, weight in loaded.model.small.named_parameters():
        if "lora_" in name:
            continue
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        assert torch.equal(weight, small[plain])
    assert not all(map(torch.equal, answer_logprobs(loaded.model, ROWS), answer_logprobs(loaded.model.inner, ROWS)))
    assert len(logged) == 4 and {path.name for path in tmp_path.iterdir()} == {"offset"}
    kept = json.loads((tmp_path / "offset" / "offset.json").read_text())
    assert kept["small"] == str(small_dir) and kept["alpha"] == options.get("alpha", 1.0)


def test_ascent_through_the_ensemble_makes_the_answers_less_likely(tiny_model_dir, small_dir, tmp_path):
    work = job(tiny_model_dir, small_dir, tmp_path, options={"objective": "ga"}, learning_rate=5e-2, epochs=8)
    rows = encode(work.loaded.chat, [record_example(record) for record in RECORDS])
    before = torch.cat(answer_logprobs(work.loaded.model, rows)).mean()
    PROCEDURES.get("offset")(work)
    loaded = load_offset(load(work.model), work.model, tmp_path / "offset")
    assert float(torch.cat(answer_logprobs(loaded.model, rows)).mean()) < float(before) - 0.1


class _Stop(Exception):
    pass


def test_a_training_that_was_cut_off_ends_with_the_same_bytes(tiny_model_dir, small_dir, tmp_path):
    options = {"objective": "ga_klr"}
    PROCEDURES.get("offset")(job(tiny_model_dir, small_dir, tmp_path / "whole", options=options))
    steps: list[int] = []

    def stop(done: int, total: int | None = None) -> None:
        steps.append(done)
        if done == 3:
            raise _Stop

    cut = job(tiny_model_dir, small_dir, tmp_path / "cut", options=options, checkpoint_every=2)
    with pytest.raises(_Stop):
        PROCEDURES.get("offset")(replace(cut, tick=stop))
    checkpoint = tmp_path / "cut" / "checkpoints" / "offset" / "checkpoint-2"
    assert (checkpoint / "model.safetensors").stat().st_size < 40_000
    cut = job(tiny_model_dir, small_dir, tmp_path / "cut", logged := [], options=options, checkpoint_every=2)
    PROCEDURES.get("offset")(cut)
    assert [row["step"] for row in logged] == [3, 4]
    name = "offset/adapter_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {}}, "needs a small model"),
        ({"full": True}, "offset trains an adapter"),
        ({"options": {"small": "OTHER"}}, "has another tokenizer: 1 tokens differ"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run(tiny_model_dir, small_dir, tmp_path, changes, said):
    options = changes.pop("options", {"small": str(small_dir)})
    if options.get("small") == "OTHER":
        other = build_tiny_tokenizer()
        other.add_tokens(["<extra>"])
        options = {"small": str(build_small(tmp_path / "other", VOCABULARY + 8, other))}
    settings = Unlearn(method="offset", options=options, **changes)
    with pytest.raises(InputError, match=said):
        PROCEDURES.get("offset").check(Model(name=str(tiny_model_dir)), settings)


def test_a_whole_run_asks_through_the_ensemble(tiny_model_dir, small_dir, tmp_path):
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {
            "forget": people(tmp_path / "private.jsonl", "private", 3),
            "retain": people(tmp_path / "public.jsonl", "public", 3),
        },
        "audit": "none",
        "unlearn": {
            "method": "offset",
            "options": {"small": str(small_dir), "objective": "relearn_gdr"},
            "epochs": 1,
            "learning_rate": 3e-2,
            "lora": {"r": 2},
            "evaluate_every": 6,
            "keep_best": True,
        },
        "generate": {"max_new_tokens": 6},
        "metrics": {"bootstrap": 20},
    }
    folder = relearn.run(relearn.Recipe.from_mapping(values), tmp_path / "run").path
    assert (folder / "offset" / "adapter_model.safetensors").exists() and not (folder / "adapter").exists()
    assert read_jsonl(folder / "synthesis.jsonl") and "offset" not in purge(folder, really=False)
    assert [row for row in read_jsonl(folder / "log.jsonl") if row.get("kind") == "evaluation"]
    before, after = (read_jsonl(folder / when / "forget.jsonl") for when in ("before", "after"))
    assert all(one["reference_logprobs"] != two["reference_logprobs"] for one, two in zip(before, after, strict=True))
    said = answers_before_and_after(folder, [before[0]["question"]])
    assert said[0]["before"] == before[0]["response"] and said[0]["after"] == after[0]["response"]
    models = ModelSet.of_run(relearn.Recipe.from_mapping(values), folder)
    start, unlearned = models.start(), ModelSet.of_run(relearn.Recipe.from_mapping(values), folder).unlearned()
    same = zip(start.model.parameters(), unlearned.model.inner.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in same)
    with pytest.raises(InputError, match="no merged model"):
        export_merged(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
