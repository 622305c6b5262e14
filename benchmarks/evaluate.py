"""How long it takes to score a model's answers, beside the way public code does it: one row at a time.

    python benchmarks/evaluate.py --out FILE.json            the demo model on KnowUnDo's 218 validation rows
    python benchmarks/evaluate.py --quick --out FILE.json    64 rows, up to 64 tokens each, within 180 s on two cores
    python benchmarks/evaluate.py --device cuda --out FILE.json
    python benchmarks/evaluate.py --device cuda --backend vllm --out FILE.json   answers in vLLM's engine

Four parts: answers (greedy), perplexity under the base model, entailment, entities. One at a time means: the model's
own `generate`, a forward pass with all logits, a call of the entailment judge and calls of the entity extractor for
each row, question and reference extracted again for every model. All in one process: half of the single rows, all at
once, the other half, all at once again. Where all single rows would take too long they are a random sample, and
their time is scaled by what there is to do in a row. Both ways must give the same, else nothing is written. On a GPU
each way is tried once before the clock runs, the clock waits for the GPU, and since bfloat16 rounds, answers may part
where two tokens are all but equally likely (`ties`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from check import NotEqualError
from evaluate_parts import PARTS, Bench, Part, make, warmed
from workload import DEMO, NoDataError, data_folder, machine, write

from relearn.core.config import DataSource, Generate, Model
from relearn.core.errors import InputError
from relearn.data import Record, Split
from relearn.data.loaders import read_records
from relearn.metrics.entailment import load_entailment
from relearn.metrics.judges import SPACY_MODEL
from relearn.models.builtin import builtin_path
from relearn.models.load import check_backend, load
from relearn.text.entities import SpacyEntities

SETS: dict[str, Split] = {"unlearn_val": "forget", "retention_val": "retain"}
# Greedy answers may part where two tokens are equally likely but for rounding.
SAME = 0.9
# An evaluation scores the answers of two models, before and after; some parts are measured for both at once.
TIMES = {"generation": 2, "ppl": 1, "nli": 2, "entities": 1}


@dataclass(frozen=True)
class Plan:
    """`rows` of the set, answers of up to `tokens`; per part so many single rows, for at most so many seconds."""

    rows: int
    tokens: int
    single: dict[str, tuple[int, float]]
    rounds: int = 2


FULL = Plan(218, 128, {"generation": (24, 200), "ppl": (36, 60), "nli": (218, 30), "entities": (218, 40)})
QUICK = Plan(64, 64, {"generation": (10, 45), "ppl": (12, 12), "nli": (64, 6), "entities": (64, 10)})


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        plan = _plan(options)
        dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
        found = measure(prepare(plan, options.device, options.entailment, dtype, options.backend), plan)
    except (NoDataError, InputError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except NotEqualError as error:
        print(f"evaluate: the two ways do not give the same: {error}", file=sys.stderr)
        return 1
    found |= {
        "model": DEMO,
        "device": options.device,
        "dtype": dtype,
        "backend": options.backend,
        "quick": options.quick,
        "machine": machine(options.device),
    }
    if options.out:
        write(options.out, found)
    print(summary(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="write everything measured to this JSON file")
    parser.add_argument("--quick", action="store_true", help="fewer rows and shorter answers")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="float32 on cpu, bfloat16 on cuda")
    parser.add_argument("--rows", type=int, help="so many rows of the set")
    parser.add_argument("--tokens", type=int, help="answers of up to so many tokens")
    parser.add_argument("--single", type=int, help="so many single rows of each part at most")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="the model's numbers, if others than that")
    parser.add_argument("--backend", choices=("transformers", "vllm"), default="transformers", help="who decodes")
    parser.add_argument("--entailment", default="builtin", help="another entailment judge")
    parser.add_argument("--threads", type=int, help="threads of torch")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    most = options.single or max(rows for rows, _ in plan.single.values())
    single = {name: (min(most, rows), seconds) for name, (rows, seconds) in plan.single.items()}
    return Plan(options.rows or plan.rows, options.tokens or plan.tokens, single, plan.rounds)


def prepare(plan: Plan, device: str, entailment: str, dtype: str, backend: str) -> Bench:
    """The demo model and the rows: forget and retain rows in turn, so that any number of them has both."""
    data_folder()
    if device == "cuda" and not torch.cuda.is_available():
        raise NoDataError("there is no CUDA GPU that torch could use: leave --device out, or install torch with CUDA")
    spec = Model.model_validate({"name": DEMO, "device": device, "dtype": dtype})
    settings = Generate.model_validate({"max_new_tokens": plan.tokens, "backend": backend})
    check_backend(settings, spec)
    loaded = load(spec)
    extractor = SpacyEntities(builtin_path(SPACY_MODEL), SPACY_MODEL)
    return Bench(
        loaded, records()[: plan.rows], lambda: load_entailment(entailment, device=device), extractor, settings
    )


def records() -> list[Record]:
    """KnowUnDo's validation rows, forget and retain mixed."""
    found = []
    for name, split in SETS.items():
        source = DataSource(path=str(data_folder() / f"{name}.json"))
        found += [record for _, record in read_records(source, split)]
    return random.Random("evaluate").sample(found, len(found))


