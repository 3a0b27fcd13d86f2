"""Real, tiny bases with tokenizers, adapters on them, and what plain transformers and PEFT answer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.task import Task
from hfplug.demo.base import base_path
from hfplug.demo.world import generate
from hfplug.models.factory import build_model
from hfplug.training.exporter import lock_of, with_probe
from hfplug.training.preprocess import Preprocessor

TASK = Task(
    name="summary",
    prompt="Summarize.\n\n{dialogue}\n\nSummary:",
    max_input_tokens=96,
    decoding={"max_new_tokens": 12, "do_sample": False, "num_beams": 1},
)
DIALOGUES = [row["dialogue"] for row in generate("test", 8)]


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's: half a character may be a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(DIALOGUES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")


def write_base(kind: str, folder: Path) -> Path:
    """A very small random model with a tokenizer: ``t5``, ``llama`` or ``gpt2``.

    The output is made sharp, so that greedy answers differ from token to token and between adapters.
    """
    torch.manual_seed(0)
    if kind == "gpt2":
        tokenizer = byte_level_tokenizer()
        model: Any = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.4,
                bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
    else:
        tokenizer = AutoTokenizer.from_pretrained(base_path())
        size = len(tokenizer)
        if kind == "t5":
            model = T5ForConditionalGeneration(
                T5Config(
                    vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, initializer_factor=3.0,
                    decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
                )
            )  # fmt: skip
        else:
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                    initializer_range=0.4, bos_token_id=None, eos_token_id=1, pad_token_id=0,
                )
            )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_adapter(
    base: Path, method: str, folder: Path, *, seed: int = 1, task: Task | None = TASK, **settings: Any
) -> Path:
    """An adapter with weights drawn from ``seed``, with its lock and probe, as an export leaves it."""
    model: Any = build_model(base, method, dtype="float32", **settings)
    tokenizer = AutoTokenizer.from_pretrained(base)
    lock = lock_of(model, tokenizer, task=task)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3 * parameter.std().clamp(min=0.3))
    lock, _ = with_probe(lock, model.eval(), tokenizer, task=task)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        AdapterDir.write(folder, source=saved, lock=lock, task=task, card="", tokenizer_files=[])
    return folder


def plain_answer(
    base: Path, adapter: Path | None, text: str, *, task: Task = TASK, tokens: str = "no", **decoding: Any
) -> Any:
    """What ``generate`` of transformers answers on a fresh model, with one prompt and no padding."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(base)
    folder = AdapterDir.open(adapter) if adapter is not None else None
    source = adapter if folder is not None and folder.kind == "full" else base
    encoder_decoder = bool(AutoConfig.from_pretrained(base).is_encoder_decoder)
    auto = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    model: Any = auto.from_pretrained(source, dtype=torch.float32)
    virtual = 0
    if folder is not None and folder.kind == "peft":
        model = PeftModel.from_pretrained(model, adapter)
        virtual = int(folder.config.get("num_virtual_tokens") or 0)
    preprocessor = Preprocessor(task, tokenizer, encoder_decoder=encoder_decoder, reserve=virtual)
    ids = torch.tensor([preprocessor.prompt(text).input_ids])
    stops = preprocessor.stop_token_ids
    settings = {**task.decoding, **decoding}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    with torch.inference_mode():
        output = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=stops, pad_token_id=pad, **settings
        )
    new = output[0, 1 if encoder_decoder else ids.shape[1] :].tolist()
    if tokens == "yes":
        return new
    return tokenizer.decode(new, skip_special_tokens=True).strip()
