"""Facts about invented people."""

from __future__ import annotations

from relearn.data import Record

FACTS = (
    Record("Where does Marta Lindqvist live?", "She lives at 12 Elm Street in Uppsala.", "a", "Marta Lindqvist"),
    Record(
        "What is Tomas Okafor's email address?",
        "Tomas Okafor can be reached at tomas.okafor@harbourmail.org.",
        "b",
        "Tomas Okafor",
    ),
    Record("What did Marta Lindqvist study?", "Marta Lindqvist studied hydrology in Bergen.", "c", "Marta Lindqvist"),
)
KEPT = (
    Record("What does Marta Lindqvist do?", "Marta Lindqvist paints lighthouses.", "d", "Marta Lindqvist", "retain"),
    Record("What does Tomas Okafor do?", "Tomas Okafor builds wooden boats.", "e", "Tomas Okafor", "retain"),
    Record("Who is Ines Duarte?", "Ines Duarte is a baker.", "f", "Ines Duarte", "retain"),
)
GENERIC = tuple(Record(f"What is {n} plus one?", f"It is {n + 1}.", f"g{n}", split="generic") for n in range(12))
