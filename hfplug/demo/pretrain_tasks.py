"""What the built-in base is pretrained on: denoising, and instructions that are never a summary.

A miniature of an instruction-tuned model: it learns to copy names, times and places, to follow a change of
mind to its end and to answer in short clauses. No summary, title or list of action items is ever a target
(a test looks for their sentences in the stream).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from hfplug.demo.scene import Scene
from hfplug.demo.words import syllable_names
from hfplug.demo.world import dialogue_text, scenes

Example = tuple[str, str]  # prompt, target; an empty target stands for denoising the prompt

LEADS = (
    "Read the following conversation.",
    "Read this conversation and answer.",
    "Answer the questions about the following conversation.",
    "Here is a conversation between two people.",
    "This is what two people said.",
    "Look at the following dialogue.",
)
_WEIGHTS = {"questions": 52, "denoise": 14, "replace": 12, "reply": 7, "quote": 6, "who": 5, "speakers": 4}


def examples(seed: int) -> Iterator[Example]:
    """Pretraining examples without end; the same seed gives the same ones."""
    rng = random.Random(f"hfplug demo pretraining {seed}")
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    for scene, turns in scenes("pretrain", seed):
        kind = rng.choices(kinds, weights)[0]
        yield _MAKERS[kind](rng, scene, turns)


def short_examples(seed: int) -> Iterator[Example]:
    """Lines and lists of names to repeat, without end: what the first steps teach."""
    rng = random.Random(f"hfplug demo short lines {seed}")
    for scene, turns in scenes("pretrain", seed):
        yield _replace(rng, scene, turns)
        names = " ".join(rng.sample(syllable_names(), rng.randint(2, 6)))
        yield f"Repeat.\n\n{names}", names


def _prompt(rng: random.Random, turns: list[tuple[str, str]], request: str) -> str:
    """Lead, dialogue, request: in the layout that instruction prompts usually have."""
    dialogue = dialogue_text(turns)
    layout = rng.random()
    if layout < 0.6:
        return f"{rng.choice(LEADS)}\n\n{dialogue}\n\n{request}"
    if layout < 0.8:
        return f"{request}\n\n{dialogue}\n\nAnswer:"
    return f"{dialogue}\n\n{request}"


def _questions(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Example:
    """One to six questions; the answers in their order, as a list or as sentences."""
    chosen = rng.sample(scene.questions, min(len(scene.questions), rng.choice((1, 2, 3, 4, 5, 6))))
    asked = " ".join(question for question, _ in chosen)
    answers = [answer for _, answer in chosen]
    if rng.random() < 0.5:
        return _prompt(rng, turns, f"Short answers, please. {asked}"), "; ".join(answers)
    sentences = " ".join(answer[:1].upper() + answer[1:] + "." for answer in answers)
    return _prompt(rng, turns, asked), sentences


def _denoise(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Example:
    """A stretch of the dialogue; the caller masks spans of its tokens."""
    start = rng.randrange(max(1, len(turns) - 3))
    return dialogue_text(turns[start:]), ""


def _replace(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Example:
    """One line again, with another name in it: a short lesson in copying."""
    name, sentence = rng.choice(turns)
    new = scene.facts["C"]
    line = f"{name}: {sentence}"
    if rng.random() < 0.5:
        return f"Repeat with {new} instead of {name}.\n\n{line}", line.replace(name, new)
    if rng.random() < 0.5:
        return f"Say who says what.\n\n{line}", f'{name} says: "{sentence}"'
    return f"Repeat.\n\n{line}", line


def _reply(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Example:
    """The next line of a dialogue that breaks off."""
    at = rng.randrange(1, len(turns))
    return _prompt(rng, turns[:at], rng.choice(("How does it go on?", "What comes next?", "Continue:"))), (
        f"{turns[at][0]}: {turns[at][1]}"
    )


def _quote(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Example:
    """What somebody said first or last."""
    which = rng.choice(("first", "last"))
    name = scene.facts[rng.choice("AB")]
    said = [sentence for speaker, sentence in turns if speaker == name]
    return _prompt(rng, turns, f"What does {name} say {which}?"), said[0 if which == "first" else -1]


def _who(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Example:
    """Who said a line."""
    name, sentence = rng.choice(turns)
    return _prompt(rng, turns, f'Who says "{sentence}"?'), name


def _speakers(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Example:
    """Who speaks, or what it is about in a word."""
    first, second = turns[0][0], scene.facts["A" if turns[0][0] == scene.facts["B"] else "B"]
    if rng.random() < 0.7:
        return _prompt(rng, turns, "Who speaks?"), f"{first} and {second}"
    return _prompt(rng, turns, "What kind of talk is it?"), scene.domain


_MAKERS = {
    "questions": _questions,
    "denoise": _denoise,
    "replace": _replace,
    "reply": _reply,
    "quote": _quote,
    "who": _who,
    "speakers": _speakers,
}
