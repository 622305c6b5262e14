"""Define the file names of a run folder, read its files, and record which stages are done.

The folder of a run, an evaluation, a comparison or a synthesis has a marker in its manifest.json that allows relearn to
write to it (see `relearn.core.ownership`). `OUTPUTS` lists all files that relearn writes there.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date as Date
from pathlib import Path
from typing import Any

from relearn.core import __version__
from relearn.core.config import Metrics, Recipe
from relearn.core.errors import InputError
from relearn.core.files import MODEL_FILES, append_jsonl, file_hash, files_below, read_json, read_jsonl, write_json
from relearn.core.splits import SPLITS
from relearn.core.yaml_config import apply_change, names_variable, read_mapping

FORMAT = 1
# Part of every manifest.json; marks a folder that relearn made and may write to.
MARKER = {"relearn": {"format": FORMAT, "version": __version__}}

MANIFEST, LOCK, LOG, CACHE = "manifest.json", "lock", "log.jsonl", "cache.sqlite"
RECIPE, EVALUATION = "recipe.yaml", "evaluation.yaml"
SYNTHESIS, REJECTED = "synthesis.jsonl", "rejected.jsonl"
ALTERNATES, REJECTED_ALTERNATES = "alternates.jsonl", "rejected_alternates.jsonl"
NEIGHBOURS, WORDINGS = "neighbours.jsonl", "wordings.jsonl"
TRAJECTORY, SELECTION = "trajectory.jsonl", "selection.json"
SUMMARY, SCORES = "summary.json", "scores.json"
REPORT_JSON, REPORT_HTML, MODEL_CARD = "report.json", "report.html", "model_card.md"
CERTIFICATE_JSON, CERTIFICATE_HTML, PROBES = "certificate.json", "certificate.html", "probes.enc"
START, ADAPTER, MODEL, OFFSET, ECO = "start", "adapter", "model", "offset", "eco"
AUDITS, ANALYSIS, CHECKPOINTS = "audits", "analysis", "checkpoints"
SIDES = ("before", "after")
AUDIT_RESULTS = tuple(f"{AUDITS}/{name}.json" for name in ("summary", "worst", "verdicts", "about"))
# Outputs that other commands write again; the hashes of all other outputs are in the manifest.
REWRITTEN = (SUMMARY, SCORES, *AUDIT_RESULTS, REPORT_JSON, REPORT_HTML, MODEL_CARD)
# Endings of the task files of lm-eval.
TASK_FILES = (".yaml", ".yml")

# Patterns of all files that relearn writes to a run folder; "/" at the end: all files in that folder.
OUTPUTS = (
    *(MANIFEST, LOCK, LOG, RECIPE, EVALUATION),
    *(CACHE, f"{CACHE}-wal", f"{CACHE}-shm", f"{CACHE}-journal"),
    *(SYNTHESIS, REJECTED, ALTERNATES, REJECTED_ALTERNATES, NEIGHBOURS, WORDINGS, TRAJECTORY, SELECTION),
    *(SUMMARY, SCORES, REPORT_JSON, REPORT_HTML, MODEL_CARD, CERTIFICATE_JSON, CERTIFICATE_HTML, PROBES),
    *(f"{side}/{name}.jsonl" for side in SIDES for name in SPLITS),
    *(f"{side}/ability.json" for side in SIDES),
    *(f"{AUDITS}/*.json", f"{AUDITS}/answers/*.jsonl", f"{AUDITS}/checkpoints/", f"{AUDITS}/gguf_????????/"),
    *(f"{ANALYSIS}/*.json", f"{ANALYSIS}/*.svg", f"{CHECKPOINTS}/"),
    *(
        f"{folder}/{name}"
        for folder in (START, ADAPTER, MODEL, OFFSET, ECO, f"{ANALYSIS}/tuned_lens")
        for name in MODEL_FILES
    ),
)


def is_cut_manifest(path: Path) -> bool:
    """Return whether a file is the beginning of a run folder's first manifest, left by a crash of the machine."""
    whole = (json.dumps({"stages": {}, **MARKER}, indent=2) + "\n").encode()
    try:
        return path.stat().st_size < len(whole) and whole.startswith(path.read_bytes())
    except OSError:
        return False


