"""Real, tiny bases and adapters for the tests of pushing; made in milliseconds."""

from __future__ import annotations

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

BASE = "alice/tiny-t5"


def make_t5(seed=0):
    torch.manual_seed(seed)
    config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config).eval()


def make_llama(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def make_tokenizer(words=("the", "cat", "sat")):
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def save_lora(folder, *, base, task_type="SEQ_2_SEQ_LM", seed=1, model=None):
    """What PEFT alone leaves: LoRA weights drawn from ``seed``, over a base that is at ``base``."""
    return _save(folder, LoraConfig(task_type=task_type, r=2), base, model or make_t5(), seed)


def save_prompt(folder, *, base, seed=1):
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_transformer_submodules=1)
    return _save(folder, config, base, make_t5(), seed)


def _save(folder, config, base, model, seed):
    model.name_or_path = model.config._name_or_path = str(base)
    tuned = get_peft_model(model, config)
    torch.manual_seed(seed)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(folder, save_embedding_layers=False)  # else it asks the Hub about the base
    tuned.eval()
    return tuned


def logits(model):
    ids = torch.arange(6).reshape(1, 6)
    extra = {"decoder_input_ids": ids[:, :3]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits
