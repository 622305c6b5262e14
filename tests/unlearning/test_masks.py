"""SURE and MemFlex: what a mask keeps does not move by one bit, the rest does, and resuming changes nothing."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate import DistributedType
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from relearn.core import config
from relearn.core.config import Lora
from relearn.core.errors import InputError, RunFailedError
from relearn.data import Record
from relearn.data.validation import DataSet
from relearn.engine.forward import TokenRow, answer_logits
from relearn.models.load import load
from relearn.models.lora import add_lora
from relearn.synthesis.rows import TrainingRow
from relearn.unlearning.data.batches import MicroBatch, plan_batches
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.masks.mask import MASKS, RowMask, check_mask, make_mask
from relearn.unlearning.masks.memflex import MemFlex
from relearn.unlearning.masks.sure import (
    SHARE,
    Sure,
    at_percentile,
    forget_groups,
    gradient,
    kinds,
    row_norms,
    salient_rows,
    trained_weights,
    warmed_up,
)
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import Job
from relearn.unlearning.train import trained
from relearn.unlearning.trainer import Loop, train
from relearn.workflows.run.train_stages import check_unlearn
from unlearning.toy import FORGET, RETAIN, rows, weights

TESTS = Path(__file__).parents[1]
LORA = Lora(r=4, alpha=8, dropout=0.1)
SURE = config.MaskConfig(name="sure", options={"percentile": 70})
MEMFLEX = config.MaskConfig(name="memflex")


def plan(accumulation: int = 1, retain: list[TokenRow] = RETAIN, epochs: float = 1) -> list[MicroBatch]:
    return plan_batches(FORGET, retain, batch_size=2, accumulation=accumulation, epochs=epochs, seed=0)


def fresh(tiny_model_dir, lora: bool = True):
    """With dropout, which must have no part in finding a mask."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.requires_grad_(not lora)
    return add_lora(model, LORA, seed=0) if lora else model


