"""Certify the audit of a run, or of two models (`relearn certify`).

certificate.json   numbers, hashes and verdicts, signed with the owner's key; no text of a record
certificate.html   the same on one page
probes.enc         questions of the audit and keyed hashes of the answers' words, encrypted under the owner's key
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from relearn.audits.attack import AUDITS, FactPrompt
from relearn.audits.attacks.prompting import PLAIN
from relearn.audits.fact_matching import FactList, hashed_facts, word_forms
from relearn.audits.query_models import AnswerFiles
from relearn.audits.scoring import VERDICTS as VERDICT_NAMES
from relearn.core import console
from relearn.core.config import Generate, Model
from relearn.core.errors import InputError
from relearn.core.files import NO_TEXT, file_hash, write_json, write_text
from relearn.core.owner_key import OwnerKey
from relearn.core.ownership import own_folder
from relearn.core.run_dir import (
    CERTIFICATE_HTML,
    CERTIFICATE_JSON,
    EVALUATION,
    PROBES,
    RECIPE,
    START,
    SUMMARY,
    RunFolder,
    locked,
    refuse_changes,
)
from relearn.data import Record
from relearn.data.validation import load_all
from relearn.inference.run_models import (
    ModelSet,
    check_model,
    check_models,
    dated,
    loaded_files_hash,
    model_files_hash,
    named_fingerprints,
    refuse_changed_models,
)
from relearn.leakage.secrets import read_secrets
from relearn.models.builtin import is_builtin
from relearn.models.load import Loaded, load
from relearn.models.lora import check_logits, probe_ids, probe_logits
from relearn.report.certificate import (
    FORMAT,
    FORMAT_KEY,
    LIMITS,
    REMOVABLE,
    audit_entries,
    counts_of,
    fact_entries,
    is_calibrated,
    kept_entries,
    render_certificate,
    sign,
    text_hash,
)
from relearn.text.normalize import is_ordinary, norms
from relearn.unlearning.procedures import result_name
from relearn.workflows.audit import asked_records, refuse_hidden_base
from relearn.workflows.evaluate.evaluation_config import Evaluation
from relearn.workflows.evaluate.inputs import AskedData, models_of
from relearn.workflows.run.inputs import input_hashes, versions, with_subjects

VERDICTS = "audits/verdicts.json"
# Files that the verdicts rest on. The certificate has keyed hashes of them, since some of their content can be guessed.
EVIDENCE = (RECIPE, EVALUATION, SUMMARY, VERDICTS, "audits/summary.json", "audits/worst.json", "audits/about.json")
# Attacks whose prompts have no part of an answer and are decoded greedily; their questions are asked again.
PROBED = (PLAIN, "paraphrase", "prefix", "roleplay", "jailbreak", "language")
MAX_REFERENCE = 120
# Tokens of the true answers on which an exported model is compared with the run's.
COMPARED_TOKENS = 256
# Purposes of keyed hashes and of the encryption.
FACT_HASH, WORD_HASH, FILE_HASH, ANSWER_HASH, PROBES_KEY = "fact", "word", "file", "answer", "probes"
# Settings of a model that change its answers, apart from its files.
_CHAT = ("dtype", "chat_template", "system_prompt", "thinking", "date")

Parts = list[dict[str, str | None]]


@dataclass(frozen=True)
class Certified:
    """Hold what a certificate is about: a folder, its forget records, the unlearned model and its settings.

    `before`, `after`: the files of the models, as parts with a hash. `method`: method and settings; None if unknown.
    """

    run: RunFolder
    records: Sequence[Record]
    model: Model
    generate: Generate
    seed: int
    before: Parts
    after: Parts
    method: dict[str, Any] | None


def certify(
    folder: Path,
    key: OwnerKey,
    *,
    reference: str = "",
    with_name: bool = False,
    replace: bool = False,
    exported: Path | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write certificate.json, certificate.html and probes.enc into an audited folder; return the path of the first.

    `reference`: who asked; with `with_name` it may contain names of the records. `replace`: replace an earlier
    certificate, whose probes can then no longer be asked. `exported`: the folder of the exported model, to name its
    hash too. Raises InputError for a folder without an audit, and where models or files have changed since they were
    audited; RunFailedError for an exported model that is another one.
    """
    run = own_folder(folder)
    _check_audit(run)
    certified = open_certified(run)
    _check_reference(reference, () if with_name else certified.records)
    with locked(run):
        if (run / CERTIFICATE_JSON).exists() and not replace:
            way_out = "keep it elsewhere, with its page and probes.enc, or give --replace"
            raise InputError("is there already", where=str(run / CERTIFICATE_JSON), way_out=way_out)
        document = _document(certified, key, reference)
        if exported is not None:
            copied = _exported_hash(certified, exported, trust_remote_code=trust_remote_code)
            document["models"]["exported"] = copied
        (run / CERTIFICATE_JSON).unlink(missing_ok=True)
        document["probes"] = _write_probes(certified, key)
        page = render_certificate(document, key.public)
        write_text(run / CERTIFICATE_HTML, page)
        document["page"] = {"file": CERTIFICATE_HTML, "sha256": text_hash(page)}
        write_json(run / CERTIFICATE_JSON, sign(document, key))
    return run / CERTIFICATE_JSON


