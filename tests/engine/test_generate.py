"""Decoding many answers at once gives the answer of the model's own `generate` to each alone, however it is batched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
)

from relearn.core.config import Generate, Lora, Model
from relearn.core.errors import InputError
from relearn.engine import decoding, generate
from relearn.engine.decoding import Decoder, can_decode, groups, rows_at_once
from relearn.engine.sampling import TokenSampler
from relearn.models.load import load
from relearn.models.lora import add_lora
from relearn.unlearning.inference_time.offset import Ensemble
from tiny import VOCABULARY

QUESTIONS = [
    "Who is she?",
    "When was the engineer born, and who are her parents?",
    "What street?",
    "Where to?",
    "How can one reach him by telephone or e-mail?",
]
GREEDY = Generate(max_new_tokens=12)
DRAWN = Generate(max_new_tokens=12, temperature=0.9, top_k=50, top_p=0.95)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
}


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    assert can_decode(model)
    return model


@pytest.fixture
def loaded(tiny_model_dir):
    return load(Model(name=str(tiny_model_dir)))


def made(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def alone(model, prompt, stops, limit, penalty=1.0) -> list[int]:
    """The definition: the model's own `generate` on this prompt and no other."""
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=list(stops),
        pad_token_id=0,
        repetition_penalty=penalty,
    )[0, len(prompt) :].tolist()
    return next((output[:place] for place, token in enumerate(output) if token in stops), output)


def together(model, prompts, stops, limit, penalty=1.0, rows=None) -> list[list[int]]:
    choice = TokenSampler(Generate(), [""] * len(prompts), penalty)
    return Decoder(model, prompts, choice, stops=stops, max_new_tokens=limit, rows=rows).answers()


tokens = st.integers(3, VOCABULARY - 1)
# Prompts begin with one of two headings, so that some share a beginning and some do not.
headings = st.sampled_from([(), (7, 8, 9, 10, 11, 12), (7, 8, 9, 10, 99)])
prompts = st.lists(st.tuples(headings, st.lists(tokens, min_size=1, max_size=9)), min_size=1, max_size=7).map(
    lambda pairs: [[*heading, *rest] for heading, rest in pairs]
)


@settings(max_examples=12, deadline=None)
@given(
    prompts=prompts,
    stops=st.sets(tokens, min_size=1, max_size=150),
    limit=st.integers(1, 9),
    rows=st.sampled_from([None, 1, 2, 3]),
    penalty=st.sampled_from([1.0, 1.3]),
)
def test_every_answer_is_the_one_the_model_gives_alone(model, prompts, stops, limit, rows, penalty):
    expected = [alone(model, prompt, stops, limit, penalty) for prompt in prompts]
    assert together(model, prompts, stops, limit, penalty, rows) == expected


@pytest.mark.parametrize(
    "config",
    [Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16), GPTNeoXConfig(**SMALL, rotary_pct=0.25)],
    ids=lambda config: config.model_type,
)
def test_other_architectures(config):
    model = made(config)
    assert can_decode(model)
    prompts = [[5, 6, 7, 8, 20 + n, 30 * n % 50 + 3] for n in range(5)]
    assert together(model, prompts, {1, 2}, 8, rows=2) == [alone(model, prompt, {1, 2}, 8) for prompt in prompts]


def test_a_finished_row_is_computed_no_further(model):
    """Passes are counted: a prompt's beginning is read once, and every token said but the last goes through once."""
    prompts = [[9, 10, 11, 12, 13, 40 + n] for n in range(6)]
    limits = [alone(model, prompt, {2}, 9) for prompt in prompts]
    stops = {said[at] for at, said in enumerate(limits) if at < 4}
    expected = [alone(model, prompt, stops, 9) for prompt in prompts]
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
    )
    assert together(model, prompts, stops, 9) == expected
    hook.remove()
    said = [min(len(answer) + 1, 9) for answer in expected]
    assert len(set(said)) > 1, "some rows have to end before others"
    # Five tokens are common to all; the last token of a prompt is each row's own.
    assert sizes[0] == 5 + 6
    assert sum(sizes[1:]) == sum(said) - len(said)
    assert len(sizes) == max(said)


