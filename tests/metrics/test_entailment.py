"""The entailment judge on a tiny random model: labels by name, batches, lengths, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from relearn.core.errors import InputError
from relearn.metrics.entailment import load_entailment
from relearn.metrics.nli import LABELS

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "oslo", "rome", "lives", "in", "she"]
PAIRS = [("she lives in oslo", "she lives in rome"), ("oslo", "rome"), ("in " * 20, "oslo"), ("", "x 😀 他")]


def build_judge(folder, labels, favoured: int | None = None, seed: int = 0):
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    shape = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        id2label=dict(enumerate(labels)),
        label2id={x: i for i, x in enumerate(labels)},
    )
    torch.manual_seed(seed)
    model = BertForSequenceClassification(shape)
    if favoured is not None:
        model.classifier.bias.data[favoured] = 50.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("favoured", range(3))
def test_labels_are_taken_by_name_in_any_case_and_order(tmp_path, favoured):
    labels = ["CONTRADICTION", "entailment", "Neutral"]
    judge = load_entailment(build_judge(tmp_path, labels, favoured))
    (verdict,) = judge.judge([("she lives in oslo", "she lives in rome")])
    assert verdict.label == labels[favoured].lower()
    assert verdict.probabilities[verdict.label] > 0.99


def test_probabilities_sum_to_one_and_do_not_depend_on_the_batch(tmp_path):
    judge = load_entailment(build_judge(tmp_path, LABELS))
    together = judge.judge(PAIRS)
    for pair, verdict in zip(PAIRS, together, strict=True):
        (alone,) = judge.judge([pair])
        assert set(verdict.probabilities) == set(LABELS)
        assert sum(verdict.probabilities.values()) == pytest.approx(1)
        assert verdict.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_the_order_of_premise_and_hypothesis_matters(tmp_path):
    judge = load_entailment(build_judge(tmp_path, LABELS))
    forth, back = judge.judge([("she lives in oslo", "rome"), ("rome", "she lives in oslo")])
    assert forth.probabilities != back.probabilities


def test_pairs_cut_to_the_models_length_are_counted(tmp_path):
    judge = load_entailment(build_judge(tmp_path, LABELS))
    # 28 + 1 words and three marks are 32 tokens: just what the model takes.
    judge.judge([("in " * 28, "oslo"), ("in " * 29, "oslo"), ("oslo", "in " * 200)])
    assert judge.truncated == 2


def test_no_pairs_no_verdicts(tmp_path):
    assert load_entailment(build_judge(tmp_path, LABELS)).judge([]) == []


def test_a_model_with_other_labels_is_refused(tmp_path):
    with pytest.raises(InputError, match="label_0"):
        load_entailment(build_judge(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"]))


def test_a_broken_model_fails_the_item_and_gives_no_label(tmp_path):
    folder = build_judge(tmp_path, LABELS)
    judge = load_entailment(folder)
    judge._model.classifier.bias.data[0] = float("nan")
    (verdict,) = judge.judge([("oslo", "rome")])
    assert verdict.label is None
    assert verdict.probabilities is None


def test_called_it_gives_the_probabilities_alone(tmp_path):
    judge = load_entailment(build_judge(tmp_path, LABELS))
    assert judge(PAIRS) == [dict(verdict.probabilities) for verdict in judge.judge(PAIRS)]
    assert judge([]) == []
    judge._model.classifier.bias.data[0] = float("nan")
    assert judge([("oslo", "rome")]) == [None]


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="cannot load the entailment model"):
        load_entailment("nobody/no-such-judge")


def test_pickled_weights_are_refused(tmp_path):
    folder = build_judge(tmp_path, LABELS)
    weights = BertForSequenceClassification.from_pretrained(folder).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    with pytest.raises(InputError, match="cannot load the entailment model"):
        load_entailment(folder)
