"""What a trained soft prompt is near: for each virtual token the words of the vocabulary with the largest cosine.

A vector in some hundred dimensions always has a nearest word, so each row comes with a control: random vectors of the
same lengths, looked up in the same vocabulary. A cosine that such vectors reach as well says nothing. And a word that
is near is no translation: a soft prompt works as a whole and need not mean anything in words (Khashabi et al. 2022,
https://arxiv.org/abs/2112.08348). Lester et al. 2021, section 7, look at prompts in this way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SOFT_PROMPT = "prompt_embeddings"  # PEFT's name, in the weights of prompt tuning and of P-tuning
CONTROL_DRAWS = 200
CONTROL_QUANTILE = 0.95
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Neighbour:
    """A word of the vocabulary: its id, its text as the tokenizer writes it, and its cosine, -1 to 1."""

    token_id: int
    text: str
    cosine: float


@dataclass(frozen=True)
class VirtualToken:
    """One virtual token.

    Attributes:
        position: In the prompt, from 0.
        norm: Length of its vector.
        neighbours: The nearest words, the nearest first.
        nearer_than_chance: Whether its nearest word is nearer than that of 95 % of random vectors.
        tightness: Mean cosine of two of its nearest words, -1 to 1: high if they are of one kind. NaN for one word.
    """

    position: int
    norm: float
    neighbours: tuple[Neighbour, ...]
    nearer_than_chance: bool
    tightness: float = math.nan


@dataclass(frozen=True)
class SoftPrompt:
    """A soft prompt as seen from the vocabulary.

    Attributes:
        tokens: Its virtual tokens, in order.
        vocabulary_norm: Mean length of a word's vector.
        control_mean: Mean, over random vectors, of the cosine with their nearest word.
        control_high: The 95th percentile of the same.
        control_draws: How many random vectors there were.
        control_tightness: Mean, over random vectors, of the tightness of their nearest words.
        control_tightness_high: The 95th percentile of the same.
    """

    tokens: tuple[VirtualToken, ...]
    vocabulary_norm: float
    control_mean: float
    control_high: float
    control_draws: int
    control_tightness: float = math.nan
    control_tightness_high: float = math.nan

    @property
    def nearer_than_chance(self) -> int:
        """How many virtual tokens are nearer to a word than chance would have them."""
        return sum(token.nearer_than_chance for token in self.tokens)


def has_soft_prompt(adapter: AdapterDir) -> bool:
    """Whether an adapter's weights hold one, by their names alone."""
    return any(SOFT_PROMPT in read_header(file) for file in adapter.weights)


def read_soft_prompt(adapter: AdapterDir) -> Tensor:
    """The virtual tokens of an adapter, shape (virtual tokens, width), float32 on the CPU.

    Raises:
        AdapterError: The adapter has none.
    """
    from safetensors import safe_open

    for file in adapter.weights:
        if SOFT_PROMPT in read_header(file):
            with safe_open(str(file), framework="pt") as tensors:
                return tensors.get_tensor(SOFT_PROMPT).float()
    raise AdapterError(
        f"The adapter in {str(adapter.path)!r} holds no soft prompt.", fix="Pass one of prompt_tuning or p_tuning."
    )


