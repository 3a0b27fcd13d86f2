"""How an answer is written: one token after the other by the largest logit, drawn by chance, or by beam search.

Settings come from three places. What a request says goes before what its task says, and that before what the
model's own ``generation_config.json`` says. Unlike in ``generate``, an answer is greedy unless the request or the
task asks for chance: a chat model's file often asks for it, and then no two runs are alike.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfplug.errors import ServingError, did_you_mean

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

# Of transformers, where neither a request, nor a task, nor the model says anything (GenerationConfig, 5.23).
_DEFAULT_TOP_K = 50
# Applied to a row by itself, in this order (as transformers does).
WARPERS = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
# What a task may ask of ``generate`` beyond the fields of Decoding; rows that differ in it do not share a pass.
_FURTHER = (
    *("min_new_tokens", "length_penalty", "early_stopping", "bad_words_ids", "suppress_tokens", "use_cache"),
    *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "renormalize_logits"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "encoder_no_repeat_ngram_size"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "encoder_repetition_penalty"),
)
_OWN = ("max_new_tokens", "do_sample", "temperature", "num_beams", "repetition_penalty", "no_repeat_ngram_size")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings of one request. None means: as its task says, else as the model itself says.

    Args:
        max_new_tokens: Tokens of the answer at most, its end token counted (1 or more).
        temperature: 0 takes the most likely token; above 0 tokens are drawn, the flatter the higher.
        top_p: Draw among the most likely tokens that together have this probability (above 0, up to 1).
        top_k: Draw among this many most likely tokens; 0 among all.
        repetition_penalty: Above 1 makes tokens that are there already less likely (Keskar et al. 2019).
        no_repeat_ngram_size: No run of this many tokens comes twice; 0 allows it.
        num_beams: Width of a beam search; 1 is none. Beams are never drawn by chance.
        seed: What is drawn depends on the seed, the prompt and the settings, and on nothing else.

    Raises:
        ServingError: A value is of another type or out of its range, or beams are combined with a temperature.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    num_beams: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require("max_new_tokens", self.max_new_tokens, "a whole number, 1 or more", lambda v: v >= 1, int)
        _require("temperature", self.temperature, "a number from 0 to 100", lambda v: 0 <= v <= 100)
        _require("top_p", self.top_p, "a number above 0, up to 1", lambda v: 0 < v <= 1)
        _require("top_k", self.top_k, "a whole number, 0 or more", lambda v: v >= 0, int)
        _require("repetition_penalty", self.repetition_penalty, "a number above 0, up to 100", lambda v: 0 < v <= 100)
        _require("no_repeat_ngram_size", self.no_repeat_ngram_size, "a whole number, 0 or more", lambda v: v >= 0, int)
        _require("num_beams", self.num_beams, "a whole number from 1 to 16", lambda v: 1 <= v <= 16, int)
        _require("seed", self.seed, "a whole number", lambda v: True, int)
        if (self.num_beams or 1) > 1 and (self.temperature or 0) > 0:
            raise ServingError(
                f"num_beams={self.num_beams} and temperature={self.temperature} exclude each other here.",
                fix="Pass num_beams=1 to draw by chance, or temperature=0 to search with beams.",
            )


def _require(name: str, value: Any, what: str, holds: Any, kind: type | tuple[type, ...] = (int, float)) -> None:
    if value is None and name != "seed":
        return
    if isinstance(value, bool) or not isinstance(value, kind) or not holds(value):
        raise ServingError(f"{name} must be {what}, not {value!r}.", fix=f"Pass another {name}, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What holds for one request after all was looked up.

    Attributes:
        max_new_tokens: Tokens of the answer at most.
        temperature: 0 for greedy.
        warpers: What narrows the choice when drawing: (name as in ``generate``, value), in order.
        repetition_penalty: 1 for none.
        no_repeat_ngram_size: 0 for none.
        num_beams: 1 for none.
        seed: For drawing.
        further: Other keyword arguments of ``generate``.
    """

    max_new_tokens: int
    temperature: float
    warpers: tuple[tuple[str, float], ...]
    repetition_penalty: float
    no_repeat_ngram_size: int
    num_beams: int
    seed: int
    further: Mapping[str, Any]

    def shortened(self, max_new_tokens: int) -> Settled:
        """The same with at most so many new tokens."""
        return dataclasses.replace(self, max_new_tokens=min(self.max_new_tokens, max_new_tokens))

    def sharing_key(self) -> str:
        """Rows of which this is equal may be written by one call of ``generate``."""
        # The token that ends an answer of full length is put in by the length of the call, not that of the row.
        forced = self.max_new_tokens if self.further.get("forced_eos_token_id") is not None else None
        alone = id(self) if self.num_beams > 1 else None
        return repr((sorted(self.further.items()), forced, alone))


