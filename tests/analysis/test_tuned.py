"""The tuned lens: what it is before it is fitted, a case whose answer is known by hand, and what fitting does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from analysis.test_inside import ROW, model
from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import LEAST_ROWS, lens, lens_rows
from relearn.analysis.tuned_lens import FOLDER, LensSettings, Translators, fit, load_or_fit
from relearn.core.config import Model
from relearn.core.errors import InputError
from relearn.core.files import write_jsonl
from relearn.engine.forward import TokenRow
from relearn.models.load import load

QUICK = LensSettings(rate=0.1, most_steps=120, every=20)


def text(count: int = 48, length: int = 20, seed: int = 1) -> list[TokenRow]:
    """Rows of tokens that follow one another by a rule, so that there is something to learn."""
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(3, 40, (count,), generator=draw).tolist()
    return [
        TokenRow(f"r{n}", tuple((start + 7 * at) % 40 for at in range(length)), 5) for n, start in enumerate(starts)
    ]


@pytest.fixture(params=["llama", "gpt2", "neox", "gemma2"])
def inside(request) -> HookedModel:
    return HookedModel(model(request.param))


def test_before_fitting_it_is_the_logit_lens_to_the_bit(inside):
    plain, tuned = lens(inside, ROW), lens(inside, ROW, Translators.identity(3, 16))
    assert torch.equal(plain.logprob, tuned.logprob) and torch.equal(plain.kl, tuned.kl)
    assert torch.equal(plain.rank, tuned.rank)


def test_the_last_layer_is_left_as_it_is():
    shifting = Translators(torch.ones(2, 4, 4), torch.ones(2, 4))
    states = torch.arange(8.0).view(2, 4)
    assert torch.equal(shifting(2, states), states)
    # h + (sum of h) + 1: 6 and 22 are the sums.
    assert torch.equal(shifting(1, states), states + torch.tensor([[7.0], [23.0]]))


def test_fitting_comes_nearer_at_every_layer(inside):
    found, about = fit(inside, text(), QUICK)
    logit, tuned = about["held_out_kl"]["logit"], about["held_out_kl"]["tuned"]
    assert len(logit) == len(tuned) == 4 and logit[-1] == tuned[-1] == 0
    assert all(after < 0.9 * before for before, after in zip(logit[:-1], tuned[:-1], strict=True))
    assert all(step > 0 for step in about["steps"])
    assert about["rows"] == {"fit": 32, "stop": 8, "held_out": 8}
    # Rows share no beginning, so that every place but the first counts.
    assert about["places"] == {"fit": 32 * 19, "stop": 8 * 19, "held_out": 8 * 19}
    assert found.change.shape == (3, 16, 16) and found.bias.shape == (3, 16)


def test_what_is_said_of_held_out_text_is_what_the_lens_says(inside):
    """The two numbers of a layer, once more, by the lens itself over the rows that were put aside."""
    rows = text()
    found, about = fit(inside, rows, QUICK)
    held = [replace(row, answer_start=2) for row in rows[5::6]]
    for name, translators in (("logit", None), ("tuned", found)):
        # A row's places but the first and the last, which predicts no token of the row.
        kl = torch.cat([lens(inside, row, translators).kl for row in held], 1).mean(1)
        assert kl.tolist() == pytest.approx(about["held_out_kl"][name], rel=0.15, abs=1e-3)


SHIFT = torch.tensor([1.5, -0.5, 0.25])


class Adds(torch.nn.Module):
    def forward(self, states):
        return states + SHIFT


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(6, 3)
        self.blocks = torch.nn.ModuleList([Adds()])

    def forward(self, ids):
        return self.blocks[0](self.embed(ids))


class Toy(torch.nn.Module):
    """One layer that adds a fixed vector, and an output layer without a norm: h -> h + SHIFT -> logits."""

    def __init__(self):
        super().__init__()
        self.base_model = Decoder()
        self.head = torch.nn.Linear(3, 6, bias=False)

    def get_output_embeddings(self):
        return self.head

    def forward(self, ids, use_cache=False):
        return SimpleNamespace(logits=self.head(self.base_model(ids)))


def test_a_model_that_only_shifts_is_translated_by_that_shift():
    """h -> h + SHIFT makes the first place's logits those of the last: its KL is 0, found by A = 1 and b = SHIFT."""
    torch.manual_seed(0)
    toy = Toy().eval()
    rows = [TokenRow(str(n), (n % 6, (n + 1) % 6, (3 * n + 2) % 6, (n * n) % 6), 1) for n in range(60)]
    settings = LensSettings(rate=0.05, most_steps=800, every=20, patience=10)
    found, about = fit(HookedModel(toy), rows, settings)
    assert about["held_out_kl"]["logit"][0] > 0.05
    assert about["held_out_kl"]["tuned"][0] < 1e-3
    states = toy.base_model.embed(torch.arange(6)).detach()
    wanted, read = toy.head(states + SHIFT).log_softmax(-1), toy.head(found(0, states)).log_softmax(-1)
    torch.testing.assert_close(read, wanted, atol=0.06, rtol=0)


