"""Memory of the losses for a vocabulary of 128,256: it grows with answer tokens, not with batch x length x vocabulary.

    python benchmarks/loss_memory.py --out FILE.json
    python benchmarks/loss_memory.py --quick --out FILE.json     fewer answer tokens

A whole training step (trunk, losses, backward) of a small Llama-shaped model with random weights is run three ways,
each in a process of its own:

    trunk     forward and backward up to the states in front of the output layer, no loss: what the others stand on
    relearn   `training.passes.observe` and the objective
    full      transformers' full logits (batch, length, vocabulary), the losses taken at the answers by autograd

for NLL (relearn_gdf), KL (relearn_klr) and NPO. Reported is the peak over what was held before the step. Then the
largest step is run under a limit on the address space: relearn's fits, full logits do not.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from steps import Dynamic
from torch.nn.functional import kl_div, log_softmax, logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM
from workload import machine, peak_bytes, reset_peak, resident_bytes, with_adapter, write

from relearn.engine.forward import TokenRow, predict
from relearn.unlearning.data.batches import MicroBatch, with_step_sizes
from relearn.unlearning.method import METHODS
from relearn.unlearning.step import make_reference, observe

VOCABULARY, HIDDEN, ANSWER = 128_256, 256, 32
METHOD = {"nll": "relearn_gdf", "kl": "relearn_klr", "npo": "npo"}
LOSSES, WAYS, PROMPTS = tuple(METHOD), ("trunk", "relearn", "full"), (16, 128)
COUNTS, FULL_COUNTS, LARGEST = (256, 512, 1024, 2048), (256, 512), 4096
QUICK_COUNTS, QUICK_LARGEST = (256, 512), 2048
# Enough for the step with relearn's losses, and a third of a single copy of the full logits at 4,096 answer tokens.
BUDGET = 1 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.one:
        print(json.dumps(one(options)))
        return 0
    found = measure(options)
    if options.out:
        write(options.out, found)
    print(summary(found))
    return 0 if found["limited_as_expected"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="write everything measured to this JSON file")
    parser.add_argument("--quick", action="store_true", help="fewer answer tokens")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="width of the model")
    for hidden, kind in (("--one", str), ("--loss", str), ("--answers", int), ("--prompt", int), ("--limit", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser


def measure(options: argparse.Namespace) -> dict[str, Any]:
    counts, largest = (QUICK_COUNTS, QUICK_LARGEST) if options.quick else (COUNTS, LARGEST)
    peaks = []
    for loss in LOSSES:
        for answers in counts:
            for way in WAYS if answers in FULL_COUNTS else WAYS[:2]:
                peaks.append(in_process(options, way, loss, answers, PROMPTS[0]))
        # As many answer tokens behind longer prompts: full logits grow, the losses' memory does not.
        peaks += [in_process(options, way, loss, counts[0], PROMPTS[1]) for way in WAYS]
    trunk = {
        (row["loss"], row["answer_tokens"], row["positions"]): row["peak_bytes"]
        for row in peaks
        if row["way"] == "trunk"
    }
    for row in peaks:
        row["losses_bytes"] = row["peak_bytes"] - trunk[row["loss"], row["answer_tokens"], row["positions"]]
    budget = BUDGET * options.vocabulary // VOCABULARY
    limited = [in_process(options, way, loss, largest, PROMPTS[0], limit=budget) for loss in LOSSES for way in WAYS[1:]]
    return {
        "vocabulary": options.vocabulary,
        "hidden": options.hidden,
        "answer_tokens_a_row": ANSWER,
        "peaks": peaks,
        "limit_bytes": budget,
        "limited": limited,
        "limited_as_expected": all(row["fits"] == (row["way"] == "relearn") for row in limited),
        "machine": machine("cpu"),
    }


def _size(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["loss"], row["answer_tokens"], row["positions"]


def _same_losses(peaks: Sequence[dict[str, Any]]) -> None:
    """What is compared is the same loss of the same rows."""
    for row in peaks:
        for other in peaks:
            if "trunk" not in (row["way"], other["way"]) and _size(row) == _size(other):
                assert abs(row["value"] - other["value"]) < 1e-3 * abs(row["value"]), (row, other)


def in_process(
    options: argparse.Namespace, way: str, loss: str, answers: int, prompt: int, limit: int | None = None
) -> dict[str, Any]:
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--one",
        way,
        "--loss",
        loss,
        "--answers",
        str(answers),
        "--prompt",
        str(prompt),
        "--vocabulary",
        str(options.vocabulary),
        "--hidden",
        str(options.hidden),
    ]
    if limit:
        command += ["--limit", str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way}, {loss}, {answers} answer tokens: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def one(options: argparse.Namespace) -> dict[str, Any]:
    """One step in this process. With a limit: no more than so many bytes of address space on top of what is there."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    model = small_llama(options.vocabulary, options.hidden)
    micro = rows(options.answers, options.prompt, options.vocabulary, options.loss)
    step = Step(model, options.loss, micro)
    # The first pass is also where threads come to be and libraries come into memory.
    getattr(step, options.one)(with_step_sizes([MicroBatch(micro.forget[:1], micro.retain[:1])])[0])
    model.zero_grad(set_to_none=True)
    gc.collect()
    held = resident_bytes("cpu")
    reset_peak("cpu")
    fits, said, value = True, None, None
    if options.limit:
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + options.limit, resource.RLIM_INFINITY))
    try:
        value = getattr(step, options.one)(micro)
    except (RuntimeError, MemoryError) as error:
        if "allocate memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        fits, said = False, str(error).strip().splitlines()[0][:160]
    positions = sum(len(row.ids) for row in (*micro.forget, *micro.retain))
    return {
        "way": options.one,
        "loss": options.loss,
        "answer_tokens": options.answers,
        "positions": positions,
        "peak_bytes": peak_bytes("cpu") - held,
        "value": None if value is None else float(value),
        "full_logits_bytes": 4 * positions * options.vocabulary,
        **({"limit_bytes": options.limit, "fits": fits, "said": said} if options.limit else {}),
    }