def _check_audit(run: RunFolder) -> None:
    """Raise InputError for a folder without an audit, with verdicts that cannot be read, or with an older audit."""
    way_out = f"relearn audit {run.path} --strength standard"
    if not (run / VERDICTS).exists():
        raise InputError("was not audited yet, or was purged", where=str(run.path), way_out=way_out)
    if not isinstance(run.verdicts, list) or not all(
        isinstance(row, dict) and isinstance(row.get("id"), str) and row.get("verdict") in VERDICT_NAMES
        for row in run.verdicts
    ):
        raise InputError("is no list of verdicts", where=str(run / VERDICTS), way_out=way_out)
    unlearned = run.manifest["stages"].get("unlearn", {})
    finished = unlearned.get("started", 0) + unlearned.get("seconds", 0)
    if (run / VERDICTS).stat().st_mtime < finished:
        way_out = f"remove {run / 'audits'}, then {way_out}"
        raise InputError("the audit is older than the unlearned model", where=str(run.path), way_out=way_out)


# Building a certificate


def open_certified(run: RunFolder) -> Certified:
    """Read the settings, records and model files of a run or of an audit of two models, and check their hashes."""
    if run.has_recipe:
        return _open_run(run)
    if run.is_evaluation:
        return _open_pair(run)
    problem, way_out = (
        "holds neither a run nor an audit of two models, or was purged",
        "give an audited folder, or a model",
    )
    raise InputError(problem, where=str(run.path), way_out=way_out)


def _open_run(run: RunFolder) -> Certified:
    recipe = run.recipe
    recipe = recipe.model_copy(update={"model": dated(recipe.model, run.path)})
    check_models(run, recipe)
    result = run.require_result(result_name(recipe.unlearn, run.path))
    before = model_parts(recipe.model)
    if recipe.learn:
        before.append({"part": "adapter learned first", "sha256": loaded_files_hash(run / START)})
    own: Parts = [{"part": f"unlearned {result}", "sha256": loaded_files_hash(run / result)}]
    unlearn, lora = recipe.unlearn, recipe.unlearn.lora
    settings = {
        name.replace("_", " "): str(getattr(unlearn, name)) for name in ("epochs", "learning_rate", "batch_size")
    }
    settings |= {"lora r": str(lora.r)} if result == "adapter" else {}
    return Certified(
        run=run,
        records=asked_records(run, "forget"),
        model=recipe.model,
        generate=recipe.generate,
        seed=recipe.seed,
        before=before,
        after=own if result == "model" else [*before, *own],
        method={"name": unlearn.method, "settings": settings},
    )


