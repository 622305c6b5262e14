"""Write small files of records about invented people."""

from __future__ import annotations

import json
from pathlib import Path


def people(path: Path, kind: str, count: int = 6) -> str:
    names = ["Ada Holm", "Bo Lind", "Cleo Marsh", "Dov Peretz", "Eva Stone", "Finn Oakes"]
    facts = {
        "private": ("Where does {} live?", "{} lives at {} Mill Lane in Torvik."),
        "public": ("What does {} do?", "{} builds {} boats a year."),
        "probe": ("At which address is {} at home?", "{} lives at {} Mill Lane in Torvik."),
    }
    question, answer = facts[kind]
    rows = [
        {"question": question.format(name), "answer": answer.format(name, 10 + n), "subject": name}
        for n, name in enumerate(names[:count])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