def look_up_soft_prompt(
    prompt: Tensor,
    vocabulary: Tensor,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    nearest: int = 5,
    seed: int = 0,
) -> SoftPrompt:
    """The nearest words of each virtual token, and how near chance comes.

    Args:
        prompt: Shape (virtual tokens, width).
        vocabulary: The base's input embeddings, shape (words, width). Rows without a token of the tokenizer (padding
            of the matrix) and special tokens are left out, as nobody could read them.
        tokenizer: The base's; without one words are shown by their ids.
        nearest: Words for each virtual token (1 or more).
        seed: Of the random vectors, whose directions are uniform and whose lengths are those of the virtual tokens
            in turn (the cosine does not depend on them).

    Raises:
        AdapterError: The widths differ: this is another base, or the vectors are no input embeddings (prefix tuning).
    """
    import torch

    if prompt.ndim != 2 or prompt.shape[1] != vocabulary.shape[1]:
        raise AdapterError(
            f"A soft prompt of shape (virtual tokens, {vocabulary.shape[1]}) was expected, {tuple(prompt.shape)} came.",
            fix="Pass the base that the adapter was trained on.",
        )
    with torch.no_grad():
        prompt, words = prompt.detach().float().cpu(), vocabulary.detach().float().cpu()
        readable = _readable(words, tokenizer)
        norms = prompt.norm(dim=1)
        values, found = _nearest(prompt, words, readable, nearest)
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(CONTROL_DRAWS, prompt.shape[1], generator=generator)
        lengths = norms.repeat(-(-CONTROL_DRAWS // len(norms)))[:CONTROL_DRAWS]
        random = random / random.norm(dim=1, keepdim=True) * lengths[:, None]
        control_values, control_found = _nearest(random, words, readable, nearest)
        control, control_tight = control_values[:, 0], _tightness(control_found, words)
        high = float(control.quantile(CONTROL_QUANTILE))
        tight = _tightness(found, words)
    tokens = tuple(
        VirtualToken(
            position=row,
            norm=float(norms[row]),
            neighbours=tuple(
                Neighbour(int(token), _written(tokenizer, int(token)), float(value))
                for token, value in zip(found[row], values[row], strict=True)
            ),
            nearer_than_chance=float(values[row][0]) > high,
            tightness=float(tight[row]),
        )
        for row in range(len(prompt))
    )
    return SoftPrompt(
        tokens=tokens,
        vocabulary_norm=float(words[readable].norm(dim=1).mean()),
        control_mean=float(control.mean()),
        control_high=high,
        control_draws=CONTROL_DRAWS,
        control_tightness=float(control_tight.mean()),
        control_tightness_high=float(control_tight.quantile(CONTROL_QUANTILE)),
    )


def _tightness(found: Tensor, words: Tensor) -> Tensor:
    """Mean cosine of two of the words in each row of ids, shape (rows,); NaN where there is one word only."""
    import torch

    directions = torch.nn.functional.normalize(words[found], dim=2)
    count = found.shape[1]
    if count < 2:
        return torch.full((len(found),), math.nan)
    cosines = directions @ directions.transpose(1, 2)
    return (cosines.sum(dim=(1, 2)) - count) / (count * (count - 1))


def _readable(words: Tensor, tokenizer: PreTrainedTokenizerBase | None) -> Tensor:
    """Ids of the rows that stand for a text, shape (ids,)."""
    import torch

    if tokenizer is None:
        return (words.norm(dim=1) > 0).nonzero()[:, 0]
    known = torch.zeros(len(words), dtype=torch.bool)
    special = set(tokenizer.all_special_ids)
    known[[token for token in tokenizer.get_vocab().values() if token < len(words) and token not in special]] = True
    known &= words.norm(dim=1) > 0
    return known.nonzero()[:, 0]


def _nearest(vectors: Tensor, words: Tensor, readable: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and ids of the nearest words, both of shape (vectors, count), the nearest first."""
    import torch

    directions = torch.nn.functional.normalize(words[readable], dim=1)
    found = [
        (torch.nn.functional.normalize(rows, dim=1) @ directions.T).topk(min(count, len(readable)), dim=1)
        for rows in vectors.split(_ROWS_AT_ONCE)
    ]
    return torch.cat([part.values for part in found]), readable[torch.cat([part.indices for part in found])]


def _written(tokenizer: PreTrainedTokenizerBase | None, token: int) -> str:
    """A token as text; its own name where the text alone would be invisible."""
    if tokenizer is None:
        return f"#{token}"
    text = tokenizer.decode([token])
    readable = text.strip() and text.isprintable() and "\ufffd" not in text  # half a letter of some script
    return text if readable else str(tokenizer.convert_ids_to_tokens(token))
