"""Embeddings: the vectors of the tokens are trained, and the rest stays (Artetxe et al. 2020, arXiv 1910.11856).

Soft prompts train new vectors and keep those of the vocabulary; here the input stays as it is, and the vocabulary's own
vectors are trained: all of them, or those of given tokens. An output layer that shares its weights with the embedding
goes on sharing them: its rows for these tokens are the trained ones too.

What is saved is the trained rows, by PEFT's trainable tokens; plain PEFT loads them. The row of a token that never
occurs in the data stays as it was, unless the output layer shares it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.lora import shortest_names
from hfplug.methods.method import AnatomyView, LearningRate, TuningMethod, modules_to_save, register_method
from hfplug.methods.settings import setting

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

# PEFT's word for a LoRA that goes on no layer; its trainable tokens are then all that there is.
NO_LAYERS = "dummy-target-modules"


@register_method
@dataclass(frozen=True, kw_only=True)
class Embeddings(TuningMethod):
    """Train the vectors of all tokens, or of given ones."""

    name: ClassVar[str] = "embeddings"
    category: ClassVar[str] = "selective"
    flag_prefix: ClassVar[str] = "embeddings"
    summary: ClassVar[str] = "the vectors of the vocabulary, or of given tokens; a tied output layer stays tied"
    paper: ClassVar[str] = "Artetxe et al. 2020, https://arxiv.org/abs/1910.11856"
    untrained: ClassVar[str] = "base"

    tokens: tuple[str, ...] = setting((), help="ids of tokens, or tokens as the tokenizer writes them; none: all")

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from peft import LoraConfig

        if not anatomy.embeddings or not anatomy.embedding_rows:
            raise MethodError(
                f"embeddings trains the vectors of tokens, and this {anatomy.model_type} model has no embedding.",
                fix="Use lora.",
            )
        rows = self._rows(anatomy)
        return LoraConfig(
            task_type=anatomy.task_type,
            target_modules=NO_LAYERS,
            trainable_token_indices={name: rows for name in _places(anatomy)},
            modules_to_save=modules_to_save(anatomy),
        )

    def _rows(self, anatomy: AnatomyView) -> list[int]:
        """The rows of the embedding that are trained.

        Raises:
            MethodError: for a token that the vocabulary does not have.
        """
        if not self.tokens:
            return list(range(anatomy.embedding_rows))
        written = [token for token in self.tokens if not token.isdigit()]
        ids = {token: int(token) for token in self.tokens if token.isdigit()} | _look_up(written, anatomy)
        outside = [token for token, row in ids.items() if not 0 <= row < anatomy.embedding_rows]
        if outside:
            raise MethodError(
                f"embeddings: there is no row {ids[outside[0]]} in the embedding, which has {anatomy.embedding_rows}.",
                fix="Pass ids from 0 on, or make room first: model.resize_token_embeddings(len(tokenizer)).",
            )
        return sorted(set(ids.values()))

    def finish(self, model: nn.Module) -> nn.Module:
        """One set of vectors where the base has one, and none where it has another."""
        from peft.utils.other import TrainableTokensWrapper

        wrapped = [module for module in model.modules() if isinstance(module, TrainableTokensWrapper)]
        if not wrapped:
            raise MethodError("embeddings: PEFT found none of the modules that hold the embedding.", fix="Use lora.")
        first = wrapped[0].token_adapter
        for one in wrapped:
            if one.original_module.weight is not first.base_layer.weight:
                if one.token_adapter.tied_adapter is None:
                    continue  # an output layer of its own, whose new rows are trained too
                raise MethodError(
                    "embeddings: the configuration of this model says that the output layer shares the embedding's"
                    " weights, and it has others; PEFT goes by the configuration.",
                    fix="Set model.config.tie_word_embeddings = False, and call apply_method again.",
                )
            if one.token_adapter is not first and one.token_adapter.tied_adapter is None:
                one.token_adapter.trainable_tokens_delta = first.trainable_tokens_delta
        return model

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        return config.get("peft_type") == "LORA" and config.get("target_modules") == NO_LAYERS

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """More than for all weights, as each row moves only where its token occurs."""
        if anatomy.parameters < 50e6:
            return LearningRate(value=1e-2, low=1e-5, high=1e-1, source="hfplug, benchmarks/demo_rates.py")
        return LearningRate(value=1e-3, low=1e-5, high=1e-1, source="hfplug's own: no rate for AdamW is known to it")


def _places(anatomy: AnatomyView) -> tuple[str, ...]:
    """The modules to name to PEFT, so that it puts the vectors wherever the embedding's weight is, and nowhere else.

    PEFT ties by the table of the model's class, if the embedding is the only module that is named: of several it leaves
    out all in that table, which may be the embedding too (Marian). Where the table is no help, the encoder's and the
    decoder's own are named, as one ending: T5's has the output layer in it, although FLAN-T5's has weights of its own,
    and a T5 classifier has none.
    """
    first, *others = anatomy.embeddings
    tied = set(anatomy.embedding_ties)
    if others and (tied - {first, *others} or (not tied and anatomy.output_embeddings not in others)):
        # An encoder's own (T5Gemma 2) is called too; T5's stands beside the two and is not.
        called = anatomy.embeddings if _last(first) in map(_last, others) else tuple(others)
        return tuple(shortest_names(called, anatomy.modules))
    return (first,) if tied else (first, *others)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _look_up(written: list[str], anatomy: AnatomyView) -> dict[str, int]:
    if not written:
        return {}
    if anatomy.tokenizer_source is None:
        raise MethodError(
            f"embeddings: to look up {written[0]!r} it needs a tokenizer, and there is none beside the base.",
            fix="Pass the ids of the tokens: tokens=('123', '456').",
        )
    from transformers import AutoTokenizer

    places = {"revision": anatomy.revision} if anatomy.revision else {}
    known: dict[str, int] = AutoTokenizer.from_pretrained(anatomy.tokenizer_source, **places).get_vocab()
    unknown = [token for token in written if token not in known]
    if unknown:
        raise MethodError(
            f"embeddings: the tokenizer has no token {unknown[0]!r}.",
            fix="A token is written as tokenizer.tokenize(text) writes it; or pass its id.",
        )
    return {token: known[token] for token in written}
