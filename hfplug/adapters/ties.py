"""Weights that are input and output embedding at once, when one of the two changes."""

from __future__ import annotations

from typing import Any

from torch import nn

from hfplug.models.ends import input_embedding, output_embedding


def untie(tuned: Any) -> None:
    """Give each weight that the adapter changes numbers of its own, if another module shares them.

    Added to a weight that is input and output embedding at once, an update for one of them would change both.

    Args:
        tuned: A ``PeftModel``, not merged yet; changed in place.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders: dict[int, int] = {}
    for _, parameter in tuned.named_parameters(remove_duplicate=False):
        holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for module in list(tuned.modules()):
        if not isinstance(module, BaseTunerLayer):
            continue
        inner = module.get_base_layer()
        weight = getattr(inner, "weight", None)
        if isinstance(weight, nn.Parameter) and holders.get(id(weight), 0) > 1:
            inner.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def keep_untied(model: Any) -> None:
    """Say in the configuration that input and output embedding are two, where they are now.

    Args:
        model: A transformers model, from which an adapter was unloaded; its configuration is changed.
    """
    weights = [getattr(end, "weight", None) for end in (input_embedding(model), output_embedding(model))]
    if None in [None if weight is None else 1 for weight in weights] or weights[0] is weights[1]:
        return
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False