def address_space() -> int:
    """Bytes of address space of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def small_llama(vocabulary: int, hidden: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    return with_adapter(LlamaForCausalLM(config).eval().requires_grad_(False))


def rows(answers: int, prompt: int, vocabulary: int, loss: str) -> MicroBatch:
    """Rows of `prompt` and 32 answer tokens, `answers` answer tokens in all; with KL all but one are retain rows."""
    generator = torch.Generator().manual_seed(0)
    count = answers // ANSWER
    ids = torch.randint(0, vocabulary, (count, prompt + ANSWER), generator=generator).tolist()
    made = tuple(TokenRow(str(number), tuple(row), prompt) for number, row in enumerate(ids))
    forget = made[:1] if loss == "kl" else made
    return with_step_sizes([MicroBatch(forget, made[1:] if loss == "kl" else ())])[0]


class Step:
    """The same step with relearn's losses, with full logits, and without a loss. References are made beforehand."""

    def __init__(self, model: Any, loss: str, micro: MicroBatch):
        self.model = model
        self.loss = loss
        self.objective = METHODS.get(METHOD[loss]).objective({})
        self.reference = make_reference(model, [micro], self.objective)
        self.start_nll = self.reference.row_nll(micro.forget) if loss == "npo" else None

    def trunk(self, micro: MicroBatch) -> None:
        states = predict(self.model, [*micro.forget, *micro.retain]).states
        assert states is not None
        states.sum().backward()

    def relearn(self, micro: MicroBatch) -> torch.Tensor:
        loss, _ = self.objective(observe(self.model, micro, self.objective, self.reference))
        loss.backward()
        return loss.detach()

    def full(self, micro: MicroBatch) -> torch.Tensor:
        plain = Dynamic(self.model)
        logits, targets = plain.answers(micro.forget)
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        if self.loss == "npo":
            of_rows = nll.view(len(micro.forget), -1).sum(1)
            loss = (-2 / 0.1 * logsigmoid(0.1 * (of_rows - self.start_nll[: len(of_rows)]))).mean()
        else:
            loss = nll.mean()
        if self.loss == "kl":
            retain = log_softmax(plain.answers(micro.retain)[0], -1)
            start = log_softmax(plain.reference(micro.retain), -1)
            loss = loss + kl_div(start, retain, reduction="batchmean", log_target=True)
        loss.backward()
        return loss.detach()


def summary(found: dict[str, Any]) -> str:
    lines = [f"{'loss':4} {'answers':>7} {'positions':>9} {'way':8} {'peak MB':>8} {'of it losses':>12}"]
    for row in found["peaks"]:
        lines.append(
            f"{row['loss']:4} {row['answer_tokens']:7} {row['positions']:9} {row['way']:8} "
            f"{row['peak_bytes'] / 1e6:8.0f} {row['losses_bytes'] / 1e6:12.0f}"
        )
    for row in found["limited"]:
        fits = "fits" if row["fits"] else "does not fit"
        lines.append(
            f"{row['loss']:4} {row['answer_tokens']:7} {row['way']:8} {fits} in {row['limit_bytes'] / 1e6:.0f} MB"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
