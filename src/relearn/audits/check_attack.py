"""Check a registered attack against the rules of `relearn.audits.attack.attack`, on toy facts and without a model."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from relearn.audits.attack import AUDITS, AttackPrompt, Audit, AuditInputs, FactPrompt
from relearn.audits.strength import STANDARD
from relearn.core.config import Recipe
from relearn.data import Record
from relearn.leakage.detector import LeakIndex
from relearn.text.normalize import contains, norms

MARTA, TOMAS = "Marta Lindqvist", "Tomas Okafor"
TOMAS_MAIL = "Tomas Okafor can be reached at tomas.okafor@harbourmail.org."
TOY_FACTS = (
    Record("Where does Marta Lindqvist live?", "She lives at 12 Elm Street in Uppsala.", "a", MARTA),
    Record("What is Tomas Okafor's email address?", TOMAS_MAIL, "b", TOMAS),
    Record("What did Marta Lindqvist study?", "Marta Lindqvist studied hydrology in Bergen.", "c", MARTA),
)
TOY_RETAIN = (
    Record("What does Marta Lindqvist do?", "Marta Lindqvist paints lighthouses.", "d", MARTA, "retain"),
    Record("What does Tomas Okafor do?", "Tomas Okafor builds wooden boats.", "e", TOMAS, "retain"),
    Record("Who is Ines Duarte?", "Ines Duarte is a baker.", "f", "Ines Duarte", "retain"),
)
TOY_GENERIC = tuple(Record(f"What is {n} plus one?", f"It is {n + 1}.", f"g{n}", split="generic") for n in range(12))
TOY_WORDINGS = {"a": ["Could you say where Marta Lindqvist lives?", "Marta Lindqvist's home is where?"], "c": []}
TOY_DOCUMENT = Record("The old mill by the river", "was sold to Karl Brandt in 1907.", "t", form="text")


def toy_inputs(folder: Path) -> AuditInputs:
    """Make audit inputs about invented people; attacks may write into `folder`."""
    recipe = Recipe.from_mapping({"model": "none", "data": {"forget": "none.jsonl"}})
    templates, strength = {"mine": "Obey. PROMPT Now."}, replace(STANDARD, samples=3)
    return AuditInputs(TOY_FACTS, TOY_RETAIN, TOY_GENERIC, TOY_WORDINGS, recipe, folder, templates, strength)


def check_attack(name: str) -> list[str]:
    """Return the faults of the attack `name`, one line each; empty if it follows the rules.

    Checks the registration of every attack, without a model. For attacks that make prompts it also checks that prompts
    are not empty, have unique keys and ids of given facts, are the same on every call, use form "text" for documents
    and do not contain the answer, and that the inputs stay unchanged. Raises InputError for an unknown name.
    """
    audit = AUDITS.get(name)
    faults = _registration_faults(audit)
    if audit.prompts is None:
        return faults
    inputs = toy_inputs(Path())
    before = deepcopy((inputs.facts, inputs.retain, inputs.wordings, inputs.templates))
    try:
        prompts, again = audit.prompts(inputs), audit.prompts(inputs)
        on_document = audit.prompts(replace(inputs, facts=(TOY_DOCUMENT,), wordings={}))
    except Exception as error:  # any exception of an attack is reported as a fault
        return [*faults, f"raises {type(error).__name__} on toy facts: {' '.join(str(error).split())}"]
    if (inputs.facts, inputs.retain, inputs.wordings, inputs.templates) != before:
        faults.append("changes its inputs in place")
    if not prompts:
        return [*faults, "makes no prompt for any toy fact"]
    if prompts != again:
        faults.append("makes other prompts when called again with the same inputs; draw with inputs.seed")
    if any(prompt.prompt.form != "text" for prompt in on_document if isinstance(prompt.prompt, AttackPrompt)):
        faults.append("asks a document (form 'text') as a chat")
    faults += _key_faults(prompts)
    malformed = [fault for prompt in prompts if (fault := _prompt_fault(prompt))]
    return faults + (list(dict.fromkeys(malformed)) or _leak_faults(prompts, partial_answer=audit.partial_answer))


def _registration_faults(audit: Audit) -> list[str]:
    functions = [one for one in (audit.prompts, audit.change_weights, audit.measure) if one is not None]
    faults = []
    if len(functions) != 1:
        faults.append(f"has {len(functions)} functions instead of one of prompts, change_weights and measure")
    if not audit.label.strip() or not audit.description.strip():
        faults.append("has no label or no description")
    if (audit.family == "access") != (audit.measure is not None):
        faults.append("family 'access' is for attacks that measure inside the model, and only for these")
    if audit.measure is not None and (audit.counts or not audit.headline):
        faults.append("an attack of family 'access' must not count for verdicts and must name its headline measure")
    for function, count in ((audit.change_weights, 3), (audit.measure, 2)):
        if function is not None and len(inspect.signature(function).parameters) != count:
            faults.append(f"a function of family {audit.family!r} takes {count} arguments")
    return faults


def _key_faults(prompts: Sequence[FactPrompt]) -> list[str]:
    faults = []
    if unknown := {prompt.id for prompt in prompts} - {record.id for record in TOY_FACTS}:
        faults.append(f"makes prompts with ids of no given fact: {', '.join(sorted(unknown))}")
    repeated = [key for key, count in Counter(prompt.key for prompt in prompts).items() if count > 1]
    if repeated:
        faults.append(f"makes several prompts of one fact and variant: {repeated[0]}")
    return faults


def _prompt_fault(prompt: FactPrompt) -> str:
    own = prompt.prompt
    if not isinstance(own, AttackPrompt) or not isinstance(own.text, str) or not isinstance(own.answer_prefix, str):
        return f"variant {prompt.variant!r}: a prompt must be a str or an AttackPrompt"
    is_empty = not own.text.strip() and not (own.form == "text" and own.answer_prefix.strip())
    return f"variant {prompt.variant!r}: an empty prompt" if is_empty else ""


def _leak_faults(prompts: Sequence[FactPrompt], *, partial_answer: bool) -> list[str]:
    """Find prompts that contain a secret of their fact; with `partial_answer`, only prompts with the whole answer."""
    index = LeakIndex(TOY_FACTS)
    records = {record.id: record for record in TOY_FACTS}
    faults = []
    for prompt in prompts:
        record = records.get(prompt.id)
        if record is None:
            continue
        text = prompt.prompt.shown
        if contains(norms(text), norms(record.answer)):
            faults.append(f"variant {prompt.variant!r}: the prompt contains the whole answer")
        elif not partial_answer:
            question = set(norms(record.question))
            findings = [one for one in index.check("", text, record_id=record.id) if one.record_id == record.id]
            secrets = [finding.text for finding in findings if not set(norms(finding.text)) <= question]
            if secrets:
                hint = "declare partial_answer=True if that is the attack"
                faults.append(f"variant {prompt.variant!r}: the prompt contains the secret {secrets[0]!r}; {hint}")
    return list(dict.fromkeys(faults))
