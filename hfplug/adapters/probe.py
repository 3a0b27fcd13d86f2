"""The probe of an adapter: a few inputs, and a sample of the logits that its author saw on them.

Fingerprints tell whether a base is the right one; a probe tells whether the whole answers as it did: base, adapter,
head, vocabulary, tokenizer, quantisation and library versions together. It is computed once, on the finished adapter,
and stored in the lock as plain JSON of a few kilobytes::

    {"probe_version": 1, "dtype": "float32", "quantization": "none", "device": "cpu",
     "inputs": [{"text": str or None, "input_ids": [ids], "decoder_input_ids": [ids] or None,
                 "positions": [-8, -5, -1], "ids": [[ids] a position], "values": [[logits] a position],
                 "rms": [one number a position]}, ...]}

**Inputs.** Three rows, each of which goes through the model alone and unpadded: the task's prompt around a fixed
sentence (48 tokens at most), and two rows of 16 ids spread evenly over the vocabulary, of which one ends with the
vocabulary's last rows, where added tokens are. Ids that a configuration names as special (images, padding) are left
out. Encoder-decoder models get five decoder ids as well.

**Sample.** Of each row up to six positions, evenly spread and counted from the end, because a soft prompt lengthens
the output at its front. Of each position the four largest logits, twelve spread evenly over the vocabulary (all of
them where there are up to 16), and the root mean square over the whole vocabulary, which no change escapes.

**Comparison.** The largest absolute difference, divided by the root mean square of the stored logits. ``TOLERANCES``
says how large it may be for the coarser of the two number formats.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from hfplug.adapters.fingerprint import main_dtype
from hfplug.adapters.probe_checks import check_probe
from hfplug.adapters.task import Task
from hfplug.errors import AdapterError
from hfplug.models.ends import embedding_rows, embedding_weight

PROBE_VERSION = 1

# Share of the logits' root mean square. Measured with benchmarks/probe_tolerances.py; see the numbers there.
TOLERANCES: Mapping[str, float] = {"float64": 5e-4, "float32": 5e-4, "float16": 2e-2, "bfloat16": 1e-1}
_FOUR_BIT_TOLERANCE = 1e-1  # kernels of different machines unpack to, and multiply in, different formats
_OTHER_QUANTIZATION_TOLERANCE = 1.0  # four bits move the logits themselves; beyond this it is another model

_TEXT = "Anna: Is the report ready? Ben: Almost, I need 20 more minutes. Anna: Fine, then we meet at half past ten."
_LONGEST_TEXT = 48  # tokens
_LONGEST_IDS = 16
_DECODER_IDS = 5
_POSITIONS = 6
_TOP = 4
_SPREAD = 12


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What came of comparing a model with a probe.

    Attributes:
        verdict: ``"same"``, ``"different"``, or ``"other tokenizer"`` where the text gave other ids.
        largest: The largest difference, as a share of the logits' root mean square; infinite for NaN.
        tolerance: How large it may be.
        where: Which input and position the largest difference is at, in words.
        basis: What the tolerance was chosen for, e.g. ``"float32"``.
    """

    verdict: Literal["same", "different", "other tokenizer"]
    largest: float
    tolerance: float
    where: str
    basis: str

    def __str__(self) -> str:
        if self.verdict == "other tokenizer":
            return f"the tokenizer turns the probe's text into other ids ({self.where})"
        return (
            f"the largest difference to the author's logits is {self.largest:.2g} of their root mean square"
            f" ({self.where}), the tolerance for {self.basis} is {self.tolerance:g}"
        )