@dataclass
class Run:
    """A training with a mask: the weights before and after it, and the mask itself."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    mask: RowMask | None
    logged: list[dict[str, Any]] = field(default_factory=list)


def run(model, folder, settings=None, *, accumulation=1, callbacks=(), mask=None, method="grad_diff", **loop) -> Run:
    before, batches, logged = weights(model), plan(accumulation), []
    mask = make_mask(settings, model, batches) if settings else mask
    loop = {"weight_decay": 0.1, "warmup": 0.0, **loop}
    train(
        model,
        batches,
        METHODS.get(method).objective({}),
        loop=Loop(1e-2, accumulation=accumulation, **loop),
        checkpoints=folder / "checkpoints",
        log=lambda **row: logged.append(row),
        callbacks=[*([mask] if mask else []), *callbacks],
    )
    return Run(before, weights(model), mask, logged)


def moved_rows(one: Run) -> dict[str, torch.Tensor]:
    return {name: (one.before[name] != one.after[name]).flatten(1).any(1) for name in one.before}


@pytest.mark.parametrize("settings", [SURE, MEMFLEX], ids=["sure", "memflex"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_kept_rows_do_not_move_by_one_bit_and_the_others_do(tiny_model_dir, tmp_path, settings, lora):
    """With accumulation, weight decay, momentum, and B matrices that start at zero."""
    done = run(fresh(tiny_model_dir, lora), tmp_path, settings, accumulation=3)
    assert len(done.logged) == 4
    kept = 0
    for name, moving in done.mask.moving.items():
        changed = (done.before[name] != done.after[name]).view(len(moving), -1)
        assert not changed[~moving].any(), name
        # Every salient row moves, even those of B, whose weight decay has nothing to shrink.
        assert changed[moving].any(1).all(), name
        kept += int((~moving).sum())
    assert kept and any(moving.any() for moving in done.mask.moving.values())


def test_without_a_mask_every_row_moves(tiny_model_dir, tmp_path):
    """What the test above looks at would be seen to fail."""
    done = run(fresh(tiny_model_dir), tmp_path, accumulation=3)
    assert all(moved.all() for moved in moved_rows(done).values())


@pytest.mark.parametrize("percentile", [50, 70, 90])
def test_the_share_of_rows_that_move_is_that_of_the_percentile(tiny_model_dir, tmp_path, percentile):
    settings = config.MaskConfig(name="sure", options={"percentile": percentile})
    done = run(fresh(tiny_model_dir), tmp_path, settings)
    moved = moved_rows(done)
    for letter in "AB":
        together = torch.cat([rows for name, rows in moved.items() if f"lora_{letter}" in name])
        wanted = (1 - percentile / 100) * len(together)
        assert abs(int(together.sum()) - wanted) <= 1, letter
        assert len(together) > 50


class FirstStep(TrainerCallback):
    """What the gradients are when the mask is through with them, and the weights after the first step."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}
        self.weights: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not self.gradients:
            self.gradients = {
                name: weight.grad.clone() for name, weight in trained_weights(model).items() if weight.grad is not None
            }

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 1:
            self.weights = weights(model)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_trap_11_the_accumulated_gradient_of_salient_rows_is_whole(tiny_model_dir, tmp_path, lora):
    """The first step of salient rows is that of a training without mask: clipped, over all micro-batches."""
    found = []
    for name, settings in (("plain", None), ("masked", SURE)):
        look = FirstStep()
        done = run(fresh(tiny_model_dir, lora), tmp_path / name, settings, accumulation=4, callbacks=[look])
        found.append((look, done))
    (plain, _), (masked, done) = found
    moved = 0
    for name, moving in done.mask.moving.items():
        if not moving.any():
            assert name not in masked.gradients
            assert torch.equal(masked.weights[name], done.before[name])
            continue
        assert torch.equal(masked.gradients[name][moving], plain.gradients[name][moving])
        assert not masked.gradients[name][~moving].any()
        assert torch.equal(masked.weights[name][moving], plain.weights[name][moving])
        assert torch.equal(masked.weights[name][~moving], done.before[name][~moving])
        moved += int(moving.sum())
    assert moved > 50 and any(slope.any() for slope in masked.gradients.values())


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize("name", ["sure", "memflex"])
def test_resumed_equals_uninterrupted(tiny_model_dir, tmp_path, name, every):
    settings = config.MaskConfig(name=name, options={"every": every})
    whole = run(fresh(tiny_model_dir), tmp_path / "a", settings, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        run(fresh(tiny_model_dir), tmp_path / "b", settings, checkpoint_every=2, callbacks=[StopAt()])
    newest = sorted((tmp_path / "b" / "checkpoints").glob("checkpoint-*"))[-1]
    assert (newest / "mask.safetensors").exists()
    resumed = run(fresh(tiny_model_dir), tmp_path / "b", settings, checkpoint_every=2)
    assert resumed.logged[0]["step"] == 7
    for tensor in whole.after:
        assert torch.equal(whole.after[tensor], resumed.after[tensor]), tensor
        assert torch.equal(whole.mask.moving[tensor], resumed.mask.moving[tensor]), tensor


def test_the_mask_of_the_checkpoint_counts_and_not_the_one_found_again(tiny_model_dir, tmp_path):
    """A start model that is not the same to the last bit must not change the mask in the middle of a training."""
    settings = config.MaskConfig(name="sure", options={"percentile": 50})
    with pytest.raises(KeyboardInterrupt):
        run(fresh(tiny_model_dir), tmp_path, settings, checkpoint_every=2, callbacks=[StopAt()])
    model = fresh(tiny_model_dir)
    found = make_mask(settings, model, plan())
    other = RowMask({name: ~moving for name, moving in found.moving.items()})
    resumed = run(model, tmp_path, mask=other, checkpoint_every=2)
    assert all(torch.equal(resumed.mask.moving[name], found.moving[name]) for name in found.moving)


def test_a_mask_taken_again_lets_rows_go_and_keeps_them_where_they_are(tiny_model_dir, tmp_path):
    settings = config.MaskConfig(name="sure", options={"percentile": 80, "every": 4})
    seen: list[tuple[dict, dict]] = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            seen.append((weights(model), dict(mask.moving)))

    model, batches = fresh(tiny_model_dir), plan()
    start = weights(model)
    mask = make_mask(settings, model, batches)
    first = dict(mask.moving)
    run(model, tmp_path, mask=mask, callbacks=[Look()])
    masks, steps = [first, *[moving for _, moving in seen]], [start, *[found for found, _ in seen]]
    assert any(not torch.equal(masks[3][name], masks[4][name]) for name in first)
    for moving, before, after in zip(masks, steps, steps[1:], strict=False):
        for name, free in moving.items():
            assert torch.equal(before[name][~free], after[name][~free])
    left = [name for name in first if (first[name] & ~masks[4][name]).any()]
    assert any((steps[4][name] != start[name])[first[name] & ~masks[4][name]].any() for name in left)


@pytest.mark.parametrize("name", list(MASKS))
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_finding_a_mask_leaves_no_trace_and_is_the_same_each_time(tiny_model_dir, name, lora):
    """Weights, gradients, modes and random numbers are as they were; dropout has no part in it."""
    model = fresh(tiny_model_dir, lora).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    numbers = torch.get_rng_state()
    first = make_mask(config.MaskConfig(name=name), model, plan())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    torch.manual_seed(6)
    again = make_mask(config.MaskConfig(name=name), model, plan())
    assert all(torch.equal(rows, again.moving[key]) for key, rows in first.moving.items())


def test_gradient_is_that_of_the_mean_nll_over_all_groups(tiny_model_dir):
    model = fresh(tiny_model_dir, lora=False).eval()
    found = gradient(model, [FORGET[:4], FORGET[4:6]])
    logits = answer_logits(model, FORGET[:6])
    targets = torch.tensor([token for row in FORGET[:6] for token in row.answer_ids])
    torch.nn.functional.cross_entropy(logits, targets).backward()
    for name, weight in trained_weights(model).items():
        assert torch.allclose(found[name], weight.grad, atol=1e-6), name


def test_row_saliency_is_the_norm_of_the_rows_gradient():
    assert torch.equal(row_norms(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), torch.tensor([5.0, 0.0]))
    assert torch.equal(row_norms(torch.tensor([-2.0, 1.0])), torch.tensor([2.0, 1.0]))


def test_salient_rows_by_hand():
    """Two kinds of different scale: each has its own percentile. A row without a gradient is never salient."""
    norms = {
        "a": torch.tensor([1.0, 2.0, 3.0]),
        "b": torch.tensor([4.0, 5.0]),
        "c": torch.tensor([100.0, 300.0]),
        "d": torch.tensor([0.0, 0.0]),
    }
    # a and b together: 1 2 3 4 5, whose 75th percentile is 4; c: 200 at the middle.
    moving = salient_rows(norms, [["a", "b"]], 75)
    assert [moving["a"].tolist(), moving["b"].tolist()] == [[False, False, False], [True, True]]
    assert salient_rows(norms, [["c"]], 50)["c"].tolist() == [False, True]
    assert salient_rows(norms, [["d"]], 50)["d"].tolist() == [False, False]


@pytest.mark.parametrize("percentile", [0, 12.5, 50, 90, 99])
def test_percentile_is_that_of_the_field(percentile):
    values = {"one": torch.rand(7), "two": torch.rand(30)}
    together = torch.cat(list(values.values())).double()
    expected = torch.quantile(together, percentile / 100)
    assert float(at_percentile(values, ["one", "two"], percentile)) == pytest.approx(float(expected), rel=1e-12)


def test_memflex_region_by_hand():
    """Taken: large forget gradient, and not in the direction of the retain gradient."""
    forget = {
        "along": torch.tensor([[4.0, 0.0]]),
        "across": torch.tensor([[0.0, 4.0]]),
        "against": torch.tensor([[3.0, 3.0]]),
        "small": torch.tensor([[0.0, 0.1]]),
        "none": torch.zeros(1, 2),
    }
    retain = {name: torch.tensor([[1.0, 0.0]]) for name in forget}
    retain["against"] = torch.tensor([[-1.0, -1.0]])
    names = [list(forget)]
    # Means of |g_f|: 2, 2, 3, .05, 0; cosines: 1, 0, -1, 0, undefined.
    assert MemFlex(magnitude=0.5).region(forget, retain, names) == {"across", "against"}
    assert MemFlex(magnitude=0.01).region(forget, retain, names) == {"across", "against", "small"}
    assert MemFlex(magnitude=2.5).region(forget, retain, names) == {"against"}
    assert MemFlex(percentile=75).region(forget, retain, names) == {"across", "against"}
    assert MemFlex(percentile=0).region(forget, retain, names) == {"across", "against", "small"}
    assert MemFlex(similarity=1, magnitude=0.5).region(forget, retain, names) == {"across", "against"}
    assert MemFlex(similarity=-0.5, magnitude=0.5).region(forget, retain, names) == {"against"}
    # A kind of its own has a percentile of its own.
    assert MemFlex(percentile=75).region(forget, retain, [names[0][:3], ["small"], ["none"]]) == {"against", "small"}


def test_memflex_says_when_nothing_is_left_to_train(tiny_model_dir):
    settings = config.MaskConfig(name="memflex", options={"magnitude": 1e9})
    with pytest.raises(RunFailedError, match=r"no tensor has .* cos < 0\.92.*lower magnitude"):
        make_mask(settings, fresh(tiny_model_dir), plan())


def test_memflex_without_retain_rows_is_refused(tiny_model_dir):
    with pytest.raises(InputError, match=r"data\.retain.*no retain rows"):
        make_mask(MEMFLEX, fresh(tiny_model_dir), plan(retain=[]))


def test_with_a_fresh_adapter_the_saliency_of_a_needs_the_warm_up(tiny_model_dir):
    model = fresh(tiny_model_dir)
    groups = forget_groups(plan(), 4)
    cold = gradient(model, groups)
    assert all(not slope.any() for name, slope in cold.items() if "lora_A" in name)
    with warmed_up(model, groups, 2):
        warm = gradient(model, groups)
    assert all(slope.any() for name, slope in warm.items() if "lora_A" in name)
    without = Sure(warmup_steps=0).find(model, plan(), start=True)
    assert not any(rows.any() for name, rows in without.items() if "lora_A" in name)
    assert any(rows.any() for name, rows in without.items() if "lora_B" in name)


def test_saliency_after_the_warm_up_is_near_that_at_the_start(tiny_model_dir):
    model = fresh(tiny_model_dir)
    groups = forget_groups(plan(), 4)
    cold = gradient(model, groups)
    with warmed_up(model, groups, 2):
        warm = gradient(model, groups)
    for name, slope in cold.items():
        if "lora_B" in name:
            assert torch.nn.functional.cosine_similarity(slope.flatten(), warm[name].flatten(), dim=0) > 0.95, name


def test_a_preference_method_leans_on_the_answers_it_rejects():
    rejected = rows("x", 24, 3)
    paired = {"rejected": {row.id: [other] for row, other in zip(FORGET, rejected, strict=True)}}
    batches = plan_batches(FORGET, RETAIN, batch_size=2, accumulation=1, epochs=1, seed=0, paired=paired)
    assert {row.id[0] for group in forget_groups(batches, 4) for row in group} == {"x"}


@pytest.mark.parametrize("kind", [Sure, MemFlex])
def test_with_originals_the_mask_does_not_depend_on_what_is_trained_on(tiny_model_dir, kind):
    """Vague answers have gradients of their own, which would select the weights of the new answers."""
    model, vague = fresh(tiny_model_dir), rows("v", 24, 5)
    batches = plan_batches(vague, RETAIN, batch_size=2, accumulation=1, epochs=1, seed=0)
    found = kind().find(model, batches, originals=FORGET, start=True)
    same = kind().find(model, plan(), start=True)
    assert all(torch.equal(found[name], same[name]) for name in same)
    vague_alone = kind().find(model, batches, start=True)
    assert any(not torch.equal(found[name], vague_alone[name]) for name in same)


@pytest.mark.parametrize("method", ["relearn", "idk_nll", "jensun", "npo", "idk_dpo", "grad_diff"])
def test_every_method_gives_its_mask_the_original_answers(tiny_model_dir, tmp_path, monkeypatch, method):
    given = []

    def stop(_settings, _model, _batches, originals):
        given.extend(originals)
        raise KeyboardInterrupt

    record = Record("Where does teacher Ada live?", "Ada lives in street 7.")
    kept = Record("When was the baker born?", "In 1984.", split="retain")
    row = TrainingRow(
        id="1",
        kind="qa",
        prompt=record.question,
        target="That is not known.",
        form="chat",
        record_id=record.id,
        question_id="1",
    )
    job = Job(
        loaded=load(config.Model(name=str(tiny_model_dir))),
        data=TrainingData([record], [row], [kept]),
        settings=config.Unlearn(method=method, mask=SURE, lora=LORA),
        model=config.Model(name=str(tiny_model_dir)),
        folder=tmp_path,
        seed=0,
        log=lambda **_: None,
    )
    monkeypatch.setattr("relearn.unlearning.train.make_mask", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(job)
    assert [job.loaded.tokenizer.decode(one.answer_ids) for one in given] == ["Ada lives in street 7.<|im_end|>"]


def test_finding_a_mask_costs_a_small_part_of_the_training():
    for epochs in (1, 8, 100):
        batches = plan(epochs=epochs)
        groups = forget_groups(batches, 16)
        assert len(groups) == min(max(1, len(batches) // SHARE), 16, len(FORGET) // 2)
        assert len({row.id for group in groups for row in group}) == sum(len(group) for group in groups)


def test_kinds_of_tensors(tiny_model_dir):
    adapter = kinds(fresh(tiny_model_dir))
    assert len(adapter) == 2 and all(len({"lora_A" in name for name in names}) == 1 for names in adapter)
    embeddings, matrices, vectors = sorted(kinds(fresh(tiny_model_dir, lora=False)), key=lambda names: sorted(names)[0])
    embedding, rest = ["model.embed_tokens.weight"], matrices + vectors + embeddings
    assert embedding in (embeddings, matrices, vectors) and len(rest) == 1 + 2 * 7 + 2 * 2 + 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shure", {}, "unknown mask 'shure'.*did you mean 'sure'"),
        ("sure", {"percentil": 3}, "no option 'percentil'.*did you mean 'percentile'"),
        ("sure", {"percentile": 100}, "percentile is 100"),
        ("sure", {"every": 0}, "every is 0"),
        ("sure", {"batches": 0}, "batches is 0"),
        ("sure", {"warmup_steps": -1}, "warmup_steps is -1"),
        ("sure", {"percentile": "high"}, "percentile is 'high': give a number"),
        ("memflex", {"similarity": "high"}, "similarity is 'high'"),
        ("memflex", {"similarity": 2}, "similarity is 2"),
        ("memflex", {"percentile": -1}, "percentile is -1"),
        ("memflex", {"magnitude": -1}, "magnitude is -1"),
    ],
)
def test_impossible_masks_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        check_mask(config.MaskConfig(name=name, options=options))


def test_a_mask_that_does_not_exist_is_found_before_a_run_begins(tmp_path):
    recipe = config.Recipe.model_validate(
        {"model": {"name": str(tmp_path)}, "data": {"forget": "nowhere.jsonl"}, "unlearn": {"mask": "shure"}}
    )
    with pytest.raises(InputError, match="unknown mask"):
        check_unlearn(recipe, DataSet(forget=()))


def test_a_recipe_may_give_the_name_alone():
    part = config.Unlearn.model_validate({"mask": "sure"})
    assert part.mask and check_mask(part.mask) == Sure()
    assert math.isclose(Sure().percentile, 90)


def in_processes(count: int, tiny_model_dir, folder, *arguments: str) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What each of `count` processes, as a launcher starts them, has to say about a masked training."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launched = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = TESTS / "unlearning" / "masked_in_two.py"
    command = [sys.executable, str(script), str(tiny_model_dir), str(folder), *arguments]
    ranks = [{"RANK": str(n), "LOCAL_RANK": str(n), **launched} for n in range(count)] if count > 1 else [{}]
    running = [
        subprocess.Popen(command, env={**shared, **rank}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in ranks
    ]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert not any(process.returncode for process in running), said
    found = []
    for number in range(count):
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in load_file(folder / f"{number}.safetensors").items():
            part, tensor = key.split(" ")
            parts.setdefault(part, {})[tensor] = value
        found.append(parts)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MASKS))
def test_two_processes_train_the_same_rows_as_one(tiny_model_dir, tmp_path, name):
    one, other = in_processes(2, tiny_model_dir, tmp_path / "two", name)
    (alone,) = in_processes(1, tiny_model_dir, tmp_path / "one", name)
    moved = 0
    for tensor, moving in one["moving"].items():
        assert torch.equal(moving, other["moving"][tensor]) and torch.equal(moving, alone["moving"][tensor])
        assert torch.equal(one["after"][tensor], other["after"][tensor])
        assert torch.equal(one["after"][tensor][~moving], one["before"][tensor][~moving])
        changed = one["after"][tensor] != one["before"][tensor]
        assert changed[moving].any(1).all()
        assert torch.allclose(one["after"][tensor], alone["after"][tensor], atol=2e-4)
        moved += int(moving.sum())
    assert moved


@pytest.mark.slow
def test_weights_in_shards_keep_their_own_rows(tiny_model_dir, tmp_path):
    """fully_shard on two CPUs: every process has half of the rows of every tensor, and half of the mask."""
    for found in in_processes(2, tiny_model_dir, tmp_path / "two", "sure", "sharded"):
        moved = 0
        for tensor, moving in found["moving"].items():
            changed = (found["after"][tensor] != found["before"][tensor]).view(len(moving), -1).any(1)
            assert not changed[~moving].any(), tensor
            # Rows of the embedding that no row of the training touches have no gradient.
            assert "embed" in tensor or changed[moving].all(), tensor
            moved += int(changed.sum())
        assert moved > 20


def on_train_begin(mask: RowMask, model, kind) -> None:
    arguments = SimpleNamespace(distributed_state=SimpleNamespace(distributed_type=kind), output_dir="nowhere")
    mask.on_train_begin(arguments, SimpleNamespace(global_step=0), None, model=model)


def test_trap_11_a_mask_that_could_not_take_effect_is_refused(tiny_model_dir):
    """DeepSpeed steps inside backward; names that do not match must not pass for rows that may move."""
    model = fresh(tiny_model_dir)
    mask = make_mask(SURE, model, plan())
    on_train_begin(mask, model, DistributedType.NO)
    with pytest.raises(InputError, match="DeepSpeed"):
        on_train_begin(mask, model, DistributedType.DEEPSPEED)
    with pytest.raises(KeyError):
        on_train_begin(RowMask({f"module.{name}": rows for name, rows in mask.moving.items()}), model, None)


@pytest.mark.parametrize("name", list(MASKS))
def test_a_mask_is_described_with_its_paper_and_settings_that_parse(name):
    text = "\n".join(page.read_text(encoding="utf-8") for page in (TESTS.parent / "docs").glob("papers*.md"))
    assert f"`{name}`" in text
    for number in re.findall(r"\d{4}\.\d{5}", sys.modules[MASKS.get(name).__module__].__doc__ or ""):
        assert number in text
    excerpts = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    parts = [config.Unlearn.model_validate(excerpt["unlearn"]) for excerpt in excerpts if "unlearn" in excerpt]
    assert [check_mask(part.mask) for part in parts if part.mask and part.mask.name == name]
