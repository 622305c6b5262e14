"""The benchmarks whose files are read as they are: the columns they are known by, and where to start with each.

No data set is shipped; docs/benchmarks.md says how each is measured.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """`columns`: those of the file, question and answer first; a document has one. `recipe`: a recipe of the project,
    or the key of one that takes the file.
    """

    name: str
    what: str
    columns: tuple[str, ...]
    recipe: str


_PROBES, _ABILITY = "data.probes", "metrics.ability.tasks"
BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "tofu", "200 invented authors, 20 questions each; truth ratio, model utility, forget quality (2401.06121)",
        ("question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer"),
        "recipes/tofu-forget10.yaml",
    ),
    Benchmark("knowundo", "invented persons' private and public facts (2407.01920)", ("text", "labels"),
              "recipes/knowundo-privacy.yaml"),
    Benchmark("muse-verbmem", "passages to be gone on with (2407.06460)", ("prompt", "gt"), _PROBES),
    Benchmark("muse-knowmem", "questions about the passages (2407.06460)", ("question", "answer"), _PROBES),
    Benchmark("muse-text", "whole documents, cut into chunks (2407.06460)", ("text",), "data.forget"),
    Benchmark("rwku", "probes about real persons by level and attack (2406.10890)",
              ("query", "answer", "level", "type", "subject"), _PROBES),
    Benchmark("wmdp", "multiple choice on hazardous knowledge (2403.03218)", ("question", "answer", "choices"),
              _PROBES),
    Benchmark("mmlu", "multiple choice on 57 subjects (2009.03300)", ("question", "answer", "choices", "subject"),
              _ABILITY),
    Benchmark("arc", "multiple choice on school science (1803.05457)", ("question", "answerKey", "choices"), _ABILITY),
    Benchmark("openbookqa", "multiple choice on simple science (1809.02789)",
              ("question_stem", "answerKey", "choices"), _ABILITY),
    Benchmark("truthfulqa", "multiple choice on common mistakes, its mc1 form (2109.07958)",
              ("question", "mc1_targets"), _ABILITY),
    Benchmark("gsm8k", "sums in words, whose answer ends in #### NUMBER (2110.14168)", ("question", "answer"),
              _ABILITY),
)  # fmt: skip
