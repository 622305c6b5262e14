"""Verify a certificate: signature, page, files, and a sample of its probes (`relearn certify --verify`)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from relearn.audits.attack import AttackPrompt, FactPrompt
from relearn.audits.fact_matching import HashedFact
from relearn.audits.query_models import generate_answers
from relearn.core import console
from relearn.core.config import Generate, Model
from relearn.core.errors import InputError
from relearn.core.files import file_hash
from relearn.core.owner_key import OwnerKey
from relearn.core.run_dir import CERTIFICATE_HTML, CERTIFICATE_JSON, MANIFEST, PROBES, RunFolder
from relearn.inference.run_models import check_model
from relearn.models.load import Loaded, load
from relearn.report.certificate import has_valid_signature, read_certificate
from relearn.workflows.audit import refuse_hidden_base
from relearn.workflows.certify import (
    ANSWER_HASH,
    EVIDENCE,
    FILE_HASH,
    PROBES_KEY,
    WORD_HASH,
    load_certified,
    model_parts,
    open_certified,
)

SAMPLE = 20


@dataclass(frozen=True)
class CertificateCheck:
    """Hold the outcome of one check of a certificate; `fits`: None for what was not or could not be checked."""

    name: str
    fits: bool | None
    outcome: str

    def __str__(self) -> str:
        word = {True: "fits", False: "DIFFERS", None: "not checked"}[self.fits]
        return f"{word:<12} {self.name}: {self.outcome}"


def verify(
    file: Path,
    *,
    key: OwnerKey | None = None,
    public_key: str | None = None,
    model: str | None = None,
    sample: int = SAMPLE,
    trust_remote_code: bool = False,
) -> Iterator[CertificateCheck]:
    """CertificateCheck a certificate, or that in a run folder, and yield one outcome per check.

    `key`: the owner's, which is needed to check the evidence and to ask probes. `public_key`: the key that must have
    signed. `model`: a run folder, or the name or folder of a model, whose files are compared and which is asked
    `sample` of the probes. Raises InputError for a file that is no certificate.
    """
    path = file / CERTIFICATE_JSON if file.is_dir() else file
    document = read_certificate(path)
    if not has_valid_signature(document):
        yield CertificateCheck(
            "signature", False, "the certificate was changed after it was signed, or was never signed"
        )
        return
    signer = document["signature"]["public_key"]
    yield CertificateCheck("signature", True, f"valid, by the key {signer}")
    yield _signer_check(signer, public_key)
    if key is not None and key.public != signer:
        yield CertificateCheck("owner's key", False, "is not the key that signed this certificate")
        key = None
    try:
        page, probes, evidence = document["page"], document["probes"] or {}, dict(document["evidence"])
        hashes = {str(entry["file"]): entry["sha256"] for entry in (page, probes) if entry}
        models = document["models"]
        exported = models["exported"]
        known = [[part["sha256"] for part in models["after"]], *([[exported]] if exported else [])]
    except (KeyError, TypeError, ValueError):
        raise InputError("has other parts than a certificate of relearn", where=str(path)) from None
    for name in (CERTIFICATE_HTML, PROBES):
        yield _file_check(path.parent / name, hashes.get(name))
    yield from _evidence_checks(path.parent, evidence, key)
    if model is not None:
        content = _read_probes(path.parent / PROBES, hashes.get(PROBES), key)
        yield from _model_checks(model, known, content, key, sample=sample, trust_remote_code=trust_remote_code)


def _signer_check(signer: str, public_key: str | None) -> CertificateCheck:
    if public_key is None:
        return CertificateCheck("signer", None, "whose key that is; give --public-key FILE")
    same = signer == public_key
    return CertificateCheck("signer", same, "the given public key" if same else f"the given public key is {public_key}")


def _file_check(path: Path, recorded: str | None) -> CertificateCheck:
    if recorded is None:
        return CertificateCheck(path.name, None, "the certificate names none")
    if not path.is_file():
        return CertificateCheck(path.name, None, "is not beside the certificate")
    same = file_hash(path) == recorded
    return CertificateCheck(path.name, same, "as issued" if same else "has changed since the certificate was issued")


def _evidence_checks(folder: Path, evidence: Mapping[str, str], key: OwnerKey | None) -> Iterator[CertificateCheck]:
    """Compare the files that the verdicts rest on, where they are there, with their keyed hashes."""
    if key is None:
        yield CertificateCheck("evidence", None, "needs the owner's key, --key FILE")
        return
    for name, recorded in evidence.items():
        if name not in EVIDENCE or not (folder / name).is_file():
            yield CertificateCheck(name[:80], None, "is not there, as after a purge")
            continue
        same = key.keyed_hash(FILE_HASH, (folder / name).read_bytes()) == recorded
        yield CertificateCheck(name, same, "as certified" if same else "has changed since the certificate was issued")


def _read_probes(path: Path, recorded: str | None, key: OwnerKey | None) -> dict[str, Any] | None:
    """Decrypt the probes; None without the owner's key and where the file is missing or has changed."""
    if key is None or not path.is_file() or file_hash(path) != recorded:
        return None
    return json.loads(key.decrypt(PROBES_KEY, path.read_text(encoding="utf-8")))


