"""The tokenizer of the built-in base: byte-fallback BPE, T5's special tokens, one ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTINELS = tuple(f"<extra_id_{n}>" for n in range(32))
_SPACE = "\u2581"  # stands for a blank, as in sentencepiece


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A tokenizer learnt from ``texts``.

    A word carries its blank in front, also at the start of a line, so that a name is the same tokens
    wherever it stands; that makes copying names easier to learn. Line breaks are tokens of their own, and
    what the vocabulary lacks falls back to bytes: every text comes back as it was.

    Args:
        texts: What to learn from.
        size: Number of tokens, the 256 bytes, T5's sentinels and the special tokens included.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Prepend(_SPACE),
            normalizers.Replace(" ", _SPACE),
            normalizers.Replace("\n", "\n" + _SPACE),
            normalizers.Replace("\n" + _SPACE + "\n", "\n\n"),
        ]
    )
    pattern = rf"{_SPACE}?[A-Za-z]+|'[a-z]+|{_SPACE}?[0-9]+|\n+|{_SPACE}?[^A-Za-z0-9\n]"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace("\n" + _SPACE, "\n"),
            decoders.Replace(_SPACE, " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<pad>", "</s>", "<unk>", *SENTINELS]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        limit_alphabet=200,
        min_frequency=3,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _without_special_bytes(tokenizer, len(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(SENTINELS),
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _without_special_bytes(tokenizer: Tokenizer, keep: int) -> Tokenizer:
    """The tokenizer with the byte tokens as plain entries: as special ones, decoding would leave them out."""
    import json

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < keep]
    return Tokenizer.from_str(json.dumps(state))