class RunFolder:
    """Read and write the files of a run folder, finished or not. Missing files read as empty, except `recipe`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @classmethod
    def existing(cls, path: Path | str, needed: str = MANIFEST) -> RunFolder:
        """Open a folder that contains the file `needed`. Raises InputError for any other folder."""
        folder = cls(path)
        if not (folder / needed).exists():
            raise InputError("no run there", where=str(path), way_out="give a run folder, such as runs/demo")
        return folder

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    # Content of the folder

    @property
    def has_recipe(self) -> bool:
        return (self / RECIPE).exists()

    @property
    def is_evaluation(self) -> bool:
        """Return whether `relearn evaluate` made the folder, without a run."""
        return (self / EVALUATION).exists()

    @property
    def recipe(self) -> Recipe:
        """Read recipe.yaml as settings alone: remote code is off, and `${NAME}` is not replaced.

        Raises InputError where the file is missing. To load a model, use `recipe_to_load`.
        """
        return _read_recipe(RunFolder.existing(self.path, RECIPE) / RECIPE).trusting(False)

    def recipe_to_load(self, *, trust_remote_code: bool = False, changes: tuple[str, ...] = ()) -> Recipe:
        """Read recipe.yaml to load the models of the run; `changes` replace its keys (see `recipe_in_folder`)."""
        path = RunFolder.existing(self.path, RECIPE) / RECIPE
        return recipe_in_folder(path, changes, trust_remote_code=trust_remote_code)

    @property
    def manifest(self) -> dict[str, Any]:
        """Read manifest.json; one that was cut off while it was first written reads as empty."""
        manifest = {} if is_cut_manifest(self / MANIFEST) else self.json(MANIFEST)
        if not isinstance(manifest, dict):
            raise InputError("is not a manifest of relearn", where=str(self / MANIFEST))
        return {"stages": {}, **manifest}

    @property
    def date(self) -> Date:
        """Return the date of the folder's beginning: of the manifest, else of its first stage, else today."""
        manifest = self.manifest
        if "date" in manifest:
            return Date.fromisoformat(manifest["date"])
        started = [entry["started"] for entry in manifest["stages"].values() if "started" in entry]
        return Date.fromtimestamp(min(started)) if started else Date.today()

    @property
    def summary(self) -> dict[str, Any]:
        """Read summary.json: side -> split -> metric -> measurement."""
        return self.json(SUMMARY)

    @property
    def scores(self) -> dict[str, Any]:
        """Read scores.json: side -> split -> values of each record and metric."""
        return self.json(SCORES)

    def answers_path(self, side: str, split: str) -> Path:
        """Return the path of the answers to one of `SPLITS`; `side` is "before" or "after" unlearning."""
        return self / f"{side}/{split}.jsonl"

    def answers(self, side: str, split: str) -> list[dict[str, Any]]:
        """Read the answers to a split; [] where it was not asked. Raises InputError for a file that lost answers."""
        rows, count = self.rows(name := f"{side}/{split}.jsonl"), self.manifest.get("counts", {}).get(split, 0)
        if (self / name).exists() and len(rows) < count:
            raise self._changed(name, f"has {len(rows)} of {count} answers")
        return rows

    @property
    def synthesis_rows(self) -> list[dict[str, Any]]:
        return self.rows(SYNTHESIS)

    @property
    def neighbour_rows(self) -> list[dict[str, Any]]:
        return self.rows(NEIGHBOURS)

    @property
    def wordings(self) -> dict[str, list[str]]:
        """Read wordings.jsonl: id of a forget record -> rewordings of its question."""
        return {row["record_id"]: row["questions"] for row in self.rows(WORDINGS)}

    @property
    def log_rows(self) -> list[dict[str, Any]]:
        """Read log.jsonl; lines that a killed process left incomplete are skipped."""
        return self.rows(LOG, torn=True)

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """Read audits/verdicts.json: the verdict of the audit on every fact."""
        return self.json(f"{AUDITS}/verdicts.json") or []

    @property
    def audit_summary(self) -> dict[str, Any]:
        """Read audits/summary.json: attack -> its measurements, such as the share of facts that the answers state."""
        return self.json(f"{AUDITS}/summary.json")

    @property
    def audit_worst_case(self) -> dict[str, Any]:
        """Read audits/worst.json: model -> share of facts recovered by at least one attack that decides verdicts."""
        return self.json(f"{AUDITS}/worst.json")

    def analysis(self, name: str) -> dict[str, Any]:
        """Read a result of `relearn analyze`; `name` is lens, patching, circuits, adapter, dynamics or candidates."""
        return self.json(f"{ANALYSIS}/{name}.json")

    def json(self, name: str) -> Any:
        """Read a JSON file; return an empty dict where it is missing."""
        if name != MANIFEST:
            self.check_files(name)
        return read_json(self / name) if (self / name).exists() else {}

    def rows(self, name: str, *, torn: bool = False) -> list[dict[str, Any]]:
        """Read a JSON Lines file; return an empty list where it is missing."""
        self.check_files(name)
        return read_jsonl(self / name, torn=torn) if (self / name).exists() else []

    # Checks of required files

    def require_answers(self, *sides: str) -> None:
        """Raise InputError where answers to the forget questions are missing."""
        for side in sides:
            if not (path := self.answers_path(side, "forget")).exists():
                problem = "this run is not finished, or was purged"
                raise InputError(problem, where=str(path), way_out="relearn run RECIPE --resume")

    def require_result(self, *names: str) -> str:
        """Return the first of the folders `names` that exists. Raises InputError where none exists."""
        name = next((name for name in names if (self / name).is_dir()), None)
        if name is None:
            problem = "this run has not unlearned yet"
            raise InputError(problem, where=str(self.path), way_out="relearn run RECIPE --resume")
        return name

    def check_files(self, *names: str) -> None:
        """Raise InputError for a file that is not as its stage left it; `names`: files or folders.

        Files of a stage that is running, and of version 0.1, have no hash in the manifest and are not checked.
        """
        for name, digest in self._files.items():
            if _is_in(name, names) and (self / name).is_file() and file_hash(self / name) != digest:
                raise self._changed(name, "has changed since relearn wrote it")

    def _changed(self, name: str, problem: str) -> InputError:
        command = "the same relearn evaluate" if self.is_evaluation else "relearn run RECIPE --resume"
        way_out = f"restore it, or remove it: {command} makes it again"
        return InputError(problem, where=str(self / name), way_out=way_out)

    # Stages

    def update_manifest(self, **values: Any) -> None:
        """Set `values` and the marker of relearn in manifest.json."""
        write_json(self / MANIFEST, {**self.manifest, **MARKER, **values})

    def is_done(self, stage: str, *, check: bool = False) -> bool:
        """Return whether a stage is done and its outputs exist.

        With `check`, raises InputError where an output of a stage that is done has changed.
        """
        entry = self.manifest["stages"].get(stage, {})
        outputs = entry.get("outputs", [])
        files = [*outputs, *(name for name in self._files if _is_in(name, outputs))]
        done = entry.get("state") == "done" and all((self / name).exists() for name in files)
        if done and check:
            self.check_files(*outputs)
        return done

    def drop_stages(self, *names: str) -> None:
        """Remove stages from the manifest, so that they are no longer done."""
        stages = self.manifest["stages"]
        self.update_manifest(stages={name: entry for name, entry in stages.items() if name not in names})

    @contextmanager
    def stage(self, name: str, outputs: list[str]) -> Iterator[None]:
        """Mark a stage as running at the beginning of the block, and as done, with its duration, at the end.

        Raises RuntimeError where one of `outputs` is missing at the end.
        """
        began = time.time()
        self._mark(name, state="running", started=began, outputs=outputs)
        with self.rewriting(outputs):
            yield
        missing = [output for output in outputs if not (self / output).exists()]
        if missing:
            raise RuntimeError(f"stage {name} ended without {missing}")
        self._mark(name, state="done", started=began, seconds=round(time.time() - began, 2), outputs=outputs)

    @contextmanager
    def rewriting(self, outputs: Iterable[str]) -> Iterator[None]:
        """Record the hashes of the files that the block writes; a block that is killed leaves them without a hash."""
        own = [output for output in outputs if output not in REWRITTEN]
        if own:
            self.update_manifest(files={name: digest for name, digest in self._files.items() if not _is_in(name, own)})
        yield
        if own:
            written = {output: self / output for output in own if (self / output).is_file()}
            for folder in own:
                written |= {f"{folder}/{name}": path for name, path in files_below(self / folder).items()}
            hashes = {name: file_hash(path) for name, path in written.items()}
            self.update_manifest(files={**self._files, **hashes})

    @property
    def _files(self) -> dict[str, str]:
        """Return the hashes of the outputs of finished stages, by path; {} in a folder of version 0.1."""
        return self.manifest.get("files", {})

    def _mark(self, name: str, **entry: Any) -> None:
        self.update_manifest(stages={**self.manifest["stages"], name: entry})

    def log(self, **row: Any) -> None:
        """Append a row to log.jsonl, with the time in seconds since 1970 (Unix time)."""
        append_jsonl(self / LOG, {"time": round(time.time(), 3), **row})