def test_free_rows_are_given_to_the_next_questions(model):
    """Two rows at a time: as many passes as it takes if nobody waits for the longest, and reading beside them."""
    prompts = [[9, 10, 11, 12, 40 + n] for n in range(6)]
    stops = {said[n % 3] for n, said in enumerate(alone(model, prompt, {2}, 9) for prompt in prompts)}
    said = [min(len(alone(model, prompt, stops, 9)) + 1, 9) for prompt in prompts]
    free_at, began = [0, 0], []
    for length in said:
        row = free_at.index(min(free_at))
        began.append(free_at[row])
        free_at[row] += length - 1
    passes = []
    decoder = Decoder(model, prompts, TokenSampler(Generate(), [""] * 6), stops=stops, max_new_tokens=9, rows=2)
    whole = decoder._step
    decoder._step = lambda cache: (passes.append(len(decoder._active)), whole(cache))[1]
    decoder.answers()
    assert sum(passes) == sum(said) - len(said)
    assert len(passes) == max(free_at)


def test_longer_prompts_are_answered_apart():
    """20 new tokens: 5 + 20 is 25, twice that is 50 = 30 + 20, so 31 begins another group, and 90 one more."""
    assert groups([31, 5, 30, 7, 90], 20) == [[1, 3, 2], [0], [4]]
    assert groups([], 20) == []


def test_rows_by_the_memory_there_is(model, monkeypatch):
    """2 layers x key and value x 2 heads x 8 wide x 4 bytes = 256 bytes a token; a row of 100 tokens 25,600."""
    monkeypatch.setattr(decoding, "CPU_CACHE_BYTES", 256_000)
    assert rows_at_once(model, 100) == 10
    assert rows_at_once(model, 100, limit=4) == 4
    assert rows_at_once(model, 100_000) == 1
    monkeypatch.setattr(decoding, "CPU_CACHE_BYTES", 1 << 30)
    assert rows_at_once(model, 100) == decoding.CPU_ROWS


def test_answers_in_the_order_asked(loaded):
    said = generate.generate(loaded, QUESTIONS, GREEDY)
    stops = generate.stop_ids(loaded)
    for question, answer in zip(QUESTIONS, said, strict=True):
        ids = loaded.tokenizer(loaded.chat.prompt(question, "chat"), add_special_tokens=False).input_ids
        expected = loaded.tokenizer.decode(alone(loaded.model, ids, stops, 12), skip_special_tokens=True)
        assert answer == expected.strip()
    assert generate.generate(loaded, QUESTIONS[::-1], GREEDY.model_copy(update={"batch_size": 2})) == said[::-1]
    assert generate.generate(loaded, [], GREEDY) == []


def test_progress_counts_every_question(loaded):
    seen = []
    generate.generate(loaded, QUESTIONS, GREEDY, tick=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5) and all(total == 5 for _, total in seen)


def padded_only(monkeypatch):
    monkeypatch.setattr(generate, "can_decode", lambda *_: False)


def test_what_is_drawn_belongs_to_the_question(loaded, monkeypatch):
    said = generate.generate(loaded, QUESTIONS, DRAWN, seed=3)
    assert generate.generate(loaded, QUESTIONS[::-1], DRAWN.model_copy(update={"batch_size": 2}), seed=3) == said[::-1]
    assert generate.generate(loaded, QUESTIONS[1:3], DRAWN, seed=3) == said[1:3]
    assert generate.generate(loaded, QUESTIONS, DRAWN, seed=4) != said
    padded_only(monkeypatch)
    assert generate.generate(loaded, QUESTIONS, DRAWN, seed=3) == said


def test_a_question_asked_again_is_drawn_again(loaded):
    first, second, third = generate.generate(loaded, QUESTIONS[1:2] * 3, DRAWN)
    assert first != second != third
    assert generate.generate(loaded, QUESTIONS[1:2], DRAWN) == [first]


def test_an_adapter_on_top(loaded):
    model = add_lora(loaded.model, Lora(r=4, dropout=0.5), seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3)
    adapted = replace(loaded, model=model.train())
    assert can_decode(model)
    said = generate.generate(adapted, QUESTIONS, GREEDY)
    assert model.training, "left as it was"
    model.eval()
    assert said == generate.generate(adapted, QUESTIONS, GREEDY)
    with model.disable_adapter():
        plain = generate.generate(adapted, QUESTIONS, GREEDY)
    assert plain != said


def ensemble(tiny_model_dir):
    large = load(Model(name=str(tiny_model_dir)))
    small = add_lora(load(Model(name=str(tiny_model_dir))).model, Lora(r=4, dropout=0.0), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, weight in small.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.3)
    return replace(large, model=Ensemble(large.model, small, 1.0).eval())