def make_probe(model: nn.Module, tokenizer: Any = None, *, task: Task | None = None) -> dict[str, Any]:
    """The probe of a finished model.

    The model is left as it was: training flags of every module, the random state, a forward that accelerate wrapped.

    Args:
        model: A PEFT or transformers model, bare or inside DistributedDataParallel, quantised or not.
        tokenizer: What it was trained with; without one there is no text among the inputs.
        task: What was taught; its prompt goes around the text.

    Returns:
        JSON values, as the module's docstring describes.

    Raises:
        AdapterError: The weights are spread over processes, the model takes no token ids, or a logit is not finite.
    """
    model = _unwrap(model)
    rows = _make_inputs(model, tokenizer, task)
    with _at_rest(model):
        measured = [_sample(row, _run(model, row)) for row in rows]
    if not all(math.isfinite(value) for row in measured for value in row["rms"]):
        raise AdapterError("Its logits are not finite (NaN or infinity).", fix="Train with a lower learning rate.")
    return {
        "probe_version": PROBE_VERSION,
        "dtype": main_dtype(model) or "float32",
        "quantization": _quantization(model),
        "device": _device(model).type,
        "inputs": measured,
    }


def compare_probe(
    probe: Mapping[str, Any], model: nn.Module, tokenizer: Any = None, *, adapter_dtype: str | None = None
) -> ProbeResult:
    """Run a probe's inputs through a model and compare what it says with what the author saw.

    Args:
        probe: From the lock.
        model: The loaded model. It is left as it was.
        tokenizer: If given, the probe's text must give the same ids with it.
        adapter_dtype: The number format that the adapter's weights are stored in, if it is coarser than what the
            author had in memory.

    Raises:
        AdapterError: ``probe`` is of a later version or is damaged, or the model cannot be run on its inputs.
    """
    check_probe(probe, newest=PROBE_VERSION)
    model = _unwrap(model)
    tolerance, basis = _tolerance(probe, model, adapter_dtype)
    limit = TOLERANCES["float32"]
    try:
        for number, row in enumerate(probe["inputs"]):
            if row.get("text") and tokenizer is not None:
                ids = _encode(row["text"], tokenizer, model, len(row["input_ids"]))
                if ids != list(row["input_ids"]):
                    where = f"input {number + 1}: {_first_difference(ids, row['input_ids'])}"
                    return ProbeResult(
                        verdict="other tokenizer", largest=math.inf, tolerance=limit, where=where, basis=basis
                    )
        with _at_rest(model):
            found = [_values_at(row, _run(model, row)) for row in probe["inputs"]]
        largest, where = _largest_difference(probe["inputs"], found)
    except (KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"The probe in the lock is damaged: {error!r}.", fix="Export the adapter again.") from error
    except (RuntimeError, IndexError, ValueError) as error:
        raise AdapterError(
            f"The model cannot be run on the probe's inputs: {_first_line(error)}",
            fix="Pass the base that the adapter was trained on.",
        ) from error
    verdict: Literal["same", "different"] = "same" if largest <= tolerance else "different"
    return ProbeResult(verdict=verdict, largest=largest, tolerance=tolerance, where=where, basis=basis)


# ------------------------------------------------------------------------------------------------- inputs


