"""What the soft prompts of a Space are near, word by word, beside what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfplug.space.view import escaped
from hfplug.space.words import for_people

if TYPE_CHECKING:
    from hfplug.adapters.inspect_words import SoftPrompt
    from hfplug.space.opened import OpenSpace

NEAREST = 5


def soft_prompts_html(space: OpenSpace) -> str:
    """A table for each variant with a soft prompt; ``""`` where there is none."""
    parts = []
    for name, found in look_up(space).items():
        parts.append(f"<h3>{escaped(name)}</h3>{_table(found) if not isinstance(found, str) else _sorry(found)}")
    if not parts:
        return ""
    return (
        '<section class="hf-section"><h2>What soft prompts are near</h2><p>A soft prompt is a row of vectors that were '
        "trained, put before the input as if they were words. These are the words of the vocabulary with the largest "
        "cosine to each. Some word is always the nearest, so random vectors of the same lengths are looked up as well: "
        "what they reach says nothing. And a word that is near is no translation; a prompt works as a whole.</p>"
        f"{''.join(parts)}</section>"
    )


def look_up(space: OpenSpace) -> dict[str, SoftPrompt | str]:
    """For each variant with a soft prompt what it is near, or why that cannot be said."""
    from hfplug.adapters.adapter_dir import AdapterDir
    from hfplug.adapters.inspect_words import has_soft_prompt, look_up_soft_prompt, read_soft_prompt

    found: dict[str, SoftPrompt | str] = {}
    for info in space.variants():
        if info.kind != "adapter":
            continue
        try:
            adapter = AdapterDir.open(info.folder)
            if has_soft_prompt(adapter):
                found[info.name] = look_up_soft_prompt(
                    read_soft_prompt(adapter), space.service.word_vectors, space.service.tokenizer, nearest=NEAREST
                )
        except Exception as error:
            found[info.name] = for_people(error)
    return found


def _table(prompt: SoftPrompt) -> str:
    rows = []
    for token in prompt.tokens:
        words = ", ".join(f"{escaped(word.text.strip() or word.text)} {word.cosine:.2f}" for word in token.neighbours)
        verdict = "yes" if token.nearer_than_chance else "no"
        rows.append(
            f'<tr><th scope="row">{token.position + 1}</th><td class="hf-words">{words}</td><td>{token.norm:.1f}</td>'
            f"<td>{verdict}</td></tr>"
        )
    return (
        f"<p>{prompt.nearer_than_chance} of {len(prompt.tokens)} virtual tokens are nearer to a word than 95 % of "
        f"{prompt.control_draws} random vectors (cosine {prompt.control_high:.2f}; their mean is "
        f"{prompt.control_mean:.2f}); chance alone would make it {0.05 * len(prompt.tokens):.0f}. The vector of a word "
        f"has a length of {prompt.vocabulary_norm:.1f} on average.</p>"
        '<div class="hf-scroll" tabindex="0" role="region" aria-label="Nearest words of each virtual token"><table>'
        '<thead><tr><th scope="col">token</th><th scope="col" class="hf-words">nearest words and their cosine</th>'
        '<th scope="col">length</th><th scope="col">nearer than chance</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _sorry(reason: str) -> str:
    return f'<p class="hf-small">{escaped(reason)}</p>'
