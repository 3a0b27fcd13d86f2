"""What all soft prompts have in common: trained vectors before the input, or before its keys and values."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.method import CAUSAL, PEFT_NAMES, TASK_TYPES, AnatomyView, TuningMethod, modules_to_save

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(TuningMethod):
    """Base class of the methods that train virtual tokens; not itself a method."""

    category: ClassVar[str] = "additive"
    merging: ClassVar[str] = "no: a soft prompt is an input, there is no weight to merge it into"
    tried_out: ClassVar[str] = "on"
    # PEFT puts no vectors before what it has no name for.
    task_types: ClassVar[tuple[str, ...]] = tuple(one for one in TASK_TYPES if one not in PEFT_NAMES)

    def check_task_type(self, task_type: str) -> None:
        if task_type in PEFT_NAMES:
            raise MethodError(
                f"{self.name} puts vectors before the input, which PEFT does not do on {task_type} models.",
                fix="Use lora.",
            )
        super().check_task_type(task_type)

    @contextlib.contextmanager
    def switched_off(self, model: nn.Module) -> Iterator[nn.Module]:
        """The base itself: ``disable_adapter`` switches off ``forward`` but not ``generate``, and fails on classifiers.

        The base has no prompt in it; only a trained head sits inside, and is switched off by itself.
        """
        from peft.utils.other import AuxiliaryTrainingWrapper

        base = model.get_base_model()  # type: ignore[operator]
        heads = [module for module in base.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
        for head in heads:
            head.enable_adapters(False)
        try:
            yield base
        finally:
            for head in heads:
                head.enable_adapters(True)


@dataclass(frozen=True, kw_only=True)
class InputPrompt(SoftPrompt):
    """Base class of the methods whose virtual tokens stand before the embedded input."""

    input_kind: ClassVar[str] = "vectors"

    def input_vectors(self, model: nn.Module) -> Tensor | None:
        return peft_vectors(model)

    def generation_inputs(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """On a causal model the prompt is put between each row's padding and its first token.

        PEFT puts it before the padding, so that a row's distance to the prompt, and with it the answer,
        depends on the other rows of the batch.
        """
        base: Any = model.get_base_model()  # type: ignore[operator]
        if model.peft_config[model.active_adapter].task_type != CAUSAL or not writes_after_vectors(base):  # type: ignore[index,union-attr]
            return super().generation_inputs(model, input_ids, attention_mask)
        import torch

        embeddings = base.get_input_embeddings()(input_ids)
        prompt = model.get_prompt(batch_size=input_ids.shape[0]).to(embeddings.dtype)  # type: ignore[operator]
        padding = input_ids.shape[1] - attention_mask.sum(dim=1)
        rows = [
            torch.cat([row[:pad], soft, row[pad:]])
            for row, soft, pad in zip(embeddings, prompt, padding.tolist(), strict=True)
        ]
        ones = attention_mask.new_ones(attention_mask.shape[0], prompt.shape[1])
        # Padding is on the left, so the ones of the prompt may as well be added on the right of the mask.
        mask = torch.cat([attention_mask, ones], dim=1)
        return base, {"inputs_embeds": torch.stack(rows), "attention_mask": mask}


def heads_to_save(anatomy: AnatomyView) -> list[str] | None:
    """What a soft prompt's configuration should name in ``modules_to_save``.

    PEFT wraps the base of a soft prompt once, and that of a method on weights twice, so the longest names differ.

    Args:
        anatomy: The model that the prompt is put on.
    """
    return modules_to_save(anatomy, before="base_model")


def writes_after_vectors(base: Any) -> bool:
    """Whether ``generate`` of a decoder takes embedded text to begin from.

    Args:
        base: A transformers model that generates.
    """
    return "inputs_embeds" in inspect.signature(base.prepare_inputs_for_generation).parameters


def peft_vectors(model: Any) -> Tensor:
    """The virtual tokens of a ``PeftModel``: the part that stands before the input of a decoder or an encoder.

    Args:
        model: With a prompt that stands before the embedded input.

    Returns:
        Shape (virtual tokens, width).
    """
    import torch

    with torch.no_grad():
        # An encoder-decoder's prompt of PEFT may have as many rows again, which are never used.
        vectors: Tensor = model.get_prompt(batch_size=1)[0][: model.active_peft_config.num_virtual_tokens]
        return vectors.clone()


def peft_prefix(model: Any) -> tuple[tuple[Tensor, Tensor] | None, ...]:
    """The keys and values of a ``PeftModel`` with a prefix, as :meth:`TuningMethod.cached_prefix` gives them.

    Args:
        model: With a prefix.
    """
    import torch

    with torch.no_grad():
        cache = model.get_prompt(batch_size=1)
    layers = getattr(cache, "self_attention_cache", cache).layers
    filled = (getattr(layer, "keys", None) is not None for layer in layers)
    return tuple(
        (layer.keys[0].clone(), layer.values[0].clone()) if is_filled else None
        for layer, is_filled in zip(layers, filled, strict=True)
    )


def settle_when_loaded(model: nn.Module) -> nn.Module:
    """Let a prompt that is computed by a small network be loaded as it was saved: computed.

    PEFT saves what the network gives, and without the network. Loaded back into a model that has one, as Trainer does
    with the best checkpoint, it would go through the network once more (P-tuning, without a word) or raise (prefix
    tuning). From the load on, the network is left out.

    Args:
        model: A ``PeftModel`` with a soft prompt; changed in place.
    """
    for encoder in model.prompt_encoder.values():  # type: ignore[union-attr,operator]
        encoder._load_adapter_state_dict = types.MethodType(_load_settled, encoder)
    return model


def _load_settled(encoder: Any, state_dict: dict[str, Tensor]) -> None:
    """Put the saved vectors in the place of the network's output."""
    flat = state_dict["prompt_embeddings"]
    weight = encoder.embedding.weight
    encoder.register_buffer("settled", flat.detach().to(weight.device, weight.dtype), persistent=False)
    encoder.forward = types.MethodType(_settled_forward, encoder)


def _settled_forward(encoder: Any, indices: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.embedding(indices, encoder.settled)