def test_a_seed_gives_the_same_again_and_another_does_not(inside):
    first, second, other = (fit(inside, text(), replace(QUICK, seed=seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first.change, second.change) and torch.equal(first.bias, second.bias)
    assert not torch.equal(first.change, other.change)


def test_it_stops_when_nothing_is_gained():
    """At a rate that spoils everything, the layers stay what they were."""
    found, about = fit(HookedModel(model("llama")), text(), LensSettings(rate=1e4, most_steps=400, every=5, patience=2))
    assert about["steps"] == [0, 0, 0]
    assert not found.change.any() and about["held_out_kl"]["tuned"] == about["held_out_kl"]["logit"]


def test_weights_and_gradients_of_the_model_stay(inside):
    before = {name: weight.clone() for name, weight in inside.model.state_dict().items()}
    fit(inside, text(12), replace(QUICK, most_steps=20))
    assert all(torch.equal(before[name], weight) for name, weight in inside.model.state_dict().items())
    assert all(weight.grad is None for weight in inside.model.parameters())


def test_layers_in_groups_are_the_same_as_together(monkeypatch):
    inside = HookedModel(model("llama"))
    together = fit(inside, text(), QUICK)[0]
    monkeypatch.setattr("relearn.analysis.tuned_lens._MAX_FITTED_BYTES", 1)
    monkeypatch.setattr("relearn.analysis.tuned_lens._MAX_LOGITS", 40 * 50)
    apart = fit(inside, text(), QUICK)[0]
    torch.testing.assert_close(apart.change, together.change, rtol=1e-3, atol=1e-4)


def test_a_beginning_that_all_rows_share_is_left_out():
    rows = [TokenRow(str(n), (1, 2, 3, 4 + n, 5, 6), 2) for n in range(12)]
    assert fit(HookedModel(model("llama")), rows, replace(QUICK, most_steps=0))[1]["places"]["fit"] == 8 * 3


def test_fitted_once_and_again_only_for_other_things(tmp_path, monkeypatch):
    inside, rows = HookedModel(model("llama")), text()
    first = load_or_fit(inside, rows, tmp_path, QUICK)
    assert (tmp_path / FOLDER / "translators.safetensors").stat().st_mode & 0o077 == 0
    fitted = []
    monkeypatch.setattr("relearn.analysis.tuned_lens.fit", lambda *given, **_: fitted.append(1) or fit(*given))
    again = load_or_fit(inside, rows, tmp_path, QUICK)
    assert not fitted and again.metadata == first.metadata
    assert torch.equal(again.translators.change, first.translators.change)
    load_or_fit(inside, rows[1:], tmp_path, QUICK)
    load_or_fit(inside, rows[1:], tmp_path, replace(QUICK, seed=1))
    load_or_fit(HookedModel(model("llama", seed=1)), rows[1:], tmp_path, replace(QUICK, seed=1))
    assert len(fitted) == 3
    (tmp_path / FOLDER / "translators.safetensors").unlink()
    load_or_fit(HookedModel(model("llama", seed=1)), rows[1:], tmp_path, replace(QUICK, seed=1))
    assert len(fitted) == 4


def test_half_precision_is_fitted_too():
    inside = HookedModel(model("llama").to(torch.bfloat16))
    about = fit(inside, text(), QUICK)[1]
    logit, tuned = about["held_out_kl"]["logit"], about["held_out_kl"]["tuned"]
    assert all(after < before for before, after in zip(logit[:-1], tuned[:-1], strict=True))


def test_text_of_the_users_own(tiny_model_dir, tmp_path):
    chat = load(Model(name=str(tiny_model_dir))).chat
    assert len(lens_rows(chat)) == 120
    plain = tmp_path / "own.txt"
    plain.write_text("word and other words " * 128 * LEAST_ROWS)
    assert len(lens_rows(chat, plain)) >= LEAST_ROWS
    lines = tmp_path / "own.jsonl"
    write_jsonl(lines, [{"question": f"What is {n}?", "answer": "A number."} for n in range(LEAST_ROWS)])
    assert len(lens_rows(chat, lines)) == LEAST_ROWS
    for content, said in (("too short to fit on, by far, a lens", "too few"), (b"\xff\xfe\xff", "not UTF-8")):
        plain.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=said):
            lens_rows(chat, plain)
    with pytest.raises(InputError):
        lens_rows(chat, tmp_path / "absent.txt")