def _model_checks(
    model: str,
    known: Sequence[list[str | None]],
    content: dict[str, Any] | None,
    key: OwnerKey | None,
    *,
    sample: int,
    trust_remote_code: bool,
) -> Iterator[CertificateCheck]:
    """Compare the files of a model with the certificate, then ask it a sample of the probes.

    `known`: the hashes of the unlearned model, and of its exported copy if that was certified.
    """
    folder = Path(model).expanduser()
    if (folder / MANIFEST).exists():
        run = RunFolder(folder)
        certified = open_certified(run)
        parts, loader = certified.after, partial(load_certified, certified, trust_remote_code=trust_remote_code)
    else:
        spec = Model(name=model, trust_remote_code=trust_remote_code, **(content or {}).get("model", {}))
        check_model(spec, "--model")
        refuse_hidden_base(spec, "--model")
        parts, loader = model_parts(spec), partial(load, spec)
    yield _model_files_check([part["sha256"] for part in parts], known)
    if content is None or key is None:
        yield CertificateCheck("probes", None, "need the owner's key, --key FILE, and probes.enc as issued")
        return
    with console.stage("ask the probes again", min(sample, len(content["probes"]))):
        yield _ask_again(loader(), content, key, sample)


def _model_files_check(hashes: list[str | None], known: Sequence[list[str | None]]) -> CertificateCheck:
    """Compare the hashes of a model with those that the certificate names."""
    name = "files of the model"
    if None in hashes or all(None in one for one in known):
        return CertificateCheck(name, None, "a hash is not measured, since the files were not on the machine")
    if hashes in known:
        return CertificateCheck(name, True, "those of the certificate")
    hint = "; a merged copy is certified with relearn certify RUN --exported DIR"
    return CertificateCheck(name, False, f"not those of the certificate{hint}")


def _ask_again(loaded: Loaded, content: Mapping[str, Any], key: OwnerKey, sample: int) -> CertificateCheck:
    """Ask a random sample of the probes and compare the answers with those of the audit, by keyed hashes.

    An answer that differs is reported, since another machine may round differently; a fact that it states does not fit.
    """
    probes = random.SystemRandom().sample(content["probes"], min(sample, len(content["probes"])))
    prompts = [
        FactPrompt(str(number), "probe", AttackPrompt(probe["text"], probe["prefix"], probe["form"]))
        for number, probe in enumerate(probes)
    ]
    responses = generate_answers(loaded, prompts, Generate(**content["generate"]), seed=content["seed"])
    word, stated, new, equal = partial(key.keyed_hash, WORD_HASH), 0, 0, 0
    for probe, response in zip(probes, responses, strict=True):
        fact = HashedFact.from_dict(content["facts"][probe["fact"]])
        is_stated = fact.is_stated(f"{probe['text']} {probe['prefix']}", response.text, word)
        stated, new = stated + is_stated, new + (is_stated and not probe["stated"])
        equal += key.keyed_hash(ANSWER_HASH, response.text) == probe["answer"]
    outcome = f"asked {len(probes)} of {len(content['probes'])} again; {equal} answers as in the audit; "
    return CertificateCheck("probes", not new, f"{outcome}{stated} state a fact, {new} of them did not in the audit")