def _open_pair(run: RunFolder) -> Certified:
    settings = Evaluation.from_yaml(run / EVALUATION).trusting(False)
    if settings.before is None or settings.after is None or settings.forget is None:
        raise InputError("is no audit of two models", where=str(run.path))
    refuse_changed_models(run, named_fingerprints(models_of(settings)), began="evaluation")
    return Certified(
        run=run,
        records=_records_of_pair(run, settings),
        model=dated(settings.after, run.path),
        generate=settings.generate,
        seed=settings.seed,
        before=model_parts(settings.before),
        after=model_parts(settings.after),
        method=None,
    )


def _records_of_pair(run: RunFolder, settings: Evaluation) -> Sequence[Record]:
    """Read the forget records of an audit of two models; () where their file is not there any more."""
    assert settings.forget is not None
    source = settings.forget
    if Path(source.path).is_absolute() and not Path(source.path).exists():
        console.note("the file of the forget records is not there any more, so no questions are kept for --verify")
        return ()
    refuse_changes(run.manifest.get("inputs", {}), input_hashes([source.path]), began="audit")
    return with_subjects(load_all(AskedData.model_validate({"forget": source.model_dump()}))).forget


def model_parts(model: Model) -> Parts:
    weights: Parts = [{"part": "weights", "sha256": model_files_hash(model)}]
    adapters = [Path(adapter).expanduser() for adapter in model.adapters]
    return weights + [{"part": "adapter", "sha256": loaded_files_hash(adapter)} for adapter in adapters]


def _public_name(model: Model) -> str | None:
    """Return the name of a built-in model or of one of the hub; None for a path, which may name somebody."""
    is_on_hub = not Path(model.name).expanduser().exists() and model_files_hash(model) is not None
    return model.name if is_builtin(model.name) or is_on_hub else None


def _check_reference(reference: str, records: Sequence[Record]) -> None:
    """Raise InputError for a reference that is too long, or has a name or an id of a record."""
    if len(reference) > MAX_REFERENCE or NO_TEXT.search(reference):
        problem = f"is longer than {MAX_REFERENCE} characters, or is no text"
        raise InputError(problem, where="--reference", way_out="give a short reference, such as a number")
    words = {name for secret in read_secrets(records) for name in (*secret.subject, *secret.names) if name.isalpha()}
    words |= {norm for record in records for norm in norms(record.subject or "") if not is_ordinary(norm)}
    ids = [record.id for record in records if len(record.id) > 3 and record.id in reference]
    if ids or not words.isdisjoint(word_forms(reference)):
        problem = "contains a name or an id of the records, and a certificate names nobody"
        way_out = "give a reference such as a number, or --with-name to name them all the same"
        raise InputError(problem, where="--reference", way_out=way_out)


def _document(certified: Certified, key: OwnerKey, reference: str) -> dict[str, Any]:
    """Build the document without its probes, page and signature."""
    run, audit = certified.run, audit_entries(certified.run)
    evidence = {
        name: key.keyed_hash(FILE_HASH, (run / name).read_bytes()) for name in EVIDENCE if (run / name).exists()
    }
    answered = {row["id"] for row in AnswerFiles(run.path).rows(AUDITS.get(PLAIN), "after")}
    guessed = _stated_by_control(certified)
    facts = fact_entries(
        run.verdicts,
        {record.id: "not_measured" if record.id in answered else "not_attacked" for record in certified.records},
        audit,
        guessed=guessed,
        keyed=partial(key.keyed_hash, FACT_HASH),
    )
    method = certified.method and {**certified.method, "recipe": evidence.get(RECIPE)}
    return {
        FORMAT_KEY: FORMAT,
        "reference": reference or None,
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": {
            "name": _public_name(certified.model),
            "before": certified.before,
            "after": certified.after,
            "exported": None,
        },
        "method": method,
        "audit": audit,
        "calibrated": is_calibrated(run.verdicts, audit, guessed),
        "verdicts": counts_of(facts),
        "facts": facts,
        "kept": kept_entries(run.summary),
        "limits": [*LIMITS, *([REMOVABLE] if len(certified.after) > 1 else [])],
        "software": {"run": dict(run.manifest.get("versions") or {}), "certificate": versions()},
        "evidence": evidence,
    }