def _make_inputs(model: nn.Module, tokenizer: Any, task: Task | None) -> list[dict[str, Any]]:
    rows = embedding_rows(model)
    if not rows:
        raise AdapterError("The model has no embedding of token ids.", fix="Nothing needs to be done.")
    room = _room(model)
    usable = _usable_ids(model, rows)
    length = min(_LONGEST_IDS, room)
    ids = [_spread(usable, length), [*_spread(usable[: max(1, 2 * rows // 3)], length - 2), *usable[-2:]]]
    inputs: list[dict[str, Any]] = []
    if tokenizer is not None:
        text = task.render(_TEXT) if task is not None else _TEXT
        encoded = _encode(text, tokenizer, model, min(_LONGEST_TEXT, room))
        if encoded and max(encoded) < rows:
            inputs.append({"text": text, "input_ids": encoded})
    inputs += [{"text": None, "input_ids": _ended(row, model)} for row in ids]
    decoder = _decoder_ids(model, usable)
    return [{**row, "decoder_input_ids": decoder} for row in inputs]


def _encode(text: str, tokenizer: Any, model: nn.Module, limit: int) -> list[int]:
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
    ids = [int(one) for one in tokenizer(text)["input_ids"]]
    return ids if len(ids) <= limit else _ended(ids[:limit], model)


def _ended(ids: list[int], model: nn.Module) -> list[int]:
    """With the end token that some encoder-decoders look for (BART takes a classifier's input from there)."""
    config = _config(model)
    end = getattr(config, "eos_token_id", None)
    wants_end = getattr(config, "is_encoder_decoder", False) and isinstance(end, int)
    return [*ids[:-1], int(end)] if wants_end and end is not None else ids


def _usable_ids(model: nn.Module, rows: int) -> list[int]:
    """Every id but those that stand for something else than text."""
    config = _config(model)
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    special = {
        value for name, value in values.items() if isinstance(value, int) and name.endswith(("token_id", "token_index"))
    }
    return [one for one in range(rows) if one not in special] or list(range(rows))


def _spread(values: Sequence[int], count: int) -> list[int]:
    """``count`` of the values, evenly spread and in a mixed order."""
    count = max(1, count)
    chosen = [values[(index * len(values)) // count] for index in range(count)]
    return chosen[::2] + chosen[1::2]


def _decoder_ids(model: nn.Module, usable: Sequence[int]) -> list[int] | None:
    base = _base(model)
    config = _config(model)
    if not getattr(config, "is_encoder_decoder", False) or not getattr(base, "can_generate", bool)():
        return None
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    starts = [one for name in names if isinstance(one := getattr(config, name, None), int)]
    return [*(starts or [0])[:1], *_spread(usable, _DECODER_IDS - 1)]


def _room(model: nn.Module) -> int:
    """How many tokens fit beside the virtual ones; models with learnt positions have an end."""
    positions = getattr(_config(model), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return _LONGEST_TEXT
    configs = getattr(model, "peft_config", {}).values()
    virtual = max((getattr(one, "num_virtual_tokens", None) or 0 for one in configs), default=0)
    return max(3, min(_LONGEST_TEXT, positions - virtual - 2))  # RoBERTa starts to count at 2


# ------------------------------------------------------------------------------------------------ running


@contextlib.contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, without gradients, in its own number format; everything is put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    device = _device(model)
    devices = [device] if device.type == "cuda" else []
    # With mixed precision accelerate sets a forward on the object that casts; whoever loads the adapter has none.
    wrapped = model.__dict__.get("forward")
    original = model.__dict__.get("_original_forward")
    if wrapped is not None and original is not None:
        model.forward = original
    # In eval mode bitsandbytes repacks 4-bit layers on some CPUs, for good: no gradient would pass them any more.
    flag = "support_avx512bf16_for_cpu"
    repacking = {module: getattr(module, flag) for module in modes if hasattr(module, flag)}
    try:
        for module in repacking:
            setattr(module, flag, False)
        model.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            # Reformer hashes with random numbers, in eval mode too. Only what is put back is seeded.
            torch.default_generator.manual_seed(0)
            for one in devices:
                with torch.cuda.device(one):
                    torch.cuda.manual_seed(0)
            yield
    finally:
        if wrapped is not None and original is not None:
            model.forward = wrapped
        for module, value in repacking.items():
            setattr(module, flag, value)
        for module, mode in modes.items():
            module.training = mode


def _run(model: nn.Module, row: Mapping[str, Any]) -> torch.Tensor:
    """The model's logits on one row, in float32: (positions, vocabulary), or (1, labels)."""
    device = _device(model)
    ids = torch.tensor([row["input_ids"]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if row.get("decoder_input_ids"):
        inputs["decoder_input_ids"] = torch.tensor([row["decoder_input_ids"]], device=device)
    output = model(**inputs)
    for name in ("logits", "start_logits", "last_hidden_state"):
        scores = getattr(output, name, None)
        if isinstance(scores, torch.Tensor):
            break
    else:
        raise AdapterError(f"A {type(_base(model)).__name__} returns no logits.", fix="Nothing needs to be done.")
    return scores.detach()[0].float().cpu().reshape(-1, scores.shape[-1])


def _sample(row: Mapping[str, Any], scores: torch.Tensor) -> dict[str, Any]:
    length, width = scores.shape
    count = min(_POSITIONS, length)
    positions = sorted({-1 - (index * length) // count for index in range(count)})
    ids = []
    for position in positions:
        spread = range(width) if width <= _TOP + _SPREAD else [(i * width) // _SPREAD for i in range(_SPREAD)]
        top = torch.topk(scores[position], min(_TOP, width)).indices.tolist()
        ids.append(sorted({*spread, *top}))
    sampled = {**row, "positions": positions, "ids": ids}
    values, rms = _values_at(sampled, scores)
    shown = [[_short(value) for value in line] for line in values]
    return {**sampled, "values": shown, "rms": [_short(value) for value in rms]}


def _values_at(row: Mapping[str, Any], scores: torch.Tensor) -> tuple[list[list[float]], list[float]]:
    lines = [scores[position] for position in row["positions"]]
    values = [line[torch.tensor(ids)].tolist() for line, ids in zip(lines, row["ids"], strict=True)]
    return values, [line.square().mean().sqrt().item() for line in lines]


def _largest_difference(
    inputs: Sequence[Mapping[str, Any]], found: Sequence[tuple[list[list[float]], list[float]]]
) -> tuple[float, str]:
    squares = [value * value for row in inputs for value in row["rms"]]
    scale = math.sqrt(sum(squares) / len(squares)) or 1.0
    largest, where = 0.0, "nowhere"
    for number, (row, (values, rms)) in enumerate(zip(inputs, found, strict=True)):
        for index, position in enumerate(row["positions"]):
            pairs = [*zip(row["values"][index], values[index], strict=True), (row["rms"][index], rms[index])]
            difference = max(abs(a - b) if math.isfinite(b) else math.inf for a, b in pairs) / scale
            if difference > largest:
                largest, where = difference, f"input {number + 1}, position {position}"
    return largest, where


# -------------------------------------------------------------------------------------------------- model


def _unwrap(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile.

    Raises:
        AdapterError: Its weights are spread over processes, so that one alone cannot run it.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if inner is None:
            break
        model = inner
    sharded = any(type(module).__name__.startswith(("FullySharded", "FSDP")) for module in model.modules())
    parts = any(hasattr(p, "ds_id") or type(p.data).__name__ == "DTensor" for p in model.parameters())
    if sharded or parts:
        # A forward pass waits for the other processes, which are not in it.
        raise AdapterError("Its weights are spread over processes.", fix="Load it in one process to verify it.")
    return model


def _base(model: nn.Module) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def _config(model: nn.Module) -> Any:
    config: Any = getattr(_base(model), "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _device(model: nn.Module) -> torch.device:
    weight = embedding_weight(_base(model))
    device = weight.device if weight is not None else next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device  # offloaded: accelerate moves the inputs


def _quantization(model: nn.Module) -> str:
    config = getattr(getattr(_base(model), "config", None), "quantization_config", None)
    if not config:
        return "none"
    values = config if isinstance(config, dict) else config.to_dict()
    if values.get("load_in_4bit"):
        return "4-bit"
    return "8-bit" if values.get("load_in_8bit") else str(values.get("quant_method") or "quantised")


def _tolerance(probe: Mapping[str, Any], model: nn.Module, adapter_dtype: str | None) -> tuple[float, str]:
    here, there = _quantization(model), str(probe.get("quantization") or "none")
    if here != there:
        return _OTHER_QUANTIZATION_TOLERANCE, f"{there} (author) against {here} (here)"
    dtypes = {str(probe.get("dtype")), main_dtype(model) or "float32", adapter_dtype or "float32"}
    coarsest = max((name for name in dtypes if name in TOLERANCES), key=lambda name: TOLERANCES[name])
    if here != "none":
        return max(_FOUR_BIT_TOLERANCE, TOLERANCES[coarsest]), here
    return TOLERANCES[coarsest], coarsest


def _first_difference(found: Sequence[int], stored: Sequence[int]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, stored, strict=False)) if a != b), min(len(found), len(stored)))
    shown = [str(ids[at]) if at < len(ids) else "the end" for ids in (found, stored)]
    return f"at token {at + 1} {shown[0]} instead of {shown[1]}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _short(value: float) -> float:
    return float(f"{value:.7g}")