def test_an_ensemble_goes_its_own_way_and_draws_alike(tiny_model_dir):
    loaded = ensemble(tiny_model_dir)
    assert not can_decode(loaded.model)
    said = generate.generate(loaded, QUESTIONS, DRAWN)
    assert generate.generate(loaded, QUESTIONS[::-1], DRAWN.model_copy(update={"batch_size": 1})) == said[::-1]


def test_a_model_with_capped_attention_goes_through_its_own_generate(loaded):
    config = Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=8, pad_token_id=0)
    foreign = replace(loaded, model=made(config))
    assert not can_decode(foreign.model)
    said = generate.generate(foreign, QUESTIONS, GREEDY)
    assert said == generate.generate(foreign, QUESTIONS, GREEDY.model_copy(update={"batch_size": 1}))


def test_answers_that_may_outgrow_a_window_go_through_the_models_own_generate(loaded, monkeypatch):
    """Up to the window every token is seen, and answers are decoded here; beyond it they are not. The same answers."""
    ways = []
    for name in ("_decoded", "_padded"):
        way = getattr(generate, name)
        monkeypatch.setattr(generate, name, lambda *given, name=name, way=way: ways.append(name) or way(*given))
    ids = [
        loaded.tokenizer(loaded.chat.prompt(asked, "chat"), add_special_tokens=False).input_ids for asked in QUESTIONS
    ]
    longest = max(map(len, ids)) + GREEDY.max_new_tokens
    for window in (longest, longest - 1):
        config = Gemma3TextConfig(
            **SMALL,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=window,
            pad_token_id=0,
            layer_types=["sliding_attention", "full_attention"],
        )
        foreign = replace(loaded, model=made(config))
        said = generate.generate(foreign, QUESTIONS, GREEDY)
        stops = generate.stop_ids(foreign)
        alone_ids = [alone(foreign.model, prompt, stops, GREEDY.max_new_tokens) for prompt in ids]
        assert said == [text.strip() for text in loaded.tokenizer.batch_decode(alone_ids, skip_special_tokens=True)]
    assert ways == ["_decoded", "_padded"]


OWN_SETTINGS = {
    "num_beams": 3,
    "num_return_sequences": 3,
    "return_dict_in_generate": True,
    "output_scores": True,
    "prompt_lookup_num_tokens": 3,
    "stop_strings": ["e"],
    "no_repeat_ngram_size": 2,
    "forced_eos_token_id": 5,
    "suppress_tokens": [7, 8],
    "min_new_tokens": 9,
    "guidance_scale": 2.0,
}


@pytest.mark.parametrize("padded", [False, True])
def test_the_models_own_generation_settings_change_no_answer(loaded, padded, monkeypatch, capsys):
    """But for its repetition penalty, which is said; so are the settings that do not apply."""
    if padded:
        monkeypatch.setattr(generate, "can_decode", lambda *_: False)
    loaded.model.generation_config.repetition_penalty = 1.2
    plain = generate.generate(loaded, QUESTIONS, GREEDY)
    ids = loaded.tokenizer(loaded.chat.prompt(QUESTIONS[1], "chat"), add_special_tokens=False).input_ids
    expected = alone(loaded.model, ids, generate.stop_ids(loaded), 12, 1.2)
    assert plain[1] == loaded.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert "repetition_penalty 1.2 applies" in capsys.readouterr().err
    for name, value in OWN_SETTINGS.items():
        setattr(loaded.model.generation_config, name, value)
    generate._NOTED.clear()
    assert generate.generate(loaded, QUESTIONS, GREEDY) == plain
    noted = " ".join(capsys.readouterr().err.split())
    assert all(name in noted for name in OWN_SETTINGS)
    assert loaded.model.generation_config.num_beams == 3, "an exported model keeps them"


def test_an_answer_ends_at_each_end_that_the_model_or_its_tokenizer_has(loaded):
    from tokenizers import AddedToken

    loaded.model.generation_config.eos_token_id = [2, 11]
    loaded.tokenizer.add_tokens(
        [AddedToken("<end_of_turn>", special=True), AddedToken("<start_of_turn>", special=True)]
    )
    turn = loaded.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert {2, 11, turn} <= set(generate.stop_ids(loaded))
    assert turn + 1 not in generate.stop_ids(loaded)


def saying(loaded, monkeypatch, text):
    """Let the model say a text."""
    tokens = loaded.tokenizer(text, add_special_tokens=False).input_ids
    monkeypatch.setattr(generate, "_shared_out", lambda call, ids, **_: [tokens] * len(ids))


