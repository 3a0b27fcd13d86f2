"""A tiny chat model for examples and tests that must run without a network: made here, not downloaded."""

from __future__ import annotations

from pathlib import Path

from hfplug.demo.base import base_path

# Each turn opens with a token of its own (a spare one of the built-in tokenizer) and is closed by the end-of-text
# token, so that the tokens of a question stay the same whatever answer follows.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<extra_id_1>' if message['role'] == 'assistant' else '<extra_id_0>' }}{{ message['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<extra_id_1>{% endif %}"
)


def write_chat_base(folder: str | Path, *, seed: int = 0) -> Path:
    """Write a Llama of some 600,000 random weights with the built-in tokenizer and a chat template.

    It has learnt nothing, so its answers mean nothing: it is there to show and to test what happens around a
    causal model. The initial weights are drawn five times wider than usual (0.1 instead of 0.02), because the
    frozen output matrix of a narrow model could otherwise not tell words apart, whatever an adapter learnt.

    Args:
        folder: Where to write it. A model that is there already is left as it is.
        seed: Of the weights.

    Returns:
        ``folder``.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():  # the caller's random state stays as it was
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
