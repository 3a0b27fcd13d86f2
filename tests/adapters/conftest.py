"""Real, tiny models for the tests of adapters. They take milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)


def _t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    )


def _bert() -> PreTrainedModel:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_labels=3,
        )
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PreTrainedModel]:
    """``make_model("t5" | "llama" | "bert", seed)``: a tiny random model, the same for the same seed."""
    makers = {"t5": _t5, "llama": _llama, "bert": _bert}

    def make(kind: str = "t5", seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        return makers[kind]().eval()

    return make


@pytest.fixture
def make_checkpoint(tmp_path: Path, make_model: Callable[..., PreTrainedModel]) -> Callable[..., Path]:
    """``make_checkpoint(seed)``: a folder as Trainer leaves it, with LoRA weights drawn from the seed."""

    def make(seed: int = 0, name: str = "checkpoint-3") -> Path:
        model = get_peft_model(make_model(), LoraConfig(task_type="SEQ_2_SEQ_LM", r=2))
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        folder = tmp_path / "run" / name
        model.save_pretrained(folder)
        for pickle in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth"):
            (folder / pickle).write_bytes(b"\x80never read")
        (folder / "trainer_state.json").write_text("{}")
        return folder

    return make


@pytest.fixture
def make_small_source(tmp_path: Path) -> Callable[..., Path]:
    """``make_small_source(name, value)``: the least that is an adapter, one tensor full of ``value``."""

    def make(name: str = "source", value: float = 0.0) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "task_type": "CAUSAL_LM"}')
        save_file({"layer.lora_A.weight": torch.full((2, 3), value)}, folder / "adapter_model.safetensors")
        return folder

    return make
