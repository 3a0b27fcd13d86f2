"""Tiny bases of four kinds and an adapter of every method on them, each with weights that matter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import hfplug
from hfplug.adapters.load import load_adapter
from hfplug.errors import MethodError

KINDS = ("llama", "gpt2", "t5", "bart")
VOCABULARY = 96
_TOKENS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}


def make_base(kind: str) -> Any:
    """A tiny random model whose answers depend on its input."""
    torch.manual_seed(7)
    if kind == "llama":
        config: Any = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3, tie_word_embeddings=True, **_TOKENS,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, **_TOKENS
        )
        return GPT2LMHeadModel(config).eval()
    if kind == "t5":
        config = T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, initializer_factor=2.0,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )  # fmt: skip
        return T5ForConditionalGeneration(config).eval()
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.3,
        decoder_start_token_id=1, forced_eos_token_id=None, **_TOKENS,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


def save_base(kind: str, folder: Path) -> Path:
    """A folder with a base and a tokenizer for it."""
    make_base(kind).save_pretrained(folder)
    words = ["<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(3, VOCABULARY))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(folder)
    return folder


def load_plain(folder: Path) -> Any:
    """The base as transformers loads it."""
    config = AutoConfig.from_pretrained(folder)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_pretrained(folder).eval()


# ---------------------------------------------------------------------------------------------- adapters

_ATTENTION = {
    "llama": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
}
_FEED_FORWARD = {"llama": ["down_proj"], "gpt2": ["mlp.c_proj"], "t5": ["wo"], "bart": ["fc2"]}
_NORMS = {
    "llama": ["input_layernorm", "post_attention_layernorm"],
    "gpt2": ["ln_1", "ln_2"],
    "t5": ["layer_norm"],
    "bart": ["self_attn_layer_norm", "final_layer_norm"],
}
_HEADS = {"llama": 2, "gpt2": 4, "t5": 4, "bart": 4}


def _task(kind: str) -> str:
    return "CAUSAL_LM" if kind in ("llama", "gpt2") else "SEQ_2_SEQ_LM"


def _lora(kind: str, **more: Any) -> Any:
    settings = {"target_modules": _ATTENTION[kind], "r": 3, "lora_alpha": 6, "fan_in_fan_out": kind == "gpt2", **more}
    return LoraConfig(task_type=_task(kind), **settings)


def _prompt(cls: Any, kind: str, **more: Any) -> Any:
    shape = {"token_dim": 32, "num_layers": 2, "num_attention_heads": 4, "num_transformer_submodules": 1}
    return cls(task_type=_task(kind), num_virtual_tokens=5, **{**shape, **more})


def _prefix(kind: str) -> Any:
    heads = _HEADS[kind]
    # Of an encoder-decoder PEFT takes every second pair, so one layer more than there are is laid out.
    layers = 2 if _task(kind) == "CAUSAL_LM" else 3
    return PrefixTuningConfig(
        task_type=_task(kind), num_virtual_tokens=4, num_layers=layers, num_attention_heads=heads, token_dim=8 * heads,
        num_transformer_submodules=1 if _task(kind) == "CAUSAL_LM" else 2,
    )  # fmt: skip


# Of PEFT, whether hfplug has a method for it or not.
PEFT_VARIANTS: dict[str, Callable[[str], Any]] = {
    "lora": _lora,
    "rslora": lambda kind: _lora(kind, use_rslora=True, r=5),
    "dora": lambda kind: _lora(kind, use_dora=True),
    "lora_bias": lambda kind: _lora(kind, bias="all", target_modules=_FEED_FORWARD[kind]),
    "lora_and_head": lambda kind: _lora(kind, modules_to_save=["lm_head"]),
    "lora_tokens": lambda kind: _lora(
        kind, trainable_token_indices={{"llama": "embed_tokens", "gpt2": "wte"}.get(kind, "shared"): [5, 17, 40]}
    ),
    "pissa": lambda kind: _lora(kind, init_lora_weights="pissa"),
    "ia3": lambda kind: IA3Config(
        task_type=_task(kind),
        target_modules=[*_ATTENTION[kind], *_FEED_FORWARD[kind]],
        feedforward_modules=_FEED_FORWARD[kind],
        fan_in_fan_out=kind == "gpt2",
    ),
    "prompt": lambda kind: _prompt(PromptTuningConfig, kind),
    "p_tuning_peft": lambda kind: _prompt(PromptEncoderConfig, kind, encoder_hidden_size=16),
    "prefix": _prefix,
    "layer_norm": lambda kind: LNTuningConfig(task_type=_task(kind), target_modules=_NORMS[kind]),
    "vera": lambda kind: VeraConfig(
        task_type=_task(kind), target_modules=_ATTENTION[kind][:1], r=4, fan_in_fan_out=kind == "gpt2"
    ),
    "oft": lambda kind: OFTConfig(task_type=_task(kind), target_modules=_FEED_FORWARD[kind], oft_block_size=8, r=0),
}
# OFT has no layer for gpt2's Conv1D.
_NOT_OF_PEFT = {("gpt2", "oft")}
# Of hfplug: every method that can be trained over weights that are not quantised.
METHODS = tuple(
    name for name in hfplug.method_names() if name != "full" and hfplug.get_method(name)().quantization() is None
)
VARIANTS = (*PEFT_VARIANTS, *(f"hfplug:{name}" for name in METHODS), "full")


def shake(model: Any, seed: int, size: float = 0.4) -> Any:
    """Stands in for training: every trainable weight moves, and so far that the answers do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def make_adapter(base: Path, kind: str, variant: str, folder: Path) -> Path:
    """The folder of an adapter, as PEFT's ``save_pretrained`` writes it."""
    model = load_plain(base)
    seed = 100 + VARIANTS.index(variant)
    torch.manual_seed(seed)
    if variant == "full":
        shake(model.requires_grad_(True), seed, 0.1).save_pretrained(folder)
        return folder
    if variant.startswith("hfplug:"):
        tuned = hfplug.apply_method(model, variant.removeprefix("hfplug:"))
    else:
        tuned = get_peft_model(model, PEFT_VARIANTS[variant](kind))
    shake(tuned, seed).save_pretrained(folder)
    return folder