def measure(bench: Bench, plan: Plan) -> dict[str, Any]:
    """Everything timed, and the ratios drawn from it. Raises NotEqualError."""
    started = time.perf_counter()
    warmed(bench)
    parts: dict[str, dict[str, Any]] = {}
    answers: Sequence[str] = ()
    for name in PARTS:
        rows, seconds = plan.single[name]
        part = make(name, bench, answers)
        if bench.loaded.device.type == "cuda":
            tried(part)
        parts[name], results = compare(name, part, rows, seconds, plan.rounds)
        if name == "generation":
            answers = results
    return {
        **headline(parts),
        "rows": len(bench.records),
        "max_new_tokens": plan.tokens,
        "judge": bench.judge().name,
        "parts": parts,
        "seconds_in_all": round(time.perf_counter() - started, 1),
    }


def tried(part: Part) -> None:
    """Each way once, untimed: a GPU chooses and loads its kernels when it first sees a shape, one row's or many's."""
    for number in range(min(3, part.rows)):
        part.single(number)
    part.whole()


def compare(name: str, part: Part, single_rows: int, seconds: float, rounds: int) -> tuple[dict[str, Any], Any]:
    """Both ways in turns, with the results of the whole: every part is begun with single rows."""
    if not part.rows:
        raise NoDataError(f"{name}: there is no answer to score")
    sample = random.Random(f"evaluate/{name}").sample(range(part.rows), min(single_rows, part.rows))
    done: dict[int, Any] = {}
    each: dict[int, float] = {}
    whole: list[float] = []
    results: Sequence[Any] = ()
    for turn in range(rounds):
        share = sample[len(sample) * turn // rounds : len(sample) * (turn + 1) // rounds]
        began = time.perf_counter()
        for number in share:
            # Out of time, but not before there is something to compare.
            if each and time.perf_counter() - began > seconds / rounds:
                break
            done[number], each[number] = timed(lambda number=number: part.single(number))
        results, taken = timed(part.whole)
        whole.append(taken)
    differing = [number for number, result in done.items() if not part.same(result, results[number])]
    ties = [number for number in differing if part.tied and part.tied(number, done[number], results[number])]
    differing = [number for number in differing if number not in ties]
    if len(differing) > (1 - SAME) * len(done):
        raise NotEqualError(f"{name}: {len(differing)} of {len(done)} rows differ, the first is row {differing[0]}")
    sizes = part.sizes(results)
    scale = sum(sizes) / sum(sizes[number] for number in each)
    found = {
        "rows": part.rows,
        "unit": part.unit,
        "size": sum(sizes),
        "the_same": len(done) - len(differing) - len(ties),
        "ties": len(ties),
        "one_at_a_time": {
            "rows_measured": len(each),
            "scaled_by": part.unit,
            "scale": scale,
            "seconds": sum(each.values()) * scale,
            "each": {number: round(taken, 4) for number, taken in each.items()},
        },
        "relearn": {"seconds": statistics.median(whole), "each": whole},
    }
    return found, results


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and seconds by the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def headline(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many times faster, in all and part by part, and the seconds of an evaluation before and after."""
    seconds = {
        way: {name: TIMES[name] * part[way]["seconds"] for name, part in parts.items()}
        for way in ("one_at_a_time", "relearn")
    }
    single, ours = seconds.values()
    return {
        "speedup_total": sum(single.values()) / sum(ours.values()),
        **{f"speedup_{name}": single[name] / ours[name] for name in parts},
        "seconds": seconds,
    }


def summary(found: dict[str, Any]) -> str:
    """The table a person reads."""
    lines = [f"{'part':10} {'rows':>5} {'one at a time s':>16} {'relearn s':>10} {'times faster':>13}  measured"]
    for name, part in found["parts"].items():
        single, ours = (found["seconds"][way][name] for way in ("one_at_a_time", "relearn"))
        rows = part["one_at_a_time"]["rows_measured"]
        measured = f"{rows} single rows" + (f", scaled by {part['unit']}" if rows < part["rows"] else "")
        lines.append(
            f"{name:10} {part['rows']:5} {single:16.2f} {ours:10.2f} {found[f'speedup_{name}']:13.2f}  {measured}"
        )
    totals = [sum(found["seconds"][way].values()) for way in ("one_at_a_time", "relearn")]
    lines.append(f"{'total':10} {'':5} {totals[0]:16.2f} {totals[1]:10.2f} {found['speedup_total']:13.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
