"""The word lists of the demo's world, and how names, days, times and places are drawn from them.

Three sets of speaker names that share no name: pretraining draws from names put together from
syllables (tens of thousands, so that copying an unseen name is learnt), training and the held-out
splits each from their own list of real names.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

TRAIN_NAMES = (
    "Ana Ben Carla David Elena Felix Grace Hugo Irene Jonas Karin Liam Maria Nina Oscar Paula Quentin Rosa "
    "Simon Tara Ulrich Vera Walter Yusuf Zoe Amira Boris Chloe Dario Emil Fatima Greta Henrik Ingrid Jamal "
    "Kofi Laura Marco Noor Otto Priya Rafael Sofia Tomas Uma Viktor Wendy Xenia Yara Zane Alice Bruno Celine "
    "Dylan Esther Frank Gloria Hassan Isabel Julia"
).split()
HELD_OUT_NAMES = (
    "Adam Bianca Conrad Daphne Edgar Fiona Gavin Hannah Igor Jasmine Kenji Leila Miguel Naomi Olga Pedro "
    "Renata Stefan Thea Umar Violet Wilma Yannick Zelda Anton Beatrix Cyrus Dora Erik Flora Gideon Helga "
    "Ivan Judith Kamal Louisa Mateo Nadia Owen Pia"
).split()

_ONSETS = "b c ch d f g h j k l m n p r s sh t th v w y z br dr fl gr kr pl st tr".split()
_VOWELS = "a e i o u a e i o u ai ee ia oa ou".split()
_CODAS = ["", "", "", "", "n", "l", "r", "s", "m", "x", "k", "d", "th", "nd", "ck"]

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
STREETS = "Mill Oak River Station Church Garden Harbour King Lake Park School Hill Bridge Market".split()
ADJECTIVES = "Blue Golden Old Green Silver Red White Little Black Quiet Lucky Royal".split()
NOUNS = "Lion Door Lantern Anchor Rose Table Crown Star Fox Swan Bell Olive".split()
CITIES = (
    "Lisbon Oslo Vienna Madrid Prague Rome Dublin Athens Berlin Paris Geneva Porto Krakow Turin Bergen Seville"
).split()
PUBLIC_PLACES = (
    "in the library",
    "in the park",
    "at the town hall",
    "at the north station",
    "at the sports centre",
    "at the main entrance",
    "at the bus stop",
    "in the lobby",
    "at the museum",
    "at the south gate",
    "in the canteen",
    "at the old harbour",
)

# (what the speaker says, what is said of the speaker)
REASONS = (
    ("I have to work", "has to work"),
    ("I am away", "is away"),
    ("I have an exam", "has an exam"),
    ("I have a bad cold", "has a bad cold"),
    ("I already have plans", "already has plans"),
    ("I promised to babysit", "promised to babysit"),
    ("I have no car", "has no car"),
    ("I need to rest", "needs to rest"),
    ("I have guests", "has guests"),
    ("I am moving house", "is moving house"),
    ("I have a training course", "has a training course"),
    ("I have to see the dentist", "has to see the dentist"),
    ("I play in a match", "plays in a match"),
    ("I am on call", "is on call"),
)

# (plain verb, third person, rest)
ERRANDS = (
    ("bring", "brings", "the voucher"),
    ("bring", "brings", "the keys"),
    ("bring", "brings", "some snacks"),
    ("send", "sends", "the address"),
    ("send", "sends", "a reminder"),
    ("send", "sends", "the photos"),
    ("print", "prints", "the tickets"),
    ("print", "prints", "the form"),
    ("pay", "pays", "the deposit"),
    ("call", "calls", "the office"),
    ("check", "checks", "the weather"),
    ("check", "checks", "the price"),
    ("ask", "asks", "the neighbours"),
    ("fill in", "fills in", "the form"),
    ("buy", "buys", "the batteries"),
    ("buy", "buys", "some flowers"),
    ("tell", "tells", "the others"),
    ("write", "writes", "a short note"),
    ("pack", "packs", "the charger"),
    ("book", "books", "a taxi"),
)


@cache
def syllable_names() -> tuple[str, ...]:
    """Every name that pretraining may draw: 20,000 of two or three syllables, none of them a listed name."""
    rng = random.Random("names of the pretraining world")
    listed = {name.lower() for name in (*TRAIN_NAMES, *HELD_OUT_NAMES)}
    names: dict[str, None] = {}
    while len(names) < 20_000:
        parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2)))]
        name = rng.choice(("", "", rng.choice("aeiou"))) + "".join(parts) + rng.choice(_CODAS)
        if 3 <= len(name) <= 7 and name not in listed:
            names[name.capitalize()] = None
    return tuple(names)


def names_of(split: str) -> tuple[str, ...]:
    """The speaker names of a split ("pretrain", "train", "validation" or "test")."""
    if split == "pretrain":
        return syllable_names()
    return tuple(TRAIN_NAMES if split == "train" else HELD_OUT_NAMES)


def two(rng: random.Random, draw: Callable[[random.Random], str]) -> tuple[str, str]:
    """Two different values from ``draw(rng)``."""
    first = draw(rng)
    second = draw(rng)
    while second == first:
        second = draw(rng)
    return first, second


def day(rng: random.Random) -> str:
    """A weekday, or now and then a date: both read well after "on"."""
    if rng.random() < 0.75:
        return rng.choice(WEEKDAYS)
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def clock(rng: random.Random) -> str:
    """A time of day that reads well after "at"."""
    kind = rng.random()
    if kind < 0.1:
        return "noon"
    if kind < 0.35:
        return f"{rng.randint(8, 11)} am"
    if kind < 0.75:
        return f"{rng.randint(1, 9)} pm"
    return f"{rng.randint(1, 12)}:{rng.choice(('15', '30', '45'))}"


def street(rng: random.Random) -> str:
    return f"{rng.randint(2, 60)} {rng.choice(STREETS)} Street"


def venue(rng: random.Random) -> str:
    return f"at the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


def room(rng: random.Random) -> str:
    return f"in room {rng.randint(1, 40)}"


def address(rng: random.Random) -> str:
    return f"at {street(rng)}"


def public(rng: random.Random) -> str:
    return rng.choice(PUBLIC_PLACES)


def anywhere(rng: random.Random) -> str:
    return rng.choice((venue, public, address, room))(rng)