def settle(
    decoding: Decoding | None, task_decoding: Mapping[str, Any], own: GenerationConfig, *, most_new_tokens: int
) -> Settled:
    """Look up every setting of a request.

    Args:
        decoding: What the request says.
        task_decoding: What its task says, as keyword arguments of ``generate``.
        own: The model's own settings.
        most_new_tokens: The service's limit. A request that asks for more is refused; a task's wish is cut.

    Raises:
        ServingError: A setting is unknown, out of range or more than is allowed.
    """
    asked = decoding or Decoding()
    further = _further(task_decoding)
    task = Decoding(**{name: value for name, value in _of_task(task_decoding).items() if value is not None})

    def look_up(name: str, default: Any) -> Any:
        for place in (asked, task, own):
            value = getattr(place, name, None)
            if value is not None:
                return value
        return default

    if asked.max_new_tokens is not None and asked.max_new_tokens > most_new_tokens:
        raise ServingError(
            f"max_new_tokens={asked.max_new_tokens} is more than the {most_new_tokens} that this service allows.",
            fix=f"Pass max_new_tokens={most_new_tokens} or less.",
        )
    temperature = _temperature(asked, task, task_decoding, own)
    beams = 1 if (asked.temperature or 0) > 0 else look_up("num_beams", 1)
    if beams > 1 and temperature > 0:
        raise ServingError(
            f"The task asks for {beams} beams and for chance (do_sample), which exclude each other here.",
            fix="Pass Decoding(num_beams=1) or Decoding(temperature=0).",
        )
    found = {"top_k": look_up("top_k", _DEFAULT_TOP_K), "top_p": look_up("top_p", 1.0)}
    for name in WARPERS[2:]:
        found[name] = task_decoding.get(name, getattr(own, name, None))
    return Settled(
        max_new_tokens=min(look_up("max_new_tokens", most_new_tokens), most_new_tokens),
        temperature=temperature,
        warpers=tuple((name, found[name]) for name in WARPERS if found[name]) if temperature > 0 else (),
        repetition_penalty=float(look_up("repetition_penalty", 1.0)),
        no_repeat_ngram_size=look_up("no_repeat_ngram_size", 0),
        num_beams=beams,
        seed=asked.seed,
        further=further,
    )


def _temperature(asked: Decoding, task: Decoding, task_decoding: Mapping[str, Any], own: GenerationConfig) -> float:
    if asked.temperature is not None:
        return float(asked.temperature)
    if (asked.num_beams or 1) > 1 or not task_decoding.get("do_sample", False):
        return 0.0
    given = task.temperature if task.temperature is not None else getattr(own, "temperature", None)
    return float(given if given is not None else 1.0)


def _of_task(task_decoding: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Decoding that a task sets. What only matters when drawing is no contradiction when it does not."""
    names = {"max_new_tokens", "top_p", "top_k", "repetition_penalty", "no_repeat_ngram_size", "num_beams"}
    if task_decoding.get("do_sample") and (task_decoding.get("num_beams") or 1) == 1:
        names.add("temperature")
    return {name: task_decoding.get(name) for name in names}


def _further(task_decoding: Mapping[str, Any]) -> dict[str, Any]:
    known = {*_OWN, *WARPERS}
    further = {name: value for name, value in task_decoding.items() if name not in known}
    for name in further:
        if name not in _FURTHER:
            hint = did_you_mean(name, [*_OWN, *WARPERS, *_FURTHER])
            raise ServingError(
                f"The task's decoding holds {name!r}, which is not served.",
                fix="Pass max_new_tokens instead." if "max_length" in name else hint or None,
            )
    return further


def make_generation_config(
    own: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    decoding: Mapping[str, Any],
    stop_token_ids: Sequence[int] = (),
) -> GenerationConfig:
    """A model's own generation settings with others on top, in a copy.

    Args:
        own: The model's; not changed.
        tokenizer: For the padding token where the model has none; None if there is no tokenizer.
        decoding: Keyword arguments of ``generate``.
        stop_token_ids: Ids that end an answer, beside the model's own.

    Returns:
        Settings with ``eos_token_id`` as a list or None, and with a padding token.
    """
    config = copy.deepcopy(own)
    if not decoding.get("do_sample", False):
        # Sampling settings of a chat model's own file would only draw warnings under greedy decoding.
        config.temperature = config.top_p = config.top_k = None
    config.max_length = None
    config.update(**dict(decoding))
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    stops = [token for token in (*ends, *stop_token_ids) if token is not None]
    config.eos_token_id = list(dict.fromkeys(stops)) or None
    if config.pad_token_id is None:
        pad = getattr(tokenizer, "pad_token_id", None)
        config.pad_token_id = pad if pad is not None else (stops[0] if stops else 0)
    return config


def pass_config(
    own: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Settled],
    stop_token_ids: Sequence[int],
) -> GenerationConfig:
    """The settings of one call of ``generate`` for rows of one sharing key.

    What differs from row to row (chance, penalties, length) is left out: :class:`~hfplug.serving.sampling.RowChoice`
    and :class:`~hfplug.serving.streaming.RowWatch` see to it.
    """
    shared = dict(rows[0].further) | {
        "max_new_tokens": max(row.max_new_tokens for row in rows),
        "do_sample": False,
        "num_beams": rows[0].num_beams,
        "num_return_sequences": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "return_dict_in_generate": False,
    }
    return make_generation_config(own, tokenizer, shared, stop_token_ids)