def _stated_by_control(certified: Certified) -> set[str]:
    """Return the ids of the facts that the control model states when plainly asked."""
    rows = AnswerFiles(certified.run.path).rows(AUDITS.get(PLAIN), "control")
    known = {record.id for record in certified.records}
    facts = FactList(certified.records)
    return {row["id"] for row in rows if row["id"] in known and facts.match_row(row)}


def load_certified(certified: Certified, *, trust_remote_code: bool) -> Loaded:
    """Load the unlearned model of a run, or of an audit of two models, with its adapters merged as in the audit."""
    run = certified.run
    if run.has_recipe:
        recipe = run.recipe_to_load(trust_remote_code=trust_remote_code)
        return ModelSet.of_run(recipe, run.path).fresh("after")
    settings = Evaluation.in_folder(run / EVALUATION, trust_remote_code=trust_remote_code)
    assert settings.before is not None and settings.after is not None
    return ModelSet.of_pair(run.path, before=settings.before, after=settings.after).fresh("after")


def _exported_hash(certified: Certified, exported: Path, *, trust_remote_code: bool) -> str | None:
    """Return the hash of the files of an exported model, after comparing its logits with the unlearned model's.

    Raises InputError for a folder that is no model, RunFailedError for a model whose logits differ by more than
    rounding.
    """
    changes = {"name": str(exported), "adapter": None, "revision": None, "trust_remote_code": trust_remote_code}
    spec = certified.model.model_copy(update=changes)
    check_model(spec, "--exported")
    refuse_hidden_base(spec, "--exported")
    with console.stage("compare the exported model"):
        loaded = load_certified(certified, trust_remote_code=trust_remote_code)
        if getattr(loaded.model, "takes_rows", False):
            raise InputError("an inference-time method has no weights of its own", where=f"--exported {exported}")
        answers = " ".join(record.answer for record in certified.records)
        ids = probe_ids(loaded.model) + loaded.tokenizer(answers).input_ids[:COMPARED_TOKENS]
        expected = probe_logits(loaded.model, ids)
        del loaded
        found = load(spec)
        dtype = next(found.model.parameters()).dtype
        check_logits(probe_logits(found.model, ids), expected, dtype, where=str(exported))
    return loaded_files_hash(exported)


# Probes


def _write_probes(certified: Certified, key: OwnerKey) -> dict[str, Any] | None:
    """Write probes.enc: the questions of the audit, without answers; return its hash. None where there are none."""
    word = partial(key.keyed_hash, WORD_HASH)
    facts = hashed_facts(certified.records, word)
    files = AnswerFiles(certified.run.path)
    probes = []
    for name in (name for name in PROBED if name in AUDITS):
        for row in files.rows(AUDITS.get(name), "after"):
            prompt = FactPrompt.from_dict(row).prompt
            fact, text = facts.get(row["id"]), f"{prompt.text} {prompt.answer_prefix}"
            if fact is not None and not fact.is_stated("", text, word):
                probe = {"fact": row["id"], "text": prompt.text, "prefix": prompt.answer_prefix, "form": prompt.form}
                stated = fact.is_stated(text, row["answer"], word)
                probes.append({**probe, "stated": stated, "answer": key.keyed_hash(ANSWER_HASH, row["answer"])})
    (certified.run / PROBES).unlink(missing_ok=True)
    if not probes:
        return None
    content = {
        "model": {name: value for name, value in certified.model.model_dump(mode="json").items() if name in _CHAT},
        "generate": certified.generate.model_dump(mode="json"),
        "seed": certified.seed,
        "facts": {probe["fact"]: facts[probe["fact"]].to_dict() for probe in probes},
        "probes": probes,
    }
    write_text(certified.run / PROBES, key.encrypt(PROBES_KEY, json.dumps(content)))
    return {"file": PROBES, "sha256": file_hash(certified.run / PROBES), "count": len(probes)}