@functools.cache
def _cached(base: str, kind: str, variant: str) -> str | None:
    folder = Path(base).parent / f"{kind}-{variant.replace(':', '-')}"
    if (kind, variant) in _NOT_OF_PEFT:
        return None
    try:
        return str(make_adapter(Path(base), kind, variant, folder))
    except MethodError:
        return None  # hfplug's method does not work on this kind of model


def adapter_of(base: Path, kind: str, variant: str) -> Path | None:
    """As :func:`make_adapter`, once a session; None if the method refuses this kind of model."""
    made = _cached(str(base), kind, variant)
    return None if made is None else Path(made)


# ------------------------------------------------------------------------------------------------ asking

PROMPTS = ([11, 23, 5, 42, 17, 33, 8], [61, 7, 29], [5, 17, 40, 72, 14])
NEW_TOKENS = 5


def ask(model: Any, inputs: dict[str, Any], cut: int = 0, new_tokens: int = NEW_TOKENS) -> tuple[Any, torch.Tensor]:
    """Greedy tokens and the logits of every step, shape (rows, steps, vocabulary)."""
    with torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, num_beams=1,
            pad_token_id=0, return_dict_in_generate=True, output_logits=True, logits_processor=LogitsProcessorList(),
        )  # fmt: skip
    return output.sequences[:, cut:], torch.stack(output.logits, dim=1)


def ask_plain(model: Any, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    """One row alone, by the model's own ``generate``."""
    ids = torch.tensor([prompt])
    tokens, logits = ask(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return tokens[0, -NEW_TOKENS:].tolist(), logits[0]


@functools.cache
def alone(base: str, kind: str, variant: str, prompt: tuple[int, ...]) -> tuple[list[int], torch.Tensor]:
    """What a variant says on a fresh base, loaded the ordinary way, one row at a time."""
    if variant == "base":
        return ask_plain(load_plain(Path(base)), list(prompt))
    folder = adapter_of(Path(base), kind, variant)
    assert folder is not None
    return ask_plain(load_adapter(folder, base=base), list(prompt))


def off_by(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of logits, as a share of the expected ones' root mean square."""
    return float((found - expected).abs().max() / expected.square().mean().sqrt())