def _is_in(name: str, outputs: Iterable[str]) -> bool:
    """Return whether a relative path is one of `outputs`, or in a folder among them."""
    return any(name == output or name.startswith(f"{output}/") for output in outputs)


def refuse_changes(recorded: Mapping[str, Any], current: Mapping[str, Any], *, where: str = "{}", began: str) -> None:
    """Raise InputError where a hash in `current` differs from the recorded one; None and missing ones are not known.

    `where`: form of the place for a key. `began`: what began with the recorded hashes, such as "run".
    """
    for key, digest in current.items():
        if recorded.get(key) is not None and digest is not None and recorded[key] != digest:
            problem, way_out = f"has changed since this {began} began", "restore it, or start anew with another --out"
            raise InputError(problem, where=where.format(key), way_out=way_out)


def recipe_in_folder(path: Path, changes: tuple[str, ...] = (), *, trust_remote_code: bool = False) -> Recipe:
    """Read a recipe that a run folder contains, in order to load models; `changes` replace its keys.

    The folder may come from another person, so `trust_remote_code` decides whether code is run, and not the recipe.
    Raises InputError for a recipe that needs code without `trust_remote_code`, or that names an environment variable.
    """
    recipe = _read_recipe(path, changes)
    if names_variable(recipe.model_dump(mode="json")):
        raise InputError("names an environment variable, which is not read for a run folder", where=str(path))
    refuse_code(path, recipe.model.trust_remote_code, recipe.metrics, trust_remote_code=trust_remote_code)
    return recipe.trusting(trust_remote_code)


