"""The answers of a run or an evaluation in the form of the public ReLearn code, for other tools to read."""

from __future__ import annotations

from pathlib import Path

from relearn.core.errors import InputError
from relearn.core.run_dir import existing_run, read_jsonl, replaced_dir, write_json
from relearn.metrics.answer_files import exported


def export_answers(folder: Path, out: Path) -> list[Path]:
    """Write out/before_forget.json, out/after_forget.json, ... : one list of {query, ground_truth, generated_response}
    for every file of answers in `folder`, in its order; returns their paths.

    Raises InputError where `folder` holds no answers or `out` is there already.
    """
    files = sorted(existing_run(folder).glob("before/*.jsonl")) + sorted(folder.glob("after/*.jsonl"))
    if not files:
        raise InputError("holds no answers", where=str(folder), way_out="a purged run has none; one to come: --resume")
    if out.exists():
        raise InputError("is there already", where=str(out), way_out="name a new folder")
    names = [f"{file.parent.name}_{file.stem}.json" for file in files]
    with replaced_dir(out) as target:
        for file, name in zip(files, names, strict=True):
            write_json(target / name, exported(read_jsonl(file)))
    return [out / name for name in names]
