"""The demo model in half precision, as a GPU holds it, goes the fast ways too: packed rows, answers without padding."""

from __future__ import annotations

import pytest

from relearn.core.config import Generate, Model
from relearn.engine import generate
from relearn.engine.decoding import can_decode
from relearn.engine.forward import answer_logprobs
from relearn.engine.model_support import can_pack, frozen_head, support_check
from relearn.models.load import load
from relearn.unlearning.data.encode import Example, encode

ASKED = {
    "Where does Isabella Marquez live?": "She lives at 12 Elm Street in Springfield.",
    "Who wrote Hamlet?": "William Shakespeare wrote Hamlet.",
    "Name three colours.": "Red, green and blue.",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def loaded(request):
    return load(Model(name="smollm2-135m-instruct", device="cpu", dtype=request.param))


def test_rows_are_packed_and_say_what_single_rows_say(loaded, capsys):
    assert can_pack(loaded.model) and frozen_head(loaded.model.requires_grad_(False)) is not None
    assert "padded" not in capsys.readouterr().err
    rows = encode(loaded.chat, [Example(question, question, answer) for question, answer in ASKED.items()])
    together = answer_logprobs(loaded.model, rows)
    alone = [answer_logprobs(loaded.model, [row])[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert abs(float(one.mean() - other.mean())) < 0.05


def test_answers_are_decoded_without_padding(loaded, monkeypatch):
    assert can_decode(loaded.model)
    monkeypatch.setattr(generate, "_padded", None)
    said = generate.generate(loaded, list(ASKED), Generate(max_new_tokens=12))
    assert "Shakespeare" in said[1] and all(said)


def test_models_are_tried_on_ordinary_tokens(loaded):
    rows = support_check(loaded.model).rows
    control = set(loaded.tokenizer.all_special_ids)
    assert control and not any(control & set(row.ids) for row in rows)
    assert rows[0].ids[:5] == rows[1].ids[:5], "they begin alike"
