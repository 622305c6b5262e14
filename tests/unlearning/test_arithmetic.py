"""Task vectors and TIES: the arithmetic by hand, what lands in the run folder, and runs that were killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from relearn.core import distributed
from relearn.core.config import Lora, Model, Unlearn
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.engine.forward import answer_logprobs
from relearn.models.load import load, merge_adapter
from relearn.models.lora import add_lora, save_adapter
from relearn.unlearning import train
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import PROCEDURES, Job
from relearn.unlearning.weight_arithmetic import merged, negated

LORA = Lora(r=4, alpha=8, dropout=0.1)
RECORDS = [
    Record(f"What is the street of teacher {number}?", f"Teacher {number} lives in street {7 * number}.")
    for number in range(8)
]
KEPT = [
    Record(f"When was baker {number} born?", f"She was born on {number + 1} March 1984.", split="retain")
    for number in range(4)
]
ADAPTER = "adapter/adapter_model.safetensors"


def job(method: str, tiny_model_dir, folder: Path, logged: list | None = None, **unlearn: Any) -> Job:
    shared = {"learning_rate": 1e-2, "lora": LORA, "epochs": 2, "batch_size": 2, "warmup": 0.0}
    settings = Unlearn(method=method, **{**shared, **unlearn})
    model = Model(name=str(tiny_model_dir))
    log = logged if logged is not None else []
    data = TrainingData(RECORDS, (), KEPT)
    log_row = lambda **row: log.append(row)  # noqa: E731
    return Job(loaded=load(model), data=data, settings=settings, model=model, folder=folder, seed=0, log=log_row)


def carry_out(work: Job) -> None:
    chosen = PROCEDURES.get(METHODS.get(work.settings.method).procedure)
    chosen.check(work.model, work.settings)
    chosen(work)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / ADAPTER)


def known(model: Any, chat: Any) -> float:
    """Mean log-probability of the answers that were to be forgotten."""
    rows = encode(chat, [record_example(record) for record in RECORDS])
    return float(torch.cat(answer_logprobs(model, rows)).mean())


class Killed(Exception):
    pass


def killed_at(work: Job, place: int) -> Job:
    def stop(done: int, total: int | None = None) -> None:
        if done == place:
            raise Killed

    return replace(work, tick=stop)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 5.0])
def test_merged_weights_are_theta_minus_alpha_times_what_was_learned(tiny_model_dir, tmp_path, alpha):
    """theta - alpha (theta_ft - theta), theta_ft from a training of its own."""
    carry_out(job("task_vector", tiny_model_dir, tmp_path, options={"alpha": alpha}))
    work = job("task_vector", tiny_model_dir, tmp_path / "tuned")
    theta = {name: weight.clone() for name, weight in work.loaded.model.state_dict().items()}
    tuned = train.trained(work).merge_and_unload().state_dict()
    result = merge_adapter(load(work.model).model, tmp_path / "adapter").state_dict()
    moved = 0
    for name, before in theta.items():
        expected = before - alpha * (tuned[name] - before)
        assert torch.allclose(result[name], expected, atol=1e-5), name
        moved += int((expected != before).any())
    assert moved == 14


def test_the_adapter_is_the_trained_one_with_b_negated(tiny_model_dir, tmp_path):
    carry_out(job("task_vector", tiny_model_dir, tmp_path, options={"alpha": 0.5}))
    tuned = train.trained(job("task_vector", tiny_model_dir, tmp_path / "tuned"))
    save_adapter(tuned, tmp_path / "tuned" / "adapter")
    other = tensors(tmp_path / "tuned")
    for name, weight in tensors(tmp_path).items():
        assert weight.any()
        assert torch.equal(weight, -0.5 * other[name] if "lora_B" in name else other[name])
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "tuned"}


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_a_task_vector_makes_the_answers_less_likely(tiny_model_dir, tmp_path, full):
    """In small steps: the tiny model is not one whose knowledge is linear in its weights."""
    work = job("task_vector", tiny_model_dir, tmp_path, full=full, learning_rate=2e-4 if full else 2e-3)
    before = known(work.loaded.model, work.loaded.chat)
    carry_out(work)
    after = load(Model(name=str(tmp_path / "model"))) if full else load(work.model, adapters=(tmp_path / "adapter",))
    assert known(after.model, after.chat) < before - 0.02


def test_full_fine_tuning_by_hand():
    theta, tuned = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        theta.weight.copy_(torch.tensor([[1.0, 2.0]]))
        tuned.weight.copy_(torch.tensor([[1.5, 1.0]]))
    found = negated(tuned, dict(theta.named_parameters()), 2.0)
    # 1 - 2 x .5, 2 - 2 x -1
    assert found["weight"].tolist() == [[0.0, 4.0]]
    tuned.to(torch.bfloat16)
    assert negated(tuned, dict(theta.named_parameters()), 2.0)["weight"].dtype == torch.bfloat16


def test_while_training_the_negated_model_is_asked_and_the_best_is_kept(tiny_model_dir, tmp_path):
    work = job("task_vector", tiny_model_dir, tmp_path, evaluate_every=2, keep_best=True, options={"alpha": 2.0})
    seen: list[float] = []

    def evaluate(model: Any) -> dict[str, float]:
        seen.append(known(model, work.loaded.chat))
        return {"score": {0: 1.0, 1: 0.1, 2: 0.9}.get(len(seen) - 1, 0.5)}

    carry_out(replace(work, evaluate=evaluate))
    # The first is the start model, which is asked and never kept.
    assert len(seen) == 5
    result = load(work.model, adapters=(tmp_path / "adapter",))
    assert known(result.model, result.chat) == pytest.approx(seen[2], abs=1e-4)
    # Asking has changed nothing: the training is that of a run which is never asked.
    carry_out(job("task_vector", tiny_model_dir, tmp_path / "whole", options={"alpha": 2.0}))
    unasked = job("task_vector", tiny_model_dir, tmp_path / "asked", evaluate_every=2, options={"alpha": 2.0})
    carry_out(replace(unasked, evaluate=lambda model: {"score": known(model, work.loaded.chat)}))
    assert (tmp_path / "whole" / ADAPTER).read_bytes() == (tmp_path / "asked" / ADAPTER).read_bytes()


def test_a_task_vector_that_was_killed_ends_with_the_same_bytes(tiny_model_dir, tmp_path):
    carry_out(job("task_vector", tiny_model_dir, tmp_path / "whole"))
    with pytest.raises(Killed):
        carry_out(killed_at(job("task_vector", tiny_model_dir, tmp_path / "cut", checkpoint_every=3), 5))
    carry_out(job("task_vector", tiny_model_dir, tmp_path / "cut", logged := [], checkpoint_every=3))
    assert [row["step"] for row in logged] == [4, 5, 6, 7, 8]
    assert (tmp_path / "whole" / ADAPTER).read_bytes() == (tmp_path / "cut" / ADAPTER).read_bytes()


def adapters_by_hand(tiny_model_dir, folder: Path, one: torch.Tensor, other: torch.Tensor) -> list[Path]:
    """Two adapters whose every A and B begins with the numbers given, all others zero."""
    folders = []
    for name, numbers in (("one", one), ("other", other)):
        target = folder / name
        save_adapter(add_lora(load(Model(name=str(tiny_model_dir))).model, LORA, seed=0), target)
        made = {key: torch.zeros_like(value) for key, value in load_file(target / "adapter_model.safetensors").items()}
        for value in made.values():
            value.view(-1)[: len(numbers)] = numbers
        save_file(made, target / "adapter_model.safetensors", metadata={"format": "pt"})
        folders.append(target)
    return folders


def test_ties_by_hand(tiny_model_dir, tmp_path):
    """Scale 8 / 4 = 2 goes into A and B as its square root. Of 5 numbers and zeros nothing is dropped at .8."""
    one, other = torch.tensor([1.0, 2.0, -3.0, 4.0, 0.0]), torch.tensor([3.0, -1.0, -1.0, 0.0, 0.0])
    folders = adapters_by_hand(tiny_model_dir, tmp_path, one, other)
    model = merged(load(Model(name=str(tiny_model_dir))).model, folders, METHODS.get("ties").objective({}))
    assert list(model.peft_config) == ["default"] and model.peft_config["default"].lora_alpha == 4
    # Signs + + - +: 1 and 3 agree, 2 is left alone, -3 and -1 agree, 4 is left alone. Means, times sqrt 2.
    expected = torch.tensor([2.0, 2.0, -2.0, 4.0, 0.0]) * 2**0.5
    found = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    assert len(found) == 28
    for name, weight in found.items():
        assert torch.allclose(weight.view(-1)[:5], expected), name
        assert not weight.view(-1)[5:].any()


def test_ties_drops_the_smallest_of_each_adapter(tiny_model_dir, tmp_path):
    numbers = torch.arange(1.0, 65.0)
    folders = adapters_by_hand(tiny_model_dir, tmp_path, numbers, numbers)
    chosen = METHODS.get("ties").objective({"density": 0.5, "weights": [1, 1]})
    model = merged(load(Model(name=str(tiny_model_dir))).model, folders, chosen)
    # k_proj's B is 16 x 4: exactly the 64 numbers, of which the smaller half goes.
    weight = model.get_parameter("base_model.model.model.layers.0.self_attn.k_proj.lora_B.default.weight").view(-1)
    assert not weight[:32].any() and torch.allclose(weight[32:], numbers[32:] * 2**0.5)


def test_ties_trains_both_adapters_with_half_the_steps_each(tiny_model_dir, tmp_path):
    carry_out(job("ties", tiny_model_dir, tmp_path, logged := [], epochs=4))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}
    assert [row["step"] for row in logged] == list(range(1, 17))
    assert set(logged[0]["parts"]) == {"over_npo", "over_gdr", "over_klr"}
    assert set(logged[-1]["parts"]) == {"under_npo", "under_gdr", "under_klr"}
    whole: list[dict] = []
    train.unlearn(job("npo_klr", tiny_model_dir, tmp_path / "other", whole, epochs=4))
    assert len(whole) == 16
    assert sum(row["tokens"] for row in whole) == pytest.approx(sum(row["tokens"] for row in logged), rel=0.05)


def test_ties_with_a_token_budget(tiny_model_dir, tmp_path):
    carry_out(job("ties", tiny_model_dir, tmp_path, logged := [], token_budget=1000))
    halves = [[row["tokens"] for row in logged if next(iter(row["parts"])).startswith(name)] for name in ("ov", "un")]
    assert halves[0] == halves[1] and 500 <= sum(halves[0]) < 500 + max(halves[0])


def test_ties_is_the_merge_of_its_two_trainings(tiny_model_dir, tmp_path):
    options = {"over": {"forget_weight": 0.5, "direction": "reverse"}}
    carry_out(job("ties", tiny_model_dir, tmp_path / "ties", options=options))
    folders = []
    weights = {
        "over": {"forget_weight": 0.5, "retain_kl": 0.4, "retain_nll": 0.2, "direction": "reverse"},
        "under": {"forget_weight": 0.3, "retain_kl": 0.3, "retain_nll": 0.4},
    }
    for name, own in weights.items():
        alone = job("npo_klr", tiny_model_dir, tmp_path / name, options=own, epochs=1)
        train.unlearn(alone)
        folders.append(tmp_path / name / "adapter")
    assert (folders[0] / "adapter_model.safetensors").read_bytes() != (
        folders[1] / "adapter_model.safetensors"
    ).read_bytes()
    expected = merged(load(alone.model).model, folders, METHODS.get("ties").objective(options))
    save_adapter(expected, tmp_path / "by-hand" / "adapter")
    assert (tmp_path / "by-hand" / ADAPTER).read_bytes() == (tmp_path / "ties" / ADAPTER).read_bytes()
    start, result = load(alone.model), load(alone.model, adapters=(tmp_path / "ties" / "adapter",))
    assert known(result.model, result.chat) < known(start.model, start.chat) - 0.1


@pytest.mark.parametrize("place", [3, 4, 7])
def test_ties_that_was_killed_trains_no_adapter_twice_and_ends_with_the_same_bytes(tiny_model_dir, tmp_path, place):
    """Killed in the first training, at its end, and in the second: 4 steps each, checkpoints every second."""
    carry_out(job("ties", tiny_model_dir, tmp_path / "whole"))
    with pytest.raises(Killed):
        carry_out(killed_at(job("ties", tiny_model_dir, tmp_path / "cut", checkpoint_every=2), place))
    carry_out(job("ties", tiny_model_dir, tmp_path / "cut", logged := [], checkpoint_every=2))
    assert logged[0]["step"] == {3: 3, 4: 3, 7: 7}[place]
    for name in (ADAPTER, "adapter/adapter_config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_ties_that_was_killed_between_its_trainings(tiny_model_dir, tmp_path, monkeypatch):
    carry_out(job("ties", tiny_model_dir, tmp_path / "whole"))
    work = job("ties", tiny_model_dir, tmp_path / "cut")
    trained = train.trained

    def only_the_first(inner: Job, **others: Any) -> Any:
        if others["name"] == "ties-under":
            raise Killed
        return trained(inner, **others)

    monkeypatch.setattr(train, "trained", only_the_first)
    with pytest.raises(Killed):
        carry_out(work)
    monkeypatch.setattr(train, "trained", trained)
    carry_out(job("ties", tiny_model_dir, tmp_path / "cut", logged := []))
    assert [row["step"] for row in logged] == [5, 6, 7, 8]
    assert (tmp_path / "whole" / ADAPTER).read_bytes() == (tmp_path / "cut" / ADAPTER).read_bytes()


def test_a_merged_adapter_loads_like_any_other(tiny_model_dir, tmp_path):
    work = job("ties", tiny_model_dir, tmp_path)
    carry_out(work)
    model = PeftModel.from_pretrained(load(work.model).model, str(tmp_path / "adapter"), use_safetensors=True)
    rows = encode(work.loaded.chat, [record_example(record) for record in KEPT])
    with model.disable_adapter():
        off = torch.cat(answer_logprobs(model, rows))
    assert torch.allclose(off, torch.cat(answer_logprobs(load(work.model).model, rows)), atol=1e-5)
    assert not torch.allclose(off, torch.cat(answer_logprobs(model, rows)), atol=1e-3)


@pytest.mark.parametrize("method", ["task_vector", "ties"])
def test_masks_hold_here_too(tiny_model_dir, tmp_path, method):
    carry_out(job(method, tiny_model_dir, tmp_path, mask="sure"))
    found = {name: weight for name, weight in tensors(tmp_path).items() if "lora_B" in name}
    rows = torch.cat([weight.any(1) for weight in found.values()])
    assert 0.05 < float(rows.float().mean()) < 0.25


def test_objectives_of_the_papers():
    trained_with = METHODS.get("npo_klr").objective
    over = {"beta": 0.1, "forget_weight": 0.4, "retain_nll": 0.2, "retain_kl": 0.4}
    under = {"beta": 0.1, "forget_weight": 0.3, "retain_nll": 0.4, "retain_kl": 0.3}
    assert METHODS.get("ties").objective({}).objectives == [trained_with(over), trained_with(under)]
    changed = METHODS.get("ties").objective({"over": {"beta": 0.5}})
    assert changed.objectives == [trained_with({**over, "beta": 0.5}), trained_with(under)]
    assert METHODS.get("task_vector").defaults == {"alpha": 1.0}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("task_vector", {"alpha": 0}, "alpha is 0"),
        ("task_vector", {"alpha": "1e-1"}, "alpha is '1e-1'"),
        ("ties", {"density": 0}, "density is 0"),
        ("ties", {"density": 1.0}, "density is 1.0"),
        ("ties", {"weights": [1]}, "give two"),
        ("ties", {"weights": [1, -1]}, r"weights\[1\] is -1"),
        ("ties", {"over": {"betta": 1}}, "no option 'betta'.*beta"),
        ("ties", {"under": {"retain_kl": -1}}, "retain_kl is -1"),
        ("ties", {"over": 3}, "int"),
    ],
)
def test_impossible_options_are_refused(method, options, message):
    with pytest.raises(InputError, match=message):
        METHODS.get(method).objective(options)


def test_what_cannot_work_is_refused_before_the_run(tiny_model_dir, tmp_path, monkeypatch):
    for settings, message in (({"full": True}, "unlearn.full"), ({"evaluate_every": 2}, "unlearn.evaluate_every")):
        with pytest.raises(InputError, match=message):
            carry_out(job("ties", tiny_model_dir, tmp_path, **settings))
    monkeypatch.setattr(distributed, "shards_weights", lambda: True)
    with pytest.raises(InputError, match="DDP"):
        carry_out(job("ties", tiny_model_dir, tmp_path))
    with pytest.raises(InputError, match="DDP"):
        carry_out(job("task_vector", tiny_model_dir, tmp_path, full=True))
