"""A scene: the facts of one dialogue, what is said in which order, and what a reader should know of it."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from hfplug.demo.lines import HELD_OUT, TRAIN
from hfplug.demo.words import ERRANDS, REASONS, names_of

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


def lines_of(split: str) -> Mapping[str, tuple[str, ...]]:
    """The dialogue templates of a split: validation and test speak from ``HELD_OUT`` alone."""
    return TRAIN if split in ("pretrain", "train") else HELD_OUT


def fill(template: str, facts: Mapping[str, str], rng: random.Random) -> str:
    """One sentence from a template: choices drawn, slots filled, the first letter made a capital."""
    text = _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), template)
    text = _SLOT.sub(lambda match: _value(match.group(1), facts), text)
    return capital(re.sub(r"\s+", " ", text).strip())


def _value(slot: str, facts: Mapping[str, str]) -> str:
    """``{opt}`` is the fact as it stands; ``{Opt}`` the same with a capital first letter."""
    if slot in facts:
        return facts[slot]
    return capital(facts[slot[0].lower() + slot[1:]])


def capital(text: str) -> str:
    """The text with a capital first letter; the rest stays."""
    return text[:1].upper() + text[1:]


def either(rng: random.Random, *texts: str) -> str:
    """One of several wordings of the same thing."""
    return rng.choice(texts)


@dataclass
class Scene:
    """What a plot writes down while it unfolds.

    Attributes:
        domain: One or two words for what the dialogue is about, e.g. ``"restaurant"``.
        facts: Slot to text; ``A`` and ``B`` are the speakers.
        moves: What is said: (slot of the speaker, name of the move, slots that hold for this line only).
        questions: (question, answer) pairs that the dialogue settles; used in pretraining alone.
        actions: (slot of the person, plain verb and rest): what is left to do.
    """

    split: str
    rng: random.Random
    domain: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    moves: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)
    actions: list[tuple[str, str]] = field(default_factory=list)
    summary: str = ""
    reference_2: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        names = self.rng.sample(names_of(self.split), 3)
        self.facts.update(dict(zip("ABC", names, strict=True)))

    def say(self, who: str, move: str, **more: str) -> None:
        """Let speaker ``who`` ("A" or "B") make a move."""
        self.moves.append((who, move, more))

    def ask(self, question: str, answer: str) -> None:
        """Note a question that the dialogue answers; slots are filled at once."""
        self.questions.append((self.text(question), self.text(answer)))

    def text(self, template: str) -> str:
        """The template filled from the facts."""
        return fill(template, self.facts, self.rng)

    def reason(self) -> tuple[str, str]:
        """A reason, as its speaker says it and as it is said of the speaker."""
        first, third = self.rng.choice(REASONS)
        return first, third

    def turns(self) -> list[tuple[str, str]]:
        """(name, sentence) of every turn, worded for this split."""
        pools = lines_of(self.split)
        turns: list[tuple[str, str]] = []
        for who, move, more in self.moves:
            facts = {**self.facts, "Y": self.facts["B" if who == "A" else "A"], **more}
            sentence = fill(self.rng.choice(pools[move]), facts, self.rng)
            if turns and turns[-1][0] == self.facts[who]:
                turns[-1] = (turns[-1][0], f"{turns[-1][1]} {sentence}")
            else:
                turns.append((self.facts[who], sentence))
        return turns

    def action_items(self) -> str:
        """The open tasks as "Name: what; Name: what", or "none"."""
        return "; ".join(f"{self.facts[who]}: {what}" for who, what in self.actions) or "none"


def other(who: str) -> str:
    """The slot of the other speaker."""
    return "B" if who == "A" else "A"


def errand(scene: Scene) -> tuple[str, str]:
    """A promise made in passing, by either speaker, asked for or offered.

    Returns:
        A clause for the first and one for the second reference, without a full stop.
    """
    verb, third, rest = scene.rng.choice(ERRANDS)
    who = scene.rng.choice("AB")
    todo, name = f"{verb} {rest}", scene.facts[who]
    if scene.rng.random() < 0.6:
        scene.say(other(who), "todo.ask", todo=todo)
        scene.say(who, "todo.ok", todo=todo)
    else:
        scene.say(who, "todo.promise", todo=todo)
    scene.actions.append((who, todo))
    scene.ask(f"Who will {todo}?", name)
    scene.ask(f"What is {name} going to do?", f"{name} is going to {todo}")
    return f"{name} will {todo}", f"{name} {third} {rest}"


def side_offer(scene: Scene, extras: tuple[str, ...]) -> tuple[str, str]:
    """Something that B offers on the side and A takes (one in three) or refuses.

    Returns:
        A clause for the first and one for the second reference, without a full stop.
    """
    extra, name, taken = scene.rng.choice(extras), scene.facts["A"], scene.rng.random() < 0.33
    scene.say("B", "extra.offer", extra=extra)
    scene.say("A", "extra.yes" if taken else "extra.no", extra=extra)
    scene.ask(f"Does {name} take {extra}?", f"yes, {name} takes it" if taken else f"no, {name} says no to it")
    scene.ask("What is offered as well?", f"{extra} is offered to {name}")
    if taken:
        return f"{name} also takes {extra}", f"{extra} is added"
    return f"{name} declines {extra}", f"{extra} is refused"


def sides(scene: Scene, extras: tuple[str, ...], how_many: int) -> tuple[list[str], list[str]]:
    """Up to two side clauses (an offer, an errand) in random order, for both references."""
    kinds = scene.rng.sample(("offer", "errand"), how_many)
    pairs = [side_offer(scene, extras) if kind == "offer" else errand(scene) for kind in kinds]
    return [first for first, _ in pairs], [second for _, second in pairs]


def join(head: str, clauses: list[str], linked: str = ". ") -> str:
    """A head and further clauses as sentences."""
    parts = [head, *clauses]
    return linked.join(capital(part) if linked == ". " else part for part in parts) + "."