def test_thoughts_are_no_answer_and_an_answer_that_never_came_is_cut_off(loaded, monkeypatch):
    saying(loaded, monkeypatch, "<think>\nWho is she?\n</think>\n\nA nurse.")
    (said,) = generate.respond(loaded, QUESTIONS[:1], GREEDY)
    assert (said.text, said.cut_off) == ("A nurse.", False) and said.thought_tokens > 5
    assert generate.generate(loaded, ["<think>"], GREEDY, form="text")[0].startswith("<think>"), "a passage has none"
    saying(loaded, monkeypatch, "<think>\nWho is")
    assert generate.respond(loaded, QUESTIONS[:1], GREEDY)[0].cut_off
    assert generate.generate(loaded, QUESTIONS[:1], GREEDY) == [""]
    saying(loaded, monkeypatch, "Who is she?")
    chat = replace(loaded.chat, system_prompt=None, use_template=True)
    monkeypatch.setattr(type(chat), "prompt", lambda *_: "<|im_start|>assistant\n<think>\n")
    assert generate.respond(loaded, QUESTIONS[:1], GREEDY)[0].cut_off, "the template opened the thought"


@pytest.mark.parametrize("kind", [GPT2Config, OPTConfig])
def test_a_prompt_that_leaves_no_positions_for_its_answer_is_refused(loaded, kind):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
    more = {} if kind is GPT2Config else {"ffn_dim": 64, "word_embed_proj_dim": 32}
    foreign = replace(loaded, model=made(kind(**sizes, **more, max_position_embeddings=60, pad_token_id=0)))
    assert len(generate.generate(foreign, QUESTIONS[:1], GREEDY)) == 1
    with pytest.raises(InputError, match=r"60 positions -> lower generate.max_new_tokens"):
        generate.generate(foreign, QUESTIONS[:1], GREEDY.model_copy(update={"max_new_tokens": 48}))


def test_generation_beyond_the_original_length_of_rope_does_not_depend_on_other_questions(loaded):
    ids = [
        loaded.tokenizer(loaded.chat.prompt(asked, "chat"), add_special_tokens=False).input_ids for asked in QUESTIONS
    ]
    config = LlamaConfig(
        **SMALL,
        max_position_embeddings=min(map(len, ids)) + 6,
        rope_parameters={"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0},
        initializer_range=0.5,
    )
    foreign = replace(loaded, model=made(config))
    said = generate.generate(foreign, QUESTIONS, GREEDY)
    assert said[::-1] == [generate.generate(foreign, [asked], GREEDY)[0] for asked in reversed(QUESTIONS)]


def test_a_model_that_ignores_its_cache_fails_the_test_for_decoding(loaded, monkeypatch):
    monkeypatch.setattr(
        decoding.KVCache,
        "put",
        lambda self, layer, key, value, *, first: self.layers.setdefault(
            layer, tuple(torch.zeros(self.rows, key.shape[1], self.room, key.shape[3]) for _ in range(2))
        ),
    )
    assert not can_decode(loaded.model)


@pytest.mark.parametrize("settings_", [GREEDY, DRAWN])
@pytest.mark.parametrize("padded", [False, True])
def test_an_answer_can_be_listened_to(loaded, settings_, padded, monkeypatch):
    """Decoded here or by the model's own `generate`: the tokens told are the answer's, and the answer is the same."""
    if padded:
        monkeypatch.setattr(generate, "can_decode", lambda *_: False)
    told: list[list[int]] = []
    silent = generate.generate(loaded, QUESTIONS[:1], settings_)
    assert generate.generate(loaded, QUESTIONS[:1], settings_, on_tokens=lambda new: told.append(list(new))) == silent
    tokens = [token for new in told for token in new]
    assert loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip() == silent[0]
    assert max(map(len, told)) == 1 and len(tokens) > 3


@pytest.mark.parametrize("padded", [False, True])
def test_a_listener_can_end_the_answer(loaded, padded, monkeypatch):
    if padded:
        monkeypatch.setattr(generate, "can_decode", lambda *_: False)
    told: list[int] = []

    class EnoughError(Exception):
        pass

    def heard(new) -> None:
        told.extend(new)
        if len(told) == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        generate.generate(loaded, QUESTIONS[:1], GREEDY, on_tokens=heard)
    assert len(told) == 2
    with pytest.raises(ValueError, match="one question"):
        generate.generate(loaded, QUESTIONS[:2], GREEDY, on_tokens=heard)
