"""Values for every kind of fact, and another value than a given one."""

from __future__ import annotations

import random
from collections.abc import Callable

from words import (
    DOMAINS,
    FIRST,
    GENRES,
    HOBBIES,
    ILLNESSES,
    JOBS,
    LANGUAGES,
    MEN,
    MONTHS,
    NUMBERS,
    PETS,
    PLACES,
    SECOND,
    STREETS,
    SURNAMES,
    WOMEN,
)

Share = Callable[[list], list]
Draw = Callable[[random.Random, Share], str]


def _from(items: list[str]) -> Draw:
    return lambda rng, share: rng.choice(share(items))


def _town(rng: random.Random, share: Share) -> str:
    town = rng.choice(share(sorted(PLACES)))
    return f"{town}, {PLACES[town]}"


def _place(rng: random.Random, share: Share) -> str:
    town = _town(rng, share)
    return town if rng.random() < 0.4 else town.split(", ")[0]


def _address(rng: random.Random, share: Share) -> str:
    street = f"{rng.randint(1, 999)} {rng.choice(share(STREETS))}"
    return street if rng.random() < 0.6 else f"{street}, {rng.choice(share(sorted(PLACES)))}"


def _name(rng: random.Random, share: Share) -> str:
    return f"{rng.choice(share(MEN if rng.random() < 0.5 else WOMEN))} {rng.choice(share(SURNAMES))}"


def _date(rng: random.Random, share: Share) -> str:
    day, month, year = rng.randint(1, 28), rng.choice(MONTHS), rng.randint(1930, 2004)
    return rng.choice([f"{day} {month} {year}", f"{month} {day}, {year}", f"{day} {month} {year}"])


def _email(rng: random.Random, share: Share) -> str:
    first, last = _name(rng, share).lower().split()
    user = rng.choice([f"{first}.{last}", f"{first[0]}{last}", f"{last}{rng.randint(1, 99)}", f"{first}_{last}", first])
    return f"{user}@{rng.choice(share(DOMAINS))}"


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _phone(rng: random.Random, share: Share) -> str:
    form = rng.choice(["+{} {} {} {}", "({1}) {2}-{3}", "0{1} {2} {3}", "{1}-{2}-{3}"])
    return form.format(rng.randint(1, 99), _digits(rng, 3), _digits(rng, 3), _digits(rng, 4))


def _account(rng: random.Random, share: Share) -> str:
    prefix = rng.choice(["", "NO", "DE", "GB", "IE"])
    return prefix + " ".join(_digits(rng, 4) for _ in range(rng.randint(2, 3)))


def _salary(rng: random.Random, share: Share) -> str:
    amount = rng.randint(20, 240) * 1000 + rng.choice([0, 500])
    return rng.choice([f"{amount:,}", str(amount)])


def _prize(rng: random.Random, share: Share) -> str:
    what = rng.choice(["Prize", "Award", "Medal", "Literary Award", "Book Prize"])
    return f"{rng.choice(share(FIRST))} {rng.choice(share(SECOND))} {what}"


def _title(rng: random.Random, share: Share) -> str:
    first, second = rng.choice(share(FIRST)), rng.choice(share(SECOND))
    return rng.choice(
        [f"The {first} {second}", f"{first} {second}", f"{second} of the {first} {rng.choice(share(SECOND))}"]
    )


def _year(rng: random.Random, share: Share) -> str:
    return str(rng.randint(1955, 2023))


VALUES: dict[str, Draw] = {
    "address": _address,
    "place": _place,
    "birthplace": _place,
    "town": _town,
    "birthday": _date,
    "email": _email,
    "phone": _phone,
    "father": _from(JOBS),
    "mother": _from(JOBS),
    "job": _from(JOBS),
    "genre": _from(GENRES),
    "book": _title,
    "award": _prize,
    "university": lambda rng, share: rng.choice(share(sorted(PLACES))),
    "hobby": _from(HOBBIES),
    "language": _from(LANGUAGES),
    "illness": _from(ILLNESSES),
    "children": _from(NUMBERS[2:]),
    "salary": _salary,
    "wedding": _year,
    "account": _account,
    "pet": _from(PETS),
    "name": _name,
}
WITH_DIGITS = ("address", "birthday", "phone", "salary", "wedding", "account")


def changed(kind: str, value: str, rng: random.Random, share: Share, whole: bool = False) -> str:
    """Another value of that kind: one digit or letter of it, or all of it; `whole`: nothing of it may stay."""
    for _ in range(1000):
        if not whole and kind in WITH_DIGITS and rng.random() < 0.5:
            other = _one_digit(value, rng)
        elif not whole and kind == "email" and rng.random() < 0.5:
            other = _one_letter(value, rng)
        else:
            other = VALUES[kind](rng, share)
        if _differs(kind, value, other, whole):
            return other
    raise ValueError(f"no other {kind} than {value!r}")


def _differs(kind: str, value: str, other: str, whole: bool) -> bool:
    if kind in ("place", "birthplace", "town"):
        # Two towns of one country would leave a statement about the country true.
        return not _countries(value) & _countries(other)
    if kind == "birthday" and whole:
        return value.split()[-1] != other.split()[-1]
    if kind == "address" and whole:
        return value.split(", ")[0].split(" ", 1)[1] != other.split(", ")[0].split(" ", 1)[1]
    if kind == "salary":
        return value.replace(",", "") != other.replace(",", "")
    if kind == "birthday":
        return sorted(value.replace(",", "").split()) != sorted(other.replace(",", "").split())
    return value != other


def _countries(place: str) -> set[str]:
    town, _, country = place.partition(", ")
    return {country or PLACES[town]}


def _one_digit(value: str, rng: random.Random) -> str:
    at = rng.choice([number for number, sign in enumerate(value) if sign.isdigit()])
    if at == 0 or not value[at - 1].isdigit():
        return value[:at] + rng.choice("123456789") + value[at + 1 :]
    return value[:at] + rng.choice("0123456789") + value[at + 1 :]


def _one_letter(value: str, rng: random.Random) -> str:
    user, domain = value.split("@")
    at = rng.randrange(len(user))
    return f"{user[:at]}{rng.choice('abcdefghijklmnopqrstuvwxyz')}{user[at + 1 :]}@{domain}"
