"""Which metric can tell models that saw the forget rows from models that never did, also after rounding and relearning?

    python research/studies/meta.py --out results/meta                        # train and measure what is missing
    python research/studies/meta.py --out results/meta --shard 0/4            # a quarter of it; several may run at once
    python research/studies/meta.py --out results/meta --summarise            # AUCs, table and picture; needs no model
    python research/studies/meta.py --out /tmp/quick --quick                  # a smoke test on a CPU

The meta-evaluation of OpenUnlearning (arXiv 2506.12618) in small: LoRA models of the demo model on TOFU rows, learning
rates 1e-4, 3e-4 and 1e-3, 2 and 6 epochs, so that some hardly know the rows and some have them by heart. Reads
tofu/{forget10_perturbed,retain90,holdout10}.json from the folder RELEARN_DATA. Every model and condition is a JSON file
in OUT/models, written whole or not at all; adapters lie in WORK until a model is done. `--unlearned RUN...` adds run
folders of models that unlearned the same rows (the first of forget10), for the robustness of OpenUnlearning; without,
the shift of the AUC stands in its place.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import meta_models as models
import meta_summary

from relearn.core.config import Recipe
from relearn.core.errors import InputError, RelearnError
from relearn.core.files import read_json, write_json, write_text
from relearn.report.kfr_krr_plot import standalone

QUICK = {"rows": 3, "retain": 3, "holdout": 3, "rates": (1e-3,), "epochs": (6.0,), "max_new_tokens": 12}


@dataclass(frozen=True)
class Job:
    """One model with all its conditions. `run`: the folder of an unlearned one."""

    side: str
    index: int
    run: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.side}-{self.run.name if self.run else self.index}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    try:
        if options.summarise:
            return _summarise(options)
        return _work(options)
    except RelearnError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/meta"), help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("runs/meta"), help="folder of adapters while they are needed")
    parser.add_argument("--model", help="the model that learns (default: smollm2-135m-instruct)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--models", type=int, help="so many with, and so many without (default: 6; --quick: 1)")
    parser.add_argument("--only", help="some of them: with:0,without:3")
    parser.add_argument("--shard", help="share of the work of one process of several: 0/4, 1/4, ...")
    parser.add_argument("--unlearned", type=Path, nargs="+", default=[], help="run folders of unlearned models")
    parser.add_argument("--relearn-rate", type=float, help="learning rate of the epoch of relearning (default: 2e-4)")
    parser.add_argument("--quick", action="store_true", help="a few rows and models: does it run?")
    parser.add_argument("--keep", action="store_true", help="keep adapters in WORK")
    parser.add_argument("--summarise", action="store_true", help="only work out what the results in OUT say")
    parser.add_argument("--json", type=Path, help="file of the summary (default: OUT/meta.json)")
    parser.add_argument("--picture", type=Path, help="file of the picture (default: OUT/meta.svg)")
    return parser


def _setup(options: argparse.Namespace) -> models.Setup:
    changes: dict[str, Any] = dict(QUICK) if options.quick else {}
    if options.model:
        changes["model"] = options.model
    if options.relearn_rate:
        changes["relearn_rate"] = options.relearn_rate
    return replace(models.Setup(), **changes)


def jobs(count: int, unlearned: Sequence[Path], only: str | None = None, shard: str | None = None) -> list[Job]:
    """The models to be made: all, those named by `only` ("with:0,without:3"), or every n-th, from k on, for "k/n"."""
    found = [Job(side, index) for index in range(count) for side in (models.WITH, models.WITHOUT)]
    found += [Job(models.UNLEARNED, at, run) for at, run in enumerate(unlearned)]
    if only:
        wanted = only.split(",")
        known = {f"{job.side}:{job.index}": job for job in found}
        if strange := [name for name in wanted if name not in known]:
            raise InputError(f"no model {strange[0]!r}", where="--only", way_out=f"some of {', '.join(known)}")
        found = [known[name] for name in wanted]
    if shard:
        at, slash, of = shard.partition("/")
        if not (slash and at.isdigit() and of.isdigit() and int(at) < int(of)):
            raise InputError(f"cannot read {shard!r}", where="--shard", way_out="write 0/4, 1/4, 2/4 or 3/4")
        found = found[int(at) :: int(of)]
    return found


def result_path(out: Path, job: Job, condition: str) -> Path:
    return out / "models" / f"{job.name}.{condition}.json"


def _work(options: argparse.Namespace) -> int:
    from relearn.metrics.judges import make_judges

    count = options.models if options.models is not None else 1 if options.quick else 6
    wanted = jobs(count, options.unlearned, options.only, options.shard)
    setup = _setup(options)
    _claim(options.out, setup)
    if "RELEARN_DATA" not in os.environ:
        raise InputError("is not set", where="RELEARN_DATA", way_out="the folder that has tofu/")
    rows = models.read(Path(os.environ["RELEARN_DATA"]), setup)
    bench = models.Bench(setup, rows, make_judges(models.METRICS), options.work, options.device)
    return _carry_out(bench, wanted, options.out, keep=options.keep)


def _claim(out: Path, setup: models.Setup) -> None:
    """A folder of results is of one setup: numbers of different rows or rates do not belong together."""
    path, own = out / "setup.json", setup.to_dict()
    if path.exists():
        differing = [name for name, value in read_json(path).items() if own.get(name) != value]
        if differing:
            raise InputError(
                f"holds results of another {differing[0]!r}", where=str(out), way_out="choose another --out"
            )
        return
    write_json(path, own)


def _carry_out(bench: models.Bench, wanted: Sequence[Job], out: Path, *, keep: bool = False) -> int:
    """Every job and condition without a result; one that fails is said and left out, and the rest goes on."""
    failed = 0
    for job in wanted:
        missing = [name for name in models.CONDITIONS if not result_path(out, job, name).exists()]
        try:
            fresh = _maker(bench, job) if missing else None
            for condition in missing:
                assert fresh is not None
                result = _result(bench, job, condition, fresh)
                write_json(result_path(out, job, condition), result)
                print(f"{job.name}, {condition}: {result['seconds']:.0f} s", flush=True)
        except RelearnError as error:
            print(f"{job.name}: not measured: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        if not keep:
            models.clean(bench, job.name)
    return 1 if failed else 0


def _maker(bench: models.Bench, job: Job) -> models.Maker:
    if job.run is None:
        return models.train_start(bench, job.side, job.index)
    from relearn.inference.run_models import ModelSet

    recipe = Recipe.from_yaml(job.run / "recipe.yaml")
    device = recipe.model.model_copy(update={"device": bench.device, "dtype": "float32"})
    return partial(ModelSet.of_run(recipe.model_copy(update={"model": device}), job.run).fresh, "after")


def _result(bench: models.Bench, job: Job, condition: str, fresh: models.Maker) -> dict[str, Any]:
    began = time.monotonic()
    loaded = models.under(bench, condition, fresh, job.name, seed=job.index)
    metrics = models.measure(bench, loaded)
    rate, epochs = bench.setup.cell(job.index)
    trained = {} if job.run else {"learning_rate": rate, "epochs": epochs, "seed": job.index}
    return {
        "name": job.name,
        "side": job.side,
        "index": job.index,
        "condition": condition,
        **trained,
        "device": str(loaded.device),
        "seconds": round(time.monotonic() - began, 1),
        "metrics": metrics,
    }


def _summarise(options: argparse.Namespace) -> int:
    results = [read_json(path) for path in sorted((options.out / "models").glob("*.json"))]
    if not results:
        raise InputError("no results in models/", where=str(options.out), way_out="first the same without --summarise")
    summary = meta_summary.summarise(meta_summary.models_of(results))
    if not summary["metrics"]:
        raise InputError("results of one side alone", where=str(options.out), way_out="run models of the other side")
    setup = read_json(options.out / "setup.json")
    grid = sorted(
        {(result["index"], result["learning_rate"], result["epochs"]) for result in results if "epochs" in result}
    )
    listed = [{"index": index, "learning_rate": rate, "epochs": epochs} for index, rate, epochs in grid]
    write_json(options.json or options.out / "meta.json", {"setup": setup, "grid": listed, **summary})
    picture = standalone(meta_summary.chart(summary))
    write_text(options.picture or options.out / "meta.svg", picture)
    print("\n".join(meta_summary.table(summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