def _read_recipe(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    values = read_mapping(path)
    for change in changes:
        apply_change(values, change)
    return Recipe.from_mapping(values, where=str(path), variables=False)


def refuse_code(path: Path, remote_code: bool, metrics: Metrics, *, trust_remote_code: bool) -> None:
    """Raise InputError, unless `trust_remote_code` is set, where the settings of a folder would run code.

    They do so with the `remote_code` of a model, or with a task file of lm-eval, which can name functions.
    """
    tasks = [task for task in metrics.ability.tasks if Path(task).suffix.lower() in TASK_FILES]
    named = "trust_remote_code: true" if remote_code else ""
    named = named or next((f"the lm-eval task file {task}" for task in tasks), "")
    if named and not trust_remote_code:
        problem = f"names {named}, and code that a folder names is not run without asking"
        raise InputError(problem, where=str(path), way_out="if you trust it: --trust-remote-code")


def require_trust(began: bool, now: bool, folder: Path) -> None:
    """Raise InputError where a folder was begun with remote code, and the same command now comes without it."""
    if began and not now:
        problem = "was begun with code from the repository of a model, and what a folder says does not switch it on"
        raise InputError(problem, where=str(folder), way_out="if you trust it, give --trust-remote-code again")


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Lock a run folder inside the block. Raises InputError where another process holds the lock."""
    lock, handle = folder / LOCK, None
    if lock.is_symlink():
        lock.unlink()
    # A process that ends removes its lock; one that was opened before is then no longer the file of this name.
    while handle is None or not _is_file_of(handle, lock):
        if handle is not None:
            os.close(handle)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError("another process is at work here", where=str(folder.path)) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _is_file_of(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
